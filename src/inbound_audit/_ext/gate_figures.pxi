# What a gate has counted, and what of it has to be reported: of all its lanes.

cdef u64 over_lanes(const gate_model.Gate *g, const u64 *first) noexcept:
    """The sum of a counter over all lanes; `first` is that of the first one."""
    cdef u64 total = 0
    cdef u32 i
    for i in range(g.lanes):
        total += bits.load64(<u64 *>(<char *>first + i * sizeof(gate_model.Lane)))
    return total


@cython.no_gc_clear
cdef class _GateFigures:
    """The counters of a gate. Any thread may read them."""

    cdef gate_model.Gate *gate

    @property
    def opened(self):
        """Connections that were accepted."""
        return 0 if self.gate == NULL else over_lanes(self.gate, &self.gate.lane.opened)

    @property
    def accepted(self):
        """Of these, those that came into the queue, and did not wait there when the gate was closed; and those that
        went to a forwarder."""
        if self.gate == NULL:
            return 0
        closed = over_lanes(self.gate, &self.gate.lane.closed_waiting)
        return bits.load64(&self.gate.queue.accepted) - closed + self.forwarded

    @property
    def forwarded(self):
        """Of these, those that went to a forwarder."""
        return 0 if self.gate == NULL else over_lanes(self.gate, &self.gate.lane.forwarded)

    @property
    def refused(self):
        """Of these, those that were over a limit, could not be counted, or waited when the gate was closed."""
        if self.gate == NULL:
            return 0
        return over_lanes(self.gate, &self.gate.lane.refused) + over_lanes(self.gate, &self.gate.lane.closed_waiting)

    @property
    def queue_full(self):
        """Of these, those that found the queue full."""
        return 0 if self.gate == NULL else over_lanes(self.gate, &self.gate.lane.queue_full)

    @property
    def uncounted(self):
        """Of these, those without an address, or without room in the counts."""
        return 0 if self.gate == NULL else over_lanes(self.gate, &self.gate.lane.uncounted)

    @property
    def failures(self):
        """Connections that were lost before they were counted, and times when none could be accepted: no descriptor was
        left, or the system reported an error."""
        return 0 if self.gate == NULL else over_lanes(self.gate, &self.gate.lane.failures)

    @property
    def left(self):
        """Listening sockets that were closed under the gate, once per thread."""
        return 0 if self.gate == NULL else over_lanes(self.gate, &self.gate.lane.left)

    @property
    def lost(self):
        """Descriptors of the gate that other code of the process has closed, and that the gate has missed."""
        return 0 if self.gate == NULL else over_lanes(self.gate, &self.gate.lane.lost)

    @property
    def _closed_twice(self):
        """Descriptors of all gates of the process that were closed already when a gate closed them: for tests."""
        return bits.load64(&own_socket.closed_twice)


cdef bint take_news(model.ia_ac *of_lane, model.ia_ac *out) noexcept nogil:
    """Moves a peer out of a lane. False: it has no news of one."""
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


# By `gate_decisions.What`.
cdef tuple WHATS = ("over", "would be over", "not counted", "queue full", "closing", "overruled")


cdef tuple decision_of(GateRules rules, const gate_decisions.Decision *d):
    """A decision that these rules have made, for `NativeGate._take_decisions`."""
    cdef ip.Address a
    a.hi, a.lo, a.version = d.hi, d.lo, d.version
    client = None if d.version == 4 and d.hi == 0 else address_text(&a)
    if d.what > gate_decisions.WOULD_BE_OVER:
        return WHATS[d.what], d.time_us, client, d.port, None, None, None, None
    return WHATS[d.what], d.time_us, client, d.port, *passed_by(rules.limits, d.row, &a, d.count)
