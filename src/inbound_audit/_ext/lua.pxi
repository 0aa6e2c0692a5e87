# The core for Lua: functions that LuaJIT calls by address (no GIL, no lock, no Python object), and the same functions
# for a Lua without FFI, in which an accept construct is the bytes of an `ia_ac`.

cdef extern from "inbound_audit/_core/executable.h":
    int executable_memory_allowed_here "ia_executable_memory_allowed"() nogil

CODES = MappingProxyType({
    "OK": codes.OK,
    "NO_SERVICE": codes.NO_SERVICE,
    "NO_MONITOR": codes.NO_MONITOR,
    "NO_SERIES": codes.NO_SERIES,
    "NEED_NEGATIVE_TREE": codes.NEED_NEGATIVE_TREE,
    "NEED_PYTHON": codes.NEED_PYTHON,
    "BAD_WINDOW": codes.BAD_WINDOW,
    "BAD_AMOUNT": codes.BAD_AMOUNT,
    "OTHER_FAMILY": codes.OTHER_FAMILY,
})


cdef enum:
    MAX_ADDRESS_TEXT = 64  # bytes of an address with its port


def executable_memory_allowed():
    """Whether this process may execute memory that it has written, as LuaJIT's compiler needs.

    False under systemd's MemoryDenyWriteExecute=, PR_SET_MDWE, SELinux without execmem, or such a seccomp filter:
    LuaJIT would end the process. A short-lived copy of the process tries, so that a filter that kills does not kill
    this one.
    """
    cdef int allowed
    with nogil:
        allowed = executable_memory_allowed_here()
    return allowed != 0


cdef const char *lua_reason(int64_t code) noexcept nogil:
    return codes.reason(<long>code)


cdef size_t lua_remote_addr(const model.ia_ac *ac, char *out) noexcept nogil:
    cdef prefix.Prefix p
    query.peer_of(ac, &p)
    return <size_t>ip_text.format_remote(&p.address, ac.remote_port, out)


cdef size_t lua_remote_ip(const model.ia_ac *ac, char *out) noexcept nogil:
    cdef prefix.Prefix p
    query.peer_of(ac, &p)
    return <size_t>ip_text.format_address(&p.address, out)


cdef model.Series *own_series(const model.ia_ac *ac, const char *name, size_t size) noexcept nogil:
    return series_query.find_series(ac.tree.owner, name, size)


cdef int64_t lua_event_count(
    const model.ia_ac *ac, int kind, const char *monitor, size_t monitor_size, bint cluster,
    const char *cidr, size_t cidr_size,
    int64_t first, int64_t last, int64_t *out
) noexcept nogil:
    cdef model.Series *s = NULL
    if 0 <= kind <= 2:
        s = series_query.find_monitor(ac.tree.owner, kind, monitor, monitor_size, 0)
    if s == NULL:
        return codes.NO_MONITOR
    return series_query.query_events(ac, s, cluster, cidr, cidr_size, first, last, out)


cdef int64_t lua_series_add(
    const model.ia_ac *ac, const char *name, size_t size, const char *key, size_t key_size, int64_t by
) noexcept nogil:
    cdef model.Series *s = own_series(ac, name, size)
    if fork.is_child():  # the caller then calls Python, which handles the fork
        return codes.NEED_NEGATIVE_TREE
    return series_change.series_add(s, ac, key, key_size, by) if s != NULL else codes.NO_SERIES


cdef int64_t lua_series_count(
    const model.ia_ac *ac, const char *name, size_t size, const char *key, size_t key_size, int64_t first, int64_t last,
    int64_t *out
) noexcept nogil:
    cdef model.Series *s = own_series(ac, name, size)
    return series_query.query_key(ac, s, False, key, key_size, first, last, out) if s != NULL else codes.NO_SERIES


cdef int64_t lua_series_remove(
    const model.ia_ac *ac, const char *name, size_t size, const char *key, size_t key_size
) noexcept nogil:
    cdef model.Series *s = own_series(ac, name, size)
    if s != NULL and (ac.tree.owner.shared or fork.is_child()):
        return codes.NEED_PYTHON
    return series_change.series_remove(s, ac, key, key_size) if s != NULL else codes.NO_SERIES


LUA_CDEF = """
typedef struct ia_ac {
    uint64_t hi;
    void *tree;
    uint16_t remote_port;
    uint8_t version, open;
    uint32_t epoch;
    uint64_t lo, conn_id;
} ia_ac;
typedef int64_t (*ia_session_count_fn)(const ia_ac *, const char *cidr, size_t cidr_len, const char *service,
                                       size_t service_len);
typedef const char *(*ia_reason_fn)(int64_t code);
typedef size_t (*ia_remote_addr_fn)(const ia_ac *, char *out);
typedef size_t (*ia_remote_ip_fn)(const ia_ac *, char *out);
typedef int64_t (*ia_event_count_fn)(const ia_ac *, int kind, const char *monitor, size_t monitor_len, int cluster,
                                     const char *cidr, size_t cidr_len, int64_t startv, int64_t endv, int64_t *out);
typedef int64_t (*ia_series_add_fn)(const ia_ac *, const char *name, size_t name_len, const char *key, size_t key_len,
                                    int64_t count);
typedef int64_t (*ia_series_count_fn)(const ia_ac *, const char *name, size_t name_len, const char *key, size_t key_len,
                                      int64_t startv, int64_t endv, int64_t *out);
typedef int64_t (*ia_series_remove_fn)(const ia_ac *, const char *name, size_t name_len, const char *key,
                                       size_t key_len);
"""


