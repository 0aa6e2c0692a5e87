"""What the other nodes of a cluster record in a series, as the agent has it and all processes of the host count it."""

from __future__ import annotations

import functools
import ipaddress
import os
import struct
import sys
from pathlib import Path

import pytest
from tests.support import gold_records
from tests.support.cluster_windows import remote_count
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import HEADER, NAME, FalseOwner, OwnerFile, owner_files
from tests.support.timing import START
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Session
from inbound_audit._ipcount import SeriesStore
from inbound_audit.shared import View

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")

NOW = int(START) // 10

WORKER = """
from tests.support.cluster_windows import remote_count
from tests.support.timing import Clock
clock = Clock()
audit = InboundAudit(shared=NAME, capacity=1 << 24, clock=clock)
audit.series.define('s', 'ip', 10, 3, max_bytes=1 << 22)
session = audit.listener('Control').session('127.0.0.1')
"""
AGENT = """
from tests.support.timing import Clock
from inbound_audit._ipcount import NodeTrees
clock = Clock()
audit = InboundAudit(shared=NAME, capacity=1 << 24, clock=clock)
nodes = NodeTrees(audit)
series = nodes.series('series', 's', 10, 3, 1 << 22)
trees = {}
def step():
    if series.advance() or series.is_full:
        for number in range(series.number - 2, series.number + 1):
            for sign in range(2):
                assert series.fill(number, sign, [tree for key, tree in trees.items() if key[1:] == (number, sign)])
def hear(node, number, sign, records):
    key = node, number, sign
    if key not in trees:
        trees[key] = series.tree(number, sign, 1000)
    trees[key].set_many(records)
step()
"""


def records(**hosts: int) -> bytes:
    """`a7=3`: three of 192.0.2.7; `b7`: of 2001:db8::7."""
    network = {"a": "192.0.2.", "b": "2001:db8::"}
    return gold_records.encode({ipaddress.ip_address(network[name[0]] + name[1:]): n for name, n in hosts.items()})


@pytest.fixture
def audit(place, clock):
    with InboundAudit(shared=NAME, capacity=1 << 24, clock=clock) as audit:
        audit.series.define("s", "ip", 10, 3, max_bytes=1 << 22)
        yield audit


@pytest.fixture
def session(audit):
    with audit.listener("Control").session("127.0.0.1") as session:
        yield session


def remote(session: Session, cidr: str = "0.0.0.0/0", first: int = 0, last: int = 0) -> int | None:
    return remote_count(session, "s", 10, 3, cidr, first, last)


def test_all_processes_count_what_the_agent_hears(audit, session, hire):
    other = hire(WORKER)
    assert remote(session) is None
    agent = hire(AGENT)
    late = hire(WORKER)
    agent.do("hear('mx2', n, 0, r); hear('mx3', n, 0, r)", n=NOW, r=records(a7=3, b1=2))
    agent.do("hear('mx2', n, 0, r)", n=NOW - 2, r=records(a7=100))
    agent.do("hear('mx3', n, 1, r)", n=NOW, r=records(a7=1, b2=10))
    expected = [5, 105, -6, 4]
    asked = "[remote_count(session, 's', 10, 3, *of) for of in asked]"
    of = [("192.0.2.7",), ("192.0.2.0/24", 0, 2), ("::/0",), ("2001:db8::1",)]
    eventually(lambda: [remote(session, *one) for one in of] == expected, "the windows with what was removed")
    for who in (other, late):
        eventually(lambda who=who: who.do(asked, asked=of) == expected, "the same elsewhere")
    assert audit.series.count("s", "192.0.2.7", 0, 2) == 0
    assert audit.series.count("s", "::/0", 0, 2) == 0
    agent.do("trees['mx2', n, 0].empty()", n=NOW)
    assert [remote(session, *one) for one in of] == [2, 102, -8, 2]
    agent.do("SeriesStore(audit).check()")


