"""`InboundAudit`: the facade over the native core. Counting is native; here is what happens once per process."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, SharedStateError, UnknownServiceType, cause_of, named_keywords
from inbound_audit.nodes import NodeInfo, nodes_of
from inbound_audit.picture import picture as draw_picture
from inbound_audit.process import Stage, register, shared_lock
from inbound_audit.series.definition import DEFAULT_BYTES, read_monitors
from inbound_audit.series.table import SeriesSet
from inbound_audit.services import DEFAULT_LISTENER_NAME, DEFAULT_SERVICE_TYPE, SERVICE_TYPES

if TYPE_CHECKING:
    from inbound_audit.overrides.audit import AuditOverrides
    from inbound_audit.overrides.entry import Decision
    from inbound_audit.shared.directory import Directory
    from inbound_audit.shared.membership import Membership


class InboundAudit(_ipcount.Audit):
    """How many sessions are open right now, by any prefix, per service and listener.

    `capacity` is the address space reserved for each listener, in bytes (8 KiB to just under 8 GiB); memory is used as
    hosts come. The default is 1 GiB, enough for some 30 million hosts, and less if the system refuses that much.
    `services` are service types beside the reference's.

    `shared` names an audit that all processes of this host count together: each its own sessions, and all see the sum.
    A process that ends, however it does, takes its sessions with it. The processes are of one user, or have `group` in
    common. Raises SharedStateError where that can't be (no Linux, a directory of another user, a process of
    another version), and CapacityError when the file system in memory is full.

    `monitors` count what happened over time: ``"300,6"`` is six windows of 300 seconds, in which connections,
    receptions and rejections are counted by source address. `monitor_bytes` is the memory of all their windows
    together, `monitor_hosts` the most distinct hosts of each (None: as memory allows); beyond them detail is given up,
    and nothing is lost. Limits over time add the monitors that they need (`add_monitors`). `clock` returns the time in
    seconds since 1970, in place of the system's clock. `state` is the directory of series that are persisted or logged
    (docs/persistence.md says where, if it is None). Raises MonitorError.

    Any thread may open, close and ask. A forked child starts with no sessions: those of its parent stay the parent's
    (and are seen from the child when they are shared).

    >>> audit = InboundAudit()
    >>> smtp = audit.listener("SMTP", name="mx")
    >>> with smtp.session("192.0.2.7") as ac:
    ...     ac.inbound_session_count("/24")
    1
    """

    @named_keywords
    def __init__(
        self,
        *,
        shared: str | None = None,
        group: str | None = None,
        capacity: int = _ipcount.DEFAULT_CAPACITY,
        services: Iterable[str] = (),
        monitors: Iterable[str] = (),
        monitor_hosts: int | None = None,
        monitor_bytes: int = DEFAULT_BYTES,
        clock: Callable[[], float] | None = None,
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        if group is not None and shared is None:
            raise SharedStateError(f"{group!r}: `group` needs `shared`, the name of the audit")
        if isinstance(services, str):
            raise UnknownServiceType(services, SERVICE_TYPES, "is a text, not a list of service types")
        super().__init__(services=(*SERVICE_TYPES, *services), capacity=capacity, clock=clock)
        self._shared = shared
        self._membership: Membership | None = None
        self._seen: set[_ipcount.Listener] = set()  # by all processes that were there when they were made
        self._state = state
        self._clock = time.time if clock is None else clock
        self._made_overrides: AuditOverrides | None = None
        self._monitor_bounds = monitor_hosts, monitor_bytes
        self._define_monitors(monitors)
        register(self, Stage.COUNTS, InboundAudit._after_fork_in_child)
        if shared is not None:
            from inbound_audit.overrides.files import remove_unused
            from inbound_audit.series.requests import handle
            from inbound_audit.shared.membership import Beside, Membership  # only here: it has threads and descriptors

            beside = Beside(self._overrides.notice, remove_unused)
            # Known before it has a file: a fork in another thread must find all that is to be let go of.
            self._membership = Membership(self, shared, group, handle, beside)
            try:
                self._membership.ensure_file(known=bool(self.monitors))  # else there is nothing to count in yet
                self._overrides.restore()
            except BaseException:
                self.close()
                raise

    if TYPE_CHECKING:

        @property
        def series(self) -> SeriesSet: ...  # native, so that adding pays for no property of Python's

    @property
    def shared(self) -> str | None:
        """The name under which processes count together; None for counts of this process alone."""
        return self._shared

    @property
    def nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes of the cluster, this host first; none where no agent runs. O(nodes)."""
        return nodes_of(self)

    picture = draw_picture

    @named_keywords
    def listener(
        self, service_type: str = DEFAULT_SERVICE_TYPE, name: str = DEFAULT_LISTENER_NAME
    ) -> _ipcount.Listener:
        """The listener of that service type and name, made at the first call; a new service type becomes known.

        Raises UnknownServiceType for the view `inbound_cidr` and for what can be no name; CapacityError when the
        system reserves no address space for its tree.
        """
        if self.closed:
            raise InboundAuditError("the audit is closed")
        made, membership = self._listener(service_type, name), self._membership
        if membership and made not in self._seen:
            membership.wait_until_scanned()
            self._seen.add(made)
        return made

    def add_monitors(self, monitors: Iterable[str]) -> None:
        """Monitors that count what happens from now on. Those that are there stay as they are.

        Each new window has the share of `monitor_bytes` that it would have if all monitors had been given at first.
        Threads may record and count meanwhile; in shared mode the other processes see the new windows before this
        returns. Raises MonitorError, CapacityError, and InboundAuditError when the audit is closed.
        """
        _ipcount.handle_fork()
        known = len(self.monitors)
        self._define_monitors(monitors)
        if self._membership and len(self.monitors) > known:
            self._membership.wait_until_scanned()

    # ---- overrides

    @named_keywords
    def deny(self, prefix: str, *, for_s: float | None = None, why: str = "") -> None:
        """From now on, for `for_s` seconds (None: until it is lifted), connections from an address or prefix are
        refused, whatever the limits say. Of several overrides the longest match decides. Sessions that are open stay.

        All processes of a shared audit follow within a second. It outlasts them, and a restart of the machine if one of
        them has a state directory. Raises CidrError (for host bits, too), PolicyError for a time or reason that can't
        be, CapacityError beyond `MAX_OVERRIDES` of them, SharedStateError. O(overrides).
        """
        self._override("deny", prefix, for_s, why)

    @named_keywords
    def allow(self, prefix: str, *, for_s: float | None = None, why: str = "") -> None:
        """As `deny`: connections are let in, and counted, whatever the limits say."""
        self._override("allow", prefix, for_s, why)

    def lift(self, prefix: str) -> bool:
        """Ends the override of exactly that prefix. Returns whether there was one. Raises as `deny`."""
        return self._override("lift", prefix, None, "")

    def decisions(self) -> list[Decision]:
        """The overrides that hold, in the order of their addresses."""
        return [] if self._made_overrides is None else self._made_overrides.decisions()

    def _override(self, action: str, prefix: str, for_s: float | None, why: str) -> bool:
        from inbound_audit.overrides.audit import this_user, wish_of

        if self.closed:
            raise InboundAuditError("the audit is closed")
        return self._overrides.change([wish_of(action, prefix, for_s, why)], this_user())

    @property
    def _overrides(self) -> AuditOverrides:
        """Made when it is first needed: most audits have no overrides."""
        from inbound_audit.overrides.audit import AuditOverrides

        made = self._made_overrides
        if made is not None:  # without the lock: it is asked for each connection that a limit denies
            return made
        with shared_lock:
            if self._made_overrides is None:
                self._made_overrides = AuditOverrides(self, self._place, self._clock, self._shared, self._state)
            return self._made_overrides

    @contextlib.contextmanager
    def _place(self) -> Iterator[Directory | None]:
        """The directory of a shared audit; None for one of this process alone. Raises SharedStateError."""
        if self._membership is None:
            yield None
            return
        try:
            with shared_lock:
                place = self._membership.place.copy()  # the directory may be made anew meanwhile
        except OSError as error:
            raise SharedStateError(f"{self._shared!r}: {cause_of(error)}") from None
        with contextlib.closing(place):
            yield place

    def _carry_out_denials(self) -> None:
        self._overrides.begin_denials()

    def _decision_for(self, address: str) -> Decision | None:
        return None if self._made_overrides is None else self._made_overrides.decision_for(address)

    def _define_monitors(self, monitors: Iterable[str]) -> None:
        store, present = _ipcount.SeriesStore(self), self.monitors
        for monitor in read_monitors(monitors, *self._monitor_bounds, present)[len(present) :]:
            store.define_monitor(f"{monitor.interval},{monitor.num_windows}", *monitor)

    def _make_series(self) -> SeriesSet:
        """Called by the core for the first `series` of an audit."""
        return SeriesSet(self, self._state, self._membership)

    def close(self) -> None:
        """Forgets every session and gives the memory back. Sessions may be closed afterwards; counts are 0.

        Persisted series are saved first.
        """
        _ipcount.handle_fork()
        series = self.series
        series.save_before_close()
        super().close()
        if self._made_overrides:
            self._made_overrides.end()
        if self._membership:
            self._membership.close()
            self._membership = None
        series.release_files()  # last: from now on other processes may count what was saved

    def _ensure_file(self) -> None:
        """A forked child is about to count: it needs a file of its own."""
        if self._membership:
            self._membership.ensure_file()

    def _announce(self) -> None:
        """Our file has a new tree: others scan for it at once."""
        if self._membership:
            self._membership.announce()

    def _drop_dead_owners(self) -> None:
        """Drops the counts of processes that have ended. Raises OSError."""
        if self._membership:
            self._membership.scan()

    def _after_fork_in_child(self) -> None:
        """In the child of a fork: the sessions are the parent's."""
        _ipcount.OwnFile(self).forget(forked=True)

    def __enter__(self) -> InboundAudit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
