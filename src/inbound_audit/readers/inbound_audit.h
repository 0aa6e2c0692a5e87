/* The counts of a shared audit, read from a C or C++ program on Linux that has no Python in it.
 *
 *     ia_error err;
 *     ia_handle *mail = ia_open("mail", 0, &err);             NULL: err says why
 *     int64_t n = ia_count_text(mail, "SMTP", "192.0.2.0/24");
 *     err = ia_refresh(mail);                                 now and then: finds new owners, drops dead ones
 *     ia_close(mail);
 *
 * Everything is here: include it where it is used. C99 or C++, libc, Linux, and off_t of 64 bits. The bytes that it
 * reads are drawn in docs/bytes.md; windows of time, which lie in the same files, are not read.
 *
 * What costs what. ia_open and ia_refresh make system calls: a few for each owner, a process that opens sessions. A
 * count makes none where the owners' files are mapped (below), but for one when a file has grown: O(prefix length x
 * listeners of the service). A writer is waited for at most IA_SPINS short tries per update. What an owner
 * counts is seen at once; a new owner, a new listener and the death of an owner are seen by ia_refresh.
 *
 * Mapped or read. A mapping is fast, but a process that cuts the file short kills every process that reads the mapping
 * (SIGBUS). So does a full file system, when a page is read that was given back at that moment. So by default a file is
 * mapped if it belongs to this process' user or to root: they could kill this process anyhow, and no owner ever cuts
 * its file. Files of other users, which a group makes possible, are read with pread, about two system calls per step of
 * the walk. IA_PREAD reads every file so: then no change to a file can kill the process. IA_MAP maps every file. Either
 * way ia_refresh checks the sizes again, and drops files that were cut.
 *
 * Threads. Counts may run beside one another; ia_refresh and ia_close run alone. */
#ifndef INBOUND_AUDIT_H
#define INBOUND_AUDIT_H

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define IA_LAYOUT 2 /* of the bytes that are understood here; another one is an error and never a guess */

enum { IA_MAP = 1, IA_PREAD = 2 };

typedef enum ia_error {
    IA_OK = 0,
    IA_BAD_NAME,    /* a letter or digit, then up to 62 letters, digits, dots, underscores or hyphens */
    IA_ABSENT,      /* there is no such audit: no process has opened it */
    IA_REFUSED,     /* its directory is not a directory, or is a link, or is open to users who can't be trusted */
    IA_LAYOUT_ELSE, /* a live owner writes another layout or byte order, or something else altogether */
    IA_DAMAGED,     /* a live owner's file is cut short, or says what can't be: it is not counted, the others are */
    IA_SYSTEM,      /* errno says what */
    IA_BAD_PREFIX   /* of a count: no such family, address or length */
} ia_error;

typedef struct ia_section { /* one tree of the file */
    const unsigned char *base; /* where it is mapped; NULL: read with pread */
    uint64_t offset, stride;   /* in the file: the section's begin, and its bytes, which the file need not have yet */
    uint64_t size;             /* bytes that fstat found here: the bound of all that is read from the mapping */
    uint64_t stalled;          /* the number of an update that a count has waited for without success */
    int fd;
    uint32_t kind; /* IA__SESSIONS, or it is not counted here */
    uint32_t service_size, listener_size;
    char service[64], listener[64];
} ia_section;

typedef struct ia_owner {
    char id[17];
    int fd;
    dev_t device;
    ino_t inode;
    ia_error state;   /* IA_OK: it is counted */
    uint32_t pid;     /* what it says of itself, as is `started` */
    uint64_t started; /* unix time, microseconds */
    uint64_t size;    /* the largest size that its file ever had, in bytes */
    uint32_t trees;   /* sections in `section` */
    ia_section *section;
} ia_owner;

typedef struct ia_handle {
    char *directory;
    int by_path; /* it was named by a path, not by the name of an audit */
    unsigned flags;
    ia_error fault; /* if not IA_OK, every count returns it, negated */
    size_t owners;  /* that live, in no order */
    ia_owner *owner;
} ia_handle;

enum { IA_SPINS = 128, IA_TRIES = 1024 };

