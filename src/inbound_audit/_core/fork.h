/* Forks that Python does not know of, and locks that no child inherits: what the room `fork` declares.

   A library, a server that embeds Python, or a daemon may fork without Python's hooks. The child then has all memory of
   its parent, and would change the parent's counts. `ia_fork_page.state` is zero in every child: the kernel wipes the
   page (MADV_WIPEONFORK), and the handler of pthread_atfork does the same where the C library made the fork. What changes
   a count looks at it first. */
#ifndef INBOUND_AUDIT_FORK_H
#define INBOUND_AUDIT_FORK_H

#include <dirent.h>
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>
#include <sys/mman.h>

#include "inbound_audit/_core/sigbus.h"

#if defined(__x86_64__) || defined(__i386__)
#define IA_FORK_PAGE 4096
#else
#define IA_FORK_PAGE 65536
#endif

enum { IA_CHILD = 0, IA_HERE = 1, IA_HANDLING = 2 };

static union {
    uint32_t state;
    char page[IA_FORK_PAGE];
} ia_fork_page __attribute__((aligned(IA_FORK_PAGE)));

static uint64_t ia_generation; /* forks from the first process to this one, as far as they were handled */
static pthread_t ia_handler; /* the thread that handles a fork now */

/* Only the thread that forked is here. The child leaves the parent's file: it holds no lock on it, and can't write to it. */
static void ia_in_child(void)
{
    __atomic_store_n(&ia_fork_page.state, IA_CHILD, __ATOMIC_RELEASE);
    ia_unlock_guards();
    ia_cover_writable();
}

/* Once. Returns an error number. */
static inline int ia_watch_forks(void)
{
    __atomic_store_n(&ia_fork_page.state, IA_HERE, __ATOMIC_RELEASE);
#ifdef MADV_WIPEONFORK
    (void)madvise(&ia_fork_page, sizeof ia_fork_page, MADV_WIPEONFORK); /* an older system has the handler alone */
#endif
    return pthread_atfork(NULL, NULL, ia_in_child);
}

static inline int ia_is_child(void) { return __builtin_expect(ia_fork_page.state != IA_HERE, 0); }

/* Returns 1 if the caller is to handle the fork, 0 if another thread does. */
static inline int ia_begin_handling(void)
{
    uint32_t child = IA_CHILD;
    if (!__atomic_compare_exchange_n(&ia_fork_page.state, &child, IA_HANDLING, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return 0;
    ia_generation++;
    ia_handler = pthread_self();
    return 1;
}
static inline void ia_end_handling(int done)
{
    __atomic_store_n(&ia_fork_page.state, done ? IA_HERE : IA_CHILD, __ATOMIC_RELEASE);
}
static inline int ia_is_handling(void)
{
    return __atomic_load_n(&ia_fork_page.state, __ATOMIC_ACQUIRE) == IA_HANDLING && pthread_equal(ia_handler, pthread_self());
}

/* Whether this process has one thread alone. */
static inline int ia_is_alone(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int n = 0;
    if (!tasks)
        return 0;
    while (readdir(tasks))
        n++;
    closedir(tasks);
    return n == 3; /* with "." and ".." */
}

/* Keeps the open file of `fd`, and the locks on it, for as long as it is mapped; a fork's child does not inherit the
   mapping. Nothing is ever read there. Returns NULL and sets errno on failure. */
static inline void *ia_hold_file(int fd)
{
    void *at = mmap(NULL, 4096, PROT_NONE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return NULL;
#ifdef MADV_DONTFORK
    if (madvise(at, 4096, MADV_DONTFORK)) {
        munmap(at, 4096);
        return NULL;
    }
#endif
    return at;
}
static inline void ia_drop_file(void *at) { munmap(at, 4096); }

#endif
