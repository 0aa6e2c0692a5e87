"""Address lists: longest match, values, a file that changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from inbound_audit.address_lists.lists import NetworkLists
from inbound_audit.errors import AddressError
from inbound_audit.log_limiter import LogLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lists(directory: Path, clock: Clock) -> NetworkLists:
    return NetworkLists(directory, limiter=LogLimiter(logging.getLogger("inbound_audit.lua"), clock=clock), clock=clock)


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
    clock.now += 59
    assert found.query("l", "10.0.0.1") == "127.0.0.2"
    clock.now += 1
    assert found.query("l", "10.0.0.1") is None
    assert found.query("l", "192.0.2.1") == "127.0.0.2"
    path.unlink()
    clock.now += 60
    assert found.query("l", "192.0.2.1") == "127.0.0.2"
    assert len(caplog.messages) == 1
    assert f"a list stays as it was: {path}: No such file" in caplog.messages[0]
    path.write_text("10.0.0.0/8\n")
    clock.now += 60
    assert found.query("l", "10.0.0.1") == "127.0.0.2"


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
    clock.now += 1
    assert found.query("l", "11.0.0.1") == "127.0.0.2"


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
