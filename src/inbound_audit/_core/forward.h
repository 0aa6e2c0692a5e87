/* What a forwarder asks of the system: what the rooms of the forwarder declare. No call here waits. Each returns -errno on
   failure. Elsewhere than on Linux there is no forwarder: `ia_pipe` fails. */
#ifndef INBOUND_AUDIT_FORWARD_H
#define INBOUND_AUDIT_FORWARD_H

#include <netinet/tcp.h>
#include <sys/un.h>

#include "gate.h"

enum { IA_PIPE_BYTES = 1 << 16, IA_FEW_BYTES = 1 << 12 };

struct ia_target {
    struct sockaddr_storage address;
    socklen_t size;
};

/* An address of 4 or 16 bytes. */
static inline void ia_set_address(struct ia_target *out, const uint8_t *address, int size, uint16_t port, uint32_t scope)
{
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)(void *)&out->address;
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)(void *)&out->address;
    memset(out, 0, sizeof *out);
    if (size == 4) {
        ipv4->sin_family = AF_INET;
        ipv4->sin_port = htons(port);
        memcpy(&ipv4->sin_addr, address, 4);
        out->size = sizeof *ipv4;
    } else {
        ipv6->sin6_family = AF_INET6;
        ipv6->sin6_port = htons(port);
        ipv6->sin6_scope_id = scope;
        memcpy(&ipv6->sin6_addr, address, 16);
        out->size = sizeof *ipv6;
    }
}

/* The path of a Unix socket. Returns 0, or -ENAMETOOLONG. */
static inline int ia_set_path(struct ia_target *out, const char *path, size_t size)
{
    struct sockaddr_un *local = (struct sockaddr_un *)(void *)&out->address;
    memset(out, 0, sizeof *out);
    if (size >= sizeof local->sun_path)
        return -ENAMETOOLONG;
    local->sun_family = AF_UNIX;
    memcpy(local->sun_path, path, size);
    out->size = (socklen_t)sizeof *local;
    return 0;
}

#ifdef __linux__
/* Both ends of a pipe, which do not block: to read, and to write. */
static inline int ia_pipe(int *ends) { return pipe2(ends, O_CLOEXEC | O_NONBLOCK) ? -errno : 0; }

/* Moves bytes between a socket and a pipe. A socket that was reset may send SIGPIPE, which a forwarder's thread blocks. */
static inline int64_t ia_splice(int from, int to, size_t most)
{
    const ssize_t moved = splice(from, NULL, to, NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    return moved < 0 ? -errno : moved;
}

/* Copies what `splice` does not move: in Linux it stops at an urgent byte (MSG_OOB), as if nothing came after it. The byte
   keeps its place in the stream, and that it is urgent is lost. `to` is an empty pipe, which has room for IA_FEW_BYTES. */
static inline int64_t ia_copy(int from, int to)
{
    const int on = 1;
    char bytes[IA_FEW_BYTES];
    ssize_t got, put;
    setsockopt(from, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
    got = recv(from, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got <= 0)
        return got < 0 ? -errno : 0;
    put = write(to, bytes, (size_t)got);
    return put < 0 ? -errno : put == got ? got : -EIO;
}

/* From now on each change of a socket is reported once: see epoll(7), EPOLLET. */
static inline int ia_watch_changes(int epoll, int fd, uint64_t number)
{
    const uint32_t changes = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | (uint32_t)EPOLLET;
    struct epoll_event event = {.events = changes, .data = {.u64 = number}};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}
#else
enum { EPOLLPRI = 2, EPOLLRDHUP = 1 << 13, EPOLLERR = 8, EPOLLHUP = 16 };
static inline int ia_pipe(int *ends) { return ends ? -ENOTSUP : 0; }
static inline int64_t ia_splice(int from, int to, size_t most) { return from + to + (int)most ? -ENOTSUP : -EINVAL; }
static inline int64_t ia_copy(int from, int to) { return ia_splice(from, to, IA_FEW_BYTES); }
static inline int ia_watch_changes(int epoll, int fd, uint64_t number) { return ia_watch(epoll, fd, number, 0); }
#endif

/* As `ia_inode`, of a pipe. */
static inline int ia_pipe_inode(int fd, uint64_t *out)
{
    struct stat found;
    if (fstat(fd, &found))
        return -errno;
    *out = (uint64_t)found.st_ino;
    return S_ISFIFO(found.st_mode) ? 0 : -EBADF;
}

static inline int ia_is_same_pipe(int fd, uint64_t inode)
{
    uint64_t now = inode;
    return ia_pipe_inode(fd, &now) != -EBADF && now == inode;
}

/* What is sent goes out at once: the peer has decided already when. It fails for a socket that is not of TCP. */
static inline void ia_send_at_once(int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Begins to connect. Returns 0 or -EINPROGRESS and stores the socket, or another error, without a socket. */
static inline int ia_connect(const struct ia_target *to, int *out)
{
    int code = 0, fd;
#ifdef __linux__
    fd = socket(to->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#else
    fd = socket(to->address.ss_family, SOCK_STREAM, 0);
#endif
    *out = fd;
    if (fd < 0)
        return -errno;
    if (to->address.ss_family != AF_UNIX)
        ia_send_at_once(fd);
    if (connect(fd, (const struct sockaddr *)&to->address, to->size))
        code = -errno;
    if (code != 0 && code != -EINPROGRESS) {
        close(fd);
        *out = -1;
    }
    return code;
}

/* What has become of a connection that was begun: 0 or -errno. */
static inline int ia_connected(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) ? -errno : -error;
}

/* Whether a failure to connect is the back end's: it does not listen, or can't be reached. */
static inline int ia_is_of_target(int error)
{
    switch (error) {
    case ECONNREFUSED: case ETIMEDOUT: case EHOSTUNREACH: case ENETUNREACH: case EHOSTDOWN: case ENETDOWN:
    case ENOENT: case EACCES: case EPERM:
        return 1;
    default:
        return 0;
    }
}

/* The address that a connection came to. */
static inline int ia_local(int fd, struct ia_caller *out)
{
    struct sockaddr_storage found;
    socklen_t size = sizeof found;
    found.ss_family = AF_UNSPEC;
    if (getsockname(fd, (struct sockaddr *)&found, &size))
        return -errno;
    ia_read_peer(&found, out);
    return 0;
}

/* Sends all of a few bytes into an empty buffer: 0, or -errno; -EAGAIN if they did not fit. */
static inline int ia_send_all(int fd, const char *bytes, size_t size)
{
    const ssize_t sent = size ? send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    return sent < 0 ? -errno : (size_t)sent == size ? 0 : -EAGAIN;
}

/* Reads what is there, and drops it: how much, 0 at the end of the stream, or -errno. */
static inline int64_t ia_drop(int fd)
{
    char away[IA_READ_MOST];
    const ssize_t got = recv(fd, away, sizeof away, MSG_DONTWAIT);
    return got < 0 ? -errno : got;
}

/* The peer's stream ends here once it has what was sent. */
static inline int ia_end_sending(int fd) { return shutdown(fd, SHUT_WR) ? -errno : 0; }

#endif
