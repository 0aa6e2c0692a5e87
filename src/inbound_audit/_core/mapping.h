/* Address ranges: reserved memory and mapped files: what the room `mapping` declares. */
#ifndef INBOUND_AUDIT_MAPPING_H
#define INBOUND_AUDIT_MAPPING_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>
#include <sys/mman.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

#define IA_SMALL_TREE ((size_t)4 << 20)

static inline void *ia_reserve(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    /* A query finds little of a larger tree in the caches: large pages save a walk of the page table at each level. */
    if (size > IA_SMALL_TREE)
        (void)madvise((char *)at + IA_SMALL_TREE, size - IA_SMALL_TREE, MADV_HUGEPAGE);
#endif
    return at;
}

static inline void ia_unmap(void *at, size_t size) { munmap(at, size); }
static inline void ia_give_back(void *at, size_t size) { (void)madvise(at, size, MADV_DONTNEED); }

/* Puts empty pages in the place of what is mapped there. Returns 1 if that failed. Async-signal-safe. */
static inline int ia_cover(void *at, size_t size, int writable)
{
    return mmap(at, size, PROT_READ | (writable ? PROT_WRITE : 0),
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED;
}

static inline void *ia_map_file(void *at, size_t size, int fd, uint64_t offset, int writable)
{
    void *where = mmap(at, size, PROT_READ | (writable ? PROT_WRITE : 0),
                       MAP_SHARED | MAP_NORESERVE | (at ? MAP_FIXED : 0), fd, (off_t)offset);
    return where == MAP_FAILED ? NULL : where;
}

/* Returns 1 and sets errno if not all was written. */
static inline int ia_write_file(int fd, const void *from, size_t size, uint64_t offset)
{
    const char *next = (const char *)from;
    while (size) {
        ssize_t done = pwrite(fd, next, size, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0)
            errno = ENOSPC;
        if (done <= 0)
            return 1;
        next += done, offset += (uint64_t)done, size -= (size_t)done;
    }
    return 0;
}

#ifdef __linux__
#define IA_SHARED 1

/* Asks the file system for the memory of a range. Returns 0; or an error number, which is in errno, too. */
static inline int ia_back(int fd, uint64_t offset, uint64_t size)
{
    int error, tries = 100;
    do
        error = posix_fallocate(fd, (off_t)offset, (off_t)size);
    while (error == EINTR && tries--);
    return errno = error;
}

static inline int ia_give_back_file(void *at, size_t size) { return madvise(at, size, MADV_REMOVE); }
#else
#define IA_SHARED 0

static inline int ia_back(int fd, uint64_t offset, uint64_t size)
{
    (void)fd, (void)offset, (void)size;
    return errno = ENOTSUP;
}

static inline int ia_give_back_file(void *at, size_t size)
{
    (void)at, (void)size;
    return -1;
}
#endif

#endif