enum {
    IA__HEADER = 65536, /* set aside for the owner; sections begin after it and are multiples of it */
    IA__FIRST_BLOCK = 4096,
    IA__TREES_MOST = 4096,
    IA__NODE_MOST = 608, /* bytes that are read of a node at once: all of the largest small one */
    IA__SESSIONS = 0, /* the kind of a section that is counted here: others are of windows of time */
    IA__SUFFIX = 1,
    IA__LEAF = 2,
    IA__SMALL = 3,
    IA__FULL = 4
};

typedef char ia__off_t_has_64_bits[sizeof(off_t) == 8 ? 1 : -1];

/* ---- words that other processes write: each is loaded whole and once */

static inline uint64_t ia__load64(const unsigned char *p)
{
    return __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
}

static inline uint32_t ia__load32(const unsigned char *p)
{
    return __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED);
}

static inline unsigned ia__load8(const unsigned char *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline int ia__pread(int fd, void *room, size_t size, uint64_t offset)
{
    ssize_t got;
    do
        got = pread(fd, room, size, (off_t)offset);
    while (got < 0 && errno == EINTR);
    return got >= 0 && (size_t)got == size;
}

/* Bytes that a file has of a section now. */
static inline uint64_t ia__size(int fd, uint64_t offset, uint64_t stride)
{
    struct stat st;
    uint64_t size = fstat(fd, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
    size = size > offset ? size - offset : 0;
    return size > stride ? stride : size;
}

/* `size` bytes of a section: where they are mapped, or read into `room`. NULL: they are not there. A file grows while
 * its tree does: it is asked for its size when something lies after the one that is known. */
static inline const unsigned char *ia__at(ia_section *s, uint64_t at, size_t size, void *room)
{
    if (at > s->stride || size > s->stride - at)
        return NULL;
    if (s->base == NULL)
        return ia__pread(s->fd, room, size, s->offset + at) ? (const unsigned char *)room : NULL;
    if (at + size > __atomic_load_n(&s->size, __ATOMIC_RELAXED)) {
        const uint64_t now = ia__size(s->fd, s->offset, s->stride);
        if (at + size > now)
            return NULL;
        __atomic_store_n(&s->size, now, __ATOMIC_RELAXED);
    }
    return s->base + at;
}

/* ---- the walk */

typedef struct ia__prefix {
    uint64_t hi, lo; /* the address, left-aligned: its first byte is the high byte of `hi` */
    int v6, length;
} ia__prefix;

static inline unsigned ia__byte(const ia__prefix *p, int depth)
{
    return (unsigned)(depth < 8 ? p->hi >> (56 - 8 * depth) : p->lo >> (120 - 8 * depth)) & 255;
}

/* A word whose `n` high bits are set; any `n`. */
static inline uint64_t ia__high(int n)
{
    return n <= 0 ? 0 : n >= 64 ? ~UINT64_C(0) : ~(~UINT64_C(0) >> n);
}

/* The address has the first `bits` bits of the prefix. */
static inline int ia__below(uint64_t hi, uint64_t lo, const ia__prefix *p, int bits)
{
    return ((hi ^ p->hi) & ia__high(bits)) == 0 && ((lo ^ p->lo) & ia__high(bits - 64)) == 0;
}

/* Bit i of the answer: byte i of a word from memory equals `want` in the bits of `care`. */
static inline uint64_t ia__match8(uint64_t word, unsigned want, unsigned care)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), low = UINT64_C(0x7F7F7F7F7F7F7F7F);
    uint64_t other;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    other = (word ^ (ones * want)) & (ones * care);
    other = ~(((other & low) + low) | other | low); /* the high bit of each byte that is zero */
    return ((other >> 7) * UINT64_C(0x0102040810204080)) >> 56;
}

