/* Whether this process may run code that it has written itself, as a just-in-time compiler does. */
#ifndef INBOUND_AUDIT_EXECUTABLE_H
#define INBOUND_AUDIT_EXECUTABLE_H

#ifdef __linux__

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What LuaJIT does with a page of machine code: written, made executable, and made writable again. */
static inline int ia_can_make_page_executable(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    char *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int can;
    if (page == MAP_FAILED)
        return 0;
    *(volatile char *)page = 0;
    can = mprotect(page, size, PROT_READ | PROT_EXEC) == 0 && mprotect(page, size, PROT_READ | PROT_WRITE) == 0 &&
          mprotect(page, size, PROT_READ | PROT_EXEC) == 0;
    munmap(page, size);
    return can;
}

/* A seccomp filter may kill the process that tries. So a copy of it tries, made by the system call itself: no fork hook runs,
 * and without a signal at its end no handler of SIGCHLD and no wait for other children hears of it. 0 if there can be no
 * copy: then it is not known, and "no" is the answer that does no harm. */
static inline int ia_executable_memory_allowed(void)
{
    int status = 0;
    pid_t ended;
#if defined(__s390__) || defined(__CRIS__)
    long child = syscall(SYS_clone, 0, 0UL, 0, 0, 0);
#else
    long child = syscall(SYS_clone, 0UL, 0, 0, 0, 0);
#endif
    if (child < 0)
        return 0;
    if (child == 0) {
        syscall(SYS_exit_group, ia_can_make_page_executable() ? 0 : 1);
        __builtin_unreachable();
    }
    do
        ended = waitpid((pid_t)child, &status, __WCLONE);
    while (ended < 0 && errno == EINTR);
    return ended == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#else

static inline int ia_executable_memory_allowed(void)
{
    return 1;
}

#endif
#endif
