/* Calls to the system that fail, end short, or kill the process: a library for LD_PRELOAD, for tests alone.

   Each function below stands before that of the C library. Calls that matter are counted per class: those on files below
   one directory, on sockets, and on what has no path (pipes, threads, memory of the core). A test arms one fault, the n-th
   call of a class; `tests/support/faults.py` has the other side. The same functions write a record of what changes
   files, so that a test can replay it as a power failure would leave it.

   A fault happens in the process that armed it, or in those that it forks: in the first of them that comes to its own
   n-th call. It happens once, whichever process it is. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define CLASSES(X) X(open) X(write) X(read) X(fsync) X(rename) X(link) X(unlink) X(truncate) X(fallocate) X(mmap) X(madvise) \
    X(lock) X(dup) X(stat) X(chmod) X(mkdir) X(list) X(socket) X(bind) X(listen) X(accept) X(connect) X(send) X(recv) \
    X(sockopt) X(inotify) X(pipe) X(thread) X(fork)
#define AS_NUMBER(name) C_##name,
#define AS_TEXT(name) #name,
enum class { CLASSES(AS_NUMBER) CLASS_COUNT };
enum action { FAIL, SHORT, KILL };

const char *const faults_classes[] = {CLASSES(AS_TEXT) NULL};

static char prefix[4096]; /* the directory that matters; empty: none does */
static atomic_long seen[CLASS_COUNT];
static atomic_long wanted_n; /* 0: nothing is armed */
static int wanted_class, wanted_action, wanted_error, wanted_in_child;
static int in_child; /* of the process that armed the fault */
static struct {
    atomic_int hit;
    atomic_long most[CLASS_COUNT]; /* calls of the child that has made most */
} *shared; /* by the process that armed the fault and its children */
static int record = -1;
static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- for the test */

void faults_watch(const char *directory) { snprintf(prefix, sizeof prefix, "%s", directory); }

static void forget(void)
{
    int i;
    for (i = 0; i < CLASS_COUNT; i++)
        atomic_store(&seen[i], 0);
}

void faults_arm(int class, long n, int action, int error, int child)
{
    if (!shared)
        shared = (void *)syscall(SYS_mmap, NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        abort();
    memset(shared, 0, sizeof *shared);
    forget();
    in_child = 0;
    wanted_class = class, wanted_action = action, wanted_error = error, wanted_in_child = child;
    atomic_store(&wanted_n, n);
}

int faults_disarm(void)
{
    atomic_store(&wanted_n, 0);
    return atomic_load(&shared->hit);
}

/* Calls of this process, or the most of a child. */
long faults_seen(int class, int child) { return atomic_load(child ? &shared->most[class] : &seen[class]); }

void faults_record(int fd) { record = fd; }

void faults_note(const char *text)
{
    if (record >= 0)
        dprintf(record, "note 0 0 0 %s\n", text);
}

/* ---- what matters */

static int below(const char *path)
{
    size_t size = strlen(prefix);
    return size && !strncmp(path, prefix, size) && (path[size] == '/' || !path[size]);
}

/* Where a descriptor leads, with the system's own call: nothing here is counted. */
static int path_of(int fd, char *out, size_t size)
{
    char name[64];
    long n;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    n = syscall(SYS_readlinkat, AT_FDCWD, name, out, size - 1);
    if (n < 0)
        return 0;
    out[n] = 0;
    return 1;
}

/* SOCK_STREAM and so on; 0 for what is no socket. */
static int kind_of(int fd)
{
    int kind = 0, error = errno;
    socklen_t size = sizeof kind;
    syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &kind, &size);
    errno = error;
    return kind;
}

static int fd_matters(int fd)
{
    char path[4096];
    int error = errno, found = *prefix && path_of(fd, path, sizeof path)
        && (below(path) || !strncmp(path, "socket:", 7) || !strcmp(path, "anon_inode:inotify"));
    errno = error;
    return found;
}

/* The path as one text. Returns whether it matters. */
static int resolve(int at, const char *path, char *out, size_t size)
{
    char base[4096] = "";
    int error = errno, fd, used = 0;
    if (sscanf(path, "/proc/self/fd/%d%n", &fd, &used) == 1 && (path[used] == '/' || !path[used])) {
        at = fd;
        path += used + (path[used] == '/');
    }
    if (*path == '/')
        snprintf(out, size, "%s", path);
    else {
        if (at == AT_FDCWD) {
            if (syscall(SYS_getcwd, base, sizeof base) < 0)
                *base = 0;
        } else
            path_of(at, base, sizeof base);
        if (!*path || !strcmp(path, "."))
            snprintf(out, size, "%s", base);
        else
            snprintf(out, size, "%s/%s", base, path);
    }
    errno = error;
    return *prefix && (below(out) || !strncmp(out, "/proc/self/", 11));
}

