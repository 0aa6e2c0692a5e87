"""What a core function returns when it fails: a negative number, and a sentence with the reason.

The extension turns a code into an exception: the offending text, a colon, the sentence. The Lua bridge turns the same
code into the same message. So each reason stands in one place.
"""

cdef enum Code:
    OK = 0
    BAD_EMPTY = -1
    BAD_BLANK = -2
    BAD_ASCII = -3
    BAD_NAME = -4
    BAD_PARTS = -5
    BAD_OCTET = -6
    BAD_ZERO = -7
    BAD_GROUP = -8
    BAD_CHAR = -9
    BAD_BRACKET = -10
    BAD_ZONE = -11
    BAD_PORT = -12
    BAD_LENGTH = -13
    BAD_SIGN = -14
    BAD_SLASH = -15
    BAD_MASK = -16
    NO_PEER = -17
    NOT_TEXT = -18
    NO_SERVICE = -19
    FULL = -20
    OVERFLOW = -21
    UNMATCHED = -22
    CLOSED = -23
    DAMAGED = -24
    NO_SERIES = -25
    NO_MONITOR = -26
    NEED_NEGATIVE_TREE = -27     # Python makes the trees for subtracted counts; then the call is repeated
    NEED_PYTHON = -28            # only Python can reach the other processes
    BAD_WINDOW = -29
    NO_KEY = -30
    BAD_AMOUNT = -31
    LONG_KEY = -32
    BAD_DURATION = -33
    BAD_MONITOR = -34
    OTHER_FAMILY = -35     # nothing was recorded, and the count is 0; returned once per series, for a warning


cdef inline const char *reason(long code) noexcept nogil:
    """The sentence of a code; it follows the offending text and a colon."""
    if code == BAD_EMPTY:
        return "is empty"
    if code == BAD_BLANK:
        return "has blanks around or inside it"
    if code == BAD_ASCII:
        return "has a NUL or a non-ASCII character"
    if code == BAD_NAME:
        return "is not an address; names are never resolved"
    if code == BAD_PARTS:
        return "has too few or too many parts"
    if code == BAD_OCTET:
        return "has an IPv4 octet over 255"
    if code == BAD_ZERO:
        return "has a leading zero in an IPv4 octet"
    if code == BAD_GROUP:
        return "has an IPv6 group of more than four digits"
    if code == BAD_CHAR:
        return "has a character that can't stand there"
    if code == BAD_BRACKET:
        return "has brackets that do not enclose one IPv6 address"
    if code == BAD_ZONE:
        return "has an empty or malformed zone id"
    if code == BAD_PORT:
        return "has no port between 0 and 65535 after the colon"
    if code == BAD_LENGTH:
        return "has a prefix length that is missing, no number, or beyond the address family"
    if code == BAD_SIGN:
        return "has a sign before the prefix length"
    if code == BAD_SLASH:
        return "has a second slash"
    if code == BAD_MASK:
        return "has a mask that is not ones followed by zeros"
    if code == NO_PEER:
        return "is a length alone, and there is no connecting IP to apply it to; write an address before it"
    if code == NOT_TEXT:
        return "is not a text"
    if code == NO_SERVICE:
        return "no such service type"
    if code == FULL:
        return "the arena is full; give it a larger capacity"
    if code == OVERFLOW:
        return "the count would pass 4294967295"
    if code == UNMATCHED:
        return "has fewer sessions than were to be removed"
    if code == CLOSED:
        return "the audit is closed"
    if code == DAMAGED:
        return "the tree is damaged: another process has written into its file"
    if code == NO_SERIES:
        return "no such series"
    if code == NO_MONITOR:
        return "no such monitor"
    if code == NEED_NEGATIVE_TREE or code == NEED_PYTHON:
        return "needs Python"
    if code == BAD_WINDOW:
        return "no such window"
    if code == NO_KEY:
        return "needs a key"
    if code == BAD_AMOUNT:
        return "expected a whole number from -4294967295 to 4294967295, other than 0"
    if code == LONG_KEY:
        return "has a key of more than 4096 bytes"
    if code == BAD_DURATION:
        return (
            "is not a duration: write seconds or a number with a unit, such as 90, 30s, 5m, 1h or 1d; "
            "at most 2^30 seconds"
        )
    if code == BAD_MONITOR:
        return (
            "is not a monitor: write the length of a window and the number of windows (at most 1024), "
            "such as 300,6 or 5m,6"
        )
    if code == OTHER_FAMILY:
        return "the series does not count addresses of that family"
    return "unknown error"
