/* A file that this process holds open, and how it is opened again: what the room `kept_file` declares.

   Other code of the process may close any descriptor and then get its number for a file of its own: a daemon closes all
   numbers, a library closes one twice. So a number is compared with the file's identity right before each use, and before
   it is closed. A descriptor that is lost is opened again by the path. */
#ifndef INBOUND_AUDIT_KEPT_FILE_H
#define INBOUND_AUDIT_KEPT_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

/* Below are the standard streams: whoever writes to a stream that was closed at start would write to our file. */
#define IA_FIRST_DESCRIPTOR 3
#define IA_CLOSED -2

struct ia_kept_file {
    int fd; /* changes when the descriptor was lost; IA_CLOSED for good */
    int flags; /* of open(2) */
    int any; /* 1: another file at the path will do */
    dev_t device;
    ino_t inode;
    struct ia_kept_file *before; /* the owner's list of those that it will free */
    char path[];
};

/* An error other than EBADF says nothing about the number: the descriptor counts as ours. */
static inline int ia_is_file(int fd, dev_t device, ino_t inode)
{
    struct stat found;
    if (fd >= 0 && fstat(fd, &found))
        return errno != EBADF;
    return fd >= 0 && found.st_dev == device && found.st_ino == inode;
}

static inline int ia_same_file(const struct ia_kept_file *b, int fd) { return ia_is_file(fd, b->device, b->inode); }

/* Takes a descriptor of its own of the file that is open as `fd`. Returns NULL and sets errno on failure. */
static inline struct ia_kept_file *ia_kept_open(int fd, const char *path, int flags, int any)
{
    size_t size = strlen(path) + 1;
    struct ia_kept_file *b = malloc(sizeof *b + size);
    struct stat found;
    if (!b)
        return NULL;
    memcpy(b->path, path, size);
    b->flags = flags, b->any = any, b->before = NULL;
    b->fd = fcntl(fd, F_DUPFD_CLOEXEC, IA_FIRST_DESCRIPTOR);
    if (b->fd < 0 || fstat(b->fd, &found)) {
        if (b->fd >= 0)
            close(b->fd);
        free(b);
        return NULL;
    }
    b->device = found.st_dev, b->inode = found.st_ino;
    return b;
}

/* Opens the file again by its path. Returns -1 if that is another file now, or the path does not exist. */
static inline int ia_open_again(struct ia_kept_file *b)
{
    struct stat found;
    int fd, first = open(b->path, b->flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (first < 0)
        return -1;
    fd = fcntl(first, F_DUPFD_CLOEXEC, IA_FIRST_DESCRIPTOR);
    close(first);
    if (fd < 0 || fstat(fd, &found) || (b->any ? !S_ISREG(found.st_mode) : !ia_same_file(b, fd))) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    b->device = found.st_dev, b->inode = found.st_ino;
    return fd;
}

/* The number of an open descriptor of the file; -1 if it was lost and can't be opened again. Any thread, unless `any`. */
static inline int ia_kept_fd(struct ia_kept_file *b)
{
    int fd = __atomic_load_n(&b->fd, __ATOMIC_ACQUIRE), again;
    if (ia_same_file(b, fd))
        return fd;
    if (fd == IA_CLOSED)
        return -1;
    again = ia_open_again(b);
    if (again >= 0 && !__atomic_compare_exchange_n(&b->fd, &fd, again, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        close(again); /* another thread was first */
        return ia_same_file(b, fd) ? fd : -1;
    }
    return again;
}

/* Size and number of names. Returns -1 and sets errno if the file is not open. */
static inline int ia_kept_status(struct ia_kept_file *b, uint64_t *status)
{
    struct stat found;
    int fd = ia_kept_fd(b);
    if (fd < 0)
        errno = EBADF;
    if (fd < 0 || fstat(fd, &found))
        return -1;
    status[0] = (uint64_t)found.st_size, status[1] = (uint64_t)found.st_nlink;
    return 0;
}

/* Idempotent. A number that stands for another file is left open. */
static inline void ia_kept_close(struct ia_kept_file *b)
{
    int fd = b ? __atomic_exchange_n(&b->fd, IA_CLOSED, __ATOMIC_ACQ_REL) : -1;
    if (fd >= 0 && ia_same_file(b, fd))
        close(fd);
}

/* With those before it. When no thread can use them any more. */
static inline void ia_kept_free(struct ia_kept_file *b)
{
    while (b) {
        struct ia_kept_file *before = b->before;
        ia_kept_close(b);
        free(b);
        b = before;
    }
}

#endif
