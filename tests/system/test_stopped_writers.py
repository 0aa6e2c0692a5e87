"""A writer is stopped at each instruction of a change, and readers count meanwhile.

A process may lose its processor between any two stores, for as long as the machine likes, and a reader does not wait
for it (`_core/seqlock.pxd`). So what a reader counts has to be true in each of these places: it lacks the change, or
has it; of a session that moves it may have both ends, never none. A reader that did wait would never answer here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import pytest
from tests.support import gold_records
from tests.support.sharing import BLOCKS, HEADER, NAME, Worker, file_of
from tests.support.stepping import UNSTEPPABLE, steps
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees, SeriesStore
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
Moment = Mapping[Question, object]
WATCHED = BLOCKS + 8192  # bytes of a section: more than what a change here touches


@pytest.fixture
def audit(place, clock):
    with InboundAudit(shared=NAME, capacity=1 << 22, clock=clock) as audit:
        yield audit


class Watch:
    """Counts again when the bytes of the writer's file have changed, and follows the answers through the moments."""

    def __init__(
        self, audit: InboundAudit, writer: Worker, moments: Sequence[Moment], more: Mapping[str, object]
    ) -> None:
        self._moments = moments
        self._view = View(NAME)
        self._names = {"SeriesStore": SeriesStore, "audit": audit, "view": self._view, **more}
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


def stop_everywhere(audit: InboundAudit, writer: Worker, code: str, moments: Sequence[Moment], **more: object) -> None:
    """Steps through `code`. Each question is answered as in one of these moments, and then as in no earlier one.

    Questions may be about `more`, too.
    """
    watch = Watch(audit, writer, moments, more)
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


# ---- series

WINDOWS = 3
SERIES = f"audit.series.define('w', 'ip', 10, {WINDOWS}, max_bytes=1 << 18)"
ADDED, TAKEN = "192.0.2.7", "192.0.2.8"

Window = Mapping[str, int]  # what its hosts count


def windows_asked(windows: Sequence[Window]) -> Moment:
    """What is counted when these are the windows, the current one first: one by one, and all."""
    answers: dict[Question, object] = {}
    for cidr, hosts in (
        (ADDED, [ADDED]),
        (TAKEN, [TAKEN]),
        ("192.0.2.0/24", [ADDED, TAKEN]),
        ("0.0.0.0/0", [ADDED, TAKEN]),
    ):
        counts = [sum(window.get(host, 0) for host in hosts) for window in windows]
        answers[f"audit.series.count('w', {cidr!r}, 0, {WINDOWS - 1})"] = sum(counts)
        answers |= {f"audit.series.count('w', {cidr!r}, {v})": counts[v] for v in range(WINDOWS)}
    for v, window in enumerate(windows):
        rows = [(window[host], host) for host in (ADDED, TAKEN) if window.get(host)]
        answers[f"SeriesStore(audit).rows('series', 'w', 10, {WINDOWS}, {v}, {v})"] = rows
    return answers


FULL: list[Window] = [{ADDED: 100, TAKEN: -60}, {ADDED: 20, TAKEN: -7}, {ADDED: 5, TAKEN: -3}]
NONE: Window = {}


@pytest.fixture
def recorder(audit, hire, clock):
    """A writer whose series has these windows."""
    writer = hire(JOIN + SERIES)
    audit.series.define("w", "ip", 10, WINDOWS, max_bytes=1 << 18)
    for window in reversed(FULL):
        writer.do("clock.seconds += 10; [audit.series.add('w', *one) for one in window.items()]", window=window)
    clock.seconds += 10 * len(FULL)
    return writer


def test_a_window_begins(audit, recorder):
    """The oldest one is emptied: all of it is there, or nothing. Then the windows have turned, and one is recorded."""
    new, middle, _ = FULL
    moments = [[*FULL], [new, middle, NONE], [NONE, new, middle], [{ADDED: 9}, new, middle]]
    code = f"clock.seconds += 10; audit.series.add('w', {ADDED!r}, 9)"
    stop_everywhere(audit, recorder, code, [windows_asked(one) for one in moments])


