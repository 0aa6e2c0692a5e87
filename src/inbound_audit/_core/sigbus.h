/* Guards of mapped files, and the handler of SIGBUS: what the room `sigbus` declares.

   A load from a page that the file has lost raises SIGBUS. The handler looks for a guarded range around the address,
   puts an empty page there, notes the loss, and returns: the load runs again and reads zeros. A fault outside of all
   guarded ranges goes to the handler that was set before this one.

   The table has one writer at a time (`ia_guard_lock`); the handler reads it without a lock, at any moment, in any
   thread. It takes no lock, allocates nothing, and makes no system call but `mmap`. */
#ifndef INBOUND_AUDIT_SIGBUS_H
#define INBOUND_AUDIT_SIGBUS_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "inbound_audit/_core/mapping.h"

#define IA_MAX_GUARDS 65536

struct ia_guarded_range {
    uintptr_t start; /* 0: the slot is free. Written last. */
    uintptr_t end;
    int writable;
    int lost; /* a page was replaced since `ia_was_lost` was last called */
};

static struct ia_guarded_range ia_guards[IA_MAX_GUARDS];
static int ia_guards_used; /* slots below this one were used */
static uint32_t ia_guard_lock;
/* The handler before ours stands at `ia_before_at`; the other place is for its successor, which is published whole. */
static struct sigaction ia_before[2];
static int ia_before_at;

static inline void ia_lock_guards(void)
{
    while (__atomic_exchange_n(&ia_guard_lock, 1, __ATOMIC_ACQUIRE))
        ;
}

/* Also for the child of a fork: the thread that held the lock does not exist there. */
static inline void ia_unlock_guards(void) { __atomic_store_n(&ia_guard_lock, 0, __ATOMIC_RELEASE); }

/* Covers the page of an address that lies in a guarded range. Returns 1 if there is such a range. */
static inline int ia_replace_page(uintptr_t at)
{
    uintptr_t page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    int i;
    for (i = 0; i < IA_MAX_GUARDS; i++) {
        struct ia_guarded_range *r = &ia_guards[i];
        uintptr_t start = __atomic_load_n(&r->start, __ATOMIC_ACQUIRE);
        uintptr_t end = __atomic_load_n(&r->end, __ATOMIC_RELAXED);
        int writable = __atomic_load_n(&r->writable, __ATOMIC_RELAXED);
        if (!start || at < start || at >= end)
            continue;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&r->start, __ATOMIC_RELAXED) != start)
            continue; /* another range took the slot between the loads */
        if (ia_cover((void *)(at - at % page_size), (size_t)page_size, writable))
            continue;
        __atomic_store_n(&r->lost, 1, __ATOMIC_RELEASE); /* last: the owner of the range then maps the range again */
        return 1;
    }
    return 0;
}

static void ia_on_bus(int number, siginfo_t *info, void *context)
{
    static uintptr_t passing_on; /* a thread that calls the handler before ours now */
    uintptr_t self = (uintptr_t)pthread_self();
    int error = errno;
    const struct sigaction *before;
    if (info->si_code > 0 && ia_replace_page((uintptr_t)info->si_addr)) {
        errno = error;
        return;
    }
    before = &ia_before[__atomic_load_n(&ia_before_at, __ATOMIC_ACQUIRE)];
    /* A handler before ours that raises the signal again, or calls us, is not called twice in one thread. */
    if (__atomic_load_n(&passing_on, __ATOMIC_RELAXED) == self
            || (!(before->sa_flags & SA_SIGINFO) && (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN))) {
        signal(number, SIG_DFL); /* the load runs again, and ends the process as it would have without us */
        if (info->si_code <= 0)
            raise(number);
    }
    else {
        __atomic_store_n(&passing_on, self, __ATOMIC_RELAXED);
        if (before->sa_flags & SA_SIGINFO)
            before->sa_sigaction(number, info, context);
        else
            before->sa_handler(number);
        __atomic_store_n(&passing_on, 0, __ATOMIC_RELAXED);
    }
    errno = error;
}

/* Makes our handler the first; a handler that another library set meanwhile comes after it. Returns 1 and sets errno on
   failure. */
static inline int ia_watch_faults(void)
{
    struct sigaction now, ours;
    int failed, at;
    ia_lock_guards();
    failed = sigaction(SIGBUS, NULL, &now);
    if (!failed && !((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == ia_on_bus)) {
        memset(&ours, 0, sizeof ours);
        ours.sa_sigaction = ia_on_bus;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&ours.sa_mask);
        at = 1 - ia_before_at;
        ia_before[at] = now;
        __atomic_store_n(&ia_before_at, at, __ATOMIC_RELEASE);
        failed = sigaction(SIGBUS, &ours, NULL);
    }
    ia_unlock_guards();
    return failed != 0;
}

/* Guards a range. Returns its slot, or -1 if no slot is free. */
static inline int ia_guard(void *at, size_t size, int writable)
{
    int i;
    ia_lock_guards();
    for (i = 0; i < IA_MAX_GUARDS && __atomic_load_n(&ia_guards[i].start, __ATOMIC_ACQUIRE); i++)
        ;
    if (i < IA_MAX_GUARDS) {
        __atomic_thread_fence(__ATOMIC_RELEASE); /* a handler that sees what follows sees that the slot was free */
        __atomic_store_n(&ia_guards[i].end, (uintptr_t)at + size, __ATOMIC_RELAXED);
        __atomic_store_n(&ia_guards[i].writable, writable, __ATOMIC_RELAXED);
        __atomic_store_n(&ia_guards[i].lost, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&ia_guards[i].start, (uintptr_t)at, __ATOMIC_RELEASE);
        ia_guards_used = i >= ia_guards_used ? i + 1 : ia_guards_used;
    }
    ia_unlock_guards();
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler moves no load of the caller before the range is guarded */
    return i < IA_MAX_GUARDS ? i : -1;
}

static inline void ia_unguard(int slot)
{
    if (slot >= 0)
        __atomic_store_n(&ia_guards[slot].start, 0, __ATOMIC_RELEASE);
}

/* Puts empty pages in the place of what this process may write to in files. For the child of a fork. */
static inline void ia_cover_writable(void)
{
    int i;
    for (i = 0; i < ia_guards_used; i++) {
        struct ia_guarded_range *r = &ia_guards[i];
        uintptr_t start = __atomic_load_n(&r->start, __ATOMIC_ACQUIRE);
        if (start && r->writable)
            (void)ia_cover((void *)start, (size_t)(r->end - start), 1);
    }
}

static inline int ia_was_lost(int slot)
{
    return slot >= 0 && __atomic_exchange_n(&ia_guards[slot].lost, 0, __ATOMIC_RELAXED);
}

#endif
