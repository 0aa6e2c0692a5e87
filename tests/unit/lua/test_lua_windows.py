"""`msys.audit.*` and `msys.audit_series.*`: in every Lua what Python counts, and the words of its errors."""

from __future__ import annotations

import pytest
from tests.support import lua_windows
from tests.support.lua_windows import (
    CIDRS,
    DEFINE,
    MONITORS,
    MOST,
    TEXTS,
    WINDOWS,
    Timed,
    ask,
    families,
    literal,
    of_python,
    table,
)

from inbound_audit import InboundAudit, LuaPolicy, Session
from inbound_audit._ipcount import SeriesStore

bench, echo = lua_windows.bench, lua_windows.echo  # fixtures

KINDS = ("connections", "receptions", "rejections")


# ---- monitors


@families
def test_monitors_count_by_window(bench: Timed, echo: LuaPolicy, peer: str, near: str, far: str) -> None:
    for _ in range(3):
        bench.session(near).record_rejection(2)
    bench.clock.seconds += 300
    bench.session(far)
    bench.session(near).record_reception()
    ac = bench.session(peer)
    ac.record_reception(4)
    ac.record_rejection(5)
    network = '"/24,/48"'
    assert ask(echo, ac, 'msys.audit.connections("300,6")') == 1
    assert ask(echo, ac, 'msys.audit.receptions("300,6")') == 4
    assert ask(echo, ac, 'msys.audit.rejections("300,6")') == 5
    assert ask(echo, ac, f'msys.audit.connections("300,6", {network})') == 2
    assert ask(echo, ac, f'msys.audit.connection("300,6", {network})') == 2
    assert ask(echo, ac, f'msys.audit.receptions("300,6", {network})') == 5
    assert ask(echo, ac, f'msys.audit.rejections("300,6", {{cidr = {network}, endv = 1}})') == 11
    assert ask(echo, ac, f'msys.audit.connections("300,6", {{cidr = {network}, startv = 1}})') == 3
    assert ask(echo, ac, f'msys.audit.connections("300,6", {{cidr = {network}, startv = 0, endv = 5}})') == 5
    assert ask(echo, ac, f'msys.audit.connections("300,6", {{cidr = "{far}"}})') == 1
    assert ask(echo, ac, f'msys.audit.connections("10,3", {{cidr = {network}, endv = 2}})') == 2
    bench.clock.seconds += 300
    assert ask(echo, ac, 'msys.audit.connections("300,6")') == 0
    assert ask(echo, ac, 'msys.audit.connections("300,6", {startv = 1})') == 1
    assert ask(echo, ac, 'msys.audit.receptions("300,6", {startv = 1, endv = 5})') == 4
    bench.clock.seconds += 1800
    assert ask(echo, ac, f'msys.audit.connections("300,6", {{cidr = {network}, endv = 5}})') == 0


def test_a_host_is_a_cluster_of_one(bench: Timed, echo: LuaPolicy) -> None:
    ac = bench.session()
    for cluster in ("true", "false", "1", "0", "nil"):
        assert ask(echo, ac, f'msys.audit.connections("300,6", {{cluster = {cluster}}})') == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["'cluster'", "'true'", "2", "{}", "0/0"])
def test_a_count_is_of_the_cluster_or_not(bench: Timed, echo: LuaPolicy, kind: str, value: str) -> None:
    answer = ask(echo, bench.session(), f'msys.audit.{kind}("300,6", {{cluster = {value}}})')
    assert isinstance(answer, str)
    assert answer.startswith(f"msys.audit.{kind}: option 'cluster' must be true or false, not '")


def test_a_series_says_by_its_definition_whether_it_is_of_the_cluster(bench: Timed, echo: LuaPolicy) -> None:
    answer = ask(echo, bench.session(), 'msys.audit_series.count("s", {cluster = true})')
    assert answer == (
        "msys.audit_series.count: a series counts all nodes of the cluster if it is defined with replicate = 'cluster';"
        " leave 'cluster' out"
    )