/* What the entry of a host counts below the prefix: all or nothing. */
static inline int64_t ia__host(ia_section *s, const ia__prefix *p, uint64_t e, uint32_t reach)
{
    uint64_t room[2], hi = p->hi, lo = 0;
    const uint64_t body = e & 0xFFFFFF, unit = e & 0x1FFFFFFF;
    const unsigned char *leaf;
    if ((e >> 29 & 7) == IA__LEAF) {
        leaf = unit < reach ? ia__at(s, unit * 16, sizeof room, room) : NULL;
        if (leaf == NULL)
            return 0;
        hi = ia__load64(leaf);
        lo = ia__load64(leaf + 8);
    } else if (p->v6) {
        lo = (p->lo & ia__high(40)) | body;
    } else {
        hi = (p->hi & ia__high(8)) | body << 32;
    }
    return ia__below(hi, lo, p, p->length) ? (int64_t)(e >> 32) : 0;
}

/* A step through a small node. With `bits` 8 the entry of `byte` goes to `*next`, 0 without one; with fewer, the
 * answer is what the entries count that share so many bits of it. */
static inline int64_t ia__small(ia_section *s, uint64_t at, int v6, unsigned byte, int bits, uint64_t *next)
{
    static const unsigned char slots_of[8] = {3, 5, 8, 16, 32, 64, 0, 0};
    uint64_t room[IA__NODE_MOST / 8], used, hits = 0;
    const size_t head = v6 ? 32 : 16;
    const unsigned care = (0xFFu << (8 - bits)) & 0xFF;
    const unsigned char *n = ia__at(s, at, head, room);
    const size_t slots = n != NULL ? slots_of[ia__load8(n) & 7] : 0, keys = slots < 8 ? 8 : slots;
    int64_t total = 0;
    size_t i;
    *next = 0;
    n = slots != 0 ? ia__at(s, at, head + keys + 8 * slots, room) : NULL;
    if (n == NULL)
        return 0;
    used = ia__load64(n + 8);
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* a slot's key and entry are stored before its bit in `used` */
    for (i = 0; i < keys; i += 8)
        hits |= ia__match8(ia__load64(n + head + i), byte, care) << i;
    hits &= used & (~UINT64_C(0) >> (64 - slots));
    for (; hits != 0; hits &= hits - 1) {
        *next = ia__load64(n + head + keys + 8 * (size_t)__builtin_ctzll(hits));
        total += (int64_t)(*next >> 32);
    }
    return total;
}

/* The same through a full node. */
static inline int64_t ia__full(ia_section *s, uint64_t at, int v6, unsigned byte, int bits, uint64_t *next)
{
    const size_t head = v6 ? 32 : 16, span = (size_t)1 << (8 - bits), first = byte & ~(span - 1);
    uint64_t room[8];
    const unsigned char *n;
    int64_t total = 0;
    size_t i;
    *next = 0;
    if (bits <= 4) { /* sixteen sums of sixteen entries */
        n = ia__at(s, at + head, 64, room);
        for (i = first / 16; n != NULL && i < (first + span) / 16; i++)
            total += ia__load32(n + 4 * i);
        return total;
    }
    n = ia__at(s, at + head + 64 + 8 * first, 8 * span, room);
    for (i = 0; n != NULL && i < span; i++) {
        *next = ia__load64(n + 8 * i);
        total += (int64_t)(*next >> 32);
    }
    return total;
}

