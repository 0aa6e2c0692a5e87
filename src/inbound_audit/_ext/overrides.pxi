# Overrides of an audit: made once, found by address natively.

cdef tuple ACTIONS = (None, "allow", "deny", "deny network")     # by `overrides.Action`
cdef dict reasons = {}      # of denials that limits ask for: a number by text; it never shrinks
MAX_OVERRIDES = 10_000


cdef int reason_number(str why) except -1:
    with cython.critical_section(reasons):
        return reasons.setdefault(why, len(reasons))


@cython.final
cdef class _NewOverrides:
    """Overrides that are being put together: entries, and ranges of their numbers.

    `rows` are `(prefix, action, until)`, each prefix once, `until` in microseconds since 1970. Raises CidrError,
    MemoryError. O(n log n).
    """

    cdef overrides.Override *entry
    cdef ranges.Ranges family[2]
    cdef size_t size

    def __cinit__(self, list rows not None):
        cdef NetworkArray ipv4 = NetworkArray(), ipv6 = NetworkArray()
        cdef prefix.Prefix p
        cdef int number
        self.size = len(rows)
        self.entry = <overrides.Override *>calloc(self.size + 1, sizeof(overrides.Override))
        if self.entry == NULL:
            raise MemoryError
        listed = []
        for number, (cidr, action, until) in enumerate(rows):
            read_prefix(cidr, NULL, &p)
            (ipv6 if p.address.version == 6 else ipv4).append(&p, number)
            self.entry[number] = overrides.Override(until, ACTIONS.index(action), p.length, overrides.NO_OUTER)
            listed.append(((p.address.version == 6, *range_of_prefix(&p)), number))
        for number, outer in nested(listed):
            if outer is not None:
                self.entry[number].outer = outer
        if not (ranges.flatten(&self.family[0], ipv4.network, ipv4.size)
                and ranges.flatten(&self.family[1], ipv6.network, ipv6.size)):
            raise MemoryError

    def __dealloc__(self):
        free(self.entry)
        ranges.free_ranges(&self.family[0])
        ranges.free_ranges(&self.family[1])


@cython.wraparound(True)
cdef list nested(list listed):
    """The prefixes `((IPv6?, first address, last address), number)` in address order, a prefix before what it holds, as
    `(number, number of the longest one around it or None)`. O(n log n)."""
    cdef list found = [], around = []
    for (v6, first, last), number in sorted(listed, key=address_order):
        while around and around[-1][:2] < (v6, first):
            around.pop()
        found.append((number, around[-1][2] if around else None))
        around.append((v6, last, number))
    return found


def address_order(row):
    v6, first, last = row[0]
    return v6, first, -last


cdef bint fill_overrides(model.Owner *o, _NewOverrides new) noexcept:
    """Publishes them. False: there is no memory. Under `Owner.lock`."""
    cdef overrides.OverrideMap *m = o.newest_map
    cdef size_t room = 64
    if new.size == 0:
        model.publish_map(&o.overrides, NULL)
        return True
    while m != NULL and (m == o.overrides or m.room < new.size):
        m = m.older
    if m == NULL:
        while room < new.size:
            room *= 2
        m = overrides.new_map(room)
        if m == NULL:
            return False
        m.older, o.newest_map = o.newest_map, m
    overrides.fill_map(m, new.family, new.entry, new.size)
    model.publish_map(&o.overrides, m)
    return True


def publish_overrides(Audit audit not None, list rows not None):
    """From now on these overrides hold in an audit, and no others. `rows` are those of `_NewOverrides`, at most
    MAX_OVERRIDES. Raises CidrError, ValueError, MemoryError."""
    cdef bint done
    cdef _NewOverrides new
    if len(rows) > MAX_OVERRIDES:
        raise ValueError(f"{len(rows)} overrides: an audit has at most {MAX_OVERRIDES}")
    new = _NewOverrides(rows)
    lock_owner(audit.owner)
    done = fill_overrides(audit.owner, new)
    unlock_owner(audit.owner)
    if not done:
        raise MemoryError


def take_denials(Audit audit not None):
    """The prefixes that limits want denied since the last call, as `(prefix, seconds, why)`. O(notes)."""
    cdef overrides.Note note[overrides.MAX_NOTES]
    cdef prefix.Prefix p
    cdef u32 i, found
    with nogil:
        found = decision.take_notes(audit.owner, note)
    names = list(reasons)
    taken = []
    for i in range(found):
        p.address.hi, p.address.lo, p.address.version = note[i].hi, note[i].lo, <int>note[i].version
        p.length = <int>note[i].length
        taken.append((prefix_text(&p), note[i].seconds, names[note[i].reason]))
    return taken


cdef str override_of_session(Session s):
    """"allow", "deny" or None."""
    cdef overrides.Found found
    cdef model.ia_ac ac
    if model.load_map(&s.ac.tree.owner.overrides) == NULL:
        return None
    copy_accept(s, &ac)
    if not decision.find_override(&ac, &found):
        return None
    return <str>ACTIONS[min(found.action, overrides.DENY)]
