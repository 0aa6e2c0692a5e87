"""The grammar of the console's commands: what a line means, what is wrong with it, and what can follow its words."""

from __future__ import annotations

import contextlib
import inspect
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inbound_audit.cli.console import grammar, values
from inbound_audit.cli.console.commands import COMMANDS
from inbound_audit.cli.console.grammar import USAGE, Names, WrongSyntax
from inbound_audit.cli.console.values import VALUES

SAMPLES = {
    "CIDR": "::/0", "SERIES": "failures", "NAME": "failures", "PARAMETERS": "300,6",
    "START": "0", "END": "5", "KEY": "192.0.2.7", "INCREMENT": "3", "FILE": "x.log", "NODE": "4711", "COMMAND": "show",
    "DATE": "yesterday", "COLUMN": "cidr", "LENGTH": "24", "MINIMUM": "3", "ROWS": "10", "PREFIX": "inbound_audit",
}  # fmt: skip

LINES = {
    "show_ip": ["show ip 192.0.2.0/24"],
    "show_all": ["show all"],
    "count_cidr": ["count_cidr 192.0.2.0/24 failures 300,6 0 5", "count_cidr ::1 connections ' 5m , 6' 0 0"],
    "add": ["add failures 300,6 192.0.2.7 1", "add failures 5m,6 'jürgen m' 4294967295"],
    "subtract": ["subtract failures 300,6 192.0.2.7 1"],
    "delete_ip": ["delete_ip 192.0.2.7 failures 300,6"],
    "load": ["load failures", "load failures 'a file.log'"],
    "membership": ["cluster membership"],
    "shared_list": ["cluster shared list"],
    "shared_show": ["cluster shared show inbound_cidr", "cluster shared show inbound_cidr from 4711"],
    "show_available": ["show available"],
    "cache_details": ["cache details"],
    "show_count": [
        "show count for 192.0.2.0/24 in failures",
        "show count for 192.0.2.0/24 in spam, virus 300,6 since 20080423 order by count limit 10",
        "show count for ::/0 in union(spam,virus) on 20080424 cidrsize 24 order by cidr threshold 5 limit 1",
        "show count for 0.0.0.0/0 in union( spam , virus ) from 20080605T120000 to 20080605T130000",
        "show count for ::/0 in failures aggregate daily cidrsize 32 to 64",
        "show count for ::/0 in failures aggregate limit 3 since yesterday at 9am",
    ],
    "help": ["help", "help show ip"],
    "quit": ["quit"],
    "exit": ["exit"],
}


def test_every_command_has_a_form_a_function_and_help():
    assert set(LINES) == set(USAGE) == set(COMMANDS)
    assert not set(grammar.KEYWORDS) & set(VALUES)
    assert set(SAMPLES) == set(VALUES)


@pytest.mark.parametrize("rule", LINES)
def test_a_line_is_a_command(rule):
    """With the prefix, with an instance and without; keywords in capitals, too; the function takes the values."""
    for line in LINES[rule]:
        words = grammar.split(line)
        found = grammar.parse(words)
        assert found.rule == rule
        assert grammar.parse([words[0].upper(), *words[1:]]) == found
        assert grammar.parse(["inbound_audit", *words]) == found
        assert grammar.parse(["inbound_audit:mx1", *words]) == found._replace(instance="mx1")
        inspect.signature(COMMANDS[rule].run).bind(None, *found.values, **found.parts)


def parsed(line: str) -> grammar.Command:
    return grammar.parse(grammar.split(line))