/* Sessions below a prefix. At most 16 steps, whatever the bytes are: each leads deeper than the one before. */
static inline int64_t ia__walk(ia_section *s, const ia__prefix *p)
{
    uint64_t room[8], e;
    const unsigned char *n = ia__at(s, 0, sizeof room, room);
    uint32_t reach;
    int depth = 0;
    if (n == NULL)
        return 0;
    reach = ia__load32(n + 60);
    e = ia__load64(n + (p->v6 ? 16 : 8));
    while (p->length > 8 * depth) {
        const unsigned tag = (unsigned)(e >> 29) & 7;
        const uint64_t unit = e & 0x1FFFFFFF, at = unit * 16;
        int own, bits;
        int64_t total;
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* a node is stored before the word that leads to it */
        if (tag == IA__SUFFIX || tag == IA__LEAF)
            return ia__host(s, p, e, reach);
        if ((tag != IA__SMALL && tag != IA__FULL) || unit >= reach)
            return 0;
        n = ia__at(s, at, p->v6 ? 32 : 16, room);
        if (n == NULL)
            return 0;
        own = (int)ia__load8(n + 1);
        if (own < depth || own > (p->v6 ? 15 : 3))
            return 0;
        if (own > depth) { /* bytes were skipped: do they lie on the path? */
            const uint64_t hi = p->v6 ? ia__load64(n + 16) : (uint64_t)ia__load32(n + 4) << 32;
            const uint64_t lo = p->v6 ? ia__load64(n + 24) : 0;
            if (!ia__below(hi, lo, p, p->length < 8 * own ? p->length : 8 * own))
                return 0;
            if (p->length <= 8 * own)
                return (int64_t)(e >> 32);
            depth = own;
        }
        bits = p->length < 8 * depth + 8 ? p->length - 8 * depth : 8;
        total = (tag == IA__FULL ? ia__full : ia__small)(s, at, p->v6, ia__byte(p, depth), bits, &e);
        if (bits < 8)
            return total;
        depth++;
    }
    return (int64_t)(e >> 32);
}

static inline void ia__pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Exact as of one moment: the writer's number was even, and is the same afterwards. A writer that stands still in
 * mid-update leaves it odd, and what can be reached is sound: that answer lacks at most its one update. */
static inline int64_t ia__tree_count(ia_section *s, const ia__prefix *p)
{
    int64_t seen = 0, sound = -1;
    uint64_t room, began;
    int attempt;
    for (attempt = 0; attempt < IA_TRIES; attempt++) {
        const unsigned char *seq = ia__at(s, 0, 8, &room);
        if (seq == NULL)
            return 0;
        began = ia__load64(seq);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        seen = ia__walk(s, p);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        seq = ia__at(s, 0, 8, &room);
        if (seq == NULL)
            return 0;
        if (ia__load64(seq) == began) {
            if ((began & 1) == 0 || began == __atomic_load_n(&s->stalled, __ATOMIC_RELAXED))
                return seen;
            if (attempt >= IA_SPINS) {
                __atomic_store_n(&s->stalled, began, __ATOMIC_RELAXED); /* the next count need not wait for it again */
                return seen;
            }
            sound = seen;
        }
        ia__pause();
    }
    return sound >= 0 ? sound : seen;
}

static inline int64_t ia__sum(ia_handle *h, const char *service, const ia__prefix *p)
{
    const char *name = service == NULL || strcmp(service, "inbound_cidr") == 0 ? "SMTP" : service;
    const size_t size = strlen(name);
    int64_t total = 0;
    size_t i;
    uint32_t j;
    if (h->fault != IA_OK)
        return -(int64_t)h->fault;
    for (i = 0; i < h->owners; i++)
        for (j = 0; j < h->owner[i].trees; j++) {
            ia_section *s = &h->owner[i].section[j];
            if (s->kind == IA__SESSIONS && s->service_size == size && memcmp(s->service, name, size) == 0)
                total += ia__tree_count(s, p);
        }
    return total;
}

/* ---- counts: below zero they are a negated ia_error */

/* Sessions of a service (NULL: SMTP) that are open now from a prefix. `family` is AF_INET or AF_INET6, `address` its 4
 * or 16 bytes in network order; bits after the first `length` are ignored. IPv4-mapped IPv6 is IPv4, from length 96 on.
 * A service without a listener anywhere counts 0; `inbound_cidr` is another name for SMTP. */
static inline int64_t ia_count(ia_handle *h, const char *service, int family, const void *address, int length)
{
    const unsigned char *byte = (const unsigned char *)address;
    ia__prefix p = {0, 0, family == AF_INET6, length};
    int i;
    if ((family != AF_INET && family != AF_INET6) || length < 0 || length > (p.v6 ? 128 : 32))
        return -(int64_t)IA_BAD_PREFIX;
    for (i = 0; i < (p.v6 ? 8 : 4); i++)
        p.hi |= (uint64_t)byte[i] << (56 - 8 * i);
    for (i = 0; p.v6 && i < 8; i++)
        p.lo |= (uint64_t)byte[8 + i] << (56 - 8 * i);
    if (p.v6 && p.hi == 0 && p.lo >> 32 == 0xFFFF && length >= 96) {
        p.hi = p.lo << 32;
        p.lo = 0;
        p.v6 = 0;
        p.length -= 96;
    }
    return ia__sum(h, service, &p);
}

