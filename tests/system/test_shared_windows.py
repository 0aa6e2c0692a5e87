"""Windows of processes that count together: sums, deaths, forks, and readers beside writers that turn."""

from __future__ import annotations

import sys
import threading

import pytest
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import NAME, Worker, WorkerError
from tests.support.timing import START, Clock
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit._ipcount import SeriesStore
from inbound_audit.shared import View

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")

forks_beside_threads = pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")

MONITORS = ("10,3", "60,2")
JOIN = f"""
from inbound_audit import InboundAudit
from tests.support.timing import Clock
clock = Clock()
audit = InboundAudit(shared=NAME, capacity=1 << 24, monitors={MONITORS!r}, monitor_bytes=1 << 22, clock=clock)
mx = audit.listener('SMTP', 'mx')
def define(name, *how, **bounds):
    audit.series.define(name, *how, max_bytes=1 << 22, **bounds)
define('s', 'ip', 10, 3)
define('t', 'string', 10, 3)
"""
ALL = ["0.0.0.0/0", "::/0", "192.0.2.0/24", "192.0.2.7/32", "2001:db8::/32"]


@pytest.fixture
def audit(place, clock):
    bounds = {"capacity": 1 << 24, "monitor_bytes": 1 << 22}
    with InboundAudit(shared=NAME, monitors=MONITORS, clock=clock, **bounds) as audit:
        audit.series.define("s", "ip", 10, 3, max_bytes=1 << 22)
        audit.series.define("t", "string", 10, 3, max_bytes=1 << 22)
        yield audit


def at(clock: Clock, others: list[Worker], seconds: float) -> None:
    """Sets all clocks."""
    clock.seconds = seconds
    for other in others:
        other.do("clock.seconds = seconds", seconds=seconds)


# ---- sums


def test_counts_are_sums_over_processes(audit, clock, hire):
    """Each of the questions, in each process; what is added later is seen at once."""
    others = hire.hire(2, JOIN)
    with audit.listener("SMTP", "mx").session("192.0.2.7") as ac:
        for n, other in enumerate(others, 1):
            other.do("held = [mx.session('192.0.2.7') for _ in range(n)]", n=n)
            other.do("held[0].record_reception(10 * n); held[0].record_rejection()", n=n)
            other.do("audit.series.add('s', '192.0.2.8', 100 * n); audit.series.add('t', 'text', n)", n=n)
        audit.series.add("s", ac, -7)
        audit.series.add("t", "text", -10)
        expected = (4, 30, 2, 293, 300, -7, -7)
        code = """(audit.connections('10,3', '192.0.2.7'), audit.receptions(0, '192.0.2.0/24'),
            audit.rejections('60,2', '0.0.0.0/0'), audit.series.count('s', '192.0.2.0/24'),
            audit.series.count('s', '192.0.2.8'), audit.series.count('s', '192.0.2.7'),
            audit.series.count('t', 'text'))"""
        assert eval(code, {"audit": audit}) == expected
        for other in others:
            assert other.do(code) == expected
        assert audit.connections("10,3", "/24", ac=ac) == 4
        assert audit.series.count("s", ac=ac) == -7
        assert audit.sliding_average("receptions", "10,3", ac=ac) == 30
    others[0].do("mx.session('2001:db8::7').close()")
    assert audit.connections("10,3", "::/0") == 1


def test_windows_of_processes_turn_together(audit, clock, hire):
    others = hire.hire(2, JOIN)
    for window in range(3):
        at(clock, others, START + 10 * window)
        for n, other in enumerate(others, 1):
            other.do("audit.series.add('s', '192.0.2.7', 10 ** window * n)", window=window, n=n)
    audit.series.add("s", "192.0.2.7", 500)
    assert [audit.series.count("s", "192.0.2.7", v) for v in range(3)] == [800, 30, 3]
    others[0].do("clock.seconds += 10; audit.series.add('s', '192.0.2.7', 1000)")  # is ahead of all the others
    assert audit.series.count("s", "192.0.2.7", 0, 2) == 1000 + 110 + 700 + 22
    at(clock, others, START + 30)
    assert [audit.series.count("s", "192.0.2.7", v) for v in range(3)] == [1000, 800, 30]
    assert others[1].do("[audit.series.count('s', '192.0.2.7', v) for v in range(3)]") == [1000, 800, 30]


