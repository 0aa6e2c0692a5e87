"""Shedding below accept: the kernel drops the SYN of prefixes that a gate keeps refusing. Linux.

    gate --each refusal by a limit--> PrefixCounter --once a second: `top`--> what was refused more than the rate
                                                                                   |
    peer --SYN--> listening socket: BPF program <--attached when it changes-- networks that are held
                      |        |
                      dropped  accepted as before

Counted: the gate's threads record each refusal by a limit in a `PrefixCounter` of the gate's own, without the GIL. A
connection that is refused as "too busy" is not recorded: that says nothing about its peer. Once a second a thread of
this process reads the largest prefixes, and empties the counter. So it holds what is refused in a second; without room
for more hosts, those that come later are left out.

Dropped: a prefix that was refused more than `refusals_per_s` is *held* for `hold_s`. While its packets are dropped it
can't be refused, so nothing says whether its flood goes on. Therefore it is let in again when the time is over; if it
is over the rate again before as much time has passed once more, it is held twice as long as before, at most
`max_hold_s`. If not, it is forgotten. Of more prefixes than fit into a program, those that were refused least are left
out.

Spared: `never` (loopback), the exempt networks of the limits, and the balancers of `proxy_from`: they are cut out of
each prefix that contains them. In a dry run, or without limits, none is dropped.

Forged sources: they come into no counter. A connection is counted once it is accepted, and the handshake ends only with
an acknowledgement of a number that the kernel has sent to that source.

Owned: a program belongs to the socket, not to the process, and outlives a process that is killed if another one has the
same socket. It begins with a mark and a random token. A gate that begins takes off whatever has the mark, with shedding
or without; the one that had it sets its own again a second later. A shedder replaces and takes off only what has its
own token; a socket with another program is left from then on. So one of several gates at a socket sheds. In a child of
a fork the sockets are the parent's: their copies are closed, and nothing else is done to them.

An accepted connection gets the program of its listening socket. The gate takes it off those that it lets in: a
connection of an hour would keep a program of the kernel's for an hour.

Lock rule: `Shedder.lock` is held while a program is changed, and for each step of the thread. The counter has its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from errno import EBUSY, ENOMEM
from typing import TYPE_CHECKING, NamedTuple

from inbound_audit._ipcount import PrefixCounter
from inbound_audit.descriptor import Descriptor
from inbound_audit.listeners import packet_filter
from inbound_audit.listeners.packet_filter import MARK, MAX_INSTRUCTIONS, Program, Ranges, program_of, ranges_of
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.process import BackgroundThread, ProcessLock, Stage, register
from inbound_audit.shedding import ShedNetwork, note

if TYPE_CHECKING:
    from inbound_audit.listeners.gate import Gate

logger = logging.getLogger("inbound_audit.listeners")

PERIOD_S = 1.0
"""Seconds between two changes of a program, at least."""

MAX_NETWORKS = 1024
"""Networks that are held at once."""

MIN_INSTRUCTIONS = 64
"""A system that allows a socket no program of that length allows none."""

COUNTER_BYTES = 1 << 26
"""Address space for the hosts that are refused in a period; memory is used as they come."""


@dataclass(frozen=True)
class Shed:
    """When a prefix is dropped. `prefixlen` are the lengths for IPv4 and IPv6; `never` are networks that are spared.

    Raises ValueError, and CidrError for a network.
    """

    refusals_per_s: float = 50
    prefixlen: tuple[int, int] = (32, 64)
    hold_s: float = 10
    max_hold_s: float = 600
    never: tuple[str, ...] = ("127.0.0.0/8", "::1")

    def __post_init__(self) -> None:
        if not 0 < self.refusals_per_s < 1e9:
            raise ValueError(f"refusals_per_s={self.refusals_per_s!r}: expected a number above 0")
        if not 1 <= self.hold_s <= self.max_hold_s <= 86400:
            raise ValueError(f"hold_s={self.hold_s!r}, max_hold_s={self.max_hold_s!r}: expected 1 to 86400, in order")
        ipv4, ipv6 = self.prefixlen
        if not (0 < ipv4 <= 32 and 0 < ipv6 <= 128):
            raise ValueError(f"prefixlen={self.prefixlen!r}: expected 1 to 32, and 1 to 128")
        ranges_of(self.never)


class _Held(NamedTuple):
    """A network that was over the rate. From `until` on it is let in, and is remembered until `forgotten`."""

    refusals_per_s: float
    hold_s: float
    until: float

    @property
    def forgotten(self) -> float:
        return self.until + self.hold_s


class Holds:
    """Which networks are dropped, at any time. Times are seconds of any clock that does not go back.

    Lock rule: the caller's.
    """

    def __init__(self, rules: Shed) -> None:
        self._rules = rules
        self._held: dict[str, _Held] = {}

    def note(self, now: float, refused: Iterable[tuple[float, str]]) -> None:
        """Networks with what was refused of each per second since the last call. O(held and refused)."""
        self._held = {network: held for network, held in self._held.items() if now < held.forgotten}
        for rate, network in refused:
            known = self._held.get(network)
            if rate <= self._rules.refusals_per_s or (known is not None and now < known.until):
                continue
            hold_s = self._rules.hold_s if known is None else min(2 * known.hold_s, self._rules.max_hold_s)
            self._held[network] = _Held(rate, hold_s, now + hold_s)

    def dropped(self, now: float) -> list[ShedNetwork]:
        """The networks that are to be dropped, those that were refused most often first."""
        left = [ShedNetwork(name, one.refusals_per_s, one.until - now) for name, one in self._held.items()]
        held = [one for one in left if one.seconds_left > 0]
        return sorted(held, key=lambda one: (-one.refusals_per_s, one.network))[:MAX_NETWORKS]

    def keep(self, networks: Iterable[ShedNetwork], now: float) -> None:
        """Forgets the other networks that are to be dropped: they can't be, and are counted again."""
        kept = {one.network for one in networks}
        self._held = {name: one for name, one in self._held.items() if one.until <= now or name in kept}

    def clear(self) -> None:
        self._held.clear()