def test_windows_turn_on_every_host_alone(audit, session, clock, hire):
    agent = hire(AGENT)
    agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a7=3))
    agent.do("hear('mx2', n + 1, 0, r)", n=NOW, r=records(a7=10))  # its clock is ahead
    eventually(lambda: remote(session) == 3, "the agent's windows")
    clock.seconds += 10
    assert [remote(session, "192.0.2.7", v, v) for v in range(3)] == [0, 3, 0]
    agent.do("clock.seconds += 10; step()")
    assert [remote(session, "192.0.2.7", v, v) for v in range(3)] == [10, 3, 0]
    clock.seconds -= 3600
    agent.do("clock.seconds -= 3600; hear('mx2', n - 359, 0, r); step()", n=NOW, r=records(a7=7))
    assert [remote(session, "192.0.2.7", v, v) for v in range(3)] == [7, 0, 0]
    clock.seconds += 3600
    agent.do("clock.seconds += 3600; step()")
    assert [remote(session, "192.0.2.7", v, v) for v in range(3)] == [10, 3, 0]


def test_the_windows_of_an_agent_that_is_killed_go_with_it(audit, session, hire):
    for turn in range(3):  # the places of a file that is gone are taken by the next
        agent = hire(AGENT)
        agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a7=3 + turn))
        eventually(lambda turn=turn: remote(session) == 3 + turn, "the agent's windows")
        agent.kill()
        eventually(lambda: remote(session) == 0, "its end")
    agent = hire(AGENT)
    agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a7=9))
    eventually(lambda: remote(session) == 9, "the agent's windows")
    agent.do("audit.close()")
    eventually(lambda: remote(session) == 0, "its end")


def test_the_agent_says_what_the_processes_of_its_host_record(audit, session, hire):
    others = hire.hire(2, WORKER)
    agent = hire(AGENT)
    for n, other in enumerate(others, 1):
        other.do("audit.series.add('s', '192.0.2.7', n); audit.series.add('s', '192.0.2.8', -n)", n=n)
    audit.series.add("s", "192.0.2.7", 10)
    agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a9=3))  # is none of this host
    said = "series.difference(n, sign, nodes.said())"
    eventually(
        lambda: [agent.do(said, n=NOW, sign=sign) for sign in range(2)] == [records(a7=13), records(a8=3)],
        "what all have recorded",
    )
    stamp = agent.do("series.stamp(n, 0)", n=NOW)
    others[0].kill()
    eventually(lambda: agent.do("series.stamp(n, 0)", n=NOW) != stamp, "the end of one")
    assert agent.do(said, n=NOW, sign=0) == records(a7=12)


def test_the_agent_knows_which_series_other_hosts_count(audit, hire):
    """If processes differ, what reaches most hosts."""
    windows = "SeriesStore(audit).define('series', name, 10, 3, 1 << 20, 0, 0, replicate)"
    for replicate in (2, 0):
        hire(WORKER).do(windows, name="m", replicate=replicate)
        hire(WORKER).do(windows, name="all", replicate=replicate)
    SeriesStore(audit).define("series", "all", 10, 3, 1 << 20, 0, 0, 1)
    agent = hire(AGENT)
    expected = {("series", "s", 10, 3, 0), ("series", "m", 10, 3, 2), ("series", "all", 10, 3, 1)}
    eventually(lambda: set(agent.do("nodes.replicated()")) == expected, "all series of this host")


@pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")
def test_a_forked_child_says_which_hosts_count_its_series(audit, hire):
    parent = hire(WORKER)
    parent.do("audit.series.define('f', 'ip', 10, 3, max_bytes=1 << 22, replicate='cluster')")
    child = parent.fork()
    child.do("audit.series.add('f', '192.0.2.7')")
    parent.kill()
    agent = hire(AGENT)
    expected = {("series", "s", 10, 3, 0), ("series", "f", 10, 3, 1)}
    eventually(lambda: set(agent.do("nodes.replicated()")) == expected, "the series of the child")


def test_folded_windows_say_to_which_length(audit, hire):
    agent = hire(AGENT)
    other = hire(WORKER)
    other.do("audit.series.define('f', 'ip', 10, 3, max_hosts=20, max_bytes=1 << 22)")
    other.do("for i in range(500): audit.series.add('f', f'2001:db8::{i:x}')")
    agent.do("folds = nodes.series('series', 'f', 10, 3, 1 << 22)")
    eventually(lambda: agent.do("folds.levels(n)", n=NOW) == (32, 64), "the lengths")
    assert agent.do("folds.levels(n - 1)", n=NOW) == (32, 128)
    assert agent.do("folds.difference(n, 0, nodes.said())", n=NOW) == records(b0=500)