/* The same from a text: an address that inet_pton reads, with or without a slash and a length. */
static inline int64_t ia_count_text(ia_handle *h, const char *service, const char *cidr)
{
    unsigned char address[16];
    char text[INET6_ADDRSTRLEN];
    const char *slash = strchr(cidr, '/');
    const size_t size = slash != NULL ? (size_t)(slash - cidr) : strlen(cidr);
    const int family = memchr(cidr, ':', size) != NULL ? AF_INET6 : AF_INET;
    int length = family == AF_INET6 ? 128 : 32;
    if (size >= sizeof text)
        return -(int64_t)IA_BAD_PREFIX;
    memcpy(text, cidr, size);
    text[size] = 0;
    if (slash != NULL) {
        const char *digit = slash + 1;
        if (*digit == 0)
            return -(int64_t)IA_BAD_PREFIX;
        for (length = 0; *digit != 0; digit++) {
            if (*digit < '0' || *digit > '9' || length > 128)
                return -(int64_t)IA_BAD_PREFIX;
            length = 10 * length + (*digit - '0');
        }
    }
    if (inet_pton(family, text, address) != 1)
        return -(int64_t)IA_BAD_PREFIX;
    return ia_count(h, service, family, address, length);
}

/* Open sessions of a service (NULL: SMTP), both families. */
static inline int64_t ia_total(ia_handle *h, const char *service)
{
    const ia__prefix v4 = {0, 0, 0, 0}, v6 = {0, 0, 1, 0};
    const int64_t total = ia__sum(h, service, &v4);
    return total < 0 ? total : total + ia__sum(h, service, &v6);
}

static inline const char *ia_strerror(ia_error e)
{
    switch (e) {
    case IA_OK: return "no error";
    case IA_BAD_NAME: return "that is not the name of an audit";
    case IA_ABSENT: return "there is no such audit";
    case IA_REFUSED: return "the directory is not a directory, or is a link, or can't be trusted";
    case IA_LAYOUT_ELSE: return "an owner writes bytes of another layout";
    case IA_DAMAGED: return "an owner's file is damaged";
    case IA_SYSTEM: return strerror(errno);
    case IA_BAD_PREFIX: return "that is not a prefix";
    }
    return "unknown error";
}

/* ---- owners */

static inline void ia__drop_sections(ia_owner *o)
{
    uint32_t i;
    for (i = 0; i < o->trees; i++)
        if (o->section[i].base != NULL)
            munmap((void *)(uintptr_t)o->section[i].base, (size_t)o->section[i].stride);
    free(o->section);
    o->section = NULL;
    o->trees = 0;
}

static inline void ia__drop(ia_handle *h, size_t i)
{
    ia__drop_sections(&h->owner[i]);
    close(h->owner[i].fd);
    h->owner[i] = h->owner[--h->owners];
}

/* 1: its owner lives; 0: no process holds its lock; -1: unknown, errno says why. */
static inline int ia__alive(int fd)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_RDLCK;
    lock.l_whence = SEEK_SET;
    lock.l_len = 1;
    if (fcntl(fd, 36 /* F_OFD_GETLK, which hides behind _GNU_SOURCE */, &lock) != 0)
        return -1;
    return lock.l_type != F_UNLCK;
}

/* A magic number, and after it the layout and the byte order. */
static inline int ia__is_ours(const unsigned char *p, uint64_t magic)
{
    return ia__load64(p) == magic && ia__load32(p + 8) == IA_LAYOUT && ia__load32(p + 12) == 0x01020304;
}

