"""Overrides as lines, tables and files: a bad line, a lost race and a foreign file change nothing else."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.timing import Clock
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit._ipcount import MAX_OVERRIDES
from inbound_audit.descriptor import open_regular
from inbound_audit.errors import CapacityError, CidrError, InboundAuditError, PolicyError, SharedStateError
from inbound_audit.overrides import entry as entries
from inbound_audit.overrides import files
from inbound_audit.overrides import table as tables
from inbound_audit.overrides.audit import AuditOverrides, changes_for, wish_of
from inbound_audit.overrides.entry import Entry, entry_of, exact_prefix, read_line
from inbound_audit.overrides.table import Table
from inbound_audit.process import shared_lock
from inbound_audit.shared.directory import Directory, SharedDirectory

shared = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")
NOW = 1_790_000_000.0


def made(prefix: str, action: str = "deny", **more: Any) -> tuple[entries.Key, Entry]:
    key = exact_prefix(prefix)
    given = {"for_s": 60.0, "why": "a reason", "by": "me@here", "node": "here", "now": NOW, **more}
    return key, entry_of(action, key, **given)


# ---- lines


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="\u2028\u2029"), max_size=200))
def test_a_line_reads_as_it_was_written(why: str) -> None:
    item = made("2001:db8::/32", why=why)
    assert read_line(item[1].line()) == item


GOOD = json.loads(made("192.0.2.0/24")[1].line())


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "nonsense"},
        {"prefix": 7},
        {"action": "maybe"},
        {"until": None},
        {"kept": "soon"},
        {"kept": NOW},
        {"until": "soon"},
        {"until": True},
        {"until": -1},
        {"until": 1e300},
        {"since": None},
        {"since": -1},
        {"changed": 1.5},
        {"changed": -1},
        {"changed": 1 << 63},
        {"why": "x" * 201},
        {"why": "\x1b[31m"},
        {"by": "a\nb"},
        {"node": None},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_line(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_line(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"until": NaN}', b"{}", b" " * 5000], ids=len
)
def test_a_bad_line_is_left_out_and_logged(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    item = made("192.0.2.0/24")
    content = b"\n".join([line, item[1].line(), line])
    assert files.read_entries(repr(line[:9]), content) == [item]
    assert "no overrides, and left out" in caplog.text


@given(st.binary(max_size=200))
def test_no_bytes_break_a_file(content: bytes) -> None:
    logging.getLogger("inbound_audit.overrides").setLevel(logging.CRITICAL)
    files.read_entries("f", content)
    logging.getLogger("inbound_audit.overrides").setLevel(logging.NOTSET)


def test_a_file_may_say_a_prefix_with_host_bits() -> None:
    """It was edited by hand, perhaps: it means what a count would mean by it."""
    key, found = read_line(json.dumps({**GOOD, "prefix": "192.0.2.77/24"}).encode())
    assert (key, found.prefix) == (exact_prefix("192.0.2.0/24"), "192.0.2.0/24")


def test_equal_lines_are_the_same_bytes() -> None:
    """Or hosts with equal overrides would have other digests, and ask one another for ever."""
    whole = {**GOOD, "until": int(NOW), "kept": int(NOW), "since": 0}
    floats = {**GOOD, "until": NOW, "kept": NOW, "since": -0.0}
    one, other = (read_line(json.dumps(members).encode())[1] for members in (whole, floats))
    assert one == other
    assert one.line() == other.line()


# ---- what users write


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("[2001:db8::]/32", "2001:db8::/32"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_a_prefix_is_written_in_one_form(text: str, prefix: str) -> None:
    assert entries.prefix_of(exact_prefix(text)) == prefix


def test_host_bits_may_be_a_slip_of_the_pen() -> None:
    with pytest.raises(CidrError, match=r"write 192\.0\.2\.0/24, or 192\.0\.2\.7 for one address"):
        exact_prefix("192.0.2.7/24")


@pytest.mark.parametrize("bad", ["/24", "", "x", "192.0.2.0/33", "192.0.2.0/24,10.0.0.0/8"])
def test_what_is_no_prefix(bad: str) -> None:
    with InboundAudit() as audit, pytest.raises(CidrError):
        audit.deny(bad)


@pytest.mark.parametrize(
    "more",
    [{"for_s": 0}, {"for_s": -1}, {"for_s": "1h"}, {"for_s": float("nan")}, {"for_s": float("inf")}, {"for_s": True},
     {"why": "a\nb"}, {"why": "x" * 201}, {"why": None}],
    ids=str,
)  # fmt: skip
def test_what_no_override_has(more: dict[str, Any]) -> None:
    with InboundAudit() as audit, pytest.raises(PolicyError):
        audit.deny("192.0.2.7", **more)


def test_a_time_beyond_all_is_a_hundred_years() -> None:
    with InboundAudit() as audit:
        audit.deny("192.0.2.7", for_s=1e300)
        assert audit.decisions()[0].until is not None


def test_a_closed_audit_has_no_overrides() -> None:
    audit = InboundAudit()
    audit.close()
    with pytest.raises(InboundAuditError, match="closed"):
        audit.deny("192.0.2.7")


# ---- tables


@given(st.lists(st.tuples(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16"]), st.sampled_from(["deny", "lift"]),
                          st.integers(0, 3), st.sampled_from("ab"), st.sampled_from([NOW + 60, NOW + 90, None]),
                          st.sampled_from("xy")), max_size=8), st.randoms())  # fmt: skip
def test_the_order_of_a_merge_does_not_matter(given: list[tuple[Any, ...]], draw: Any) -> None:
    """Last writer by time and node: so nodes and files come to the same whatever they hear first. Changes that are
    equal in both differ in a file that was edited by hand."""
    items = [
        (key, item._replace(changed=changed, node=node, why=why, kept=kept))
        for prefix, action, changed, node, kept, why in given
        for key, item in [made(prefix, action)]
    ]
    one, other = Table(), Table()
    one.merge(items)
    for item in draw.sample(items, len(items)):
        other.merge([item])
    assert one == other


def test_a_table_is_bounded_and_lifted_ones_make_room() -> None:
    with InboundAudit() as audit:
        table = audit._overrides._table
        table.merge((made(f"10.{i >> 8}.{i & 255}.0/24", now=2e9)) for i in range(MAX_OVERRIDES + 5))
        assert len(table) == MAX_OVERRIDES
        with pytest.raises(CapacityError, match="lift some"):
            audit.deny("192.0.2.7")
        assert audit.lift("10.0.3.0/24")
        audit.deny("192.0.2.7")
        assert len(audit.decisions()) == MAX_OVERRIDES


def test_a_change_is_later_than_what_it_changes_whatever_the_clock_says() -> None:
    key, ahead = made("10.0.0.0/8")
    table = Table({key: ahead._replace(changed=1 << 62)})
    ((_, lifted),) = changes_for([wish_of("lift", "10.0.0.0/8")], "me", NOW, table)
    assert lifted.order > ahead._replace(changed=1 << 62).order


# ---- files


@pytest.fixture
def directory(place: Path) -> Any:
    made = SharedDirectory("mail")
    yield made
    made.close()


def change(directory: Directory, action: str, prefix: str, now: float = NOW) -> bool:
    wishes = [wish_of(action, prefix, 60.0)]
    return files.change(directory, partial(changes_for, wishes, "me@here", now), now)


def prefixes(directory: Directory, now: float = NOW) -> list[str]:
    return [decision.prefix for decision in files.read_all(directory, now).decisions(now)]


@shared
def test_a_file_has_what_holds(directory: SharedDirectory) -> None:
    assert change(directory, "deny", "10.0.0.0/8")
    assert change(directory, "deny", "192.0.2.0/24")
    assert not change(directory, "lift", "192.0.2.7")
    assert change(directory, "lift", "192.0.2.0/24")
    assert prefixes(directory) == ["10.0.0.0/8"]
    assert prefixes(directory, NOW + 60) == []
    assert directory.names() == [f"{os.geteuid()}.overrides"]
    assert os.stat(f"{directory.path}/{directory.names()[0]}").st_mode & 0o777 == 0o600


@shared
def test_what_a_killed_writer_left_is_written_over(directory: SharedDirectory) -> None:
    Path(directory.path, f"{os.geteuid()}.overrides.new").write_bytes(b'{"half')
    assert change(directory, "deny", "10.0.0.0/8")
    assert prefixes(directory) == ["10.0.0.0/8"]
    assert len(directory.names()) == 1


@shared
def test_a_damaged_file_keeps_its_good_lines(directory: SharedDirectory) -> None:
    change(directory, "deny", "10.0.0.0/8")
    path = Path(directory.path, f"{os.geteuid()}.overrides")
    path.write_bytes(b"\x00\xff" * 100 + b"\n" + path.read_bytes() + b'{"prefix": "half')
    assert prefixes(directory) == ["10.0.0.0/8"]
    change(directory, "deny", "192.0.2.0/24")
    assert prefixes(directory) == ["10.0.0.0/8", "192.0.2.0/24"]
    assert len(path.read_bytes().splitlines()) == 2


@shared
@pytest.mark.parametrize("kind", ["a directory", "a link", "a pipe", "another's name"])
def test_what_is_no_file_of_ours_is_not_read(directory: SharedDirectory, tmp_path: Path, kind: str) -> None:
    line = made("10.0.0.0/8", now=2e9)[1].line()
    path = Path(directory.path, f"{os.geteuid()}.overrides")
    if kind == "a directory":
        path.mkdir()
    elif kind == "a link":
        (tmp_path / "f").write_bytes(line)
        path.symlink_to(tmp_path / "f")
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path = path.with_name(f"{os.geteuid() + 1}.overrides")
        path.write_bytes(line)
    assert prefixes(directory) == []
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@shared
def test_a_lock_that_is_held_is_waited_for_and_then_an_error(
    directory: SharedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_TIMEOUT_S", 0.0)
    with files.locked(directory), pytest.raises(SharedStateError, match="holds the lock"):
        change(directory, "deny", "10.0.0.0/8")
    assert change(directory, "deny", "10.0.0.0/8")


@shared
def test_a_file_that_is_too_large_is_refused_when_it_is_written(
    directory: SharedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(directory, "deny", "10.0.0.0/8")
    monkeypatch.setattr(files, "MAX_BYTES", 200)
    with pytest.raises(CapacityError, match="lift some"):
        change(directory, "deny", "192.0.2.0/24")
    assert prefixes(directory) == ["10.0.0.0/8"]


@shared
@pytest.mark.parametrize("call", ["fsync", "rename", "write", "open"])
def test_no_room_changes_nothing(directory: SharedDirectory, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    change(directory, "deny", "10.0.0.0/8")
    real = getattr(os, call)

    def fails(*arguments: Any, **more: Any) -> Any:
        if call == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **more)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(SharedStateError, match="No space left"):
        change(directory, "deny", "192.0.2.0/24")
    monkeypatch.undo()
    assert prefixes(directory) == ["10.0.0.0/8"]
    assert len(directory.names()) == 1


# ---- audits


@shared
def test_a_restart_keeps_overrides_and_what_was_lifted(place: Path) -> None:
    with InboundAudit(shared="mail") as audit:
        audit.deny("10.0.0.0/8", for_s=1e6, why="a test")
    with InboundAudit(shared="mail") as audit, audit.listener("SMTP").session("10.1.2.3") as ac:
        assert ac.override == "deny"
        assert ac.decision is not None
        assert ac.decision.why == "a test"
        assert audit.lift("10.0.0.0/8")
        assert ac.override is None
    assert os.listdir(place / "inbound_audit-mail") == [f"{os.geteuid()}.overrides"]


@shared
def test_what_has_expired_does_not_keep_a_directory(place: Path) -> None:
    clock = Clock(1e9)  # long ago, by the clock of the machine
    with InboundAudit(shared="mail", clock=clock) as audit:
        audit.deny("10.0.0.0/8", for_s=1)
        audit.deny("192.0.2.0/24", for_s=1)
        assert audit.lift("192.0.2.0/24")
    assert list(place.iterdir()) == []


@shared
@pytest.mark.parametrize("for_s", [None, 1e6])
@pytest.mark.parametrize("again", [False, True], ids=["", "denied again for a while"])
def test_a_copy_does_not_bring_back_what_was_lifted(
    place: Path, tmp_path: Path, for_s: float | None, again: bool
) -> None:
    """Whoever has lifted it kept no copy, and was the last in the directory; then years go by."""
    clock = Clock(3e9)  # what is there ends later than now by the clock of the machine, too
    with InboundAudit(shared="mail", state=tmp_path, clock=clock) as audit:
        audit.deny("10.0.0.0/8", for_s=for_s)
    with InboundAudit(shared="mail", clock=clock) as audit:
        assert audit.lift("10.0.0.0/8")
        if again:
            audit.deny("10.0.0.0/8", for_s=1)
    with InboundAudit(shared="mail", clock=clock):  # the last one leaves
        pass
    clock.step(10.0 if for_s else 1e8)
    with InboundAudit(shared="mail", state=tmp_path, clock=clock) as audit:
        assert audit.decisions() == []
        assert not audit.lift("10.0.0.0/8")


def lock_is_free() -> bool:
    """Whether another thread gets it. It may be held for a moment."""
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(shared_lock.acquire, 5.0).result()
        if taken:
            pool.submit(shared_lock.release).result()
    return taken


@shared
def test_nobody_waits_for_the_disk_of_a_copy(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside a change of this process nor beside one that a scan finds."""
    free: list[bool] = []
    written = files.write

    def write(where: Directory, *more: Any) -> None:
        if where.path == os.fspath(tmp_path):
            free.append(lock_is_free())
        written(where, *more)

    with InboundAudit(shared="mail", state=tmp_path) as audit:
        assert audit._membership is not None
        monkeypatch.setattr(files, "write", write)
        audit.deny("10.0.0.0/8")
        assert free == [True]
        change(audit._membership.place, "deny", "192.0.2.0/24", time.time())
        eventually(lambda: len(free) == 2, "the copy of what a scan found")
        assert free[1]
    assert "192.0.2.0/24" in (tmp_path / "mail.overrides").read_text()


