/* What a gate asks of the system: what the rooms of the gate declare. No call here waits, but for `ia_wait` and
   `ia_rest`, and `ia_accept` for IA_ACCEPT_MS at most. Each returns -errno on failure. Elsewhere than on Linux there is no
   gate: `ia_pair` fails. */
#ifndef INBOUND_AUDIT_GATE_H
#define INBOUND_AUDIT_GATE_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "own_socket.h"

#ifdef __linux__
#include <sys/epoll.h>
#include <sys/syscall.h>
#else
enum { EPOLLIN = 1, EPOLLOUT = 4 };
struct epoll_event {
    uint32_t events;
    union { uint64_t u64; } data;
};
#endif

enum { IA_STACK_BYTES = 1 << 19, IA_READ_MOST = 1 << 14, IA_ACCEPT_MS = 20 };

/* A connection that was accepted, and its peer as the kernel knows it. `size` is that of its address: 4, 16, or 0 for a
   family without addresses. */
struct ia_caller {
    int fd;
    int family;
    int size;
    uint16_t port;
    uint8_t address[16];
};

static inline int64_t ia_monotonic_ms(void)
{
    struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- waiting */

#ifdef __linux__
static inline int ia_epoll(void)
{
    const int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}
static inline int ia_this_task(void) { return (int)syscall(SYS_gettid); }

/* An epoll has no inode of its own. So it is known by what its open file says of the signal that it would send if it were
   asked to: to which task, the lane that waits on it, and which one. Returns the task; 0 if the system can't keep one. */
static inline int ia_mark_epoll(int epoll)
{
    const struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = ia_this_task()};
    return fcntl(epoll, F_SETSIG, SIGRTMAX - 2) || fcntl(epoll, F_SETOWN_EX, &owner) ? 0 : owner.pid;
}
/* Whether the descriptor is that of an epoll of this task still. If the system can't say, it is. In the child of a fork the
   task may have ended: there each marked epoll is the parent's. */
static inline int ia_is_epoll_of(int epoll, int task)
{
    struct f_owner_ex found;
    if (fcntl(epoll, F_GETOWN_EX, &found))
        return errno != EBADF;
    return task == 0 || found.pid == task || (found.pid == 0 && fcntl(epoll, F_GETSIG) == SIGRTMAX - 2);
}

/* From now on `ia_wait` reports the descriptor under `number`; if `exclusive`, one of several that wait for it. */
static inline int ia_watch(int epoll, int fd, uint64_t number, int exclusive)
{
    struct epoll_event event = {.events = EPOLLIN | (exclusive ? (uint32_t)EPOLLEXCLUSIVE : 0), .data = {.u64 = number}};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}
/* As `ia_watch`, but only the end of the stream is reported. */
static inline int ia_watch_end(int epoll, int fd, uint64_t number)
{
    struct epoll_event event = {.data = {.u64 = number}};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}
/* From now on a stream that `ia_watch_end` watches, and that is not full, is reported. */
static inline void ia_wake(int epoll, int fd, uint64_t number)
{
    struct epoll_event event = {.events = EPOLLOUT, .data = {.u64 = number}};
    epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event); /* it fails if the epoll was made anew meanwhile */
}
/* Before a descriptor is closed: in a child of a fork it may be open still, and would be reported for ever. */
static inline int ia_unwatch(int epoll, int fd)
{
    struct epoll_event event = {0};
    return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event) ? -errno : 0;
}
static inline int ia_wait(int epoll, struct epoll_event *events, int most, int timeout_ms)
{
    const int found = epoll_wait(epoll, events, most, timeout_ms);
    return found < 0 ? -errno : found;
}
#else
static inline int ia_epoll(void) { return -ENOTSUP; }
static inline int ia_mark_epoll(int epoll) { return epoll & 0; }
static inline int ia_is_epoll_of(int epoll, int owner) { return epoll >= owner; }
static inline int ia_watch(int epoll, int fd, uint64_t number, int exclusive)
{
    (void)epoll, (void)fd, (void)number, (void)exclusive;
    return -ENOTSUP;
}
static inline int ia_watch_end(int epoll, int fd, uint64_t number) { return ia_watch(epoll, fd, number, 0); }
static inline void ia_wake(int epoll, int fd, uint64_t number) { ia_watch(epoll, fd, number, 0); }
static inline int ia_unwatch(int epoll, int fd) { return ia_watch(epoll, fd, 0, 0); }
static inline int ia_wait(int epoll, struct epoll_event *events, int most, int timeout_ms)
{
    (void)events;
    return ia_watch(epoll, most, 0, timeout_ms);
}
#endif

/* ---- connections */