/* FNV-1a over what a section's header says of whose tree it is; both sizes fit. */
static inline uint32_t ia__label_sum(const unsigned char *p)
{
    static const unsigned char more[5] = {204, 232, 236, 240, 244}; /* kind, interval, slots, slot, sign */
    const uint32_t service_size = ia__load32(p + 64), listener_size = ia__load32(p + 68);
    uint32_t sum = 2166136261U, i;
    for (i = 0; i < service_size; i++)
        sum = (sum ^ p[72 + i]) * 16777619U;
    sum = (sum ^ service_size) * 16777619U;
    for (i = 0; i < listener_size; i++)
        sum = (sum ^ p[136 + i]) * 16777619U;
    sum = (sum ^ listener_size) * 16777619U;
    for (i = 0; i < 5; i++)
        sum = (sum ^ ia__load32(p + more[i])) * 16777619U;
    return sum;
}

/* Section number `o->trees` of the file. One that is of no sessions is checked, and then left alone. */
static inline ia_error ia__open_section(ia_owner *o, uint64_t stride, int map)
{
    ia_section *s = &o->section[o->trees];
    uint64_t head[31];
    const unsigned char *p = (const unsigned char *)head;
    uint32_t i;
    memset(s, 0, sizeof *s);
    s->fd = o->fd;
    s->offset = IA__HEADER + o->trees * stride;
    s->stride = stride;
    s->size = ia__size(s->fd, s->offset, stride);
    if (!ia__pread(s->fd, head, sizeof head, s->offset))
        return IA_DAMAGED;
    if (!ia__is_ours(p + 40, UINT64_C(0x7464756169)))
        return IA_LAYOUT_ELSE;
    s->service_size = ia__load32(p + 64);
    s->listener_size = ia__load32(p + 68);
    if (s->service_size < 1 || s->service_size > 63 || s->listener_size > 64 || ia__load32(p + 200) != ia__label_sum(p))
        return IA_DAMAGED;
    s->kind = ia__load32(p + 204);
    memcpy(s->service, p + 72, sizeof s->service);
    memcpy(s->listener, p + 136, sizeof s->listener);
    for (i = 0; i < s->service_size; i++)
        if (s->service[i] < 32 || s->service[i] > 126)
            return IA_DAMAGED;
    if (map && s->kind == IA__SESSIONS) { /* all that the file may ever have there; `size` says how much may be read */
        void *base = mmap(NULL, (size_t)stride, PROT_READ, MAP_SHARED, s->fd, (off_t)s->offset);
        s->base = base != MAP_FAILED ? (const unsigned char *)base : NULL; /* no room: pread needs none */
    }
    return IA_OK;
}

/* What the file says now: listeners that are new, and whether it can still be read. */
static inline ia_error ia__look(const ia_handle *h, ia_owner *o)
{
    uint64_t head[6], stride;
    const unsigned char *p = (const unsigned char *)head;
    struct stat st;
    uint32_t trees;
    ia_section *more;
    int map;
    if (fstat(o->fd, &st) != 0)
        return IA_SYSTEM;
    if ((uint64_t)st.st_size < o->size)
        return IA_DAMAGED;
    o->size = (uint64_t)st.st_size;
    if (o->size < IA__HEADER || !ia__pread(o->fd, head, sizeof head, 0))
        return IA_DAMAGED; /* a file has a name only when it is complete */
    if (!ia__is_ours(p, UINT64_C(0x72656e776f6169)))
        return IA_LAYOUT_ELSE;
    stride = ia__load64(p + 16);
    trees = ia__load32(p + 24);
    if (stride % IA__HEADER != 0 || stride == 0 || stride > UINT64_C(1) << 33 || trees > IA__TREES_MOST)
        return IA_DAMAGED;
    if (o->trees != 0 && (o->section[0].stride != stride || trees < o->trees))
        return IA_DAMAGED;
    o->pid = ia__load32(p + 28);
    o->started = ia__load64(p + 32);
    if (trees == o->trees)
        return IA_OK;
    more = (ia_section *)realloc(o->section, trees * sizeof *more);
    if (more == NULL)
        return IA_SYSTEM;
    o->section = more;
    map = (h->flags & IA_PREAD) == 0 && ((h->flags & IA_MAP) != 0 || st.st_uid == 0 || st.st_uid == geteuid());
    for (; o->trees < trees; o->trees++) {
        const ia_error e = ia__open_section(o, stride, map);
        if (e != IA_OK)
            return e;
    }
    return IA_OK;
}

