# The texts that users write, each read in one place: prefixes, lengths, durations, monitors; and the bounds of numbers.

MONITOR_KINDS = ("connections", "receptions", "rejections")
SERVED = ("opened", "accepted", "refused", "messages", "would_refuse", "uncounted", "failures", "unlogged")

REPLICATE = MappingProxyType({
    "none": model.REPLICATE_NONE, "cluster": model.REPLICATE_CLUSTER, "manager": model.REPLICATE_MANAGER,
})

LIMITS = MappingProxyType({
    "count": 0xFFFFFFFF,                    # sessions of a prefix, and one change of a series
    "key_bytes": change_log.MAX_KEY,
    "monitors": model.MAX_MONITORS,
    "seconds": monitor.MAX_INTERVAL_S,              # of a window, and of any duration
    "series": model.MAX_SERIES,
    "series_name_bytes": layout.MAX_NAME,
    "service_name_bytes": model.MAX_SERVICE_NAME,
    "services": model.MAX_SERVICES,
    "trees": model.MAX_TREES,                     # listeners and windows of one audit
    "windows": monitor.MAX_WINDOWS,                 # of one series
})


cdef bytes packed_address(const ip.Address *a):
    """4 or 16 bytes in network order."""
    cdef u8 packed[16]
    cdef int i
    for i in range(8):
        packed[i] = <u8>(a.hi >> (56 - 8 * i))
        packed[8 + i] = <u8>(a.lo >> (56 - 8 * i))
    return PyBytes_FromStringAndSize(<const char *>packed, 4 if a.version == 4 else 16)


cdef int read_prefix(object text, const ip.Address *peer, prefix.Prefix *out) except -1:
    """Raises CidrError."""
    cdef size_t size = 0
    cdef const char *s = ascii(text, &size)
    cdef int code
    if s == NULL:
        raise not_ascii(text)
    code = prefix.parse_cidr(s, s + size, peer, out)
    if code != codes.OK:
        raise CidrError(f"{text!r}: {reason_of(code)}")
    return 0


def parse_address(remote):
    """A `remote` as `Listener.session` takes it, as `(4 or 6, packed address, port)`; port 0: it has none.

    Raises AddressError. O(bytes of the text).

    >>> parse_address("[2001:db8::7]:25")[2]
    25
    """
    cdef ip.Address a
    cdef int port
    read_address(remote, True, &a, &port)
    return a.version, packed_address(&a), port


def parse_prefix(text, peer=None):
    """The prefix that a `cidr` argument means, as `(4 or 6, packed first address, length)`.

    `peer` is the address or the session that a length alone (``"/24"``, ``"/24,/56"``) applies to; without it a length
    alone is an error. Raises CidrError, and AddressError for the peer. O(bytes of the text).

    >>> parse_prefix("192.0.2.77/24")
    (4, b'\\xc0\\x00\\x02\\x00', 24)
    """
    cdef prefix.Prefix p, connecting
    cdef int port
    if peer is None:
        read_prefix(text, NULL, &p)
    else:
        if isinstance(peer, Session):
            peer_of_session(<Session>peer, &connecting)
        else:
            read_address(peer, True, &connecting.address, &port)
        read_prefix(text, &connecting.address, &p)
    return p.address.version, packed_address(&p.address), p.length


def parse_pair(text, *, bare=False):
    """The lengths for IPv4 and IPv6 that a text such as ``"/24"`` or ``"/24,/56"`` means.

    As in a count, ``"/32"`` alone is exactly the connecting IP, `(32, 128)`; another length alone is that of both
    families, and one over 32 has None for IPv4. With `bare` the slashes may be left out. Raises CidrError.

    >>> parse_pair("/24,/56"), parse_pair("/24"), parse_pair("/32"), parse_pair("/64")
    ((24, 56), (24, 24), (32, 128), (None, 64))
    """
    cdef size_t size = 0
    cdef const char *s
    cdef int four, six
    given = text
    if bare and isinstance(text, str):
        given = ",".join(["/" + length.removeprefix("/") for length in text.split(",")])
    s = ascii(given, &size)
    if s == NULL:
        raise not_ascii(text)
    four = six = codes.BAD_SLASH
    if size > 0 and s[0] == b'/' and given.count(",") < 2:
        four, six = prefix.relative_length(s + 1, s + size, 4), prefix.relative_length(s + 1, s + size, 6)
    if six == codes.BAD_SLASH:
        raise CidrError(f"{text!r}: is not a prefix length such as '/24', or one for each family such as '/24,/56'")
    if six < 0:
        raise CidrError(f"{text!r}: {reason_of(six)}")
    return (four if four >= 0 else None), six


def parse_duration(text):
    """The seconds that a text such as ``"90"``, ``"1.5"``, ``"30s"``, ``"5m"``, ``"1h"`` means, as a float.

    The units are ms, s, m, h, d and w. Raises ValueError for anything else and for a duration over 2**30 seconds.

    >>> parse_duration("5m"), parse_duration("1.5")
    (300.0, 1.5)
    """
    cdef size_t size = 0
    cdef const char *s = ascii(text, &size)
    cdef int64_t milliseconds = monitor.parse_duration(s, s + size) if s != NULL else codes.BAD_DURATION
    if milliseconds < 0:
        raise ValueError(f"{text!r}: {reason_of(codes.BAD_DURATION)}")
    return milliseconds / 1000.0


def parse_monitor(text):
    """The length of a window in seconds and the number of windows that ``"300,6"`` or ``"5m,6"`` means.

    Raises MonitorError.

    >>> parse_monitor("5m,6")
    (300, 6)
    """
    cdef size_t size = 0
    cdef const char *s = ascii(text, &size)
    cdef int interval = 0, windows = 0
    if s == NULL or monitor.parse_monitor(s, s + size, &interval, &windows) != codes.OK:
        raise MonitorError(f"{text!r}: {reason_of(codes.BAD_MONITOR)}")
    return interval, windows
