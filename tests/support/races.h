/* mmap as ThreadSanitizer does not see it; included before everything else of the program.

   ThreadSanitizer takes mmap for a store to each byte of the range, and would report each reader that is there. It is no
   store: the kernel exchanges whole pages, and a load finds the old page or the new one. The core relies on that where it
   puts a page of a file in the place of one with the same bytes (`arena_share`), and empty pages in the place of a tree
   that is given up (`arena_leave`). */
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline void *races_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return (void *)(uintptr_t)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}

#define mmap races_mmap