def test_a_window_begins_with_what_is_taken_away(audit, recorder):
    new, middle, _ = FULL
    moments = [[*FULL], [new, middle, NONE], [NONE, new, middle], [{TAKEN: -9}, new, middle]]
    code = f"clock.seconds += 10; audit.series.add('w', {TAKEN!r}, -9)"
    stop_everywhere(audit, recorder, code, [windows_asked(one) for one in moments])


def test_a_window_begins_after_one_in_which_nothing_was_recorded(audit, recorder):
    new, _, old = FULL
    moments = [[*FULL], [new, NONE, old], [NONE, NONE, new], [{ADDED: 9}, NONE, new]]
    code = f"clock.seconds += 20; audit.series.add('w', {ADDED!r}, 9)"
    stop_everywhere(audit, recorder, code, [windows_asked(one) for one in moments])


def test_what_is_added_cancels_what_was_taken_away_first(audit, recorder):
    new, *others = FULL
    moments = [[{**new, TAKEN: n}, *others] for n in (-60, 0, 15)]
    stop_everywhere(audit, recorder, f"audit.series.add('w', {TAKEN!r}, 75)", [windows_asked(one) for one in moments])


def test_what_is_taken_away_cancels_what_was_added_first(audit, recorder):
    new, *others = FULL
    moments = [[{**new, ADDED: n}, *others] for n in (100, 0, -15)]
    stop_everywhere(audit, recorder, f"audit.series.add('w', {ADDED!r}, -115)", [windows_asked(one) for one in moments])


def test_a_host_is_removed_from_window_after_window(audit, recorder):
    moments = [[{**window, ADDED: 0} if v < n else window for v, window in enumerate(FULL)] for n in range(4)]
    stop_everywhere(
        audit, recorder, f"audit.series.remove_here('w', {ADDED!r})", [windows_asked(one) for one in moments]
    )


def test_hosts_are_folded_into_their_prefix(audit, hire):
    """A move adds before it subtracts: where detail is kept a reader may see one host twice, and never one less."""
    define = "audit.series.define('f', 'ip', 10, 3, max_bytes=1 << 18, max_hosts=4)"
    writer = hire(f"{JOIN}{define}\nfor i in range(5): audit.series.add('f', f'2001:db8::{{i:x}}', 10)")
    exec(define, {"audit": audit})
    counts = [50, *[60, 50] * 4, 60]  # one host is too many: so the next call moves the others to ::0 first
    asked = [f"audit.series.count('f', {cidr!r})" for cidr in ("2001:db8::/64", "2001:db8::/32", "::/0")]
    moments = [dict.fromkeys(asked, n) for n in counts]
    stop_everywhere(audit, writer, "audit.series.add('f', '2001:db8::5', 10)", moments)


def test_a_window_goes_with_the_lengths_to_which_it_was_folded(audit, hire, clock):
    """An agent says both of them to other nodes."""
    define = "audit.series.define('f', 'ip', 10, 3, max_bytes=1 << 18, max_hosts=8)"
    writer = hire(f"{JOIN}{define}\nfor i in range(20): audit.series.add('f', f'2001:db8::{{i:x}}')")
    exec(define, {"audit": audit})
    series = NodeTrees(audit).series("series", "f", 10, 3)
    number = int(clock.seconds) // 10
    clock.seconds += 20
    asked = f"(series.levels({number}), audit.series.count('f', '::/0', 2))"
    moments = [{asked: ((32, 64), 20)}, {asked: ((32, 128), 0)}]
    stop_everywhere(audit, writer, "clock.seconds += 30; audit.series.add('f', '192.0.2.7')", moments, series=series)