static int path_matters(int at, const char *path)
{
    char whole[8192];
    return path && resolve(at, path, whole, sizeof whole);
}

/* Counts a call. Returns -1 for one that is made as it is; else what becomes of it, with errno set. */
static int fault(enum class class, int matters)
{
    long n, at = atomic_load(&wanted_n);
    if (!matters || !*prefix)
        return -1;
    n = atomic_fetch_add(&seen[class], 1) + 1;
    if (in_child && shared && n > atomic_load(&shared->most[class]))
        atomic_store(&shared->most[class], n);
    if (!at || class != (enum class)wanted_class || n != at || in_child != wanted_in_child)
        return -1;
    if (atomic_exchange(&shared->hit, 1))
        return -1;
    if (wanted_action == KILL) {
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        for (;;)
            pause();
    }
    errno = wanted_error;
    return wanted_action;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) \
        *(void **)&real = dlsym(RTLD_NEXT, #name)

/* ---- the record: one line for each change that was made, in their order */

static int recording(int matters) { return record >= 0 && matters && !pthread_mutex_lock(&record_lock); }
static void recorded(int begun)
{
    if (begun)
        pthread_mutex_unlock(&record_lock);
}

static unsigned long inode_at(int at, const char *path)
{
    struct statx found;
    int error = errno;
    long failed = path ? syscall(SYS_statx, at, path, AT_SYMLINK_NOFOLLOW, STATX_INO, &found)
                       : syscall(SYS_statx, at, "", AT_EMPTY_PATH, STATX_INO, &found);
    errno = error;
    return failed ? 0 : (unsigned long)found.stx_ino;
}

static void tell(const char *what, unsigned long inode, long from, long size, const void *data)
{
    int error = errno;
    char head[128];
    int n = snprintf(head, sizeof head, "%s %lu %ld %ld ", what, inode, from, size);
    struct iovec parts[] = {{head, (size_t)n}, {(void *)data, (size_t)size}, {"\n", 1}};
    if (syscall(SYS_writev, record, parts, 3) != n + size + 1)
        abort();
    errno = error;
}

static void tell_path(const char *what, unsigned long inode, int at, const char *path)
{
    char whole[8192];
    resolve(at, path, whole, sizeof whole);
    tell(what, inode, 0, (long)strlen(whole), whole);
}

static void tell_paths(unsigned long inode, int at, const char *from, int there, const char *to)
{
    char whole[2 * 8192];
    size_t size;
    resolve(at, from, whole, 8192);
    size = strlen(whole) + 1;
    resolve(there, to, whole + size, sizeof whole - size);
    tell("rename", inode, (long)size, (long)(size + strlen(whole + size)), whole);
}

/* ---- files */

static int open_it(int (*real)(int, const char *, int, ...), int at, const char *path, int flags, mode_t mode)
{
    int matters = path_matters(at, path), fd, begun;
    unsigned long before;
    if (fault(C_open, matters) >= 0)
        return -1;
    begun = recording(matters && flags & O_CREAT);
    before = begun ? inode_at(at, path) : 0;
    fd = real(at, path, flags, mode);
    if (begun && fd >= 0 && !before)
        tell_path("create", inode_at(fd, NULL), at, path);
    else if (begun && fd >= 0 && flags & O_TRUNC)
        tell("truncate", before, 0, 0, "");
    recorded(begun);
    return fd;
}

static mode_t mode_of(int flags, va_list more)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0;
}

#define OPEN(name, real_name, place, ...) \
    int name(__VA_ARGS__, const char *path, int flags, ...) \
    { \
        REAL(int, real_name, int, const char *, int, ...); \
        va_list more; \
        mode_t mode; \
        va_start(more, flags); \
        mode = mode_of(flags, more); \
        va_end(more); \
        return open_it(real, place, path, flags, mode); \
    }
