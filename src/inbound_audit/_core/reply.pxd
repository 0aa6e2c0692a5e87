"""What a refused peer is sent: a text whose parts were found once, put together without an allocation.

    "421 4.7.0 " | ADDRESS | " has " | COUNT | " sessions, over " | LIMIT | "\\r\\n"

Lock rule: none; a reply never changes once it is in use.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from inbound_audit._core.address cimport Address
from inbound_audit._core.address_text cimport format_address, put_number
from inbound_audit._core.bits cimport u32

cdef enum:
    MAX_PARTS = 32
    MAX_TEXT_BYTES = 16384      # of all literal parts together
    MAX_FIELD_BYTES = 64        # of any other part; an address and a number have less
    MAX_REPLY_BYTES = MAX_TEXT_BYTES + MAX_PARTS * MAX_FIELD_BYTES

cdef enum PartKind:
    LITERAL = 0
    ADDRESS = 1                 # of the peer
    LIMIT = 2                   # the name of the limit that it is over
    COUNT = 3                   # the sessions that this limit counts

cdef struct Words:
    const char *text
    u32 size

cdef struct Part:
    int kind
    Words words                 # of a LITERAL

cdef struct Reply:
    Part part[MAX_PARTS]
    int parts


cdef inline u32 write_words(const Words *words, u32 most, char *out) noexcept nogil:
    cdef u32 size = words.size if words.size < most else most
    memcpy(out, words.text, size)
    return size


cdef inline u32 write_reply(
    const Reply *r, const Address *peer, const Words *limit, int64_t count, char *out
) noexcept nogil:
    """Writes at most MAX_REPLY_BYTES. `limit` NULL: no limit refused. Returns how many. O(bytes)."""
    cdef u32 at = 0
    cdef int i
    for i in range(r.parts):
        if r.part[i].kind == LITERAL:
            at += write_words(&r.part[i].words, MAX_TEXT_BYTES, out + at)
        elif r.part[i].kind == ADDRESS:
            at += <u32>format_address(peer, out + at)
        elif r.part[i].kind == COUNT:
            at += <u32>put_number(out + at, <unsigned int>(count if count <= <int64_t>0xFFFFFFFF else 0xFFFFFFFF))
        elif limit != NULL:
            at += write_words(limit, MAX_FIELD_BYTES, out + at)
    return at