/* ---- the directory */

static inline int ia__is_name(const char *name)
{
    static const char other[] = "._-";
    size_t i;
    for (i = 0; name[i] != 0; i++) {
        const char c = name[i], small = (char)(c | 32);
        if (!((c >= '0' && c <= '9') || (small >= 'a' && small <= 'z') || (i != 0 && strchr(other, c) != NULL)))
            return 0;
    }
    return i >= 1 && i <= 63;
}

static inline int ia__in_group(gid_t group)
{
    gid_t mine[1024];
    int n = getgroups(1024, mine), found = group == getegid();
    for (; n > 0; n--)
        found |= mine[n - 1] == group;
    return found;
}

static inline int ia__shares_with_us(const struct stat *st)
{
    return (st->st_mode & S_IRWXG) != 0 && ia__in_group(st->st_gid);
}

/* Whoever may put files there decides what is counted: it has to be our own user, or a group that we belong to. Root is
 * shown any user's, if it says which by the path. */
static inline int ia__is_believed(const struct stat *st, int by_path)
{
    const uid_t me = geteuid();
    if ((st->st_mode & S_IRWXO) != 0)
        return 0;
    return st->st_uid == me || (me == 0 ? by_path : ia__shares_with_us(st));
}

/* The first absolute path of a list that systemd hands over, and its length; NULL without one. */
static inline const char *ia__first_of(const char *list, size_t *size)
{
    while (list != NULL && *list != 0) {
        *size = strcspn(list, ":");
        if (*list == '/')
            return list;
        list += *size + (list[*size] != 0);
    }
    return NULL;
}

/* A service has a directory where only root or its own user makes any; each user may make one in /dev/shm. */
static inline int ia__is_trusted(const char *root)
{
    struct stat st;
    return lstat(root, &st) == 0 && S_ISDIR(st.st_mode) && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0
        && (st.st_uid == 0 || st.st_uid == geteuid() || geteuid() == 0);
}

static inline char *ia__join(const char *root, size_t size, const char *name)
{
    static const char prefix[] = "/inbound_audit-";
    char *path = (char *)malloc(size + sizeof prefix + strlen(name));
    if (path != NULL) {
        memcpy(path, root, size);
        strcpy(path + size, prefix);
        strcat(path, name);
    }
    return path;
}

/* Our own, else that of a group of ours, else that of any user. */
static inline char *ia__directory(const char *name)
{
    static const char services[] = "/run/inbound_audit", users[] = "/dev/shm";
    const char *place = getenv("INBOUND_AUDIT_SHM");
    size_t size = place == NULL ? 0 : strlen(place);
    struct stat st;
    char *path, *service;
    int rank;
    if (strchr(name, '/') != NULL)
        return strdup(name);
    if (size == 0)
        place = ia__first_of(getenv("RUNTIME_DIRECTORY"), &size);
    if (place != NULL && *place != 0)
        return ia__join(place, size, name);
    path = ia__join(users, sizeof users - 1, name);
    if (path == NULL || !ia__is_trusted(services))
        return path;
    service = ia__join(services, sizeof services - 1, name);
    rank = lstat(path, &st) != 0 ? 3 : st.st_uid == geteuid() ? 0 : ia__shares_with_us(&st) ? 1 : 2;
    if (service != NULL && lstat(service, &st) == 0
        && (st.st_uid == geteuid() ? 0 : ia__shares_with_us(&st) ? 1 : 2) <= rank) {
        free(path);
        return service;
    }
    free(service);
    return path;
}

/* `name` is 16 hexadecimal digits and ".owner". */
static inline int ia__is_owner(const char *name)
{
    return strspn(name, "0123456789abcdef") == 16 && strcmp(name + 16, ".owner") == 0;
}

