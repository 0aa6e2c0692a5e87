"""Many audits in a process, and many processes of an audit: what each costs the others."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.support.sharing import Worker, names_of_threads
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit.shared.membership import Membership

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

JOIN = "audit = InboundAudit(shared=NAME, capacity=1 << 24)\nmx = audit.listener()\nown = sessions_of(mx, 3)"

# One more scan of all files comes, and is noted: one that had begun before does not make it the last.
NOTE_CHECKS = """
from inbound_audit.shared import membership, scanner
checked, whole, check, run_once = [], [], scanner.OwnerScanner._check, membership.Membership.run_once
def note(self, name, file):
    checked.append(name)
    return check(self, name, file)
def note_pass(self, *, all=True):
    if all:
        membership.SCAN_INTERVAL_S = 3600
    run_once(self, all=all)
    whole.append(all)
scanner.OwnerScanner._check = note
membership.Membership.run_once = note_pass
"""


def watches() -> int:
    """The inotify descriptors of this process."""
    held = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
    return sum("inotify" in name for name in held)


def test_all_audits_of_a_process_share_two_threads_and_one_watch(place: Path) -> None:
    before = watches()
    audits = [InboundAudit(shared=f"audit-{number}", capacity=1 << 20) for number in range(60)]
    two = ["inbound_audit", "inbound_audit control"]
    eventually(lambda: names_of_threads() == two, "the end of the threads of audits before these")
    assert watches() <= before + 1
    sessions = [audit.listener().session("192.0.2.7") for audit in audits]
    assert [audit.total() for audit in audits] == [1] * 60
    for audit in audits[:59]:
        audit.close()
    assert names_of_threads() == two
    assert [audit.total() for audit in audits] == [0] * 59 + [1]
    audits[59].close()
    eventually(lambda: names_of_threads() == [], "the end of the threads")
    assert list(place.iterdir()) == []
    del sessions


def test_a_process_that_joins_costs_the_others_a_check_of_its_own_file(hire) -> None:  # type: ignore[no-untyped-def]
    crew: list[Worker] = hire.hire(12, JOIN)
    crew[0].do(NOTE_CHECKS)
    eventually(lambda: crew[0].do("True in whole"), "the last scan of all files")
    assert crew[0].do("len(set(checked))") == 11
    crew[0].do("checked.clear()")
    new = hire(JOIN)
    eventually(lambda: crew[0].do("audit.total()") == 39, "the new one")
    new.do("more = audit.listener('Control').session('192.0.2.7')")
    eventually(lambda: crew[0].do("audit.total('Control')") == 1, "its second listener")
    assert crew[0].do("len(set(checked))") <= 1
    new.kill()
    eventually(lambda: crew[0].do("audit.total()") == 36, "its end")
    eventually(lambda: not crew[0].do("audit._membership._resources.changes.repeats"), "the second report of its end")
    assert crew[0].do("len(set(checked))") == 1


NOTE_PASSES = """
import time
from inbound_audit.shared import membership
REST_S = 1.0
passes, begun, run_once = [], [], membership.Membership.run_once
membership.rest_s = lambda took_s, processes: REST_S
def note(self, *, all=True):
    passes.append(all)
    begun.append(time.monotonic())
    if all:  # the last of these
        membership.SCAN_INTERVAL_S = 3600
    return run_once(self, all=all)
membership.Membership.run_once = note
"""

CHANGE_OFTEN = """
import os
for _ in range(300):
    os.utime(audit._membership.place.path)
    audit._membership._resources.touch()
    time.sleep(0.005)
"""


def test_changes_that_follow_one_another_make_one_scan_a_rest(hire) -> None:  # type: ignore[no-untyped-def]
    """However often files change, a process scans once for all that has changed since it rested."""
    first, second = hire.hire(2, JOIN)
    second.do(NOTE_PASSES)
    first.do("import time")
    eventually(lambda: second.do("True in passes"), "its scan of all files")
    second.do("passes.clear()")
    first.do(CHANGE_OFTEN)
    eventually(lambda: second.do("len(passes)") >= 2, "scans for the changes")
    assert second.do("min(later - one for one, later in zip(begun, begun[1:]))") >= second.do("REST_S")


def test_an_audit_waits_for_others_once_it_has_something_to_count_in(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[Membership] = []
    monkeypatch.setattr(Membership, "wait_until_scanned", lambda member: waits.append(member))
    with InboundAudit(shared="quiet", capacity=1 << 20) as audit:
        assert waits == []
        audit.listener()
        assert len(waits) == 1
        audit.listener()
        assert len(waits) == 1
    with InboundAudit(shared="quiet", capacity=1 << 20, monitors=["60,2"]):
        assert len(waits) >= 2
