"""The C reader of shared files over a file with any bytes: it opens, counts, refreshes and closes, or says why not.

An input is a byte that chooses between a mapping and pread, the header of the file, and for each of two sections its
header and the first units of its tree. The file lies in a directory of its own, and this process holds its lock, as a
live owner does.
"""

from libc.string cimport memcpy, memset

from inbound_audit._core.bits cimport u8

cdef extern from "driver.h":
    void expect(bint, const char *) noexcept nogil

cdef extern from "reader.h":
    long long reader_open_and_count(const char *, int) noexcept nogil

cdef extern from *:
    """
    #define _GNU_SOURCE 1
    #include <fcntl.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <unistd.h>

    enum { GRAIN = 65536, STRIDE = 131072 }; /* the stride of the file that the seeds were taken from */
    static const int size_of[5] = {48, 248, 1024, 248, 1024};
    static const long offset_of[5] = {0, GRAIN, GRAIN + 4096, GRAIN + STRIDE, GRAIN + STRIDE + 4096};
    static char place[64];

    static void remove_place(void)
    {
        char path[128];
        snprintf(path, sizeof path, "%s/0123456789abcdef.owner", place);
        unlink(path);
        rmdir(place);
    }

    /* Makes the directory and the file, and locks it as its owner would. Returns the descriptor that writes it. */
    static int make_place(void)
    {
        char path[128];
        struct flock lock;
        int fd;
        snprintf(place, sizeof place, "%s/fuzz-c-reader-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (mkdtemp(place) == NULL)
            return -1;
        atexit(remove_place);
        snprintf(path, sizeof path, "%s/0123456789abcdef.owner", place);
        fd = open(path, O_RDWR | O_CREAT, 0600);
        memset(&lock, 0, sizeof lock);
        lock.l_type = F_WRLCK;
        lock.l_len = 1;
        if (fd >= 0 && fcntl(fd, 37 /* F_OFD_SETLK */, &lock) != 0)
            return -1;
        return fd;
    }
    static int write_at(int fd, const void *from, size_t size, long offset)
    {
        return pwrite(fd, from, size, offset) == (ssize_t)size;
    }
    """
    const int size_of[5]
    const long offset_of[5]
    char place[64]
    int make_place() noexcept nogil
    bint write_at(int, const void *, size_t, long) noexcept nogil
    int ftruncate(int, long) noexcept nogil

cdef enum:
    PIECES = 5
    MAX_PIECE = 1024
    FILE_SIZE = 65536 + 2 * 131072

cdef int file


cdef public void set_up() noexcept nogil:
    global file
    file = make_place()
    expect(file >= 0, "there is a file with a lock")
    expect(ftruncate(file, FILE_SIZE) == 0, "the file has its size")


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    cdef u8[MAX_PIECE] piece
    cdef size_t at = 1, n
    cdef int i
    if size == 0:
        return
    for i in range(PIECES):
        n = <size_t>size_of[i]
        memset(piece, 0, MAX_PIECE)
        memcpy(piece, data + at, 0 if at > size else n if size - at > n else size - at)
        at = at + n if size - at > n else size
        expect(write_at(file, piece, n, offset_of[i]), "the file is written")
    reader_open_and_count(place, data[0] & 1)
