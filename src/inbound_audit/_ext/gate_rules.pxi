# What decides in a gate: limits and replies, which never change.

cdef tuple REPLY_PARTS = ("", "address", "limit", "count")    # by `reply.PartKind`; a literal part is bytes
cdef u64 rules_made = 1     # atomic


@cython.final
cdef class GateRules:
    """What decides in a gate. It never changes: a gate gets another one.

    `limits` may be None. `balancers` are networks whose connections are not asked about. A reply is a list of bytes and
    of ``"address"``, ``"limit"`` and ``"count"``: `refusal` for who is over a limit, `denial` for whom an override
    denies, `busy` if the queue is full or no descriptor is left, `unavailable` for who can't be counted, `closing` for
    who waits when the gate is closed. A connection that can't be counted is let in unless `refuses_uncounted`. With
    `dry_run` the limits refuse none.

    Raises ValueError for a reply with too many parts or bytes, MemoryError.
    """

    cdef gate_model.Rules rules
    cdef readonly LimitTables limits
    cdef NetworkMap balancers
    cdef list kept      # the bytes to which `rules` refers

    def __cinit__(
        self, LimitTables limits, NetworkMap balancers not None, *, list refusal not None, list denial not None,
        list busy not None, list unavailable not None, list closing not None, bint dry_run, bint refuses_uncounted
    ):
        self.limits, self.balancers, self.kept = limits, balancers, []
        self.rules.number = bits.fetch_add64(&rules_made, 1)
        self.fill_reply(&self.rules.refusal, refusal)
        self.fill_reply(&self.rules.denial, denial)
        self.fill_reply(&self.rules.busy, busy)
        self.fill_reply(&self.rules.unavailable, unavailable)
        self.fill_reply(&self.rules.closing, closing)
        self.rules.dry_run, self.rules.refuses_uncounted = dry_run, refuses_uncounted
        if len(balancers):
            self.rules.balancers = balancers.family
        if limits is not None and limits.networks is not None:
            self.fill_names(limits.names)
            self.rules.networks = limits.networks.family
            self.rules.limits = &limits.set

    def __dealloc__(self):
        free(<void *>self.rules.names)

    cdef reply.Words words_of(self, bytes text):
        self.kept.append(text)
        return reply.Words(PyBytes_AS_STRING(text), <u32>len(text))

    cdef int fill_reply(self, reply.Reply *out, list parts) except -1:
        cdef reply.Part *part
        size = sum([len(each) for each in parts if isinstance(each, bytes)])
        if len(parts) > reply.MAX_PARTS or size > reply.MAX_TEXT_BYTES:
            raise ValueError(
                f"a refusal of {size} bytes in {len(parts)} parts: at most {reply.MAX_TEXT_BYTES} in {reply.MAX_PARTS}"
            )
        for each in parts:
            part = &out.part[out.parts]
            if isinstance(each, bytes):
                part.kind, part.words = reply.LITERAL, self.words_of(each)
            else:
                part.kind = REPLY_PARTS.index(each)
            out.parts += 1
        return 0

    cdef int fill_names(self, list names) except -1:
        cdef reply.Words *made = <reply.Words *>calloc(len(names) + 1, sizeof(reply.Words))
        cdef Py_ssize_t i
        if made == NULL:
            raise MemoryError
        self.rules.names = made
        for i, name in enumerate(names):
            made[i] = self.words_of(name.encode("utf-8", "replace"))
        return 0
