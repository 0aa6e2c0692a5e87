/* A socket of ours that other code of the process may close: what the room `own_socket` declares. Each call returns -errno
   on failure. Elsewhere than on Linux `ia_pair` fails. */
#ifndef INBOUND_AUDIT_OWN_SOCKET_H
#define INBOUND_AUDIT_OWN_SOCKET_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* A second descriptor of the same open file. */
static inline int ia_second(int fd)
{
    const int made = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return made < 0 ? -errno : made;
}

/* Stores the number of the open socket. Returns 0, or -errno: -EBADF for a descriptor that is closed, or of no socket. */
static inline int ia_inode(int fd, uint64_t *out)
{
    struct stat found;
    if (fstat(fd, &found))
        return -errno;
    *out = (uint64_t)found.st_ino;
    return S_ISSOCK(found.st_mode) ? 0 : -EBADF;
}

/* Whether the descriptor is that of the same open socket still. If the system can't say, it is. */
static inline int ia_is_same(int fd, uint64_t inode)
{
    uint64_t now = inode;
    return ia_inode(fd, &now) != -EBADF && now == inode;
}

/* Closes that found their descriptor closed already; atomic. Each descriptor is closed once, so there are none. */
static uint64_t ia_lost;

static inline void ia_close(int fd)
{
    if (close(fd) && errno == EBADF)
        __atomic_fetch_add(&ia_lost, 1, __ATOMIC_RELAXED);
}

/* Both ends of a stream, which do not block. */
static inline int ia_pair(int *ends)
{
#ifdef __linux__
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) ? -errno : 0;
#else
    return ends ? -ENOTSUP : 0;
#endif
}

/* Makes the other end of a stream readable, and no more. At most one byte is on its way, so both have room. */
static inline void ia_put_byte(int fd)
{
    const ssize_t done = send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)done;
}
static inline void ia_take_byte(int fd)
{
    char byte;
    const ssize_t done = recv(fd, &byte, 1, MSG_DONTWAIT);
    (void)done;
}

/* Waits until the descriptor is readable: 1; 0 when the time is over. A negative time has no end. */
static inline int ia_wait_for(int fd, int timeout_ms)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    const int found = poll(&one, 1, timeout_ms);
    return found < 0 ? -errno : found;
}

#endif
