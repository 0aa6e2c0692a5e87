"""A writer is stopped at each instruction of a change, and readers count meanwhile.

A process may lose its processor between any two stores, for as long as the machine likes, and a reader does not wait
for it (`_core/seqlock.pxd`). So what a reader counts has to be true in each of these places: it lacks the change, or
has it; of a session that moves it may have both ends, never none. A reader that did wait would never answer here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import pytest
from tests.support.sharing import BLOCKS, HEADER, NAME, Worker, file_of
from tests.support.stepping import UNSTEPPABLE, steps

from inbound_audit import InboundAudit
from inbound_audit.shared import View

pytestmark = pytest.mark.skipif(bool(UNSTEPPABLE), reason=UNSTEPPABLE)

JOIN = """
from inbound_audit import InboundAudit
from tests.support.timing import Clock
clock = Clock()
audit = InboundAudit(shared=NAME, capacity=1 << 22, clock=clock)
mx = audit.listener('SMTP', 'mx')
"""

Question = str  # Python code about `audit`, and about `view`, which is no member
Moment = Mapping[Question, int]
WATCHED = BLOCKS + 16384  # bytes of a section: more than what a change here touches


@pytest.fixture
def audit(place, clock):
    with InboundAudit(shared=NAME, capacity=1 << 22, clock=clock) as audit:
        yield audit


class Watch:
    """Counts again when the bytes of the writer's file have changed, and follows the answers through the moments."""

    def __init__(self, audit: InboundAudit, writer: Worker, moments: Sequence[Moment]) -> None:
        self._moments = moments
        self._view = View(NAME)
        self._names = {"audit": audit, "view": self._view}
        self._code = {question: compile(question, question, "eval") for question in moments[0]}
        self._reached = dict.fromkeys(self._code, 0)
        self._file = file_of(writer.pid)
        self._places = [HEADER + i * self._file.stride for i in range(self._file.sections)]
        self._seen: list[bytes] = []
        self.in_mid_update = 0

    def close(self) -> None:
        self._file.close()
        self._view.close()

    def look(self) -> None:
        bytes_now = [self._file.bytes[at : at + WATCHED] for at in self._places]
        if bytes_now == self._seen:
            return
        self._seen = bytes_now
        self.in_mid_update += any(one[0] & 1 for one in bytes_now)
        for question, code in self._code.items():
            answer = eval(code, self._names)
            allowed = [moment[question] for moment in self._moments[self._reached[question] :]]
            assert answer in allowed, f"{question}: {answer}, and not one of {allowed}"
            self._reached[question] += allowed.index(answer)

    def check_end(self) -> None:
        assert self.in_mid_update, "the writer was never stopped in mid-update"
        for question, reached in self._reached.items():
            assert self._moments[reached][question] == self._moments[-1][question], question


def stop_everywhere(audit: InboundAudit, writer: Worker, code: str, moments: Sequence[Moment]) -> None:
    """Steps through `code`. Each question is answered as in one of these moments, and then as in no earlier one."""
    watch = Watch(audit, writer, moments)
    try:
        watch.look()
        try:
            for _ in steps(writer, code):
                watch.look()
        except PermissionError as error:
            pytest.skip(f"no process may trace another one here: {error}")
        watch.check_end()
    finally:
        watch.close()


# ---- sessions