#define OPEN_HERE(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(int, openat64, int, const char *, int, ...); \
        va_list more; \
        mode_t mode; \
        va_start(more, flags); \
        mode = mode_of(flags, more); \
        va_end(more); \
        return open_it(real, AT_FDCWD, path, flags, mode); \
    }
OPEN(openat, openat64, at, int at)
OPEN(openat64, openat64, at, int at)
OPEN_HERE(open)
OPEN_HERE(open64)

ssize_t write(int fd, const void *from, size_t size)
{
    REAL(ssize_t, write, int, const void *, size_t);
    /* A byte alone is how the handler of a signal wakes Python's loops, by a socket that never refuses it. */
    int matters = fd_matters(fd), what = fault(C_write, matters && (size != 1 || !kind_of(fd))), begun;
    ssize_t done;
    long at = 0;
    if (what == FAIL)
        return -1;
    begun = recording(matters);
    if (begun)
        at = (long)lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    done = real(fd, from, what == SHORT && size > 1 ? size / 2 : size);
    if (begun && done > 0)
        tell("write", inode_at(fd, NULL), at, done, from);
    recorded(begun);
    return done;
}

static ssize_t pwrite_it(int fd, const void *from, size_t size, off64_t at)
{
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    int what = fault(C_write, fd_matters(fd));
    return what == FAIL ? -1 : real(fd, from, what == SHORT && size > 1 ? size / 2 : size, at);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) { return pwrite_it(fd, from, size, at); }
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) { return pwrite_it(fd, from, size, at); }

ssize_t read(int fd, void *to, size_t size)
{
    REAL(ssize_t, read, int, void *, size_t);
    int what = fault(C_read, fd_matters(fd));
    return what == FAIL ? -1 : real(fd, to, what == SHORT && size > 1 ? size / 2 : size);
}

static int sync_it(int (*real)(int), int fd)
{
    int matters = fd_matters(fd), begun, failed;
    if (fault(C_fsync, matters) >= 0)
        return -1;
    begun = recording(matters);
    failed = real(fd);
    if (begun && !failed) {
        char path[4096] = "";
        path_of(fd, path, sizeof path);
        tell("sync", inode_at(fd, NULL), 0, (long)strlen(path), path);
    }
    recorded(begun);
    return failed;
}
int fsync(int fd)
{
    REAL(int, fsync, int);
    return sync_it(real, fd);
}
int fdatasync(int fd)
{
    REAL(int, fdatasync, int);
    return sync_it(real, fd);
}

