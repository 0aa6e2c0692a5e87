"""Records: hosts with absolute counts, as one host of a cluster sends them to another. And the digest of a tree.

    | n4 | step count | step count | ... | n6 | step count | ...      n4 records of IPv4, then n6 of IPv6

Each number is a varint: seven bits a byte, the lowest bits first, and the high bit of a byte says that one more byte
follows. Only the shortest form is valid. `step` is the difference to the address before (for the first, to 0), as a
number of 32 or 128 bits; so the addresses of a family ascend, and each step but the first is at least 1. `count` is
below 2**32, and 0 says that the host is gone. No IPv6 address is an IPv4-mapped one. Nothing follows the last record.
No bytes at all are no records, too.

The *digest* of a tree is the sum, modulo 2**64, of `hash_host` over its hosts: two trees with the same hosts and counts
have the same digest, and a change of a host is one subtraction and one addition. It finds errors; it does not resist
an attacker who computes a collision.

Lock rule: none; these functions use the memory of their caller alone.
"""

from inbound_audit._core.address cimport Address, compare, is_mapped
from inbound_audit._core.bits cimport u8, u32, u64

cdef extern from *:
    """
    /* The finalizer of SplitMix64 (Steele, Lea and Flood, 2014). */
    static inline uint64_t ia_mix(uint64_t x)
    {
        x += UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
    }
    """
    u64 mix "ia_mix"(u64) noexcept nogil

cdef enum:
    MAX_RECORD = 24         # bytes: a step of 19 bytes, a count of 5
    MAX_SIZE_BYTES = 5      # of n4 and of n6

# What `next_record` found.
cdef enum Found:
    NO_RECORD = 0           # the end
    RECORD = 1
    MALFORMED = 2

cdef struct Host:
    Address address
    u32 count

cdef struct Reader:
    const u8 *at
    const u8 *end
    int version             # of the records that are being read; 0: none was read yet
    u64 left                # records of that version
    bint first              # the next record is the first of its version
    u64 hi                  # the address before, as a number
    u64 lo

cdef struct Writer:
    u8 *start
    u8 *at
    u8 *end
    u64 records
    u64 hi                  # the address before, as a number
    u64 lo


# ---- the digest

cdef inline u64 hash_host(const Address *a, u32 count) noexcept nogil:
    """Of an address (as its left-aligned words, and 4 or 6) and a count. The same on every machine."""
    return mix(mix((mix(a.hi) + <u64>a.version) ^ a.lo) ^ count)


# ---- reading

cdef inline bint read_number(Reader *r, int bits, u64 *hi, u64 *lo) noexcept nogil:
    """A varint of at most `bits` (up to 128) bits. Returns False for a malformed one."""
    cdef int shift = 0
    cdef u64 part
    cdef bint more
    hi[0] = 0
    lo[0] = 0
    while r.at < r.end and shift < bits:
        part = r.at[0] & 0x7F
        more = r.at[0] >> 7
        r.at += 1
        if shift + 7 > bits and part >> (bits - shift):
            return False
        if shift < 64:
            lo[0] |= part << shift
            if shift > 57:
                hi[0] |= part >> (64 - shift)
        else:
            hi[0] |= part << (shift - 64)
        if not more:
            return part != 0 or shift == 0
        shift += 7
    return False


cdef inline void start_reader(Reader *r, const u8 *data, size_t size) noexcept nogil:
    r.at = data
    r.end = data + size
    r.version = 0
    r.left = 0


cdef inline bint next_version(Reader *r) noexcept nogil:
    """Reads how many records of the next version follow. Returns False if that number is malformed."""
    cdef u64 none
    r.version = 4 if r.version == 0 else 6
    r.first = True
    r.hi = 0
    r.lo = 0
    return read_number(r, 32, &none, &r.left)


cdef inline int next_record(Reader *r, Host *out) noexcept nogil:
    """RECORD, and `out` has it; NO_RECORD at the end; or MALFORMED."""
    cdef u64 hi, lo, none, count
    if r.version == 0 and r.at == r.end:
        return NO_RECORD
    while r.left == 0:
        if r.version == 6:
            return NO_RECORD if r.at == r.end else MALFORMED
        if not next_version(r):
            return MALFORMED
    if not read_number(r, 32 if r.version == 4 else 128, &hi, &lo) or not read_number(r, 32, &none, &count):
        return MALFORMED
    if not r.first and hi == 0 and lo == 0:
        return MALFORMED
    lo += r.lo
    hi += r.hi + (lo < r.lo)
    if hi < r.hi or (hi == r.hi and lo < r.lo) or (r.version == 4 and lo >> 32):
        return MALFORMED  # beyond the last address
    r.hi = hi
    r.lo = lo
    r.first = False
    r.left -= 1
    out.count = <u32>count
    out.address.version = r.version
    out.address.hi = lo << 32 if r.version == 4 else hi
    out.address.lo = 0 if r.version == 4 else lo
    return MALFORMED if is_mapped(&out.address) else RECORD


cdef inline int order(const Address *a, const Address *b) noexcept nogil:
    """-1, 0 or 1: as records stand, IPv4 first."""
    if a.version != b.version:
        return -1 if a.version < b.version else 1
    return compare(a.hi, a.lo, b.hi, b.lo, 128)


cdef inline bint check_records(const u8 *data, size_t size, Host *last, u64 *present, u64 *gone) noexcept nogil:
    """Whether the bytes are records. Adds up how many have a count and how many say that a host is gone.

    `last` is the last record of the bytes before (version 0: none); each record lies after it, and the last one of
    these bytes replaces it.
    """
    cdef Reader r
    cdef Host host
    cdef int found
    start_reader(&r, data, size)
    found = next_record(&r, &host)
    while found == RECORD:
        if last.address.version and order(&last.address, &host.address) >= 0:
            return False
        last[0] = host
        present[0] += host.count != 0
        gone[0] += host.count == 0
        found = next_record(&r, &host)
    return found == NO_RECORD


# ---- writing

cdef inline void start_writer(Writer *w, u8 *start, u8 *end) noexcept nogil:
    """The records of one version go to the bytes from `start` on."""
    w.start = start
    w.at = start
    w.end = end
    w.records = 0
    w.hi = 0
    w.lo = 0


cdef inline u8 *write_number(u8 *at, u64 hi, u64 lo) noexcept nogil:
    """Writes a varint and returns where it ends."""
    while hi or lo > 0x7F:
        at[0] = <u8>(lo | 0x80)
        at += 1
        lo = lo >> 7 | hi << 57
        hi >>= 7
    at[0] = <u8>lo
    return at + 1


cdef inline bint write_record(Writer *w, const Host *host) noexcept nogil:
    """Returns False if there may be no room. The address lies after the one before, and has the same version."""
    cdef u64 hi = 0, lo = host.address.hi >> 32
    if w.end - w.at < MAX_RECORD:
        return False
    if host.address.version == 6:
        hi, lo = host.address.hi, host.address.lo
    w.at = write_number(w.at, hi - w.hi - (lo < w.lo), lo - w.lo)
    w.at = write_number(w.at, 0, host.count)
    w.hi = hi
    w.lo = lo
    w.records += 1
    return True
