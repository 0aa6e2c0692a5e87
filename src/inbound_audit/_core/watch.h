/* A descriptor that reports changes of a directory: what the room `watch` declares. */
#ifndef INBOUND_AUDIT_WATCH_H
#define INBOUND_AUDIT_WATCH_H

#include <errno.h>

#ifdef __linux__
#include <unistd.h>
#include <sys/inotify.h>

/* Events: a new name, a lost name, and a file that its writer closed or touched. Returns -1 and sets errno on failure. */
static inline int ia_watch_directory(const char *directory)
{
    const uint32_t events = IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_ATTRIB | IN_ONLYDIR | IN_DONT_FOLLOW;
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd >= 0 && inotify_add_watch(fd, directory, events) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        fd = -1;
    }
    return fd;
}
#else
static inline int ia_watch_directory(const char *directory)
{
    (void)directory;
    errno = ENOTSUP;
    return -1;
}
#endif

#endif