MONITOR_TEXTS = ["300,6", "10,3", " 300 , 6 ", "300", "", "300,7", "6,300", "300,6,1", "x", "300,6\0", "-300,6", "é"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_monitor_answers_what_python_answers(bench: Timed, echo: LuaPolicy, kind: str) -> None:
    """Each monitor with each cidr, and each with each range of windows: counts, and the words of errors."""
    for host in ("192.0.2.7", "192.0.2.9", "2001:db8::7", "::ffff:192.0.2.7", "127.0.0.1"):
        session = bench.session(host)
        session.record_reception(2)
        session.record_rejection(3)
        bench.clock.seconds += 100
    cases = [(monitor, cidr, 0, 2) for monitor in MONITOR_TEXTS for cidr in CIDRS]
    cases += [(monitor, "/24,/56", *windows) for monitor in MONITORS for windows in WINDOWS]
    for peer in ("192.0.2.7", "2001:db8::7"):
        ac = bench.session(peer)
        for monitor, cidr, startv, endv in cases:
            options = table(cidr=cidr, startv=startv, endv=endv)
            first = 0 if startv is None else startv
            reported = ask(echo, ac, f"msys.audit.{kind}({literal(monitor)}, {options})")
            expected = of_python(getattr(bench.audit, kind), monitor, cidr, first, endv, ac=ac)
            assert reported == expected, (monitor, options)


# ---- named series


@families
def test_a_series_counts_by_window(bench: Timed, echo: LuaPolicy, peer: str, near: str, far: str) -> None:
    ac = bench.session(peer)
    assert ask(echo, ac, 'msys.audit_series.add("s")') is None
    for key in ("nil", "{}", "ac", "{key = ac}", "{count = 3}", f'"{ac.remote_ip}"', f'{{key = "{near}", count = 5}}'):
        ask(echo, ac, f'msys.audit_series.add("s", {key})')
    ask(echo, ac, f'msys.audit_series.add("s", "{far}")')
    assert ask(echo, ac, 'msys.audit_series.count("s")') == 9
    assert ask(echo, ac, 'msys.audit_series.count("s", ac)') == 9
    assert ask(echo, ac, 'msys.audit_series.count("s", "/24,/48")') == 14
    assert ask(echo, ac, f'msys.audit_series.count("s", {{key = "{near}"}})') == 5
    assert ask(echo, ac, f'msys.audit_series.count("s", "{far}")') == 1
    bench.clock.seconds += 600
    assert ask(echo, ac, 'msys.audit_series.count("s")') == 0
    ask(echo, ac, 'msys.audit_series.add("s", {count = -4})')
    assert ask(echo, ac, 'msys.audit_series.count("s")') == -4
    assert ask(echo, ac, 'msys.audit_series.count("s", {startv = 2})') == 9
    assert ask(echo, ac, 'msys.audit_series.count("s", {startv = 0, endv = 2})') == 5
    assert ask(echo, ac, 'msys.audit_series.count("s", {key = "/24,/48", endv = 5})') == 10
    assert ask(echo, ac, f'msys.audit_series.remove_item("s", "{near}")') is None
    assert ask(echo, ac, 'msys.audit_series.count("s", {key = "/24,/48", endv = 5})') == 5
    ask(echo, ac, 'msys.audit_series.remove_item("s")')
    assert ask(echo, ac, 'msys.audit_series.count("s", {key = "/0", endv = 5})') == 1
    ask(echo, ac, f'msys.audit_series.add("s", "{near}")')
    ask(echo, ac, 'msys.audit_series.add("s", ac)')
    ask(echo, ac, 'msys.audit_series.remove_item("s", ac)')
    assert ask(echo, ac, 'msys.audit_series.count("s", "/24,/48")') == 1
    SeriesStore(bench.audit).check()


def test_a_series_of_texts(bench: Timed, echo: LuaPolicy) -> None:
    """Each text is a key of its own, from Lua and from Python the same."""
    ac = bench.session()
    for n, text in enumerate(TEXTS, 1):
        ask(echo, ac, f'msys.audit_series.add("t", {table(key=text, count=n)})')
        bench.audit.series.add("t", text, 100)
    for n, text in enumerate(TEXTS, 1):
        assert ask(echo, ac, f'msys.audit_series.count("t", {literal(text)})') == 100 + n
        assert bench.audit.series.count("t", text) == 100 + n
    ask(echo, ac, r'msys.audit_series.remove_item("t", "a\0b")')
    assert [bench.audit.series.count("t", text) for text in ("a\0b", "a\0c")] == [0, 108]


def test_a_key_of_any_bytes(bench: Timed, echo: LuaPolicy) -> None:
    """A name that a client says need not be UTF-8."""
    ac = bench.session()
    for byte in (128, 255):
        ask(echo, ac, rf'msys.audit_series.add("t", {{key = "\{byte}", count = {byte}}})')
    assert [ask(echo, ac, rf'msys.audit_series.count("t", "\{byte}")') for byte in (127, 128, 255)] == [0, 128, 255]
    ask(echo, ac, r'msys.audit_series.remove_item("t", "\255")')
    assert ask(echo, ac, r'msys.audit_series.count("t", "\255")') == 0


KEYS = [*CIDRS, "192.0.2.7:25", "192.0.2.7/32", "fe80::1%eth0", "x" * 900]
AMOUNTS = [1, -1, 2, MOST, -MOST, 0, MOST + 1, -MOST - 1]


def test_a_series_answers_what_python_answers(bench: Timed, echo: LuaPolicy) -> None:
    """What is done from Lua in one audit is done from Python in another: the same counts, the same words of errors."""
    with InboundAudit(monitors=MONITORS, clock=bench.clock) as other:
        other.series.define("s", "ip", 300, 6)
        other.series.define("t", "string", 300, 6)
        for peer in ("192.0.2.7", "2001:db8::7"):
            ac, twin = bench.session(peer), other.listener().session(peer)
            for name in ("s", "t", "nope", "", "s\0"):
                for key in KEYS:
                    compare(echo, ac, other, twin, name, key)
            bench.clock.seconds += 300
            twin.close()
        assert ask(echo, ac, 'msys.audit_series.count("s", {key = "0.0.0.0/0", endv = 5})') == other.series.count(
            "s", "0.0.0.0/0", 0, 5
        )


def compare(echo: LuaPolicy, ac: Session, other: InboundAudit, twin: Session, name: str, key: str | None) -> None:
    series, lua_name = other.series, literal(name)
    for amount in (3, -5, 1):
        reported = ask(echo, ac, f"msys.audit_series.add({lua_name}, {table(key=key, count=amount)})")
        assert reported == of_python(series.add, name, key, amount, ac=twin), (name, key)
    for startv, endv in WINDOWS if (name, key) == ("s", None) else WINDOWS[:2]:
        reported = ask(echo, ac, f"msys.audit_series.count({lua_name}, {table(key=key, startv=startv, endv=endv)})")
        assert reported == of_python(series.count, name, key, startv or 0, endv, ac=twin), (name, key, startv, endv)
    if key == "localhost":
        reported = ask(echo, ac, f"msys.audit_series.remove_item({lua_name}, {literal(key)})")
        assert reported == of_python(series.remove_item, name, key, ac=twin)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_amounts(bench: Timed, echo: LuaPolicy, amount: int) -> None:
    ac = bench.session()
    reported = ask(echo, ac, f'msys.audit_series.add("s", {{count = {amount}}})')
    if 0 < abs(amount) <= MOST:
        assert (reported, ask(echo, ac, 'msys.audit_series.count("s")')) == (None, amount)
        again = ask(echo, ac, f'msys.audit_series.add("s", {{count = {amount}}})')
        assert ("4294967295" in str(again)) == (abs(amount) == MOST)
    else:
        assert reported == of_python(bench.audit.series.add, "s", "192.0.2.7", amount)
        assert "4294967295" in str(reported)
        assert ask(echo, ac, 'msys.audit_series.count("s")') == 0


@pytest.mark.parametrize(
    "count", ["0.5", "1e308", "-1e308", "0/0", "1/0", "-1/0", "'x'", "{}", "true", "print", "2^53"]
)
def test_what_is_no_amount(bench: Timed, echo: LuaPolicy, count: str) -> None:
    ac = bench.session()
    reported = str(ask(echo, ac, f'msys.audit_series.add("s", {{count = {count}}})'))
    assert reported.startswith("'s': ")
    assert reported.endswith(": expected a whole number from -4294967295 to 4294967295, other than 0")
    assert ask(echo, ac, 'msys.audit_series.count("s")') == 0


def test_numbers_may_be_written_as_texts(bench: Timed, echo: LuaPolicy) -> None:
    """As everywhere in Lua, and as `vctx:tarpit` takes them."""
    ac = bench.session()
    ask(echo, ac, 'msys.audit_series.add("s", {count = "3"})')
    assert ask(echo, ac, 'msys.audit_series.count("s", {startv = "0", endv = "5"})') == 3


BROKEN = [
    ("audit.connections()", "None: no such monitor (known: '300,6', '10,3')"),
    ("audit.connections(300)", "300: no such monitor"),
    ("audit.connections({})", "no such monitor"),
    ("audit.receptions('60,6')", "'60,6': no such monitor (known: '300,6', '10,3')"),
    ("audit.rejections('300,6', {endv = 6})", "windows 0 to 6 of '300,6': no such window"),
    ("audit.rejections('300,6', {startv = 7})", "windows 7 of '300,6': no such window"),
    ("audit.connection('300,6', {startv = -1})", "windows -1 of '300,6': no such window"),
    ("audit.connections('300,6', {startv = 2, endv = 1})", "windows 2 to 1 of '300,6': no such window"),
    ("audit.connections('300,6', {endv = 1e308})", "windows 0 to 1e+308 of '300,6': no such window"),
    ("audit.connections('300,6', {endv = 1/0})", "windows 0 to inf of '300,6': no such window"),
    ("audit.connections('300,6', {startv = 0.5})", "0.5: is not the number of a window"),
    ("audit.connections('300,6', {startv = 0/0})", "nan: is not the number of a window"),
    ("audit.connections('300,6', {endv = 'soon'})", "soon: is not the number of a window"),
    ("audit.connections('300,6', {endv = {}})", "is not the number of a window"),
    ("audit.connections('300,6', 24)", "24: is not a text"),
    ("audit.connections('300,6', {cidr = true})", "true: is not a text"),
    ("audit.connections('300,6', 'mx')", "'mx': is not an address"),
    ("audit_series.add()", "None: no such series (known: s, t)"),
    ("audit_series.add(5)", "5: no such series (known: s, t)"),
    ("audit_series.add('nope')", "'nope': no such series (known: s, t)"),
    ("audit_series.count('nope')", "'nope': no such series (known: s, t)"),
    ("audit_series.remove_item('nope')", "'nope': no such series (known: s, t)"),
    ("audit_series.add('t')", "'t': needs a key"),
    ("audit_series.add('t', {count = 1})", "'t': needs a key"),
    ("audit_series.count('t')", "'t': needs a key"),
    ("audit_series.remove_item('t')", "'t': needs a key"),
    ("audit_series.add('t', ac)", "'t': needs a key"),
    ("audit_series.add('s', '/24')", "'/24': "),
    ("audit_series.add('s', 5)", "5: is neither a text nor an accept construct"),
    ("audit_series.add('s', {key = 5})", "5: is neither a text nor an accept construct"),
    ("audit_series.add('s', {key = vctx})", "validation context: is neither a text nor an accept construct"),
    ("audit_series.count('s', print)", ": is neither a text nor an accept construct"),
    ("audit_series.remove_item('s', {})", ": is neither a text nor an accept construct"),
    ("audit_series.count('s', {startv = 6})", "windows 6 of 's': no such window"),
    ("audit_series.count('s', {endv = 0/0})", "nan: is not the number of a window"),
    ("audit_series.add('t', ('x'):rep(4097))", "'t': has a key of more than 4096 bytes"),
    ("audit_series.define('u', 'cidr', 60, 6, 5)", "msys.audit_series.define: expected a name, a type, two numbers"),
]


@pytest.mark.parametrize(("call", "message"), BROKEN)
def test_errors_name_the_line_of_their_caller(bench: Timed, call: str, message: str) -> None:
    """With script and line, and so that pcall catches them: the count does not end in the hook's end."""
    policy = bench.policy(
        f"""{DEFINE}
        local mod = {{}}
        function mod:validate_connect(ac, vctx)
            local ok, why = pcall(function()
                return 1 + msys.{call}
            end)
            vctx:set_code(250, tostring(ok) .. " " .. why)
        end
        msys.registerModule("m", mod)
        """
    )
    verdict = policy.validate_connect(bench.session())
    assert policy.errors == 0, policy.last_error
    assert verdict.text.replace("-nan", "nan").startswith("false policy.lua:8: ")
    assert message in verdict.text.replace("-nan", "nan")


def test_an_error_that_is_not_caught_fails_the_hook(bench: Timed) -> None:
    assert bench.fails("msys.audit.connections('1,1')") == (
        "policy.lua:3: '1,1': no such monitor (known: '300,6', '10,3')"
    )
    assert bench.fails("msys.audit_series.add('s')") == "policy.lua:3: 's': no such series (known: none)"


def test_the_names_exist_without_require(bench: Timed) -> None:
    assert (
        bench.say("require('msys.audit_series') == msys.audit_series and require('msys.audit') == msys.audit") == "true"
    )