def test_the_values_of_a_query():
    found = parsed("show count for ::/0 in union(a, b) 5m,6 cidrsize 24 to 32 aggregate daily")
    assert found.values == ("::/0", Names(("a", "b"), union=True), (300, 6))
    assert found.parts == {"cidrsize": (24, 32), "daily": True}
    found = parsed("show count for ::/0 in a,b limit 3 order by CIDR aggregate threshold 2")
    assert found.values == ("::/0", Names(("a", "b"), union=False))
    assert found.parts == {"limit": 3, "order": "cidr", "daily": False, "threshold": 2}
    day = datetime(2008, 4, 23).astimezone()
    for words, end in {"on": day + timedelta(days=1), "since": None}.items():
        found = parsed(f"show count for ::/0 in a {words} 20080423")
        assert found.parts == {"time": (day, end)}
    found = parsed("show count for ::/0 in a from 20080423 to 20080424")
    assert found.parts == {"time": (day, (datetime(2008, 4, 25)).astimezone())}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shw ip", "'shw' is not a command; did you mean 'show'?"),
        ("inbound_audit shw", "'shw' is not a command; did you mean 'show'?"),
        ("x", "'x' is not a command; help lists all"),
        ("show ipp 1", "'all', 'available', 'count' or 'ip' is expected after 'show'; did you mean 'ip'?"),
        ("show ip 192.0.2.1 now", "'now' is an extra word (usage: inbound_audit show ip CIDR)"),
        ("show ip", "CIDR (192.0.2.0/24 or 192.0.2.7) is missing after 'ip'"),
        ("count_cidr 192.0.2.1 failures 300 0 1", "PARAMETERS: '300': write the seconds of a window"),
        ("count_cidr 192.0.2.1 failures 9999999999,6 0 1", "at most 1073741824,1024"),
        ("add failures 300,6 192.0.2.1 0", "INCREMENT: '0': write a whole number from 1 to 4294967295"),
        ("show count for ::/0 of failures", "'of': 'in' is expected after '::/0'"),
        ("show count for ::/0 in failures limit 1 limit 2", "limit is given twice"),
        ("show count for ::/0 in failures since yore", "DATE: 'yore': write a date such as"),
        ("show count for ::/0 in failures since yesterday limt 5", "did you mean 'limit'?"),
        ("show count for ::/0 in a since monday on friday", "time is given twice"),
        ("show count for ::/0 in a from 20080424 to 20080423", "write the earlier date first"),
        ("show count for ::/0 in a from 20080424T1000 to 20080424T0959", "write the earlier date first"),
        ("show count for ::/0 in a from monday", "is missing after 'monday'"),
        ("show count for ::/0 in union(a, b", "')' or ',' is missing after 'b'"),
        ("show count for ::/0 in ,a", "','"),
        ("", "is missing"),
    ],
)
def test_a_wrong_line_says_what_was_expected(line, said):
    with pytest.raises(WrongSyntax) as caught:
        grammar.parse(line.split())
    assert said in str(caught.value)


WORDS = [*SAMPLES.values(), *SAMPLES, *grammar.KEYWORDS.values(), "union(a,", "b)", "a,b", "(", ",", "?"]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=9), max_size=9))
@example([])
@example(["inbound_audit"])
@example([""])
@example(["show", "count", "for", "::/0", "in", ""])
@example(["show", "count", "for", "::/0", "in", "a", ",", "", "b"])
def test_any_words_are_a_command_or_wrong(words):
    with contextlib.suppress(WrongSyntax):
        assert grammar.parse(words).rule in USAGE
    grammar.expected(words)


@given(st.text())
def test_any_line_is_words_or_wrong(line):
    with contextlib.suppress(WrongSyntax):
        assert all(isinstance(word, str) for word in grammar.split(line))


PARTS = {"since", "on", "from", "order", "cidrsize", "threshold", "limit", "aggregate"}