static inline ia_error ia__meet(ia_handle *h, int directory, const char *name)
{
    struct stat st;
    ia_owner *more;
    size_t i;
    int fd, alive;
    for (i = 0; i < h->owners; i++)
        if (memcmp(h->owner[i].id, name, 16) == 0)
            return IA_OK;
    fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT || errno == ELOOP ? IA_OK : IA_SYSTEM;
    alive = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? ia__alive(fd) : 0;
    for (i = 0; i < h->owners; i++)
        if (h->owner[i].device == st.st_dev && h->owner[i].inode == st.st_ino)
            alive = 0; /* a second name: it counts once */
    more = alive > 0 ? (ia_owner *)realloc(h->owner, (h->owners + 1) * sizeof *more) : NULL;
    if (more == NULL) {
        const int why = errno;
        close(fd);
        errno = why;
        return alive == 0 ? IA_OK : IA_SYSTEM;
    }
    h->owner = more;
    memset(&more[h->owners], 0, sizeof *more);
    memcpy(more[h->owners].id, name, 16);
    more[h->owners].device = st.st_dev;
    more[h->owners].inode = st.st_ino;
    more[h->owners++].fd = fd;
    return IA_OK;
}

/* ---- the way in and out */

/* Finds new owners and listeners and drops dead owners. IA_OK or the worst that was found: with IA_LAYOUT_ELSE every
 * count is an error until a refresh finds no such owner; with any other error what could be read is counted. */
static inline ia_error ia_refresh(ia_handle *h)
{
    ia_error worst = IA_OK, e;
    struct stat st;
    struct dirent *entry;
    DIR *listing = NULL;
    size_t i;
    int directory, why = 0;
    for (i = h->owners; i-- > 0;)
        if (ia__alive(h->owner[i].fd) == 0)
            ia__drop(h, i);
    directory = open(h->directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0) {
        why = errno;
        worst = why == ENOENT ? IA_ABSENT : why == ENOTDIR || why == ELOOP ? IA_REFUSED : IA_SYSTEM;
    } else if (fstat(directory, &st) != 0 || !ia__is_believed(&st, h->by_path)) {
        worst = IA_REFUSED;
    } else if ((listing = fdopendir(directory)) == NULL) {
        why = errno;
        worst = IA_SYSTEM;
    }
    while (listing != NULL && (entry = readdir(listing)) != NULL)
        if (ia__is_owner(entry->d_name) && (e = ia__meet(h, directory, entry->d_name)) != IA_OK) {
            why = errno;
            worst = e;
        }
    if (listing != NULL)
        closedir(listing);
    else if (directory >= 0)
        close(directory);
    h->fault = IA_OK;
    for (i = 0; i < h->owners; i++) {
        h->owner[i].state = e = ia__look(h, &h->owner[i]);
        if (e == IA_SYSTEM)
            why = errno;
        if (e != IA_OK) {
            ia__drop_sections(&h->owner[i]);
            worst = e;
        }
        if (e == IA_LAYOUT_ELSE)
            h->fault = e;
    }
    errno = why;
    return h->fault != IA_OK ? h->fault : worst;
}

static inline void ia_close(ia_handle *h)
{
    if (h == NULL)
        return;
    while (h->owners != 0)
        ia__drop(h, h->owners - 1);
    free(h->owner);
    free(h->directory);
    free(h);
}

/* Opens the audit of that name, or of that directory when there is a slash in it; `flags` is 0, IA_MAP or IA_PREAD.
 * NULL: `*err` says why. With IA_DAMAGED there is a handle, which counts the owners that can be read. */
static inline ia_handle *ia_open(const char *name, unsigned flags, ia_error *err)
{
    ia_handle *h;
    int why;
    if (strchr(name, '/') == NULL && !ia__is_name(name)) {
        *err = IA_BAD_NAME;
        return NULL;
    }
    *err = IA_SYSTEM;
    h = (ia_handle *)calloc(1, sizeof *h);
    if (h == NULL)
        return NULL;
    h->flags = flags;
    h->by_path = strchr(name, '/') != NULL;
    h->directory = ia__directory(name);
    if (h->directory != NULL)
        *err = ia_refresh(h);
    if (*err == IA_OK || *err == IA_DAMAGED)
        return h;
    why = errno;
    ia_close(h);
    errno = why;
    return NULL;
}

#endif