def test_a_clock_that_is_set_back_changes_no_sum(audit, clock, hire):
    """It is one clock for all processes; who adds after the step has another timeline than who does not."""
    other = hire(JOIN)
    for seconds, ours, theirs in ((START, 1, 10), (START + 10, 100, 1000)):
        at(clock, [other], seconds)
        audit.series.add("s", "192.0.2.7", ours)
        other.do("audit.series.add('s', '192.0.2.7', n)", n=theirs)
    at(clock, [other], START - 3600)
    for expected in (1100, 1300):
        for who in (lambda code: eval(code, {"audit": audit}), other.do):
            assert who("[audit.series.count('s', '192.0.2.7', v) for v in range(3)]") == [expected, 11, 0]
        audit.series.add("s", "192.0.2.7", 200)


def test_an_item_is_removed_in_all_processes(audit, clock, hire):
    others = hire.hire(2, JOIN)
    for other in others:
        other.do(
            "audit.series.add('s', '192.0.2.7', 5); audit.series.add('s', '192.0.2.8'); audit.series.add('t', 'text')"
        )
    at(clock, others, START + 10)
    others[0].do("audit.series.add('s', '192.0.2.7', -2)")
    audit.series.add("s", "192.0.2.7", 3)
    assert audit.series.count("s", "192.0.2.0/24", 0, 2) == 13
    others[1].do("audit.series.remove_item('s', '192.0.2.7')")
    assert audit.series.count("s", "192.0.2.0/24", 0, 2) == 2
    audit.series.remove_item("t", "text")
    assert audit.series.count("t", "text", 1) == others[0].do("audit.series.count('t', 'text', 1)") == 0


def test_series_of_one_name_that_differ_are_kept_apart(audit, hire):
    """Nobody asks the others before they define: their windows are not of one kind, so they are no sum."""
    other = hire(JOIN)
    other.do("define('mine', 'ip', 10, 3); audit.series.add('mine', '192.0.2.7', 5)")
    audit.series.define("mine", "ip", 60, 3, max_bytes=1 << 22)
    audit.series.add("mine", "192.0.2.7")
    assert audit.series.count("mine", "192.0.2.7") == 1
    assert other.do("audit.series.count('mine', '192.0.2.7')") == 5
    assert sorted(of for _, name, _, *of in SeriesStore(audit).known if name == "mine") == [[10, 3], [60, 3]]


def test_a_series_that_is_defined_late_counts_what_the_others_have(audit, hire):
    other = hire(JOIN)
    other.do("define('late', 'ip', 10, 3); audit.series.add('late', '192.0.2.7', -5)")
    audit.series.define("late", "ip", 10, 3, max_bytes=1 << 22)
    eventually(lambda: audit.series.count("late", "192.0.2.7") == -5, "the other's windows")
    assert "never" not in audit.series.names


def test_a_default_series_fits_into_a_small_file(audit, hire):
    """Bounds of a series and the capacity of the audit are two things, and neither needs to know of the other."""
    other = hire(JOIN)
    fill = """audit.series.define('large', 'ip', 10, 2)
for i in range(3000):
    audit.series.add('large', bytes([10, 0, i >> 8, i & 255]))
"""
    other.do(fill)
    exec(fill, {"audit": audit})
    assert audit.series.count("large", "10.0.0.0/8") == 6000
    assert audit.series.count("large", "10.0.3.0/24") == 512
    assert audit.total() == 0
    SeriesStore(audit).check()


# ---- who is gone, and who is new


def test_the_windows_of_the_dead_go_with_them(audit, hire):
    others = hire.hire(2, JOIN)
    for other in others:
        other.do(
            "mx.session('192.0.2.7'); audit.series.add('s', '192.0.2.7', 5); audit.series.add('s', '192.0.2.8', -1)"
        )
    audit.series.add("s", "192.0.2.7", 1)
    assert audit.series.count("s", "192.0.2.0/24") == 9
    others[0].kill()
    eventually(lambda: audit.series.count("s", "192.0.2.0/24") == 5, "the end of one")
    assert audit.connections("10,3", "192.0.2.7") == 1
    # Each process finds the end of another one by itself.
    eventually(lambda: others[1].do("audit.series.count('s', '192.0.2.7')") == 6, "the end of one, as the other has it")
    others[1].do("audit.close()")
    eventually(lambda: audit.series.count("s", "192.0.2.0/24") == 1, "the end of the other")
    assert audit.connections("10,3", "192.0.2.7") == 0
    SeriesStore(audit).check()