static inline void ia_read_peer(const struct sockaddr_storage *from, struct ia_caller *out)
{
    out->family = from->ss_family;
    out->size = 0;
    out->port = 0;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)(const void *)from;
        out->size = 4;
        out->port = ntohs(ipv4->sin_port);
        memcpy(out->address, &ipv4->sin_addr, 4);
    } else if (from->ss_family == AF_INET6) { /* the zone is no part of the address */
        const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)(const void *)from;
        out->size = 16;
        out->port = ntohs(ipv6->sin6_port);
        memcpy(out->address, &ipv6->sin6_addr, 16);
    }
}

/* Other code may have set the socket to wait: TLS does when it wraps it. That holds for all descriptors of the socket. */
static inline void ia_do_not_wait(int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* And it may do so at any moment: so `accept` itself has a time, which is the socket's: all that have it share it.
   Microseconds. */
static inline int64_t ia_time_of(int fd)
{
    struct timeval found;
    socklen_t size = sizeof found;
    if (getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &found, &size))
        return -errno;
    return (int64_t)found.tv_sec * 1000000 + found.tv_usec;
}
static inline int ia_set_time(int fd, int64_t time_us)
{
    const struct timeval set = {.tv_sec = (time_t)(time_us / 1000000), .tv_usec = (suseconds_t)(time_us % 1000000)};
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &set, sizeof set) ? -errno : 0;
}
/* Returns 1 and stores the time that the socket had, 0 if it has the limit already (another gate's), or -errno. */
static inline int ia_limit_accept(int listening, int64_t *own_us)
{
    const int64_t found = ia_time_of(listening);
    int code;
    if (found < 0 || found == 1000 * IA_ACCEPT_MS)
        return found < 0 ? (int)found : 0;
    code = ia_set_time(listening, 1000 * IA_ACCEPT_MS);
    if (code == 0)
        *own_us = found;
    return code == 0 ? 1 : code;
}
/* Unless other code has set a time since. */
static inline void ia_unlimit_accept(int listening, int64_t own_us)
{
    if (ia_time_of(listening) == 1000 * IA_ACCEPT_MS)
        ia_set_time(listening, own_us);
}

/* `waits`: the connection's socket blocks, as Python's `accept` leaves it. */
static inline int ia_accept(int listening, int waits, struct ia_caller *out)
{
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    from.ss_family = AF_UNSPEC;
#ifdef __linux__
    out->fd = accept4(listening, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | (waits ? 0 : SOCK_NONBLOCK));
#else
    (void)waits;
    out->fd = accept(listening, (struct sockaddr *)&from, &size);
#endif
    if (out->fd < 0)
        return -errno;
    ia_read_peer(&from, out);
    return 0;
}

/* Whether `accept` failed for the connection alone: Linux also reports what its network has reported before. */
static inline int ia_is_of_connection(int error)
{
    switch (error) {
    case ECONNABORTED: case EPROTO: case ENETDOWN: case ENOPROTOOPT: case EHOSTDOWN: case EHOSTUNREACH:
    case EOPNOTSUPP: case ENETUNREACH: case ETIMEDOUT: case ECONNRESET:
#ifdef ENONET
    case ENONET:
#endif
        return 1;
    default:
        return 0;
    }
}

/* Sends what fits into the socket's buffer. A peer that has left, or never reads, is refused all the same. */
static inline void ia_send(int fd, const char *bytes, size_t size)
{
    const ssize_t sent = size ? send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    (void)sent;
}

/* `close` then resets the connection; or sends what is left without waiting, whatever the listening socket had set. */
static inline void ia_abort_on_close(int fd, int abort)
{
    const struct linger now = {.l_onoff = abort, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static inline void ia_end_stream(int fd) { shutdown(fd, SHUT_WR); }

/* Reads what is there, and drops it. Returns 1 at the end of the stream. */
static inline int ia_read_away(int fd)
{
    char away[IA_READ_MOST];
    const ssize_t got = recv(fd, away, sizeof away, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

/* ---- threads */

/* How many gates this thread holds still, since it is about to fork. */
static __thread uint32_t ia_held_here;

static inline void ia_count_held(int by) { ia_held_here += (uint32_t)by; }

static inline void ia_rest(int milliseconds) { poll(NULL, 0, milliseconds); }

/* Starts a thread that gets no signal but those that its own instructions raise: `sigbus` has a handler for one. */
static inline int ia_start(pthread_t *thread, void *(*run)(void *), void *with)
{
    sigset_t none, before;
    pthread_attr_t how;
    int error;
    sigfillset(&none);
    sigdelset(&none, SIGBUS);
    sigdelset(&none, SIGSEGV);
    sigdelset(&none, SIGILL);
    sigdelset(&none, SIGFPE);
    sigdelset(&none, SIGTRAP);
    error = pthread_attr_init(&how);
    if (error)
        return -error;
    pthread_attr_setstacksize(&how, IA_STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &none, &before);
    error = pthread_create(thread, &how, run, with);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
    return -error;
}

#endif