def test_a_connection_of_a_monitor_moves_with_its_session(place, hire, clock):
    monitors = "monitors=('10,3',), monitor_bytes=1 << 18"
    before, both, after = ({ADDED: 1, TAKEN: 2}, {ADDED: 1, TAKEN: 3}, {ADDED: 0, TAKEN: 3})
    with InboundAudit(shared=NAME, capacity=1 << 22, clock=clock, monitors=("10,3",), monitor_bytes=1 << 18) as audit:
        writer = hire(JOIN.replace("clock=clock", f"clock=clock, {monitors}"))
        writer.do(f"held = [mx.session(host) for host in ({ADDED!r}, {TAKEN!r}, {TAKEN!r})]")
        sessions = moments_of("audit.inbound_session_count('{cidr}')", [before, both, after, after, after])
        connections = moments_of("audit.connections('10,3', '{cidr}')", [before, before, before, both, after])
        moments = [{**one, **other} for one, other in zip(sessions, connections, strict=True)]
        stop_everywhere(audit, writer, f"held[0].rebind({TAKEN!r})", moments)


def test_a_sliding_average_beside_a_window_that_begins(place, hire, clock):
    """Until the window has begun the span covers a quarter of the window before; then it is the current one itself."""
    monitors = "monitors=('10,3',), monitor_bytes=1 << 18"
    with InboundAudit(shared=NAME, capacity=1 << 22, clock=clock, monitors=("10,3",), monitor_bytes=1 << 18) as audit:
        writer = hire(JOIN.replace("clock=clock", f"clock=clock, {monitors}"))
        for n in (400, 20, 8):
            writer.do("clock.seconds += 10; ac = mx.session(host); ac.record_reception(n)", host=ADDED, n=n)
        clock.seconds += 37.5
        asked = [f"audit.sliding_average('receptions', '10,3', {cidr!r})" for cidr in (ADDED, "0.0.0.0/0")]
        moments = [dict.fromkeys(asked, n) for n in (8 + 20 / 4, 0 + 8, 1 + 8)]
        stop_everywhere(audit, writer, "clock.seconds += 10; ac.record_reception()", moments)


# ---- other nodes of a cluster

NODES = """
from inbound_audit._ipcount import NodeTrees, SeriesStore
nodes = NodeTrees(audit)
mx2, mx3 = nodes.add('mx2'), nodes.add('mx3')
"""
SAID = [{ADDED: 3, TAKEN: 1}, {ADDED: 3}, {}, {"192.0.2.9": 2}]
MX3 = {ADDED: 10, "2001:db8::1": 4}


def encode(hosts: Mapping[str, int]) -> bytes:
    return gold_records.encode({ipaddress.ip_address(host): n for host, n in hosts.items()})


@pytest.mark.parametrize("with_sum", [False, True])
def test_a_node_says_other_sessions(audit, hire, with_sum):
    """Also with one more tree that has the sum over all nodes, which readers take while it is complete."""
    agent = hire(JOIN + NODES)
    agent.do("mx2.set_many(first), mx3.set_many(other)", first=encode(SAID[0]), other=encode(MX3))
    every = [{host: mx2.get(host, 0) + MX3.get(host, 0) for host in {**SAID[0], **SAID[-1], **MX3}} for mx2 in SAID]
    mine = moments_of("audit.inbound_session_count('{cidr}', 'inbound_cidr')", every)
    from_outside = moments_of("view.inbound_session_count('{cidr}', 'inbound_cidr')", every)
    moments = [{**one, **other} for one, other in zip(mine, from_outside, strict=True)]
    eventually(lambda: audit.total("inbound_cidr") == sum(every[0].values()), "the agent's file")
    if with_sum:
        agent.do("nodes.sum = True; nodes.sum = False")
        agent.do("audit._announce = lambda: None")  # other processes know of the sum, and Python takes long for that
        stop_everywhere(audit, agent, "nodes.sum = True", moments[:1])
    agent.do("pass", less=encode({TAKEN: 0}), last=encode(SAID[-1]))
    stop_everywhere(audit, agent, "mx2.set_many(less)", moments[:2])
    stop_everywhere(audit, agent, "mx2.replace(last)", moments[1:])
    stop_everywhere(audit, agent, "mx2.empty()", [moments[-1], moments[2]])
    stop_everywhere(audit, agent, "mx2.set_many(last)", [moments[2], moments[-1]])