def test_processes_come_and_go_and_windows_turn(audit, clock, hire):
    """The places of the dead are taken by others, and every time the sums are those of who is there."""
    for turn in range(8):
        other = hire(JOIN)
        at(clock, [other], START + 10 * turn)
        other.do("for i in range(300): audit.series.add('s', bytes([10, n, i >> 8, i & 255]))", n=turn)
        audit.series.add("s", f"192.0.2.{turn}")
        assert audit.series.count("s", "10.0.0.0/8") == audit.series.count("s", f"10.{turn}.0.0/16") == 300
        assert audit.series.count("s", "192.0.2.0/24", 0, 2) == min(turn + 1, 3)
        other.kill()
        eventually(lambda: audit.series.count("s", "10.0.0.0/8", 0, 2) == 0, "the end of it")
        SeriesStore(audit).check()


@forks_beside_threads
def test_a_forked_child_counts_in_windows_of_its_own(audit, hire):
    parent = hire(JOIN)
    parent.do("audit.series.add('s', '192.0.2.7', 5); held = mx.session('192.0.2.7')")
    child = parent.fork()
    assert child.do("(audit.series.count('s', '192.0.2.7'), audit.connections('10,3', '192.0.2.7'))") == (5, 1)
    child.do("audit.series.add('s', '192.0.2.7', 10); mx.session('192.0.2.7').close()")
    for who in (parent, child):
        assert who.do("(audit.series.count('s', '192.0.2.7'), audit.connections('10,3', '192.0.2.7'))") == (15, 2)
        who.do("SeriesStore(audit).check()")
    assert audit.series.count("s", "192.0.2.7") == 15
    child.kill()
    eventually(lambda: audit.series.count("s", "192.0.2.7") == 5, "the end of the child")
    parent.kill()
    eventually(lambda: audit.series.count("s", "192.0.2.7") == 0, "the end of the parent")


def test_folding_in_one_process_leaves_the_others_their_detail(audit, hire):
    other = hire(JOIN)
    other.do("define('f', 'ip', 10, 3, max_hosts=20)")
    audit.series.define("f", "ip", 10, 3, max_bytes=1 << 22, max_hosts=20)
    other.do("for i in range(500): audit.series.add('f', f'2001:db8::{i:x}')")
    audit.series.add("f", "2001:db8::7")
    audit.series.add("f", "2001:db8::8", -1)
    assert audit.series.count("f", "2001:db8::/64") == 500
    assert audit.series.count("f", "2001:db8::7") == 1
    assert other.do("audit.series.folded('f')[0][:3]") == (0, 32, 64)


def test_each_process_counts_the_family_of_its_own_definition(audit, hire):
    """The windows of both are summed; an address of the other family counts 0 where the series does not have it."""
    other = hire(JOIN)
    other.do("define('v4', 'cidr', 10, 3), define('v6', 'cidr_ipv6', 10, 3), define('both', 'ip', 10, 3)")
    audit.series.define("v4", "cidr", 10, 3, max_bytes=1 << 22)
    audit.series.define("v6", "cidr_ipv6", 10, 3, max_bytes=1 << 22)
    audit.series.define("both", "cidr", 10, 3, max_bytes=1 << 22)
    for key in ("192.0.2.7", "2001:db8::7"):
        for name in ("v4", "v6", "both"):
            other.do(f"audit.series.add({name!r}, {key!r})")
            audit.series.add(name, key)
    asked = [(name, key) for name in ("v4", "v6", "both") for key in ("192.0.2.7", "2001:db8::7")]
    assert [audit.series.count(*one) for one in asked] == [2, 0, 0, 2, 2, 0]
    assert other.do(f"[audit.series.count(*one) for one in {asked}]") == [2, 0, 0, 2, 2, 1]
    audit.series.remove_item("both", "192.0.2.7")
    assert other.do("[audit.series.count('both', key) for key in ('192.0.2.7', '2001:db8::7')]") == [0, 1]