def test_a_view_knows_the_other_nodes_windows_and_lists_this_host_s_series(audit, hire):
    agent = hire(AGENT)
    agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a7=3))
    with View(NAME) as view:
        assert [owner.damaged for owner in view.owners] == [None, None]
        assert [row[1] for row in SeriesStore(view).known] == ["s"]
        assert SeriesStore(view).rows("series", "s", 10, 3, 0, 2) == [(3, "192.0.2.7")]
        assert view.total() == view.total("inbound_cidr") == 0


@pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")
def test_a_forked_child_has_no_windows_of_other_nodes(audit, session, hire):
    agent = hire(AGENT)
    agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a7=3))
    eventually(lambda: remote(session) == 3, "the agent's windows")
    child = agent.fork()
    child.do("audit.listener().session('192.0.2.1').close()")
    child.do("SeriesStore(audit).check()")
    assert child.do("series.advance()")
    assert remote(session) == 3


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: os.truncate(path, 0)], ids=["removed", "cut short"])
def test_a_file_that_is_lost_is_made_again(audit, session, hire, lose):
    """If its counts are lost, too, `advance` says so."""
    agent = hire(AGENT)
    agent.do("hear('mx2', n, 0, r); hear('mx2', n, 1, s)", n=NOW, r=records(a7=3), s=records(a7=1))
    eventually(lambda: remote(session) == 2, "the agent's windows")
    before = owner_files()
    lose(next(Path(path) for path in before if OwnerFile.pid_in(path) == agent.pid))
    eventually(lambda: set(owner_files()) - set(before), "a new file")
    eventually(lambda: agent.do("step()") or remote(session) == 2, "the windows in the new file")
    agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a7=5))
    eventually(lambda: remote(session) == 4, "a change in the new file")


def label_sum(section: bytes) -> int:
    """The checksum of docs/bytes.md over what never changes of a section."""
    service, listener = struct.unpack_from("=2I", section, 64)
    window = struct.unpack_from("=4I", section, 232)
    (kind,) = struct.unpack_from("=I", section, 204)
    values = (*section[72 : 72 + service], service, *section[136 : 136 + listener], listener, kind, *window)
    return functools.reduce(lambda total, value: (total ^ value) * 16777619 % 2**32, values, 2166136261)


FORGED = {
    "an unknown kind is passed over": (204, 5, None),
    "replicate": (264, 3, "numbers that no owner writes"),
    "slot": (240, 3, "numbers that no owner writes"),
    "a slot twice": (240, 1, "numbers that no owner writes"),
    "sign": (244, 2, "numbers that no owner writes"),
    "interval": (232, 0, "numbers that no owner writes"),
    "windows": (236, 0, "numbers that no owner writes"),
    "no name": (68, 0, "numbers that no owner writes"),
    "a name that is not UTF-8": (136, 0xFF, "numbers that no owner writes"),
}


@pytest.mark.parametrize(("at", "value", "damaged"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_header_of_a_ring_is_not_counted(audit, session, hire, at, value, damaged):
    agent = hire(AGENT)
    agent.do("hear('mx2', n, 0, r)", n=NOW, r=records(a7=3))
    eventually(lambda: remote(session) == 3, "the agent's windows")
    theirs = next(path for path in owner_files() if OwnerFile.pid_in(path) == agent.pid)
    data = bytearray(Path(theirs).read_bytes())
    agent.kill()
    eventually(lambda: remote(session) == 0, "its end")
    (stride,) = struct.unpack_from("=Q", data, 16)
    section = HEADER + NOW % 3 * stride
    assert label_sum(data[section:]) == struct.unpack_from("=I", data, section + 200)[0]
    if (at, value) == (240, 1) and NOW % 3 == 1:
        value = 2
    struct.pack_into("=I", data, section + at, value)
    struct.pack_into("=I", data, section + 200, label_sum(data[section:]))
    owner = FalseOwner(bytes(data))
    try:
        with View(NAME) as view:
            (found,) = (one for one in view.owners if one.pid != os.getpid())
            assert (found.damaged is None) == (damaged is None)
            assert damaged is None or damaged in found.damaged
        assert audit.total() == 0
        assert remote(session) == 0
        assert audit.series.count("s", "0.0.0.0/0", 0, 2) == 0
    finally:
        owner.close()