int renameat2(int at, const char *from, int there, const char *to, unsigned flags)
{
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    int matters = path_matters(at, from), begun, failed;
    if (fault(C_rename, matters) >= 0)
        return -1;
    begun = recording(matters);
    failed = real(at, from, there, to, flags);
    if (begun && !failed)
        tell_paths(inode_at(there, to), at, from, there, to);
    recorded(begun);
    return failed;
}
int renameat(int at, const char *from, int there, const char *to) { return renameat2(at, from, there, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int at, const char *from, int there, const char *to, int flags)
{
    REAL(int, linkat, int, const char *, int, const char *, int);
    int matters = path_matters(there, to), begun, failed;
    if (fault(C_link, matters) >= 0)
        return -1;
    begun = recording(matters);
    failed = real(at, from, there, to, flags);
    if (begun && !failed)
        tell_path("link", inode_at(there, to), there, to);
    recorded(begun);
    return failed;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags)
{
    REAL(int, unlinkat, int, const char *, int);
    int matters = path_matters(at, path), begun, failed;
    if (fault(C_unlink, matters) >= 0)
        return -1;
    begun = recording(matters);
    failed = real(at, path, flags);
    if (begun && !failed)
        tell_path("unlink", 0, at, path);
    recorded(begun);
    return failed;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

static int truncate_it(int fd, off64_t size)
{
    REAL(int, ftruncate64, int, off64_t);
    int matters = fd_matters(fd), begun, failed;
    if (fault(C_truncate, matters) >= 0)
        return -1;
    begun = recording(matters);
    failed = real(fd, size);
    if (begun && !failed)
        tell("truncate", inode_at(fd, NULL), (long)size, 0, "");
    recorded(begun);
    return failed;
}
int ftruncate(int fd, off_t size) { return truncate_it(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_it(fd, size); }

/* Returns an error number and leaves errno as it is, as POSIX says. */
static int fallocate_it(int fd, off64_t at, off64_t size)
{
    REAL(int, posix_fallocate64, int, off64_t, off64_t);
    int error = errno;
    if (fault(C_fallocate, fd_matters(fd)) < 0)
        return real(fd, at, size);
    errno = error;
    return wanted_error;
}
int posix_fallocate(int fd, off_t at, off_t size) { return fallocate_it(fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { return fallocate_it(fd, at, size); }

/* The core's own address ranges are those that ask for no swap; Python's are none of ours. */
static void *mmap_it(void *at, size_t size, int protection, int flags, int fd, off64_t from)
{
    REAL(void *, mmap64, void *, size_t, int, int, int, off64_t);
    int matters = flags & MAP_ANONYMOUS ? (flags & MAP_NORESERVE) != 0 : fd_matters(fd);
    return fault(C_mmap, matters) >= 0 ? MAP_FAILED : real(at, size, protection, flags, fd, from);
}
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t from)
{
    return mmap_it(at, size, protection, flags, fd, from);
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t from)
{
    return mmap_it(at, size, protection, flags, fd, from);
}

int madvise(void *at, size_t size, int advice)
{
    REAL(int, madvise, void *, size_t, int);
    return fault(C_madvise, 1) >= 0 ? -1 : real(at, size, advice);
}

static int fcntl_it(int fd, int command, void *argument)
{
    REAL(int, fcntl64, int, int, ...);
    int locks = command == F_OFD_SETLK || command == F_OFD_GETLK || command == F_OFD_SETLKW || command == F_SETLK
        || command == F_SETLKW || command == F_GETLK;
    int copies = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
    if ((locks || copies) && fault(locks ? C_lock : C_dup, fd_matters(fd)) >= 0)
        return -1;
    return real(fd, command, argument);
}
#define FCNTL(name) \
    int name(int fd, int command, ...) \
    { \
        va_list more; \
        void *argument; \
        va_start(more, command); \
        argument = va_arg(more, void *); \
        va_end(more); \
        return fcntl_it(fd, command, argument); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

int flock(int fd, int how)
{
    REAL(int, flock, int, int);
    return fault(C_lock, fd_matters(fd)) >= 0 ? -1 : real(fd, how);
}

int dup(int fd)
{
    REAL(int, dup, int);
    return fault(C_dup, fd_matters(fd)) >= 0 ? -1 : real(fd);
}

#define STAT(name, type) \
    int name(const char *path, struct type *found) \
    { \
        REAL(int, name, const char *, struct type *); \
        return fault(C_stat, path_matters(AT_FDCWD, path)) >= 0 ? -1 : real(path, found); \
    }
#define FSTAT(name, type) \
    int name(int fd, struct type *found) \
    { \
        REAL(int, name, int, struct type *); \
        return fault(C_stat, fd_matters(fd)) >= 0 ? -1 : real(fd, found); \
    }
#define FSTATAT(name, type) \
    int name(int at, const char *path, struct type *found, int flags) \
    { \
        REAL(int, name, int, const char *, struct type *, int); \
        return fault(C_stat, path_matters(at, path)) >= 0 ? -1 : real(at, path, found, flags); \
    }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)

int fchmod(int fd, mode_t mode)
{
    REAL(int, fchmod, int, mode_t);
    return fault(C_chmod, fd_matters(fd)) >= 0 ? -1 : real(fd, mode);
}

int chmod(const char *path, mode_t mode)
{
    REAL(int, chmod, const char *, mode_t);
    return fault(C_chmod, path_matters(AT_FDCWD, path)) >= 0 ? -1 : real(path, mode);
}

int utimensat(int at, const char *path, const struct timespec times[2], int flags)
{
    REAL(int, utimensat, int, const char *, const struct timespec *, int);
    return fault(C_chmod, path_matters(at, path)) >= 0 ? -1 : real(at, path, times, flags);
}

int mkdirat(int at, const char *path, mode_t mode)
{
    REAL(int, mkdirat, int, const char *, mode_t);
    int matters = path_matters(at, path), begun, failed;
    if (fault(C_mkdir, matters) >= 0)
        return -1;
    begun = recording(matters);
    failed = real(at, path, mode);
    if (begun && !failed)
        tell_path("mkdir", inode_at(at, path), at, path);
    recorded(begun);
    return failed;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

DIR *fdopendir(int fd)
{
    REAL(DIR *, fdopendir, int);
    return fault(C_list, fd_matters(fd)) >= 0 ? NULL : real(fd);
}

struct dirent64 *readdir64(DIR *of)
{
    REAL(struct dirent64 *, readdir64, DIR *);
    return fault(C_list, fd_matters(dirfd(of))) >= 0 ? NULL : real(of);
}
struct dirent *readdir(DIR *of)
{
    REAL(struct dirent *, readdir, DIR *);
    return fault(C_list, fd_matters(dirfd(of))) >= 0 ? NULL : real(of);
}

/* ---- sockets, and what has no path */

int socket(int family, int type, int protocol)
{
    REAL(int, socket, int, int, int);
    return fault(C_socket, 1) >= 0 ? -1 : real(family, type, protocol);
}

int socketpair(int family, int type, int protocol, int ends[2])
{
    REAL(int, socketpair, int, int, int, int *);
    return fault(C_socket, 1) >= 0 ? -1 : real(family, type, protocol, ends);
}

#define ADDRESSED(name) \
    int name(int fd, const struct sockaddr *address, socklen_t size) \
    { \
        REAL(int, name, int, const struct sockaddr *, socklen_t); \
        return fault(C_##name, 1) >= 0 ? -1 : real(fd, address, size); \
    }
ADDRESSED(bind)
ADDRESSED(connect)

int listen(int fd, int backlog)
{
    REAL(int, listen, int, int);
    return fault(C_listen, 1) >= 0 ? -1 : real(fd, backlog);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    REAL(int, accept4, int, struct sockaddr *, socklen_t *, int);
    return fault(C_accept, 1) >= 0 ? -1 : real(fd, address, size, flags);
}
int accept(int fd, struct sockaddr *address, socklen_t *size)
{
    REAL(int, accept, int, struct sockaddr *, socklen_t *);
    return fault(C_accept, 1) >= 0 ? -1 : real(fd, address, size);
}

/* Other kinds keep the bounds of what is sent: nothing comes in part. */
ssize_t send(int fd, const void *from, size_t size, int flags)
{
    REAL(ssize_t, send, int, const void *, size_t, int);
    /* A zero alone is how asyncio wakes its own loop, by a socket that never refuses it. */
    int what = fault(C_send, size != 1 || *(const char *)from);
    return what == FAIL ? -1 : real(fd, from, what == SHORT && size > 1 && kind_of(fd) == SOCK_STREAM ? size / 2 : size, flags);
}

/* With descriptors: as a whole or not at all. */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    return fault(C_send, 1) == FAIL ? -1 : real(fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    REAL(ssize_t, recvmsg, int, struct msghdr *, int);
    return fault(C_recv, 1) == FAIL ? -1 : real(fd, message, flags);
}

ssize_t recv(int fd, void *to, size_t size, int flags)
{
    REAL(ssize_t, recv, int, void *, size_t, int);
    int what = fault(C_recv, 1);
    return what == FAIL ? -1 : real(fd, to, what == SHORT && size > 1 && kind_of(fd) == SOCK_STREAM ? size / 2 : size, flags);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    REAL(int, getsockopt, int, int, int, void *, socklen_t *);
    return fault(C_sockopt, 1) >= 0 ? -1 : real(fd, level, name, value, size);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    REAL(int, setsockopt, int, int, int, const void *, socklen_t);
    return fault(C_sockopt, 1) >= 0 ? -1 : real(fd, level, name, value, size);
}

int inotify_init1(int flags)
{
    REAL(int, inotify_init1, int);
    return fault(C_inotify, 1) >= 0 ? -1 : real(flags);
}

int inotify_add_watch(int fd, const char *path, uint32_t events)
{
    REAL(int, inotify_add_watch, int, const char *, uint32_t);
    return fault(C_inotify, 1) >= 0 ? -1 : real(fd, path, events);
}

int pipe2(int ends[2], int flags)
{
    REAL(int, pipe2, int *, int);
    return fault(C_pipe, 1) >= 0 ? -1 : real(ends, flags);
}

int pthread_create(pthread_t *made, const pthread_attr_t *how, void *(*run)(void *), void *argument)
{
    REAL(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    return fault(C_thread, 1) >= 0 ? wanted_error : real(made, how, run, argument);
}

pid_t fork(void)
{
    REAL(pid_t, fork, void);
    pid_t made = fault(C_fork, 1) >= 0 ? -1 : real();
    if (made == 0) {
        in_child = 1;
        forget();
    }
    return made;
}
