# What LuaJIT calls by address: no GIL, no lock, no Python object.


cdef int64_t lua_session_count(
    const model.ia_ac *ac, const char *cidr, size_t cidr_size, const char *service, size_t service_size
) noexcept nogil:
    return query.query_sessions(ac, cidr, cidr_size, service, service_size)


cdef const char *lua_reason(int64_t code) noexcept nogil:
    return codes.reason(<long>code)


cdef size_t lua_remote_addr(const model.ia_ac *ac, char *out) noexcept nogil:
    cdef prefix.Prefix p
    query.peer_of(ac, &p)
    return <size_t>ip.format_remote(&p.address, ac.remote_port, out)


cdef size_t lua_remote_ip(const model.ia_ac *ac, char *out) noexcept nogil:
    cdef prefix.Prefix p
    query.peer_of(ac, &p)
    return <size_t>ip.format_address(&p.address, out)


cdef model.Series *own_series(const model.ia_ac *ac, const char *name, size_t size) noexcept nogil:
    return series_query.find_series(ac.tree.owner, name, size)


cdef int64_t lua_event_count(
    const model.ia_ac *ac, int kind, const char *monitor, size_t monitor_size, int64_t position, const char *cidr, size_t cidr_size,
    int64_t first, int64_t last, int64_t *out
) noexcept nogil:
    cdef model.Series *s = series_query.find_monitor(ac.tree.owner, kind, monitor, monitor_size, position) if 0 <= kind <= 2 else NULL
    return series_query.query_events(ac, s, cidr, cidr_size, first, last, out) if s != NULL else codes.NO_MONITOR


cdef int64_t lua_series_add(
    const model.ia_ac *ac, const char *name, size_t size, const char *key, size_t key_size, int64_t by
) noexcept nogil:
    cdef model.Series *s = own_series(ac, name, size)
    return series_change.series_add(s, ac, key, key_size, by) if s != NULL else codes.NO_SERIES


cdef int64_t lua_series_count(
    const model.ia_ac *ac, const char *name, size_t size, const char *key, size_t key_size, int64_t first, int64_t last, int64_t *out
) noexcept nogil:
    cdef model.Series *s = own_series(ac, name, size)
    return series_query.query_key(ac, s, key, key_size, first, last, out) if s != NULL else codes.NO_SERIES


cdef int64_t lua_series_remove(
    const model.ia_ac *ac, const char *name, size_t size, const char *key, size_t key_size
) noexcept nogil:
    cdef model.Series *s = own_series(ac, name, size)
    if s != NULL and ac.tree.owner.shared:
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
typedef int64_t (*ia_session_count_fn)(const ia_ac *, const char *cidr, size_t cidr_len, const char *service, size_t service_len);
typedef const char *(*ia_reason_fn)(int64_t code);
typedef size_t (*ia_remote_addr_fn)(const ia_ac *, char *out);
typedef size_t (*ia_remote_ip_fn)(const ia_ac *, char *out);
typedef int64_t (*ia_event_count_fn)(const ia_ac *, int kind, const char *monitor, size_t monitor_len, int64_t position,
                                     const char *cidr, size_t cidr_len, int64_t startv, int64_t endv, int64_t *out);
typedef int64_t (*ia_series_add_fn)(const ia_ac *, const char *name, size_t name_len, const char *key, size_t key_len,
                                    int64_t count);
typedef int64_t (*ia_series_count_fn)(const ia_ac *, const char *name, size_t name_len, const char *key, size_t key_len,
                                      int64_t startv, int64_t endv, int64_t *out);
typedef int64_t (*ia_series_remove_fn)(const ia_ac *, const char *name, size_t name_len, const char *key, size_t key_len);
"""


def lua_abi():
    """Addresses of the functions whose types `LUA_CDEF` declares, by name; `sizeof_ac` in bytes.

    A copy of an `ia_ac` may be handed to them as long as the audit that made the session is referenced.
    """
    return {
        "ia_session_count": <uintptr_t>&lua_session_count,
        "ia_reason": <uintptr_t>&lua_reason,
        "ia_remote_addr": <uintptr_t>&lua_remote_addr,
        "ia_remote_ip": <uintptr_t>&lua_remote_ip,
        "ia_event_count": <uintptr_t>&lua_event_count,
        "ia_series_add": <uintptr_t>&lua_series_add,
        "ia_series_count": <uintptr_t>&lua_series_count,
        "ia_series_remove": <uintptr_t>&lua_series_remove,
        "sizeof_ac": sizeof(model.ia_ac),
    }
