"""Address ranges: reserved memory, files that are mapped, and what happens when such a file is cut short.

A range that readers may stand in is never unmapped while they can: it is *covered* with other pages in place, at one
moment (`MAP_FIXED`). So a reader without a lock meets other bytes at worst, and never no memory.

Memory behind a file can be taken away by whoever may write to the file: a truncated page answers SIGBUS. Ranges of
files are therefore *guarded*: a handler puts an empty page where the lost one was, notes the loss, and the reader goes
on; a fault anywhere else goes to whoever handled it before. The handler takes no lock and calls `mmap` alone.

A range that readers without the GIL may stand in stays guarded as long as it is a range: a fault may be on its way to the
handler when what it met is covered already.

Lock rule: `guard` takes a lock of its own; the handler reads the table without it.
"""

from inbound_audit._core.bits cimport u8, u32, u64

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <signal.h>
    #include <string.h>
    #include <unistd.h>
    #include <sys/mman.h>
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif

    #define IA_SMALL_TREE ((size_t)4 << 20)
    #define IA_GUARDED 65536

    static inline void *ia_reserve(size_t size)
    {
        void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return NULL;
    #ifdef MADV_HUGEPAGE
        /* A tree that outgrows this is met cold: large pages spare a walk of the page table at each of its levels. */
        if (size > IA_SMALL_TREE)
            (void)madvise((char *)at + IA_SMALL_TREE, size - IA_SMALL_TREE, MADV_HUGEPAGE);
    #endif
        return at;
    }
    static inline void ia_unmap(void *at, size_t size) { munmap(at, size); }
    static inline void ia_give_back(void *at, size_t size) { (void)madvise(at, size, MADV_DONTNEED); }

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
    static inline int ia_write_file(int fd, const void *from, size_t size, uint64_t offset)
    {
        const char *next = (const char *)from;
        while (size) {
            ssize_t done = pwrite(fd, next, size, (off_t)offset);
            if (done < 0 && errno == EINTR)
                continue;
            if (done <= 0)
                return 1;
            next += done, offset += (uint64_t)done, size -= (size_t)done;
        }
        return 0;
    }

    #ifdef __linux__
    #include <sys/inotify.h>
    #define IA_SHARED 1

    static inline int ia_back(int fd, uint64_t offset, uint64_t size)
    {
        int error, tries = 100;
        do
            error = posix_fallocate(fd, (off_t)offset, (off_t)size);
        while (error == EINTR && tries--);
        return error;
    }
    static inline int ia_give_back_file(void *at, size_t size) { return madvise(at, size, MADV_REMOVE); }
    /* A new name, a lost name, a file that was closed or touched by its writer. */
    static inline int ia_watch(const char *directory)
    {
        int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (fd >= 0 && inotify_add_watch(fd, directory, IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_ATTRIB
                                                            | IN_ONLYDIR | IN_DONT_FOLLOW) < 0) {
            close(fd);
            fd = -1;
        }
        return fd;
    }
    #else
    #define IA_SHARED 0
    static inline int ia_back(int fd, uint64_t offset, uint64_t size) { (void)fd, (void)offset, (void)size; return ENOTSUP; }
    static inline int ia_give_back_file(void *at, size_t size) { (void)at, (void)size; return -1; }
    static inline int ia_watch(const char *directory) { (void)directory; errno = ENOTSUP; return -1; }
    #endif

    struct ia_range { uintptr_t start, end; int writable, lost; };
    static struct ia_range ia_guarded[IA_GUARDED];
    static struct sigaction ia_bus_before;
    static uint32_t ia_guard_lock;

    static void ia_on_bus(int number, siginfo_t *info, void *context)
    {
        static long page_size = 0;
        static int asked = 0;
        uintptr_t at = (uintptr_t)info->si_addr;
        int i, error = errno;
        if (!page_size)
            page_size = sysconf(_SC_PAGESIZE);
        for (i = 0; info->si_code > 0 && i < IA_GUARDED; i++) {
            struct ia_range *r = &ia_guarded[i];
            uintptr_t start = __atomic_load_n(&r->start, __ATOMIC_ACQUIRE);
            if (!start || at < start || at >= __atomic_load_n(&r->end, __ATOMIC_RELAXED))
                continue;
            if (!ia_cover((void *)(at - at % (uintptr_t)page_size), (size_t)page_size, r->writable)) {
                __atomic_store_n(&r->lost, 1, __ATOMIC_RELEASE);  /* last: who takes notice maps the range anew */
                errno = error;
                return;
            }
        }
        /* A handler that was asked before and has raised the signal once more is not asked again. */
        if (__atomic_exchange_n(&asked, 1, __ATOMIC_RELAXED)
                || (!(ia_bus_before.sa_flags & SA_SIGINFO)
                    && (ia_bus_before.sa_handler == SIG_DFL || ia_bus_before.sa_handler == SIG_IGN))) {
            signal(number, SIG_DFL);  /* the faulting load runs again, and ends the process as it would have */
            if (info->si_code <= 0)
                raise(number);
        }
        else if (ia_bus_before.sa_flags & SA_SIGINFO)
            ia_bus_before.sa_sigaction(number, info, context);
        else
            ia_bus_before.sa_handler(number);
        __atomic_store_n(&asked, 0, __ATOMIC_RELAXED);
        errno = error;
    }
    /* Ours is the first to be asked; one that was set later is asked after us. */
    static inline int ia_watch_faults(void)
    {
        struct sigaction now, ours;
        if (sigaction(SIGBUS, NULL, &now))
            return 1;
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == ia_on_bus)
            return 0;
        memset(&ours, 0, sizeof ours);
        ours.sa_sigaction = ia_on_bus;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&ours.sa_mask);
        ia_bus_before = now;
        return sigaction(SIGBUS, &ours, NULL);
    }
    static inline int ia_guard(void *at, size_t size, int writable)
    {
        int i;
        while (__atomic_exchange_n(&ia_guard_lock, 1, __ATOMIC_ACQUIRE))
            ;
        for (i = 0; i < IA_GUARDED && ia_guarded[i].start; i++)
            ;
        if (i < IA_GUARDED) {
            ia_guarded[i].end = (uintptr_t)at + size;
            ia_guarded[i].writable = writable;
            ia_guarded[i].lost = 0;
            __atomic_store_n(&ia_guarded[i].start, (uintptr_t)at, __ATOMIC_RELEASE);
        }
        __atomic_store_n(&ia_guard_lock, 0, __ATOMIC_RELEASE);
        return i < IA_GUARDED ? i : -1;
    }
    static inline void ia_unguard(int slot)
    {
        if (slot >= 0)
            __atomic_store_n(&ia_guarded[slot].start, 0, __ATOMIC_RELEASE);
    }
    static inline int ia_was_lost(int slot)
    {
        return slot >= 0 && __atomic_exchange_n(&ia_guarded[slot].lost, 0, __ATOMIC_RELAXED);
    }
    /* After a fork: whoever held it is not in this process. */
    static inline void ia_free_guard_lock(void) { __atomic_store_n(&ia_guard_lock, 0, __ATOMIC_RELEASE); }
    """
    const bint SHARED_POSSIBLE "IA_SHARED"
    void *reserve "ia_reserve"(size_t) noexcept nogil
    void unmap_range "ia_unmap"(void *, size_t) noexcept nogil
    void give_back "ia_give_back"(void *, size_t) noexcept nogil
    bint cover_failed "ia_cover"(void *, size_t, bint writable) noexcept nogil
    void *map_file "ia_map_file"(void *at, size_t, int fd, u64 offset, bint writable) noexcept nogil
    bint write_failed "ia_write_file"(int fd, const void *, size_t, u64 offset) noexcept nogil
    int back_file "ia_back"(int fd, u64 offset, u64 size) noexcept nogil
    int give_back_file "ia_give_back_file"(void *, size_t) noexcept nogil
    int watch_directory "ia_watch"(const char *) noexcept nogil
    bint watch_faults_failed "ia_watch_faults"() noexcept nogil
    int guard "ia_guard"(void *, size_t, bint writable) noexcept nogil
    void unguard "ia_unguard"(int slot) noexcept nogil
    bint was_lost "ia_was_lost"(int slot) noexcept nogil
    void free_guard_lock "ia_free_guard_lock"() noexcept nogil

cdef enum:
    GRAIN = 65536        # bytes: offsets in a file are multiples of it, whatever the size of a page
    UNGUARDED = -1