@pytest.mark.parametrize(
    ("line", "keywords", "of_values"),
    [
        (
            "",
            {"show", "cluster", "help", "quit", "exit", "add", "subtract", "count_cidr", "delete_ip", "load", "cache"},
            {"PREFIX"},
        ),
        ("inbound_audit show", {"ip", "all", "available", "count"}, set()),
        ("cluster shared", {"list", "show"}, set()),
        ("show count for ::/0", {"in"}, set()),
        ("show count for ::/0 in", {"union"}, {"NAME"}),
        ("show count for ::/0 in failures", PARTS, {"PARAMETERS"}),
        ("show count for ::/0 in failures limit 3 order", {"by"}, set()),
        ("show count for ::/0 in failures limit 3 order by", set(), {"COLUMN"}),
        ("show count for ::/0 in failures limit 3 order by count", PARTS - {"limit", "order"}, set()),
        ("show count for ::/0 in failures since 10 minutes", PARTS - {"since"}, {"DATE"}),
        ("show count for ::/0 in failures from monday", {"to"}, {"DATE"}),
        ("add failures", set(), {"PARAMETERS"}),
        ("load failures", set(), {"FILE"}),
        ("show ip nonsense", set(), set()),
        ("quit", set(), set()),
    ],
)
def test_what_can_follow(line, keywords, of_values):
    found, names, _ = grammar.expected(line.split())
    assert (set(found), set(names)) == (keywords, of_values)


def test_the_last_series_is_known_to_completion():
    for line, series in {"add failures": "failures", "show count for ::/0 in a, b": "b", "show ip": ""}.items():
        assert grammar.expected(line.split())[2] == series


# ---- dates


def local(*numbers: int) -> datetime:
    return datetime(*numbers).astimezone()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("2026-03-01 09:30", local(2026, 3, 1, 9, 30)),
        ("20260301T093000", local(2026, 3, 1, 9, 30)),
        ("20260301T0930", local(2026, 3, 1, 9, 30)),
        ("2026-03-01T09:30:00+02:00", datetime(2026, 3, 1, 7, 30, tzinfo=timezone.utc)),
        ("2026-03-01T09:30:00Z", datetime(2026, 3, 1, 9, 30, tzinfo=timezone.utc)),
        ("3 march 2026 9:30", local(2026, 3, 3, 9, 30)),
        ("march 3, 2026 at 9am", local(2026, 3, 3, 9, 0)),
    ],
)
def test_a_moment(words, expected):
    assert values.date(words) == (expected, expected)


@pytest.mark.parametrize("words", ["2026-03-01", "20260301", "1 march 2026", "March 1, 2026"])
def test_a_day(words):
    assert values.date(words) == (local(2026, 3, 1), local(2026, 3, 2))


def test_a_month():
    assert values.date("march 2026") == (local(2026, 3, 1), local(2026, 4, 1))


def test_dates_that_count_from_today():
    now = datetime.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    assert values.date("today").start == midnight
    assert values.date("Yesterday") == (local(*(now - timedelta(days=1)).timetuple()[:3]), midnight)
    assert values.date("yesterday 14:00").start == local(*(now - timedelta(days=1)).timetuple()[:3], 14)
    assert values.date("monday").start.astimezone().weekday() == 0
    assert values.date("monday").end <= midnight + timedelta(days=1)
    assert values.date("9:30").start <= now


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("90 seconds ago", 90), ("1 minute ago", 60), ("2 HOURS ago", 7200), ("3 weeks ago", 1814400), ("5m ago", 300),
        ("ten minutes ago", 600), ("an hour ago", 3600), ("2 days ago", 172800), ("1 hour 30 minutes ago", 5400),
        ("now", 0),
    ],
)  # fmt: skip
def test_so_long_ago(words, seconds):
    then = values.date(words)
    assert then.start == then.end
    past = datetime.now(timezone.utc) - then.start
    assert (
        timedelta(seconds=seconds - 3700) < past < timedelta(seconds=seconds + 3700)
    )  # a clock change may lie between


@pytest.mark.parametrize(
    "words",
    ["", "ago", "yore", "10 moons ago", "2026-13-01", "2026-02-30", "20261301", "9" * 9 + " weeks ago", "10", "2026",
     "01/02/2026", "1.2.2026", "limit", "failures", "2026-03-01 25:00"],
)  # fmt: skip
def test_no_date(words):
    with pytest.raises(ValueError, match="write a date such as"):
        values.date(words)
