"""What names a monitor and its windows, and what names none."""

from __future__ import annotations

import functools
import re

import pytest

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import CidrError, InboundAuditError, MonitorError

KINDS = ("connections", "receptions", "rejections")


@pytest.fixture
def audit(clock):
    with InboundAudit(monitors=("10,3", "60,2"), clock=clock, capacity=1 << 20) as audit:
        yield audit


def test_monitors_are_listed_as_they_are_asked_for():
    with InboundAudit(monitors=[" 300 , 6 ", "1800,4"]) as audit:
        assert audit.monitors == ("300,6", "1800,4")
        for monitor in ("300,6", " 300,6", "300, 6 ", 0):
            assert audit.connections(monitor, "192.0.2.7") == 0
        assert [row[:2] + row[3:] for row in SeriesStore(audit).known if row[3] == 300] == [
            (kind, "300,6", 300, 6) for kind in KINDS
        ]


@pytest.mark.parametrize(
    "text",
    ["", "300", "300,", ",6", "300,0", "0,6", "-300,6", "300,-6", "300,6,1", "300;6", "x,6", "300,y", "3.5,6", "+300,6",
     "300,1025", "4294967296,2", "300,99999999999999999999", "\u0663,6", "300,6\0"],
)  # fmt: skip
def test_what_is_no_monitor(text):
    with pytest.raises(MonitorError, match=re.escape(repr(text))):
        InboundAudit(monitors=[text])


@pytest.mark.parametrize("monitors", ["300,6", [300], [None], [("300", "6")], [b"300,6"]])
def test_monitors_are_a_list_of_texts(monitors):
    with pytest.raises(MonitorError):
        InboundAudit(monitors=monitors)


def test_there_is_room_for_so_many_monitors():
    texts = [f"{10 + i},2" for i in range(16)]
    with InboundAudit(monitors=texts) as audit, audit.listener().session("192.0.2.7") as ac:
        assert [audit.connections(i, ac=ac) for i in range(16)] == [1] * 16
    with pytest.raises((MonitorError, InboundAuditError), match="16"):
        InboundAudit(monitors=[*texts, "300,6"])


@pytest.mark.parametrize("ask", [*KINDS, "sliding_average"])
def test_a_count_is_of_the_cluster_or_not(audit, ask):
    call = getattr(audit, ask) if ask != "sliding_average" else functools.partial(audit.sliding_average, "rejections")
    with audit.listener().session("192.0.2.7") as ac:
        ac.record_reception()
        ac.record_rejection()
        assert call(0, "/24", ac=ac) == call(0, "/24", ac=ac, cluster=False) == call(0, "/24", ac=ac, cluster=True) == 1
        for value in (None, 1, 0, "cluster", "no"):
            with pytest.raises(MonitorError, match=f"'10,3': cluster {value!r}: expected True or False"):
                call(0, "/24", ac=ac, cluster=value)


@pytest.mark.parametrize("monitor", ["300,7", "10", "", "10,3,1", "ten", 2, -1, 2**70])
@pytest.mark.parametrize("ask", [*KINDS, "sliding_average"])
def test_an_undefined_monitor_is_an_error(audit, ask, monitor):
    call = getattr(audit, ask) if ask != "sliding_average" else lambda *a: audit.sliding_average("connections", *a)
    with pytest.raises(MonitorError, match=re.escape(repr(monitor))):
        call(monitor, "192.0.2.7")


@pytest.mark.parametrize("monitor", [None, 1.0, b"10,3", ("10", "3")])
def test_what_names_no_monitor(audit, monitor):
    with pytest.raises((MonitorError, TypeError)):
        audit.connections(monitor, "192.0.2.7")


@pytest.mark.parametrize(("first", "last"), [(-1, None), (3, None), (0, 3), (2, 1), (1, -1), (2**70, None), (0, 2**63)])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_out_of_range(audit, kind, first, last):
    with pytest.raises(MonitorError, match="10,3"):
        getattr(audit, kind)("10,3", "192.0.2.7", first, last)


@pytest.mark.parametrize("kind", ["connection", "", None, 0, "Receptions"])
def test_an_average_of_what_is_not_counted(audit, kind):
    with pytest.raises((MonitorError, ValueError, TypeError), match=re.escape(repr(kind))):
        audit.sliding_average(kind, "10,3", "192.0.2.7")


@pytest.mark.parametrize("cidr", ["", "nonsense", "192.0.2.7/33", " 192.0.2.7", "192.0.2.0/24/", "/24", "/8,/9", None])
def test_what_needs_a_prefix_of_its_own(audit, cidr):
    """Without an accept construct there is no connecting IP."""
    for ask in (*(getattr(audit, kind) for kind in KINDS), lambda *a: audit.sliding_average("connections", *a)):
        with pytest.raises(CidrError):
            ask("10,3", cidr)


def test_the_grammar_is_that_of_sessions(audit):
    with audit.listener().session("192.0.2.7") as four, audit.listener().session("2001:db8::7") as six:
        for cidr in ("192.0.2.77/24", "::ffff:192.0.2.7", "[2001:db8::]/32", "192.0.2.0/255.255.255.0"):
            assert audit.connections("10,3", cidr) == audit.inbound_session_count(cidr) == 1
        assert audit.connections("10,3", "localhost") == 0
        for cidr in (None, "/24,/56", "/24,/128", "/32", "/0"):
            assert audit.connections("10,3", cidr, ac=four) == audit.connections("10,3", cidr, ac=six) == 1


@pytest.mark.parametrize("seconds", [1, 999_999_999, 1 << 30])
def test_a_monitor_of_any_length_is_found_by_its_text(seconds):
    text = f"{seconds},2"
    with InboundAudit(monitors=[text]) as audit, audit.listener().session("192.0.2.7") as ac:
        assert audit.connections(text, ac=ac) == audit.connections(f"0{text}", ac=ac) == 1
        for other in (f"{seconds + 1},2", f"{seconds + 2**32},2", f"{seconds},{2 + 2**32}", f"{seconds}{'0' * 20},2"):
            with pytest.raises(MonitorError, match=re.escape(other)):
                audit.connections(other, ac=ac)
