"""CSV and JSON lines: columns by their names."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from inbound_audit.replay.reading import RECEPTION, REJECTION, LogReader, form_of, tells_ends
from inbound_audit.replay.stamps import StampReader

AT = datetime(2026, 2, 6, 12, 14, 14, tzinfo=timezone.utc).timestamp()


def read(text: str, name: str | None = None, columns: dict[str, str] | None = None):
    head = text.encode()
    form = form_of(head, name, columns or {})
    reader = LogReader("log", form, StampReader(AT, None, timezone.utc), 5.0)
    return [event[:4] for event in reader.events([head])], reader


def test_csv_with_connects_and_disconnects():
    events, reader = read(
        "time,client,event,id\n"
        "2026-02-06T12:14:14Z,192.0.2.7,connect,a\n"
        '2026-02-06T13:14:15+01:00,"2001:db8::7",Open,b\n'
        "\n"
        "2026-02-06T12:14:16.5Z,192.0.2.7,disconnect,a\n"
        "2026-02-06T12:14:17Z,,close,b\n"
        "2026-02-06T12:14:18Z,192.0.2.7,message,a\n"
    )
    assert events == [
        (AT, b"a", "192.0.2.7", None),
        (AT + 1, b"b", "2001:db8::7", None),
        (AT + 2.5, b"a", None, None),
        (AT + 3, b"b", None, None),
    ]
    assert (reader.bad, reader.lines, reader.form.name) == (0, 8, "csv")


def test_what_was_received_and_rejected_in_a_session():
    text = "time,ip,event,id\n1770380054,,reception,a\n1770380055,192.0.2.7,Rejected,b\n"
    form = form_of(text.encode(), None, {})
    reader = LogReader("log", form, StampReader(AT, None, timezone.utc))
    expected = [(AT, b"a", None, None, RECEPTION), (AT + 1, b"b", None, None, REJECTION)]
    assert list(reader.events([text.encode()])) == expected
    assert form.tells_messages
    assert not form_of(b"time,ip\n1770380054,192.0.2.7\n", None, {}).tells_messages


def test_without_an_id_the_address_is_the_key():
    events, _ = read("time;ip;action\n1770380054;192.0.2.7;open\n1770380055;192.0.2.7;close\n")
    assert events == [(AT, b"192.0.2.7", "192.0.2.7", None), (AT + 1, b"192.0.2.7", None, None)]


def test_a_time_is_the_end_of_a_session_with_a_duration_and_a_start_is_its_start():
    ends, _ = read("timestamp\tremote_addr\tduration\n1770380054.5\t192.0.2.7\t2.5\n")
    assert ends == [(AT - 2, None, "192.0.2.7", AT + 0.5)]
    starts, _ = read("start,ip,duration\n1770380054500,192.0.2.7,2.5\n")
    assert starts == [(AT + 0.5, None, "192.0.2.7", AT + 3)]


def test_a_line_without_a_duration_lasts_as_long_as_the_option_says():
    events, reader = read("time,ip\n1770380054,192.0.2.7\n")
    assert events == [(AT, None, "192.0.2.7", AT + 5)]
    assert not tells_ends(reader.form, b"time,ip\n1770380054,192.0.2.7\n")


def test_json_lines_and_members_of_members():
    events, reader = read(
        '{"ts":1770380054.25,"request":{"remote_ip":"192.0.2.7"},"duration":0.25,"status":200}\n'
        '{"ts":1770380055,"msg":"something else"}\n'
        '{"ts":"2026-02-06 12:14:16","request":{"remote_ip":"2001:db8::7"},"duration":9.3e-05}\n'
    )
    assert events == [(AT, None, "192.0.2.7", AT + 0.25), (AT + 2 - 9.3e-05, None, "2001:db8::7", AT + 2)]
    assert (reader.bad, reader.form.name) == (0, "json")


def test_names_that_are_given():
    columns = {"address": "src", "time": "begun"}
    events, _ = read("src,begun\n192.0.2.7,1770380054\n", columns=columns)
    assert events == [(AT, None, "192.0.2.7", AT + 5)]
    events, _ = read('{"src":"192.0.2.7","begun":1770380054}\n', columns=columns)
    assert events == [(AT, None, "192.0.2.7", AT + 5)]


@pytest.mark.parametrize(
    ("text", "name", "columns", "message"),
    [
        ("when,who\n", "csv", {}, r"no column 'address' \(there are: when, who\); .* --column address=when"),
        ("ip,who\n", "csv", {}, "no column 'time'.*--column time="),
        ("ip,time\n", None, {"address": "src"}, r"no column 'src' \(there are: ip, time\)"),
        ('{"a":1}\n', "json", {}, "no column 'address'"),
        ("[\n", "json", {}, "one object a line"),
        ("[1]\n", "json", {}, "not an object"),
        ("", "csv", {}, "no column"),
    ],
)
def test_what_to_write_instead(text, name, columns, message):
    with pytest.raises(ValueError, match=message):
        form_of(text.encode(), name, columns)


@pytest.mark.parametrize(
    "line",
    [
        b"1770380054,192.0.2.7,1,2",
        b"1770380054",
        b'1770380054,"192.0.2.7',
        b"now,192.0.2.7,1",
        b"1770380054,,1",
        b"1770380054,192.0.2.7,-1",
        b"1770380054,192.0.2.7,nan",
        b"1770380054,192.0.2.7,\xff\x00",
        b"x" * 200_000,
    ],
)
def test_bad_lines_of_csv_are_counted(line):
    head = b"time,ip,duration\n"
    form = form_of(head, None, {})
    reader = LogReader("log", form, StampReader(AT, None, timezone.utc))
    events = list(reader.events([head + line + b"\n1770380054,192.0.2.7,1"]))
    assert (len(events), reader.bad, len(reader.complaints)) == (1, 1, 1)


@pytest.mark.parametrize("line", [b"{", b"[]", b"null", b'{"ts":"x","ip":"192.0.2.7"}', b"[" * 100_000, b"\xff"])
def test_bad_lines_of_json_are_counted(line):
    head = b'{"ts":1770380054,"ip":"192.0.2.7"}\n'
    reader = LogReader("log", form_of(head, None, {}), StampReader(AT, None, timezone.utc))
    events = list(reader.events([head + line]))
    assert (len(events), reader.bad) == (1, 1)


@pytest.mark.parametrize(
    "first", ["x" * 200_000, '{"a":' * 60_000, "[" * 60_000, "a\0b,time"], ids=["long", "deep", "lists", "zero byte"]
)
@pytest.mark.parametrize("name", [None, "csv", "json"])
def test_a_first_line_that_is_none_is_an_error_or_a_line_that_is_left_out(first: str, name: str | None):
    line = "Feb  6 12:14:14 mx postfix/smtpd[7]: connect from unknown[192.0.2.7]\n"
    try:
        events, _ = read(f"{first}\n" + line * 3, name)
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert len(events) in (0, 3)
