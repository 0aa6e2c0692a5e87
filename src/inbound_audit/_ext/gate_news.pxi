# What a gate has counted and has to report, of all its lanes.

cdef bint take_news(model.ia_ac *of_lane, model.ia_ac *out) noexcept nogil:
    """Moves a peer out of a lane. False: there is none."""
    if not of_lane.version:
        return False
    out[0] = of_lane[0]
    of_lane.version = 0
    return True


cdef object text_of_peer(const model.ia_ac *peer):
    """Its address and port as text, or None."""
    cdef prefix.Prefix p
    cdef char text[ip_text.TEXT_MAX]
    if not peer.version:
        return None
    query.peer_of(peer, &p)
    return PyUnicode_DecodeASCII(text, ip_text.format_remote(&p.address, peer.remote_port, text), NULL)


cdef object error_of_count(const model.ia_ac *peer, int code):
    """What opening its session would have raised, or None."""
    if not peer.version:
        return None
    if code == codes.CLOSED:
        return InboundAuditError("the audit is closed")
    try:
        raise_change(code, text_of_peer(peer), <model.Tree *>peer.tree)
    except InboundAuditError as error:
        return error


cdef u64 over_lanes(const gate_model.Gate *g, const u64 *first) noexcept:
    """The sum of a counter over all lanes; `first` is that of the first one."""
    cdef u64 total = 0
    cdef u32 i
    for i in range(g.lanes):
        total += bits.load64(<u64 *>(<char *>first + i * sizeof(gate_model.Lane)))
    return total