def lua_abi():
    """Addresses of the functions whose types `LUA_CDEF` declares, by name; `sizeof_ac` and `sizeof_text` in bytes.

    A copy of an `ia_ac` may be handed to them as long as the audit that made the session is referenced. `sizeof_text`
    is the size of the buffer that `ia_remote_addr` and `ia_remote_ip` write to.
    """
    return {
        "ia_session_count": <uintptr_t>&query.query_sessions,
        "ia_reason": <uintptr_t>&lua_reason,
        "ia_remote_addr": <uintptr_t>&lua_remote_addr,
        "ia_remote_ip": <uintptr_t>&lua_remote_ip,
        "ia_event_count": <uintptr_t>&lua_event_count,
        "ia_series_add": <uintptr_t>&lua_series_add,
        "ia_series_count": <uintptr_t>&lua_series_count,
        "ia_series_remove": <uintptr_t>&lua_series_remove,
        "sizeof_ac": sizeof(model.ia_ac),
        "sizeof_text": MAX_ADDRESS_TEXT,
    }


# ---- the same for a Lua without FFI. The GIL is kept: to release and take it costs more than a count.

cdef const model.ia_ac *accept_of(bytes accept) except NULL:
    if len(accept) != sizeof(model.ia_ac):
        raise ValueError(f"an accept construct has {sizeof(model.ia_ac)} bytes, not {len(accept)}")
    return <const model.ia_ac *>PyBytes_AS_STRING(accept)


cdef const char *text_of(bytes text, size_t *size) noexcept:
    size[0] = len(text) if text is not None else 0
    return PyBytes_AS_STRING(text) if text is not None else NULL


def accept_bytes(uintptr_t handle):
    """The bytes of the `ia_ac` at an address, which must belong to a session that is referenced.

    They may be handed to the functions below as long as the audit that made the session is referenced.
    """
    return PyBytes_FromStringAndSize(<const char *>handle, sizeof(model.ia_ac))


def accept_within(bytes accept not None, bytes other not None):
    """The address of `accept` in the audit of `other`, as the bytes of an `ia_ac`."""
    cdef model.ia_ac made = accept_of(accept)[0]
    made.tree = accept_of(other).tree
    return PyBytes_FromStringAndSize(<const char *>&made, sizeof(model.ia_ac))


def accept_field(bytes accept not None, str name not None):
    """`remote_addr` and `remote_ip` as bytes; `remote_port`, `version`, `conn_id` and `tree` as numbers."""
    cdef const model.ia_ac *ac = accept_of(accept)
    cdef char text[MAX_ADDRESS_TEXT]
    if name == "remote_addr":
        return PyBytes_FromStringAndSize(text, <Py_ssize_t>lua_remote_addr(ac, text))
    if name == "remote_ip":
        return PyBytes_FromStringAndSize(text, <Py_ssize_t>lua_remote_ip(ac, text))
    return {
        "remote_port": ac.remote_port, "version": ac.version, "conn_id": ac.conn_id, "tree": <uintptr_t>ac.tree,
    }[name]


def accept_session_count(bytes accept not None, bytes cidr, bytes service):
    """Open sessions, or a negative code."""
    cdef size_t cidr_size = 0, service_size = 0
    cdef const char *c = text_of(cidr, &cidr_size)
    cdef const char *s = text_of(service, &service_size)
    return query.query_sessions(accept_of(accept), c, cidr_size, s, service_size)


def accept_event_count(
    bytes accept not None, int kind, bytes monitor not None, bint cluster, bytes cidr, int64_t first, int64_t last
):
    """A code, and what a monitor counted in those windows, with `cluster` on all nodes."""
    cdef size_t monitor_size = 0, cidr_size = 0
    cdef const char *m = text_of(monitor, &monitor_size)
    cdef const char *c = text_of(cidr, &cidr_size)
    cdef int64_t out = 0
    return lua_event_count(accept_of(accept), kind, m, monitor_size, cluster, c, cidr_size, first, last, &out), out


def accept_series_add(bytes accept not None, bytes name not None, bytes key, int64_t amount):
    """A code."""
    cdef size_t name_size = 0, key_size = 0
    cdef const char *n = text_of(name, &name_size)
    cdef const char *k = text_of(key, &key_size)
    return lua_series_add(accept_of(accept), n, name_size, k, key_size, amount)


def accept_series_count(bytes accept not None, bytes name not None, bytes key, int64_t first, int64_t last):
    """A code, and what a named series counted in those windows."""
    cdef size_t name_size = 0, key_size = 0
    cdef const char *n = text_of(name, &name_size)
    cdef const char *k = text_of(key, &key_size)
    cdef int64_t out = 0
    return lua_series_count(accept_of(accept), n, name_size, k, key_size, first, last, &out), out


def accept_series_remove(bytes accept not None, bytes name not None, bytes key):
    """A code."""
    cdef size_t name_size = 0, key_size = 0
    cdef const char *n = text_of(name, &name_size)
    cdef const char *k = text_of(key, &key_size)
    return lua_series_remove(accept_of(accept), n, name_size, k, key_size)