# ---- from outside


def test_a_view_sees_everybody_s_windows(audit, hire):
    """It has none of its own, and sees what is defined anywhere."""
    other = hire(JOIN)
    other.do("define('only there', 'ip', 1 << 30, 4); audit.series.add('only there', '192.0.2.9', 4)")
    audit.series.define("here", "ip", 1 << 30, 2, max_bytes=1 << 22)
    audit.series.add("here", "2001:db8::1", -2)
    audit.series.add("here", "192.0.2.1", 3)
    with View(NAME) as view:
        seen = {(scope, name, *of) for scope, name, _, *of in SeriesStore(view).known}
        kinds = ("connections", "receptions", "rejections")
        expected = {(kind, text, *map(int, text.split(","))) for kind in kinds for text in MONITORS}
        expected |= {("series", name, 10, 3) for name in "st"}
        expected |= {("series", "only there", 1 << 30, 4), ("series", "here", 1 << 30, 2)}
        assert seen == expected
        types = {name: kind for scope, name, kind, *_ in SeriesStore(view).known if scope == "series"}
        assert types == {"s": "ip", "t": "string", "only there": "ip", "here": "ip"}
        assert SeriesStore(view).count("series", "only there", 1 << 30, 4, "192.0.2.0/24", 0, 3) == 4
        assert SeriesStore(view).count("series", "here", 1 << 30, 2, "::/0", 0, 1) == -2
        assert SeriesStore(view).rows("series", "here", 1 << 30, 2, 0, 1) == [(3, "192.0.2.1"), (-2, "2001:db8::1")]
        other.kill()
        eventually(lambda: view.refresh() or len(view.owners) == 1, "its end")
        assert SeriesStore(view).count("series", "only there", 1 << 30, 4, "192.0.2.0/24", 0, 3) == 0


@pytest.mark.parametrize("asked", [("series", "nope", 10, 3), ("series", "s", 10, 4), ("sessions", "s", 10, 3)])
def test_an_unknown_series_is_an_error(audit, asked):
    with pytest.raises(ValueError, match=asked[1]):
        SeriesStore(audit).rows(*asked, 0, 0)


def test_rows_are_sums_too(audit, clock, hire):
    other = hire(JOIN)
    other.do("[audit.series.add('s', key, n) for key, n in [('192.0.2.9', 2), ('192.0.2.7', 5), ('2001:db8::7', -1)]]")
    for key, n in [("192.0.2.7", -5), ("10.0.0.1", 1), ("2001:db8::7", -1), ("::1", 4)]:
        audit.series.add("s", key, n)
    rows = SeriesStore(audit).rows("series", "s", 10, 3, 0, 0)
    assert [row for row in rows if row[0]] == [(1, "10.0.0.1"), (2, "192.0.2.9"), (4, "::1"), (-2, "2001:db8::7")]
    at(clock, [other], START + 10)
    assert SeriesStore(audit).rows("series", "s", 10, 3, 0, 0) == []
    assert len(SeriesStore(audit).rows("series", "s", 10, 3, 0, 2)) >= 4


# ---- readers beside writers

TURNING = """
def turning(turns, steady):
    '''Windows after windows: first of all what stands still, then hosts that come and go around it.'''
    for turn in range(turns):
        clock.seconds += 1
        audit.series.add('w', '198.51.100.1', steady)
        for i in range(200):
            audit.series.add('w', f'198.51.{101 + i % 3}.{i}')
            audit.series.add('w', f'198.51.{101 + i % 3}.{i}', -1)
"""


