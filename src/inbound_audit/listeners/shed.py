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
import secrets
import socket
import time
import weakref
from errno import ENOMEM
from typing import TYPE_CHECKING

from inbound_audit._ipcount import PrefixCounter
from inbound_audit.listeners import packet_filter
from inbound_audit.listeners.filtered_socket import FilteredSocket
from inbound_audit.listeners.packet_filter import MARK, MAX_INSTRUCTIONS, Program, Ranges, program_of, ranges_of
from inbound_audit.listeners.shed_rules import MAX_NETWORKS, Holds
from inbound_audit.listeners.shed_rules import Shed as Shed
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.process import BackgroundThread, ProcessLock, Stage, register
from inbound_audit.shedding import ShedNetwork, note

if TYPE_CHECKING:
    from inbound_audit.listeners.gate import Gate

logger = logging.getLogger("inbound_audit.listeners")

PERIOD_S = 1.0
"""Seconds between two changes of a program, at least."""

MIN_INSTRUCTIONS = 64
"""A system that allows a socket no program of that length allows none."""

COUNTER_BYTES = 1 << 26
"""Address space for the hosts that are refused in a period; memory is used as they come."""


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
        self._sockets: list[FilteredSocket] = []
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
                self._sockets.append(FilteredSocket(one, self._token))
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

    def _set_program(self, one: FilteredSocket, program: Program) -> None:
        try:
            one.set_program(program)
            self._used = self._used or bool(program)
        except OSError as error:
            if error.errno == ENOMEM and self._most > MIN_INSTRUCTIONS:
                self._most = max(MIN_INSTRUCTIONS, len(program) // 2)  # net.core.optmem_max allows no longer one
                return
            self._failures.report(logging.WARNING, "nothing is dropped before accept at %s: %s", one, error.strerror)
            self._leave_socket(one)

    def _leave_socket(self, one: FilteredSocket) -> None:
        one.close()
        self._sockets = [other for other in self._sockets if other is not one]


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
