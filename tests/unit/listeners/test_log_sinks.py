"""Datagrams of a decision log: what syslog and journald are sent, and what a receiver that is slow or gone loses."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import dictionaries, integers, text

from inbound_audit.listeners import log_sinks
from inbound_audit.listeners.log_sinks import LogSocket, journal_message, syslog_message

LINE = json.dumps({"client": "192.0.2.7", "done": "refused", "count": 11, "text": "one\ntwo"})


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a log service, at "log" in the current directory: its path must be short."""
    monkeypatch.chdir(tmp_path)
    yield from bound()


def bound() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind("log")
        made.settimeout(60)
        yield made


def fields_of(message: bytes) -> dict[str, str]:
    """As journald reads a message of its native protocol."""
    found = {}
    while message:
        first, _, rest = message.partition(b"\n")
        name, equals, value = first.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, message = rest[8 : 8 + size], rest[8 + size :]
            assert message[:1] == b"\n"
            message = message[1:]
        else:
            message = rest
        assert name.isascii()
        assert name.isupper()
        found[name.decode()] = value.decode()
    return found


def test_syslog_gets_a_priority_a_name_and_the_line():
    start = f"inbound-audit[{os.getpid()}]: "
    assert syslog_message(LINE).decode() == f"<29>{start}{LINE}"
    accepted = '{"done": "accepted"}'
    assert syslog_message(accepted).decode() == f"<30>{start}{accepted}"


def test_journald_gets_the_line_and_its_members_as_fields():
    assert fields_of(journal_message(LINE)) == {
        "MESSAGE": LINE,
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "inbound-audit",
        "CLIENT": "192.0.2.7",
        "DONE": "refused",
        "COUNT": "11",
        "TEXT": "one\ntwo",
    }
    assert fields_of(journal_message('{"done": "accepted"}'))["PRIORITY"] == "6"


@given(dictionaries(text("abc_", min_size=1).filter(str.islower), text() | integers()))
def test_no_text_forges_a_field(row):
    line = json.dumps(row)
    try:
        message = journal_message(line)
    except UnicodeEncodeError:  # half a surrogate pair: no verdict has one
        return
    own = {"MESSAGE": line, "PRIORITY": "5", "SYSLOG_IDENTIFIER": "inbound-audit"}
    assert fields_of(message) == {**own, **{name.upper(): str(value) for name, value in row.items()}}


def test_each_line_is_a_datagram(service: socket.socket):
    sink = LogSocket("log", str.encode)
    assert sink.write(["one", "two"]) == 0
    assert [service.recv(99), service.recv(99)] == [b"one", b"two"]
    sink.close()
    sink.close()


def test_a_service_that_was_started_again_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    first = bound()
    next(first)
    sink = LogSocket("log", str.encode)
    first.close()
    assert sink.write(["lost", "lost"]) == 2
    os.unlink("log")
    second = bound()
    again = next(second)
    assert sink.write(["found"]) == 0
    assert again.recv(99) == b"found"
    sink.close()
    second.close()


def test_a_service_that_does_not_read_loses_lines(
    service: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(log_sinks, "MAX_WAIT_S", 0)
    sink = LogSocket("log", str.encode)
    lost = sink.write(["line"] * 5000)
    assert 0 < lost < 5000
    assert f"has lost {lost} lines" in caplog.text
    service.setblocking(False)
    received = 0
    while received < 5000 - lost:
        assert service.recv(99) == b"line"
        received += 1
    with pytest.raises(BlockingIOError):
        service.recv(99)
    assert sink.write(["again"]) == 0
    sink.close()


def test_a_line_that_is_too_long_harms_no_other(service: socket.socket):
    sink = LogSocket("log", str.encode)
    assert sink.write(["one", "x" * (1 << 22), "two"]) == 1
    assert [service.recv(99), service.recv(99)] == [b"one", b"two"]
    sink.close()


def test_a_service_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        LogSocket(str(tmp_path / "none"), str.encode)
