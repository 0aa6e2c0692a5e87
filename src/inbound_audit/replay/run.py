"""The sessions of a log, opened and closed by the log's clock, through the counts and the policy of a live listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from heapq import heapify, heappop, heappush

from inbound_audit import InboundAudit, PrefixCounter
from inbound_audit._ipcount import NetworkMap, Session
from inbound_audit.errors import AddressError, CapacityError
from inbound_audit.policy.base import ConnectPolicy
from inbound_audit.policy.rates import Rate, monitors_for
from inbound_audit.policy.verdict import Verdict
from inbound_audit.replay.denials import Denials, DenyingAudit
from inbound_audit.replay.reading import ALONE, MAX_BACK_S, MAX_COMPLAINTS, MAX_SHOWN, RECEPTION, Event
from inbound_audit.services import DEFAULT_SERVICE_TYPE

DAY_S = 86400.0
"""How long a session is open at most whose disconnect does not come."""
MAX_OPEN = 1 << 18
"""Open sessions. Beyond them the one that would end first is closed."""
MAX_HOURS = 100_000
"""Hours with figures of their own: eleven years. Time stamps may be any; further hours
have their figures together, as the first one of 1970."""
MAX_REASONS = 64
"""Limits, or texts of a policy, with figures of their own; further ones have them together."""
OTHER_REASONS = "others"

_REST = 4096
_TREE_BYTES = 1 << 28


class Refusals:
    """How many connections one limit refused, and where they came from."""

    def __init__(self) -> None:
        self.number = 0
        self.clients = PrefixCounter(capacity=_TREE_BYTES)

    def add(self, address: str) -> None:
        """A client for which there is no room is counted in `number` alone."""
        self.number += 1
        try:
            self.clients.add(address)
        except CapacityError:
            return


class Replay:
    """Replays events, and keeps the figures.

    `make` gets the audit and returns the policy, or None; `name` says what a verdict was by. `lengths`
    are pairs of prefix lengths such as ``"/24,/48"``: of each, `counts` has how many connections found how many
    sessions open, themselves included; those from the prefixes of `exempt` are left out. `counts_over_time` has the
    same of each of `rates`, whose maxima play no part. They count what the log has, whatever is refused: a refused
    session stays open there as long as in the log. For the policy it is closed at once, as live, and nothing more comes
    of it. What a limit denies is denied from the next connection on.
    """

    def __init__(
        self,
        make: Callable[[InboundAudit], ConnectPolicy | None],
        name: Callable[[Verdict], str],
        *,
        lengths: Iterable[str] = (),
        rates: Iterable[Rate] = (),
        exempt: Iterable[str] = (),
        longest: float = DAY_S,
        service_type: str = DEFAULT_SERVICE_TYPE,
        monitors: Iterable[str] = (),
    ) -> None:
        self.now = 0.0
        self.first: float | None = None
        self.connections = self.receptions = self.rejections = self.bad = self.back = 0
        self.unmatched = self.overdue = self.cut = self.replaced = 0
        self.clients = PrefixCounter()
        self.clients_left_out = 0
        self.counts: dict[str, dict[int, int]] = {length: {} for length in lengths}
        rates = list(rates)
        self.counts_over_time: dict[tuple[str, Rate], dict[int, int]] = {
            (length, rate): {} for length in self.counts for rate in rates
        }
        self.hours: dict[int, list[int]] = {}
        self.refused = 0
        self.refusals: dict[str, Refusals] = {}
        self.complaints: list[str] = []
        self._name = name
        self._longest = longest
        self._stack = ExitStack()
        self._recorded = self._stack.enter_context(
            InboundAudit(clock=lambda: self.now, monitors=monitors_for(rates, ()))
        )
        self._limited = self._stack.enter_context(DenyingAudit(clock=lambda: self.now, monitors=monitors))
        self._denials = Denials(self._limited)
        self._all, self._others = (self._recorded.listener(service) for service in (DEFAULT_SERVICE_TYPE, "Control"))
        self._exempt = NetworkMap([(prefix, 0) for prefix in exempt])
        self._listener = self._limited.listener(service_type)
        self.policy = make(self._limited)
        prepare = getattr(self.policy, "prepare", None)
        if prepare is not None:
            prepare(self._limited)  # as `Guard` does
        self._validate = None if self.policy is None else self.policy.validate_connect
        self._denied: Verdict | None = getattr(self.policy, "denial", None)
        self._denying: Mapping[str, str] = getattr(self.policy, "denying", {})
        self._open: dict[bytes, dict[int, tuple[Session, Session | None]]] = {}
        self._ends: list[tuple[float, int, bytes | None, Session, Session | None]] = []
        self._opened = self._number = 0

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._ends:
            self._close(each[3], each[4])
        self._open.clear()
        self._ends.clear()
        self.policy = self._validate = None  # a script is closed when the last one that may ask it is gone
        self._stack.close()

    @property
    def unfinished(self) -> int:
        """Sessions that are open now."""
        return self._opened

    def run(self, events: Iterable[Event]) -> None:
        """Replays all of them. O(events x prefix length)."""
        for time, key, address, end, what in events:
            if time != self.now:
                self._move_clock(time)
            if address is not None:
                self._connect(key, address, end, what == ALONE)
            elif what > ALONE:
                self._happen(key, what)
            elif key is not None and not self._disconnect(key):
                self.unmatched += 1

    def _move_clock(self, time: float) -> None:
        if time < self.now:
            self.back += 1
            time = self.now if self.now - time <= MAX_BACK_S else time
        self.now = time
        while self._ends and self._ends[0][0] <= time:
            self.overdue += self._end_first()

    def _connect(self, key: bytes | None, address: str, end: float | None, alone: bool) -> None:
        try:
            is_exempt = len(self._exempt) > 0 and self._exempt.lookup(address) is not None
            session = (self._others if is_exempt else self._all).session(address)
        except (AddressError, CapacityError) as error:
            self._complain(error)
            return
        if alone and key in self._open:
            self.replaced += 1
            self._disconnect(key)
        self._count(session, address, is_exempt)
        limited = None if self._validate is None else self._ask(address)
        self._number += 1
        self._opened += 1
        if key is not None:
            self._open.setdefault(key, {})[self._number] = session, limited
        heappush(self._ends, (self.now + self._longest if end is None else end, self._number, key, session, limited))
        if self._opened > MAX_OPEN:
            self.cut += 1
            while self._opened > MAX_OPEN:
                self._end_first()
        elif len(self._ends) > 2 * self._opened + _REST:
            self._ends = [each for each in self._ends if not each[3].closed]
            heapify(self._ends)

    def _count(self, session: Session, address: str, is_exempt: bool) -> None:
        self.connections += 1
        if self.first is None:
            self.first = self.now
        for length, counts in () if is_exempt else self.counts.items():
            number = session.inbound_session_count(length)
            counts[number] = counts.get(number, 0) + 1
        if self.counts_over_time and not is_exempt:
            self._count_over_time(session)
        hour = self.hours.get(int(self.now // 3600))
        if hour is None:
            hour = self.hours.setdefault(int(self.now // 3600) if len(self.hours) < MAX_HOURS else 0, [0, 0])
        hour[0] += 1
        try:
            self.clients.add(address)
        except CapacityError:
            self.clients_left_out += 1

    def _count_over_time(self, session: Session) -> None:
        """What limits over time would count (`sliding_average` is their sum before it is rounded down)."""
        happened = {"connections": True, "receptions": self.receptions > 0, "rejections": self.rejections > 0}
        for (length, rate), counts in self.counts_over_time.items():
            if happened[rate.kind]:
                number = int(self._recorded.sliding_average(rate.kind, f"{rate.seconds},2", length, ac=session))
                counts[number] = counts.get(number, 0) + 1

    def _happen(self, key: bytes | None, what: int) -> None:
        """Records a reception or a rejection, as `Admission` does. For the policy a refused session has none."""
        sessions = self._open.get(key) if key is not None else None
        if not sessions:
            self.unmatched += 1
            return
        session, limited = next(reversed(sessions.values()))
        counted = [session] if limited is None or limited.closed else [session, limited]
        if what == RECEPTION:
            self.receptions += 1
            for each in counted:
                each.record_reception()
        else:
            self.rejections += 1
            for each in counted:
                each.record_rejection()

    def _ask(self, address: str) -> Session:
        """The session as the policy has it: closed, if it is refused."""
        session = self._listener.session(address)
        assert self._validate is not None
        why = self._denials.publish(session.remote_ip, self.now) if self._denials else None
        verdict = self._validate(session)
        if not verdict:
            session.record_rejection()  # as `Admission` does
            session.close()
            is_denial = verdict is self._denied
            self._refuse(self._denying[why] if is_denial and why is not None else self._name(verdict), address)
            self._denials.take(self.now)
        return session

    def _refuse(self, name: str, address: str) -> None:
        self.refused += 1
        self.hours.get(int(self.now // 3600), self.hours.get(0, [0, 0]))[1] += 1
        if name not in self.refusals and len(self.refusals) >= MAX_REASONS:
            name = OTHER_REASONS
        self.refusals.setdefault(name, Refusals()).add(address)

    def _disconnect(self, key: bytes | None) -> bool:
        """Ends the newest session of a key. False: it has none."""
        sessions = self._open.get(key) if key is not None else None
        if not sessions or key is None:
            return False
        _, (session, limited) = sessions.popitem()
        if not sessions:
            del self._open[key]
        self._close(session, limited)
        return True

    def _end_first(self) -> bool:
        """Takes the session that is to end first. Returns whether it was one that a disconnect should have ended."""
        _, number, key, session, limited = heappop(self._ends)
        if session.closed:
            return False
        self._close(session, limited)
        if key is None:
            return False
        sessions = self._open[key]
        del sessions[number]
        if not sessions:
            del self._open[key]
        return True

    def _close(self, session: Session, limited: Session | None) -> None:
        self._opened -= 1
        session.close()
        if limited is not None:
            limited.close()

    def _complain(self, error: Exception) -> None:
        self.bad += 1
        if len(self.complaints) < MAX_COMPLAINTS:
            text = str(error)
            self.complaints.append((text if text.isprintable() else ascii(text)[1:-1])[: 4 * MAX_SHOWN])
