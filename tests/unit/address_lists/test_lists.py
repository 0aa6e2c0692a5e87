"""Address lists: longest match, values, a file that changes."""

from __future__ import annotations

import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.timing import Clock
from tests.support.waiting import PATIENCE, eventually

import inbound_audit.address_lists.lists
from inbound_audit.address_lists.lists import MAX_BYTES, MAX_LISTS, RETRY_S, NetworkList, NetworkLists
from inbound_audit.errors import AddressError, PolicyError
from inbound_audit.ration import Ration
from inbound_audit.regular_file import Directories


def lists(directory: Path, clock: Clock) -> NetworkLists:
    return NetworkLists(Directories(directory / "policy"), clock=clock)


def waiting(found: NetworkLists, seconds: float) -> None:
    """From now on calls wait for files, and all of them together for so long."""
    found.ration = Ration(seconds, Clock())


def test_longest_match_and_exclusions(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("10.0.0.0/8 :2:a\n10.1.0.0/16 :3:\n!10.1.2.0/24\n10.1.2.3\n2001:db8::/32 :9:v6\n")
    found = lists(tmp_path, Clock())
    found.define("a", "l", "a", 0)
    found.define("txt", "l", "txt", 0)
    answers = {
        "10.9.9.9": "127.0.0.2", "10.1.9.9": "127.0.0.3", "10.1.2.9": None, "10.1.2.3": "127.0.0.2", "11.0.0.1": None,
        "2001:db8::1": "127.0.0.9", "2001:db9::1": None, "::ffff:10.9.9.9": "127.0.0.2",
    }  # fmt: skip
    assert {address: found.query("a", address) for address in answers} == answers
    assert found.query("txt", "10.9.9.9") == "a"
    assert found.query("txt", "10.1.2.3") == "127.0.0.2"
    with pytest.raises(AddressError):
        found.query("a", "nonsense")


def test_a_file_that_changes_is_read_again_when_it_is_due(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "l", Clock()
    path.write_text("10.0.0.0/8\n")
    found = lists(tmp_path, clock)
    found.define("l", f"file://{path}", "a", 60)
    path.write_text("192.0.2.0/24\n")
    clock.step(59)
    assert found.query("l", "10.0.0.1") == "127.0.0.2"
    clock.step(1)
    eventually(lambda: found.query("l", "10.0.0.1") is None)
    assert found.query("l", "192.0.2.1") == "127.0.0.2"
    path.unlink()
    for _ in range(3):  # one kind of error is logged once
        clock.step(60)
        read_on(found)
        assert found.query("l", "192.0.2.1") == "127.0.0.2"
    assert caplog.messages == [f"a list stays as it was: {path}: No such file or directory"]
    path.mkdir()
    clock.step(60)
    read_on(found)
    assert caplog.messages[1:] == [f"a list stays as it was: {path}: it is not a regular file"]
    path.rmdir()
    path.write_text("10.0.0.0/8\n")
    clock.step(60)
    eventually(lambda: found.query("l", "10.0.0.1"))
    assert len(caplog.messages) == 2


def read_on(found: NetworkLists) -> None:
    """Looks up, and waits for the reader that this has started."""
    found.query("l", "192.0.2.1")
    reader = found._lists["l"]._reader  # type: ignore[union-attr]
    assert reader is not None
    reader.join()


def test_a_file_is_recognised_although_its_time_stands_still(tmp_path: Path) -> None:
    path, clock = tmp_path / "l", Clock()
    path.write_text("10.0.0.0/8\n")
    found = lists(tmp_path, clock)
    found.define("l", "l", "a", 1)
    stamp = path.stat()
    fresh = tmp_path / "fresh"
    fresh.write_text("11.0.0.0/8\n")
    os.utime(fresh, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    fresh.replace(path)
    clock.step(1)
    eventually(lambda: found.query("l", "11.0.0.1") == "127.0.0.2")


class Slow:
    """Stands in for the reading of a file: it does not end until `go_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on, self.threads = threading.Event(), set()
        read = inbound_audit.address_lists.lists._read

        def slow(path: Path, known: Any) -> Any:
            self.threads.add(threading.current_thread())
            assert self.go_on.wait(PATIENCE)
            return read(path, known)

        monkeypatch.setattr(inbound_audit.address_lists.lists, "_read", slow)


def test_no_look_up_waits_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "l", Clock()
    path.write_text("10.0.0.0/8\n")
    found = lists(tmp_path, clock)
    found.define("l", "l", "a", 60)
    slow = Slow(monkeypatch)
    path.write_text("192.0.2.0/24\n")
    waiting(found, 0.001)
    for _ in range(5):  # the old list is whole until the new one is, and one thread reads it
        clock.step(60)
        assert found.query("l", "10.0.0.1") == "127.0.0.2"
        found.reload("l")
        assert found.query("l", "192.0.2.1") is None
    assert len(slow.threads) == 1
    assert threading.current_thread() not in slow.threads
    slow.go_on.set()
    eventually(lambda: found.query("l", "192.0.2.1") == "127.0.0.2")
    assert found.query("l", "10.0.0.1") is None


def test_a_list_that_is_read_for_the_first_time_is_an_error_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "l", Clock()
    found = lists(tmp_path, clock)
    slow = Slow(monkeypatch)
    waiting(found, 0.001)
    found.define("l", "l", "a", 0)
    with pytest.raises(PolicyError, match="is still being read"):
        found.query("l", "10.0.0.1")
    slow.go_on.set()
    eventually(lambda: "No such file" in error_of(found))
    path.write_text("10.0.0.0/8\n")
    clock.step(RETRY_S)
    eventually(lambda: error_of(found) == "")
    assert found.query("l", "10.0.0.1") == "127.0.0.2"


def error_of(found: NetworkLists) -> str:
    try:
        found.query("l", "10.0.0.1")
    except PolicyError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "socket", "large", "crowded"])
def test_what_is_no_list_is_refused_at_once_and_replaces_none(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "l", Clock()
    path.write_text("192.0.2.0/24\n")
    found = lists(tmp_path, clock)
    found.define("l", "l", "a", 60)
    path.unlink()
    words = "is not a regular file"
    listening = socket.socket(socket.AF_UNIX)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
        words = "lies outside of the policy's directory"
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        listening.bind(str(path))
        words = "No such device or address"
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        words = f"is larger than {MAX_BYTES} bytes"
    else:
        monkeypatch.setattr(inbound_audit.address_lists.rbldnsd, "MAX_ENTRIES", 9)
        path.write_text("".join(f"10.0.0.{n}\n" for n in range(10)))
        words = "has more than 9 networks"
    with listening:
        with pytest.raises(PolicyError, match=words):
            lists(tmp_path, clock).define("other", "l")
        clock.step(60)
        read_on(found)
        assert found.query("l", "192.0.2.1") == "127.0.0.2"
        assert words in caplog.text


def test_a_wrong_line_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "l"
    path.write_text("\ufeff192.0.2.7\n192.0.2.256\n2001:db8:1\n" + "x\n" * 12 + "192.0.2.9\n")
    found = lists(tmp_path, Clock())
    found.define("l", "l", "a", 0)
    for address in ("192.0.2.7", "192.0.2.9", "2001:db8:1::99"):
        assert found.query("l", address) == "127.0.0.2"
    assert caplog.messages[0] == f"{path}:2: an octet is over 255; the line is skipped"
    assert len(caplog.messages) == 11
    assert caplog.messages[-1] == f"{path}: 13 lines are skipped in all"


def test_a_wrong_line_is_not_called_a_number_if_it_is_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "l"
    path.write_text("foo\n192.0.2.7/x\n192.0.2.7\0\n10\nfe # a number\n")
    lists(tmp_path, Clock()).define("l", "l", "a", 0)
    words = ["not an address"] * 3 + ["a bare number; write it with a length, as 10/8"] * 2
    assert caplog.messages == [f"{path}:{number}: {why}; the line is skipped" for number, why in enumerate(words, 1)]


def test_of_equal_networks_the_first_counts(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("192.0.2.0/24 :3:x\n192.0.2 :4:y\n")
    found = lists(tmp_path, Clock())
    found.define("l", "l", "a", 0)
    assert found.query("l", "192.0.2.1") == "127.0.0.3"


def test_texts_are_expanded(tmp_path: Path) -> None:
    (tmp_path / "l").write_text(
        ":2:Listed, see http://bl.example/?ip=$\n192.0.2.0/24\n2001:db8::/32\n$1 ours\n"
        "::ffff:7f00:2/128 :127.0.1.1: $1 $\n"
    )
    found = lists(tmp_path, Clock())
    found.define("l", "l", "txt", 0)
    answers = {
        "192.0.2.77": "Listed, see http://bl.example/?ip=192.0.2.77",
        "::ffff:192.0.2.77": "Listed, see http://bl.example/?ip=192.0.2.77",
        "2001:DB8:0::7": "Listed, see http://bl.example/?ip=2001:db8::7",
        "[2001:db8::7]": "Listed, see http://bl.example/?ip=2001:db8::7",
        "127.0.0.2": "ours 127.0.0.2",
    }
    assert {address: found.query("l", address) for address in answers} == answers
    assert found.query("l", "192.0.2.7", expand=False) == "Listed, see http://bl.example/?ip=$"


def test_an_empty_list(tmp_path: Path) -> None:
    found = lists(tmp_path, Clock())
    found.define("l")
    found.reload("l")
    assert found.query("l", "192.0.2.7") is None


def test_a_policy_has_a_bounded_number_of_lists(tmp_path: Path) -> None:
    found = lists(tmp_path, Clock())
    for number in range(MAX_LISTS):
        found.define(str(number))
    found.define("0")
    with pytest.raises(PolicyError, match="'one more': a policy has at most 64 address lists"):
        found.define("one more")


def test_all_waits_for_files_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, clock, waits = lists(tmp_path, Clock()), Clock(), []
    (tmp_path / "l").write_text("10.0.0.0/8\n")
    found.define("l", "l")

    def slow(_: object, wait_s: float, spend: object) -> None:
        waits.append(wait_s)
        clock.step(wait_s)

    monkeypatch.setattr(NetworkList, "reload", slow)
    found.ration = Ration(4, clock)
    found.reload("l")
    for call in (lambda: found.reload("l"), lambda: found.define("other", "l")):
        with pytest.raises(PolicyError, match="is not read now: the policy's hooks have taken too much time"):
            call()
    clock.step(3)
    found.define("other", "l")
    assert waits == [4, 3]


def test_the_time_of_readers_is_spent(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("10.0.0.0/8\n" * 10_000)
    found = lists(tmp_path, Clock())
    found.ration = ration = Ration(PATIENCE, Clock())
    found.define("l", "l")
    assert ration.left_s < PATIENCE


def test_a_thread_that_cannot_be_started_is_an_error_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "l", Clock()
    path.write_text("10.0.0.0/8\n")
    found = lists(tmp_path, clock)
    found.define("l", "l", "a", 60)
    waiting(found, PATIENCE)
    words = f"{path}: is not read: can't start new thread"
    with monkeypatch.context() as failing:
        failing.setattr(threading.Thread, "start", cannot_start)
        for call in (lambda: found.reload("l"), lambda: found.define("other", "l")):
            with pytest.raises(PolicyError, match=re.escape(words)):
                call()
        for _ in range(2):
            clock.step(60)
            assert found.query("l", "10.0.0.1") == "127.0.0.2"
        assert caplog.messages == [f"a list stays as it was: {words}"]
    path.write_text("192.0.2.0/24\n")
    clock.step(60)
    eventually(lambda: found.query("l", "192.0.2.1") == "127.0.0.2")


def cannot_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_lists_that_are_defined_again_and_again_are_not_all_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "l").write_text("10.0.0.0/8\n")
    found, slow = lists(tmp_path, Clock()), Slow(monkeypatch)
    waiting(found, 0.001)
    for _ in range(MAX_LISTS):
        found.define("l", "l")
    with pytest.raises(PolicyError, match="64 address lists are still being read"):
        found.define("l", "l")
    slow.go_on.set()
    eventually(lambda: error_of(found) == "")
    waiting(found, PATIENCE)
    eventually(lambda: not any(one.is_being_read for one in found._reading))
    found.define("l", "l")
    assert found.query("l", "10.0.0.1") == "127.0.0.2"


def test_a_file_that_has_come_to_lie_elsewhere_is_not_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "policy").mkdir()
    path, clock = tmp_path / "policy" / "l", Clock()
    (tmp_path / "secret").write_text("10.0.0.0/8\n")
    path.write_text("192.0.2.0/24\n")
    found = lists(path.parent, clock)
    found.define("l", "l", "a", 60)
    path.unlink()
    path.symlink_to("../secret")
    clock.step(60)
    read_on(found)
    assert found.query("l", "10.0.0.1") is None
    assert "lies outside of the policy's directory" in caplog.text
    with pytest.raises(PolicyError, match="lies outside"):
        found.reload("l")


def test_errors_show_nothing_of_a_file_that_is_no_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secrets = [
        "10/4111", "1.2.3.4/411111", "1.4111.1.1", "4111", "secret=4111", "$4111", "2001:4111::/4111", ":4111:x",
        "1.2.3.4-4111", "4111.1-4112.1.1", "$MAXRANGE4 x4111", "fe80::4111%4111", "4" * 5000, "10/" + "4" * 5000,
    ]  # fmt: skip
    (tmp_path / "l").write_text("\n".join(f"{secret}\n!{secret}" for secret in secrets))
    lists(tmp_path, Clock()).define("l", "l")
    assert caplog.messages
    for message in caplog.messages:
        assert not re.search("4111|4444|secret", message.removeprefix(f"{tmp_path}/l:"))