def fitting(dropped: list[ShedNetwork], spared: Ranges, token: int, most: int) -> tuple[list[ShedNetwork], Program]:
    """As many of the networks, from the first on, as a program of `most` instructions can drop, and the program.

    O(n log n) in the networks.
    """
    number = len(dropped)
    while number:
        program = program_of(ranges_of(one.network for one in dropped[:number]), spared, token)
        if len(program) <= most:
            return dropped[:number], program
        number = min(number - 1, number * most // len(program))
    return [], []


class Shedder:
    """Drops packets of networks that a gate keeps refusing, at the gate's listening sockets.

    `refusals` is what the gate counts in. `begin` starts, `close` takes the programs off; it is idempotent. Any thread
    may use it, also one that handles a signal.
    """

    def __init__(self, rules: Shed) -> None:
        self.rules = rules
        self.refusals = PrefixCounter(capacity=COUNTER_BYTES)
        self.lock = ProcessLock()
        self._holds = Holds(rules)
        self._token = secrets.randbits(32)
        self._dropped: list[ShedNetwork] = []
        self._sockets: list[_Listening] = []
        self._used = False
        self._most = MAX_INSTRUCTIONS
        self._last = time.monotonic()
        self._spared: tuple[object, Ranges] = None, ranges_of(())
        self._made: tuple[object, int, Program] = None, 0, []
        self._failures = LogLimiter(logger)
        self._news = LogLimiter(logger)

    def begin(self, gate: Gate) -> None:
        """From now on, once a second, until the gate is closed or collected. Raises OSError, RuntimeError."""
        self._gate = weakref.ref(gate)
        for one in gate.sockets:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                self._sockets.append(_Listening(one, self._token))
        register(self, Stage.COUNTS, Shedder._leave, Shedder.close)
        note(gate.listener.audit, self)
        weakref.finalize(gate, Shedder.close, self)
        _thread.enter(self)

    def close(self) -> None:
        with self.lock:
            for one in self._sockets:
                self._set_program(one, [])
                one.close()
            self._sockets, self._dropped = [], []
        _thread.leave(self)

    def _leave(self) -> None:
        """In a child of a fork."""
        for one in self._sockets:
            one.close()
        self._sockets, self._dropped = [], []

    @property
    def networks(self) -> list[ShedNetwork]:
        """Those that are dropped now, the worst first."""
        passed = time.monotonic() - self._last
        return [one._replace(seconds_left=max(0.0, one.seconds_left - passed)) for one in self._dropped]

    def release(self, connection: socket.socket) -> None:
        """Takes the program off an accepted connection, if it is this shedder's. What the system refuses is left."""
        if self._used:
            with contextlib.suppress(OSError):
                if packet_filter.attached_to(connection) == (MARK, self._token):
                    packet_filter.detach(connection)

    def step(self, now: float) -> None:
        """Reads the refusals, and changes the programs if others are to be dropped than before. Under the lock; what
        comes sooner than `PERIOD_S` after the last step is left to the next one."""
        gate, passed = self._gate(), now - self._last
        if gate is None or passed < PERIOD_S * 0.9:
            return
        self._last = now
        least = int(self.rules.refusals_per_s * passed) + 1
        refused = self.refusals.top(MAX_NETWORKS, prefixlen=self.rules.prefixlen, min_count=least)
        self.refusals.clear()
        if gate.limits is None or gate.limits.dry_run:
            self._holds.clear()
        else:
            self._holds.note(now, [(count / passed, network) for count, network in refused])
        dropped, program = self._fitting(self._holds.dropped(now), self._spared_by(gate))
        self._holds.keep(dropped, now)
        most = self._most
        for one in list(self._sockets):
            is_listening = one.is_listening
            self._set_program(one, program if is_listening else [])
            if not is_listening:  # its owner has closed it: our copy must not keep it listening
                self._leave_socket(one)
            if self._most < most:
                break  # the system allows no program of that length; the next step makes a shorter one for all sockets
        if not any(one.has_program for one in self._sockets):
            dropped = []
        self._report(dropped)
        self._dropped = dropped

    def _fitting(self, wanted: list[ShedNetwork], spared: Ranges) -> tuple[list[ShedNetwork], Program]:
        """As `fitting`, which takes some milliseconds, but made only when something is another than before."""
        key = [one.network for one in wanted], spared, self._most
        if self._made[0] != key:
            dropped, program = fitting(wanted, spared, self._token, self._most)
            self._made = key, len(dropped), program
        _, number, program = self._made
        return wanted[:number], program

    def _spared_by(self, gate: Gate) -> Ranges:
        limits = gate.limits
        if limits is None or self._spared[0] is not limits:
            exempt = () if limits is None else limits.exempt
            self._spared = limits, ranges_of([*self.rules.never, *gate.proxy_from, *exempt])
        return self._spared[1]

    def _report(self, dropped: list[ShedNetwork]) -> None:
        before = {one.network for one in self._dropped}
        if new := [one for one in dropped if one.network not in before]:
            text = "%d networks are dropped before accept; %s was refused %.0f times a second"
            self._news.report(logging.INFO, text, len(dropped), new[0].network, new[0].refusals_per_s)

    def _set_program(self, one: _Listening, program: Program) -> None:
        try:
            one.set_program(program)
            self._used = self._used or bool(program)
        except OSError as error:
            if error.errno == ENOMEM and self._most > MIN_INSTRUCTIONS:
                self._most = max(MIN_INSTRUCTIONS, len(program) // 2)  # net.core.optmem_max allows no longer one
                return
            self._failures.report(logging.WARNING, "nothing is dropped before accept at %s: %s", one, error.strerror)
            self._leave_socket(one)

    def _leave_socket(self, one: _Listening) -> None:
        one.close()
        self._sockets = [other for other in self._sockets if other is not one]


class _Listening:
    """A listening socket, by a descriptor of our own: the caller may close its own at any time."""

    def __init__(self, given: socket.socket, token: int) -> None:
        self._given, self._token = given, token
        self._own = Descriptor(os.dup(given.fileno()))
        self._program: Program = []
        host, port = given.getsockname()[:2]
        self._name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __str__(self) -> str:
        return self._name

    @property
    def has_program(self) -> bool:
        return bool(self._program)

    @property
    def is_listening(self) -> bool:
        """Whether the caller still has the socket."""
        try:
            found = os.fstat(self._given.fileno())
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._own.identity[:2]

    def set_program(self, program: Program) -> None:
        """Replaces or, if it is empty, takes off the program; sets it again if it is gone. Raises OSError, also if the
        socket has another one."""
        if not (program or self._program) or self._own.current is None:
            return
        with _as_socket(self._own.number) as listening:
            found = packet_filter.attached_to(listening)
            if found is not None and (found != (MARK, self._token) or not self._program):
                raise OSError(EBUSY, "the socket has a program that is not this gate's")
            if program and (found is None or program != self._program):
                packet_filter.attach(listening, program)
            elif not program:
                packet_filter.detach(listening)
        self._program = program

    def close(self) -> None:
        self._own.close()


@contextlib.contextmanager
def _as_socket(number: int) -> Iterator[socket.socket]:
    """For a few calls."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=number)
    try:
        yield made
    finally:
        made.detach()


def take_off_left(sockets: Iterable[socket.socket]) -> None:
    """Takes off programs that a process has left on its sockets when it was killed."""
    for one in sockets:
        if one.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # a system without such programs
                found = packet_filter.attached_to(one)
                if found is not None and found[0] == MARK:
                    packet_filter.detach(one)


def _run(thread: BackgroundThread) -> None:
    while thread.wait(PERIOD_S) is not None:
        for shedder in thread.members:
            if not thread.acquire(shedder.lock):
                return
            try:
                shedder.step(time.monotonic())
            finally:
                shedder.lock.release()


_thread = BackgroundThread("inbound_audit shed", _run)