@shared
def test_a_change_stands_although_it_can_not_be_read_back(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with InboundAudit(shared="mail") as audit:
        audit.deny("10.0.0.0/8")

        def fails(*_: object) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with shared_lock, monkeypatch.context() as patch:  # no scan comes between
            patch.setattr(AuditOverrides, "notice", fails)
            audit.deny("192.0.2.0/24")
            assert "obeyed from the next scan on" in caplog.text
            assert [decision.prefix for decision in audit.decisions()] == ["10.0.0.0/8"]
        eventually(lambda: len(audit.decisions()) == 2, "the next scan")


@shared
def test_a_file_that_was_read_before_a_failure_counts(
    directory: SharedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        Path(directory.path, name).write_bytes(made("10.0.0.0/8")[1].line())
    found, real, opened = files.Files(re.compile("[ab]")), open_regular, []

    def fails(name: str, *more: Any, **options: Any) -> Any:
        opened.append(name)
        if len(opened) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(name, *more, **options)

    monkeypatch.setattr(files, "open_regular", fails)
    with pytest.raises(OSError, match="Too many open files"):
        found.refresh(directory, "ab", all=True)
    found.refresh(directory, opened[:1], all=False)
    assert found.changed
    assert len(found.table(NOW)) == 1
    assert not found.changed
    for name in "ab":
        Path(directory.path, name).unlink()


@shared
def test_what_another_node_says_is_kept_as_long_as_what_it_replaces(directory: SharedDirectory) -> None:
    """The node did not know of the override that was there, and has made another one for a shorter time."""
    ((key, longer),) = [made("10.0.0.0/8", for_s=None)]
    files.change(directory, lambda table: table.later([(key, longer)], MAX_OVERRIDES), NOW)
    shorter = made("10.0.0.0/8", "allow", node="there")[1]._replace(changed=longer.changed + 1)
    files.change(directory, lambda table: table.later([(key, shorter)], MAX_OVERRIDES), NOW)
    assert [decision.action for decision in files.read_all(directory, NOW).decisions(NOW)] == ["allow"]
    found = files.read_all(directory, NOW + 60)
    assert found == {key: shorter._replace(kept=None)}
    assert not found.merge([(key, longer)])
    assert not found.merge([(key, shorter)])
    assert found.decisions(NOW + 60) == []
    assert change(directory, "deny", "192.0.2.0/24", NOW + 60)
    assert files.read_all(directory, NOW + 60)[key] == found[key]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many entries a table has at most."""
    monkeypatch.setattr(tables, "MAX_OVERRIDES", 20)
    return 20


@shared
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_has_lifted_stays_lifted_in_a_full_table(directory: SharedDirectory, few: int) -> None:
    """The override is in another user's file, which goes on to say it."""
    key, denied = made("203.0.113.0/24", now=NOW - 2)
    theirs = Path(directory.path, "104.overrides")
    theirs.write_bytes(denied.line())
    os.chown(theirs, 104, -1)
    lift = made("203.0.113.0/24", "lift", now=NOW - 1, before=denied)
    files.change(directory, lambda table: table.later([lift]), NOW)
    for at in range(few + 5):
        files.change(directory, lambda table, at=at: table.later([made(f"10.0.{at}.0/24")]), NOW)
        found = files.read_all(directory, NOW)
        assert found.get(key, lift[1]).action == "lift"
    assert len(found) == few
    theirs.unlink()


def test_what_has_ended_takes_no_room(few: int) -> None:
    found = files.Files()
    found._read = {
        "1": ((0, 0, 0, 0), [made(f"10.0.{i}.0/24") for i in range(few)]),
        "2": ((0, 0, 0, 0), [made("192.0.2.0/24", for_s=None), made("198.51.100.0/24", "lift", for_s=90)]),
    }
    assert len(found.table(NOW)) == few
    assert len(found.table(NOW + 60)) == 2
    assert len(found.table(NOW + 90)) == 1


def test_an_override_that_was_replaced_does_not_come_back() -> None:
    longer = made("10.0.0.0/8", for_s=None)[1]
    key, shorter = made("10.0.0.0/8", "allow", for_s=60, before=longer)
    table = Table({key: shorter})
    table.forget(NOW + 60)
    assert (table[key], table.holding(NOW + 60)) == (shorter, [])
    assert not table.merge([(key, longer)])
    assert changes_for([wish_of("lift", "10.0.0.0/8")], "me", NOW + 60, table) == []
    ((_, denied),) = changes_for([wish_of("deny", "10.0.0.0/8", 60.0)], entries.BY_LIMIT, NOW + 60, table)
    assert denied.order > shorter.order


def test_what_was_lifted_makes_room_for_what_others_say(few: int) -> None:
    lifted = [made(f"10.0.{i}.0/24", "lift") for i in range(few)]
    table = Table(lifted)
    assert table.merge(made(f"192.0.2.{i}/32") for i in range(3))
    assert not table.merge([made("198.51.100.0/24", "lift")])
    assert len(table) == few
    assert len(table.holding(NOW)) == 3
    assert lifted[2][0] not in table
    assert lifted[3][0] in table


@shared
def test_a_state_directory_brings_them_back_after_a_restart_of_the_machine(place: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with InboundAudit(shared="mail", state=state) as audit:
        assert not state.exists()  # there is nothing to keep
        audit.deny("10.0.0.0/8", for_s=1e6, why="a test")
        audit.deny("192.0.2.0/24")
        audit.lift("192.0.2.0/24")
    (place / "inbound_audit-mail" / f"{os.geteuid()}.overrides").unlink()
    with InboundAudit(shared="mail", state=state) as audit:
        assert [decision.prefix for decision in audit.decisions()] == ["10.0.0.0/8"]
        audit.lift("10.0.0.0/8")
    with InboundAudit(shared="mail", state=state) as audit:
        assert audit.decisions() == []


@shared
def test_a_copy_that_can_not_be_kept_is_a_line_in_the_log(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with InboundAudit(shared="mail", state=tmp_path / "file") as audit:
        audit.deny("10.0.0.0/8")
        assert audit.decisions()
        assert caplog.text.count("no copy of the overrides") == 1
        audit.deny("192.0.2.0/24")
        assert caplog.text.count("no copy of the overrides") == 1
        (tmp_path / "file").unlink()
        eventually((tmp_path / "file" / "mail.overrides").exists, "a copy, once it can be written")


@shared
def test_a_directory_that_was_removed_comes_back_with_them(place: Path) -> None:
    with InboundAudit(shared="mail") as audit:
        audit.deny("10.0.0.0/8")
        directory = place / "inbound_audit-mail"

        def is_removed() -> bool:
            try:
                shutil.rmtree(directory)
            except OSError:  # the audit has put a file into it meanwhile
                return False
            return True

        eventually(is_removed, "an end of the directory")
        audit.listener("SMTP").session("192.0.2.7").close()
        assert audit._membership is not None
        audit._membership.run_once()
        assert [decision.prefix for decision in audit.decisions()] == ["10.0.0.0/8"]
        eventually((directory / f"{os.geteuid()}.overrides").exists, "the file")
