# What LuaJIT calls by address: no GIL, no lock, no Python object.


cdef int64_t lua_session_count(
    const ia_ac *ac, const char *cidr, size_t cidr_size, const char *service, size_t service_size
) noexcept nogil:
    return count_session(ac, cidr, cidr_size, service, service_size)


cdef const char *lua_reason(int64_t code) noexcept nogil:
    return c_reason(<long>code)


cdef size_t lua_remote_addr(const ia_ac *ac, char *out) noexcept nogil:
    cdef Prefix p
    peer_of(ac, &p)
    return <size_t>format_remote(&p.address, ac.remote_port, out)


cdef size_t lua_remote_ip(const ia_ac *ac, char *out) noexcept nogil:
    cdef Prefix p
    peer_of(ac, &p)
    return <size_t>format_address(&p.address, out)


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
        "sizeof_ac": sizeof(ia_ac),
    }
