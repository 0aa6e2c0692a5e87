"""The table of differences from the reference in docs/windows.md: each row is true, and each has a check here."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest
from tests.support import gold_records

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees
from inbound_audit.errors import SeriesError

PAGE = Path(__file__).parents[3] / "docs" / "windows.md"
SIX = "2001:db8::7"


@pytest.fixture
def audit(clock):
    with InboundAudit(clock=clock, capacity=1 << 20, monitors=["10,3"]) as audit:
        audit.series.define("s", "ip", 10, 3)
        yield audit


def both_families(audit, clock, caplog):
    for text in ("192.0.2.7", SIX):
        audit.series.add("s", text)
        assert audit.series.count("s", text) == 1


def wrong_family(audit, clock, caplog):
    audit.series.define("v4", "cidr", 10, 3)
    for _ in range(2):
        audit.series.add("v4", SIX)
        assert audit.series.count("v4", SIX) == 0
    assert len(caplog.records) == 1


def default_endv(audit, clock, caplog):
    with audit.listener().session(SIX) as ac:
        for n in (5, 7):
            audit.series.add("s", ac, n)
            clock.step(10)
        assert [audit.series.count("s", ac, startv) for startv in range(3)] == [0, 7, 5]
        assert audit.connections("10,3", None, 2, ac=ac) == 1
        assert audit.connections("10,3", None, 1, ac=ac) == 0


def replicate_on_one_host(audit, clock, caplog):
    audit.series.define("r", "ip", 10, 3, replicate="cluster")
    audit.series.add("r", SIX)
    assert audit.series.count("r", SIX) == 1


class OtherNode:
    """Five events that another node has recorded in the series "r", as the agent of this host keeps them."""

    def __init__(self, audit):
        self._series = NodeTrees(audit).series("series", "r", 10, 3)
        self._series.advance()
        self._tree = self._series.tree(self._series.number, 0, 10)
        self._series.fill(self._series.number, 0, [self._tree])

    def is_heard(self):
        self._tree.set_many(gold_records.encode({ipaddress.ip_address(SIX): 5}))

    def leaves(self):
        self._tree.empty()


def events_of_a_node_that_left(audit, clock, caplog):
    audit.series.define("r", "ip", 10, 3, replicate="cluster")
    other = OtherNode(audit)
    for _ in range(2):
        other.is_heard()
        assert audit.series.count("r", SIX) == 5
        other.leaves()
        assert audit.series.count("r", SIX) == 0


def replicate_of_an_add(audit, clock, caplog):
    audit.series.define("r", "ip", 10, 3)
    audit.series.add("r", SIX)
    other = OtherNode(audit)
    other.is_heard()
    assert audit.series.count("r", SIX) == 1
    audit.series.define("r", "ip", 10, 3, replicate="cluster")
    assert audit.series.count("r", SIX) == 6


def replicate_misspelt(audit, clock, caplog):
    with pytest.raises(SeriesError, match="did you mean 'cluster'"):
        audit.series.define("r", replicate="cluter")


def windows_that_are_none(audit, clock, caplog):
    for startv, endv in ((0, 3), (3, 3), (2, 1), (-1, 0)):
        with pytest.raises(SeriesError, match="windows"):
            audit.series.count("s", SIX, startv, endv)


def amounts_that_are_none(audit, clock, caplog):
    with pytest.raises(SeriesError, match="whole number"):
        audit.series.add("s", SIX, 0)
    with pytest.raises(TypeError):
        audit.series.add("s", SIX, 1.5)


def bounds(audit, clock, caplog):
    audit.series.define("b", "ip", 10, 3, max_hosts=64)
    for i in range(2000):
        audit.series.add("b", f"2001:db8:{i:x}::1")
    assert audit.series.count("b", "::/0") == 2000
    assert audit.series.hosts("b") < 100
    assert audit.series.folded("b")


def contradictions(audit, clock, caplog):
    for wrong in (("ip", 11, 3), ("ip", 10, 4), ("cidr", 10, 3), ("string", 10, 3)):
        with pytest.raises(SeriesError, match="is defined already"):
            audit.series.define("s", *wrong)


CHECKS = {
    "two series are needed": both_families,
    "an address of the wrong family": wrong_family,
    "`endv` is 0": default_endv,
    'a series with `replicate = "cluster"`': replicate_on_one_host,
    "past events of a node": events_of_a_node_that_left,
    "each `add` says": replicate_of_an_add,
    "any value of `replicate`": replicate_misspelt,
    "a window before the oldest": windows_that_are_none,
    "an amount of 0": amounts_that_are_none,
    "a series grows": bounds,
    "a definition that contradicts": contradictions,
}


def rows():
    text = PAGE.read_text().split("### Differences from the reference\n")[1].split("\n#")[0]
    found = re.findall(r"^\| (?!in the|---)(.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return [cells[0] for cells in found]


def test_each_row_of_the_page_has_a_check_and_each_check_a_row():
    found = [key for row in rows() for key in CHECKS if row.startswith(key)]
    assert len(found) == len(rows())
    assert found == list(CHECKS)


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.__name__)
def test_a_difference_is_as_the_page_says(audit, clock, caplog, check):
    check(audit, clock, caplog)