def prefixes_around(hosts: Iterable[str]) -> set[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Each of these hosts, and prefixes around it that end in a node, and between nodes."""
    found = set()
    for host in hosts:
        width = ipaddress.ip_address(host).max_prefixlen
        for length in {0, 4, 8, 13, 16, 24, 28, 31, 32, 56, 64, 127, width}:
            if length <= width:
                found.add(ipaddress.ip_network((host, length), strict=False))
    return found


def moments_of(ask: str, sessions: Sequence[Mapping[str, int]]) -> list[Moment]:
    """What each prefix around these hosts counts, with each of these sets of open sessions."""
    address = {host: ipaddress.ip_address(host) for host in {**sessions[0], **sessions[-1]}}
    networks = prefixes_around(host for host in address if host not in list(NETWORK)[4:-2])
    return [
        {ask.format(cidr=str(one)): sum(n for host, n in held.items() if address[host] in one) for one in networks}
        for held in sessions
    ]


NETWORK = {f"10.0.0.{i}": 1 for i in range(1, 65)}  # as many as a small node holds
CHAIN = {"2001:db8::1": 1, "2001:db8::2": 1, "2001:db8:0:1::1": 2}
OPENED = {
    "the first session of all": ({}, "10.0.0.1"),
    "a host more in a node": ({"10.0.0.1": 3, "10.0.0.2": 1}, "10.0.0.3"),
    "a session more of a host": ({"10.0.0.1": 3, "10.0.0.2": 1}, "10.0.0.1"),
    "a node that grows": ({"10.0.0.1": 3, "10.0.0.2": 1, "10.0.0.3": 1}, "10.0.0.4"),
    "a node that becomes full": (NETWORK, "10.0.0.200"),
    "a host more in a full node": ({**NETWORK, "10.0.0.200": 2}, "10.0.0.201"),
    "a path that divides": ({"10.0.0.1": 3, "10.0.0.2": 1}, "10.7.0.1"),
    "a host that becomes a node": ({"10.0.0.1": 3, "11.0.0.1": 1}, "10.0.0.2"),
    "a long path that divides": (CHAIN, "2001:db8:0:0:7::1"),
}
CLOSED = {
    "the last session of all": ({"10.0.0.1": 1}, "10.0.0.1"),
    "the last host beside one": ({"10.0.0.1": 3, "10.0.0.2": 1}, "10.0.0.2"),
    "the last host beside one, below a node": ({"10.0.0.1": 3, "10.0.0.2": 1, "11.0.0.1": 1}, "10.0.0.2"),
    "the last host beside a node": (CHAIN, "2001:db8:0:1::1"),
    "a node of IPv6 that goes": (CHAIN, "2001:db8::1"),
    "a node that shrinks": ({f"10.0.0.{i}": 1 for i in range(1, 5)}, "10.0.0.4"),
    "a full node that shrinks": ({f"10.0.0.{i}": 1 for i in range(1, 66)}, "10.0.0.7"),
    "one of two sessions in a full node": ({**NETWORK, "10.0.0.200": 2}, "10.0.0.200"),
}
MOVED = {
    "within a node": ({"10.0.0.1": 3, "10.0.0.2": 1}, "10.0.0.1", "10.0.0.2"),
    "the last host beside one": ({"10.0.0.1": 3, "10.0.0.2": 1, "11.0.0.1": 1}, "10.0.0.2", "11.0.0.1"),
    "into a node that grows": ({"10.0.0.1": 1, "10.0.0.2": 1, "10.0.0.3": 1}, "10.0.0.1", "10.0.0.4"),
    "to the other family": ({"10.0.0.1": 1, **CHAIN}, "10.0.0.1", "2001:db8::3"),
}


def check_sessions(audit: InboundAudit, writer: Worker, change: str, sessions: Sequence[Mapping[str, int]]) -> None:
    """The sessions that are open before `change`, perhaps in the middle of it, and afterwards."""
    hosts = [host for host, n in sessions[0].items() for _ in range(n)]
    writer.do("held = [mx.session(host) for host in hosts]; of = dict(zip(hosts, held))", hosts=hosts)
    mine = moments_of("audit.inbound_session_count('{cidr}')", sessions)
    from_outside = moments_of("view.inbound_session_count('{cidr}')", sessions)
    stop_everywhere(audit, writer, change, [{**one, **other} for one, other in zip(mine, from_outside, strict=True)])
    writer.do("while held: held.pop().close()")


def test_a_session_is_opened(audit, hire):
    writer = hire(JOIN)
    for before, host in OPENED.values():
        after = {**before, host: before.get(host, 0) + 1}
        check_sessions(audit, writer, f"held.append(mx.session({host!r}))", [before, after])


def test_a_session_is_closed(audit, hire):
    writer = hire(JOIN)
    for before, host in CLOSED.values():
        check_sessions(audit, writer, f"of[{host!r}].close()", [before, {**before, host: before[host] - 1}])


def test_a_session_moves(audit, hire):
    writer = hire(JOIN)
    for before, source, target in MOVED.values():
        both = {**before, target: before.get(target, 0) + 1}
        after = {**both, source: before[source] - 1}
        check_sessions(audit, writer, f"of[{source!r}].rebind({target!r})", [before, both, after])