def test_what_stands_still_in_other_windows_is_always_there(audit, clock, hire):
    """While another process turns, what lies behind its current window is neither missed nor counted twice."""
    # As many windows as there are turns: a reader that loses its processor never comes back to a window that is gone.
    others = hire.hire(2, JOIN + TURNING + "audit.series.define('w', 'ip', 1, 1000, max_bytes=1 << 25)\n")
    audit.series.define("w", "ip", 1, 1000, max_bytes=1 << 25)
    steady = 7
    for other in others:
        other.do("turning(100, 7)")
        other.start("turning(890, 7)")
    asked = 0
    busy = 2
    while busy:
        for _ in range(200):
            # The others' current windows lie ahead of our clock: they are number 0 here, however far they get.
            for v in (1, 2, 20):
                assert audit.series.count("w", "198.51.100.0/24", v) == 2 * steady
                assert audit.series.count("w", "198.51.0.0/16", v) == 2 * steady
            three = audit.series.count("w", "198.51.100.1", 1, 3)
            assert three == 6 * steady
            assert 10 * 2 * steady <= audit.series.count("w", "198.51.100.1", 0, 10) <= 11 * 2 * steady
            asked += 8
        busy = sum(not other._connection.poll(0) for other in others)
    for other in others:
        other.result()
        other.do("SeriesStore(audit).check()")
    assert asked > 1000


def test_a_window_that_goes_out_of_view_goes_with_what_was_taken_away(audit, hire):
    """The oldest window is asked for while another process turns: all of it is there, or nothing."""
    other = hire(JOIN + "define('w', 'ip', 1, 3)\n")
    audit.series.define("w", "ip", 1, 3, max_bytes=1 << 22)
    turn = "clock.seconds += 1; audit.series.add('w', '192.0.2.7', 5); audit.series.add('w', '192.0.2.8', -3)"
    for _ in range(3):
        other.do(turn)
    other.start(f"for i in range(100000): {turn}")
    while not other._connection.poll(0):
        for _ in range(200):
            # Who lost the processor between two steps finds a window that has begun, and may have nothing or no -3 yet.
            assert audit.series.count("w", "192.0.2.0/24", 2) in (0, 2, 5)
    other.result()


def test_the_current_window_is_never_out_of_its_bounds(audit, hire):
    """Each writer has at most one host counted at a time: no sum is below nothing, or above the number of writers."""
    others = hire.hire(2, JOIN)
    for other in others:
        other.start("""
for i in range(60000):
    audit.series.add('s', f'10.{i % 5}.0.{i % 200}')
    audit.series.add('s', f'10.{i % 5}.0.{i % 200}', -1)
""")
    while not all(other._connection.poll(0) for other in others):
        for cidr in ("10.0.0.0/8", "10.2.0.0/16", "0.0.0.0/0"):
            assert 0 <= audit.series.count("s", cidr) <= 2
    for other in others:
        other.result()
    assert audit.series.count("s", "10.0.0.0/8") == 0


def test_an_error_of_a_worker_is_printed(audit, hire):
    other = hire(JOIN)
    with pytest.raises(WorkerError, match="SeriesError"):
        other.do("audit.series.add('nope', '192.0.2.7')")


def test_threads_make_and_change_everything_of_a_shared_audit_at_once(audit):
    """Beside views that are refreshed; in the end each sum is exact, here and from outside."""
    threads, rounds = 8, 40
    audit.listener("IMAP", "listener 0")
    sessions = [[] for _ in range(threads)]
    with View(NAME) as view:

        def work(number):
            for turn in range(rounds):
                listener = audit.listener("IMAP", f"listener {turn % 3}")
                sessions[number].append(listener.session(f"10.{number}.0.{turn}"))
                audit.series.define(f"n{turn % 3}", "ip", 1 << 30, 2, max_bytes=1 << 18)
                audit.series.add(f"n{turn % 3}", f"10.{number}.0.{turn}", -2)
                view.refresh()
                assert view.total("IMAP") >= 0

        made = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in made:
            thread.start()
        for thread in made:
            thread.join()
        view.refresh()
        assert audit.total("IMAP") == view.total("IMAP") == threads * rounds
        names = [f"n{i}" for i in range(3)]
        assert sum(audit.series.count(name, "10.0.0.0/8", 0, 1) for name in names) == -2 * threads * rounds
        counts = [SeriesStore(view).count("series", name, 1 << 30, 2, "10.0.0.0/8", 0, 1) for name in names]
        assert sum(counts) == -2 * threads * rounds
        assert sorted(name for _, name, *_ in view.owners[0].listeners if name.startswith("listener")) == [
            f"listener {i}" for i in range(3)
        ]
    SeriesStore(audit).check()
    for session in (session for opened in sessions for session in opened):
        session.close()
    assert audit.total("IMAP") == 0
