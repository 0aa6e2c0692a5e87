/* A descriptor that reports changes of a directory: what the room `watch` declares. */
#ifndef INBOUND_AUDIT_WATCH_H
#define INBOUND_AUDIT_WATCH_H

#include <errno.h>

#ifdef __linux__
#include <unistd.h>
#include <sys/inotify.h>

/* Events: a new name, a lost name, and a file that its writer closed or touched. Returns the watch's number; -1 on failure,
   and sets errno. */
static inline int ia_add_watch(int fd, const char *directory)
{
    const uint32_t events = IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_ATTRIB | IN_ONLYDIR | IN_DONT_FOLLOW;
    return inotify_add_watch(fd, directory, events);
}
static inline int ia_remove_watch(int fd, int number) { return inotify_rm_watch(fd, number); }

/* A new descriptor with one watch, number 1. */
static inline int ia_watch_directory(const char *directory)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd >= 0 && ia_add_watch(fd, directory) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        fd = -1;
    }
    return fd;
}
#else
static inline int ia_add_watch(int fd, const char *directory)
{
    (void)fd, (void)directory;
    errno = ENOTSUP;
    return -1;
}
static inline int ia_remove_watch(int fd, int number) { return ia_add_watch(fd + number, ""); }
static inline int ia_watch_directory(const char *directory) { return ia_add_watch(-1, directory); }
#endif

#endif
