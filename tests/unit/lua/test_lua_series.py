"""`msys.audit_series` around the counting: whose audit, where series are defined, what is outside of a session."""

from __future__ import annotations

import gc
import logging
import sys

import pytest
from tests.support import lua_windows
from tests.support.lua_windows import (
    DEFINE,
    Timed,
    ask,
)

from inbound_audit import InboundAudit, LuaPolicy
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import PolicyError
from inbound_audit.policy.verdict import ACCEPT

bench, echo = lua_windows.bench, lua_windows.echo  # fixtures


# ---- accept constructs as keys


def test_an_accept_construct_stands_for_its_address(bench: Timed, echo: LuaPolicy) -> None:
    """One that was kept, too, of a session that has ended."""
    with bench.listener.session("2001:db8::9") as old:
        echo.validate_mailfrom(old, "")
    ac = bench.session("192.0.2.7")
    assert ask(echo, ac, 'msys.audit_series.add("s", kept)') is None
    assert ask(echo, ac, 'msys.audit_series.add("s", {key = kept, count = -3})') is None
    assert bench.audit.series.count("s", "2001:db8::9") == -2
    assert ask(echo, ac, 'msys.audit_series.count("s", kept)') == -2
    assert ask(echo, ac, 'msys.audit_series.count("s")') == 0
    assert ask(echo, ac, 'msys.audit_series.count("t", kept)') == "'t': needs a key"
    ask(echo, ac, 'msys.audit_series.remove_item("s", ac)')
    assert bench.audit.series.count("s", "2001:db8::9") == -2
    ask(echo, ac, 'msys.audit_series.remove_item("s", kept)')
    assert bench.audit.series.count("s", "2001:db8::9") == 0


def test_counts_belong_to_the_audit_of_the_session(bench: Timed, echo: LuaPolicy) -> None:
    """An accept construct of another audit is an address like any other."""
    with InboundAudit(clock=bench.clock) as other:
        with other.listener().session("192.0.2.9") as foreign:
            echo.validate_mailfrom(foreign, "")
            ask(echo, foreign, 'msys.audit_series.add("s", {count = 7})')
        ac = bench.session("192.0.2.7")
        ask(echo, ac, 'msys.audit_series.add("s", kept)')
        assert ask(echo, ac, 'msys.audit_series.count("s", kept)') == 1
        assert [audit.series.count("s", "192.0.2.9") for audit in (bench.audit, other)] == [1, 7]
        ask(echo, ac, 'msys.audit_series.remove_item("s", kept)')
        assert [audit.series.count("s", "192.0.2.9") for audit in (bench.audit, other)] == [0, 7]


def test_after_the_audit_was_closed(bench: Timed, echo: LuaPolicy) -> None:
    ac = bench.session()
    ask(echo, ac, 'msys.audit_series.add("s", {count = 7})')
    echo.validate_mailfrom(ac, "")
    bench.audit.close()
    assert ask(echo, ac, 'msys.audit_series.add("s")') == "the audit is closed"
    assert ask(echo, ac, 'msys.audit_series.add("s", {count = -1})') == "the audit is closed"
    assert ask(echo, ac, 'msys.audit_series.count("s")') == 0
    assert ask(echo, ac, 'msys.audit.connections("300,6", {endv = 5})') == 0
    with InboundAudit(clock=bench.clock) as other, other.listener().session("192.0.2.9") as session:
        assert ask(echo, session, 'msys.audit_series.add("s", kept)') is None
        assert ask(echo, session, 'msys.audit_series.count("s", "192.0.2.7")') == 1


def test_a_kept_accept_construct_outlives_its_audit(bench: Timed, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody but the policy holds the audit when it is counted in at last, after the last session."""
    policy = bench.policy(
        f"""{DEFINE}
        local mod = {{}}
        function mod:validate_connect(ac, vctx) kept = ac msys.audit_series.add("s", {{count = 5}}) end
        function mod:deinit()
            msys.audit_series.add("s", kept)
            print(msys.audit_series.count("s", kept))
        end
        msys.registerModule("m", mod)
        """
    )
    caplog.set_level(logging.INFO, "inbound_audit.lua")
    audit = InboundAudit()
    with audit.listener().session("192.0.2.7") as ac:
        policy.validate_connect(ac)
    del audit, ac
    gc.collect()
    policy.close()
    assert policy.errors == 0, policy.last_error
    assert caplog.messages == [f"{policy.path}: 6"]


# ---- definitions


def count_in(where: str) -> str:
    """A policy that defines at that place, and counts each session."""
    places = {"file": "", "init": "", "hook": "", where: 'msys.audit_series.define("n", "cidr", 60, 6)'}
    return f"""
        {places["file"]}
        local mod = {{}}
        function mod:init() {places["init"]} end
        function mod:validate_connect(ac, vctx)
            {places["hook"]}
            msys.audit_series.add("n")
            vctx:set_code(250, tostring(msys.audit_series.count("n", "/24")))
        end
        msys.registerModule("m", mod)
    """


@pytest.mark.parametrize("where", ["file", "init", "hook"])
@pytest.mark.parametrize("bound", [False, True])
def test_where_a_series_is_defined(bench: Timed, where: str, bound: bool) -> None:
    """In each audit that the policy meets, whether it was made with one or not."""
    policy = bench.policy(count_in(where), audit=bench.audit if bound else None)
    assert bench.audit.series.names == (("n",) if bound and where != "hook" else ())
    assert [policy.validate_connect(bench.session()).text for _ in range(3)] == ["1", "2", "3"]
    with InboundAudit(clock=bench.clock) as other, other.listener("IMAP").session("192.0.2.9") as ac:
        assert policy.validate_connect(ac).text == "1"
    with bench.audit.listener("IMAP").session("192.0.2.8") as ac:
        assert policy.validate_connect(ac).text == "4"
    assert policy.errors == 0, policy.last_error


def test_a_definition_in_a_hook_is_of_all_audits(bench: Timed) -> None:
    policy = bench.hook(
        "if text == 'define' then msys.audit_series.define('late', 'string', 60, 2) end",
        "validate_ehlo(text, ac, vctx)",
    )
    with InboundAudit() as other, other.listener().session("192.0.2.9") as foreign:
        policy.validate_ehlo(foreign, "")
        policy.validate_ehlo(bench.session(), "define")
        assert other.series.names == bench.audit.series.names == ("late",)


def test_all_that_a_definition_says(bench: Timed) -> None:
    bench.policy(
        """
        local define = msys.audit_series.define
        define("a", "cidr", 60, 6)
        define("b", "cidr_ipv6", 300, 12, {replicate = "manager", max_hosts = 1000, max_bytes = 1048576})
        define("c", "string", 3600, 1, {replicate = "none", serialize = false, persist = 0})
        msys.registerModule("m", {init = function() end})
        """,
        audit=bench.audit,
    )
    a, b, c = (bench.audit.series.defined(name) for name in "abc")
    assert (a.type, a.interval, a.num_windows, a.replicate, a.max_hosts) == ("cidr", 60, 6, "none", None)
    assert (b.type, b.interval, b.num_windows, b.replicate) == ("cidr_ipv6", 300, 12, "manager")
    assert (b.max_hosts, b.max_bytes) == (1000, 1048576)
    assert (c.type, c.replicate, c.serialize, c.persist) == ("string", "none", False, False)


@pytest.mark.skipif(sys.platform != "linux", reason="kept series need Linux")
def test_a_series_that_is_kept_and_logged(bench: Timed) -> None:
    """What Lua adds is there after a restart, and is a line in the log, whatever the key; a name is no path."""
    bench.write(
        "policy.lua",
        r"""
        for name, type in pairs({["../../k"] = "cidr", t = "string"}) do
            msys.audit_series.define(name, type, 300, 6, {persist = true, serialize = 1})
        end
        local mod = {}
        function mod:validate_connect(ac, vctx)
            msys.audit_series.add("../../k", {count = 2})
            msys.audit_series.add("t", {key = "a\0 \255", count = -3})
            local addresses, texts = msys.audit_series.count("../../k", "/24"), msys.audit_series.count("t", "a\0 \255")
            vctx:set_code(250, addresses .. " " .. texts)
        end
        msys.registerModule("m", mod)
        """,
    )
    state = bench.directory / "state" / "deep" / "down"
    for expected in ("2 -3", "4 -6"):
        policy = LuaPolicy(bench.directory / "policy.lua", **bench.kind._asdict())
        bench.policies.append(policy)
        with InboundAudit(state=state, clock=bench.clock) as audit, audit.listener().session("192.0.2.7") as ac:
            assert policy.validate_connect(ac).text == expected
    assert policy.errors == 0, policy.last_error
    lines = sorted(line.split()[3:] for log in state.glob("*.log") for line in log.read_text().splitlines())
    assert lines == [["-3", "a%00%20%FF"]] * 2 + [["2", "192.0.2.7"]] * 2
    assert {path.name for path in bench.directory.iterdir()} == {"policy.lua", "state"}
    assert {path.name for path in (bench.directory / "state").iterdir()} == {"deep"}


def test_a_reload_changes_no_count(bench: Timed) -> None:
    for n in range(1, 4):
        policy = bench.policy(count_in("init"))
        assert policy.validate_connect(bench.session()).text == str(n)
        assert policy.errors == 0, policy.last_error
    bench.policies[0].close()
    assert bench.audit.series.count("n", "192.0.2.7") == 3


WRONG = [
    ("", "msys.audit_series.define: expected a name"),
    ("5, 'cidr', 60, 6", "msys.audit_series.define: expected a name"),
    ("{}, 'cidr', 60, 6", "msys.audit_series.define: expected a name"),
    ("'', 'cidr', 60, 6", "'': the name of a series is 1 to 64 bytes of printable text"),
    ("'a\\0', 'cidr', 60, 6", "the name of a series is 1 to 64 bytes of printable text"),
    ("'a\\n', 'cidr', 60, 6", "the name of a series is 1 to 64 bytes of printable text"),
    ("'\\255', 'cidr', 60, 6", "the name of a series is 1 to 64 bytes of printable text"),
    ("('x'):rep(65), 'cidr', 60, 6", "the name of a series is 1 to 64 bytes of printable text"),
    ("('x'):rep(2e5), 'cidr', 60, 6", "the name of a series is 1 to 64 bytes of printable text"),
    ("'s'", "'s': unknown type None (known: ip, cidr, cidr_ipv6, string)"),
    ("'s', 'ipv4', 60, 6", "'s': unknown type 'ipv4'; did you mean 'ip'? (known: ip, cidr, cidr_ipv6, string)"),
    ("'s', 'cidr'", "'s': interval None: expected a whole number"),
    ("'s', 'cidr', 0, 6", "'s': interval 0: expected a whole number"),
    ("'s', 'cidr', 1.5, 6", "'s': interval 1.5: expected a whole number"),
    ("'s', 'cidr', 'soon', 6", "'s': interval 'soon': expected a whole number"),
    ("'s', 'cidr', true, 6", "'s': interval True: expected a whole number"),
    ("'s', 'cidr', 1e308, 6", "'s': interval 1e+308: expected a whole number"),
    ("'s', 'cidr', 0/0, 6", "'s': interval "),
    ("'s', 'cidr', 60", "'s': num_windows None: expected a whole number"),
    ("'s', 'cidr', 60, -1", "'s': num_windows -1: expected a whole number"),
    ("'s', 'cidr', 60, 1e9", "'s': num_windows 1000000000: expected a whole number"),
    ("'s', 'cidr', 60, 6, {max_hosts = 0}", "'s': max_hosts 0: expected a whole number"),
    ("'s', 'cidr', 60, 6, {max_bytes = 1}", "'s': 1 bytes for 6 windows"),
    ("'s', 'cidr', 60, 6, {max_bytes = 1/0}", "'s': max_bytes inf: expected a whole number"),
    (
        "'s', 'cidr', 60, 6) msys.audit_series.define('s', 'cidr', 61, 6",
        "'s': is defined already, and its interval is 60",
    ),
    (
        "'s', 'cidr', 60, 6) msys.audit_series.define('s', 'string', 60, 6",
        "'s': is defined already, and its type is cidr",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_definition_that_is_wrong_in_itself(bench: Timed, arguments: str, message: str) -> None:
    """The error is raised at the definition, without an audit: the policy can't be loaded."""
    with pytest.raises(PolicyError) as raised:
        bench.policy(f"\nmsys.audit_series.define({arguments})\nmsys.registerModule('m', {{}})")
    assert str(raised.value).startswith(f"{bench.directory / 'policy.lua'}: policy.lua:2: ")
    assert message in str(raised.value)


def test_definitions_have_a_bound(bench: Timed) -> None:
    with pytest.raises(PolicyError, match="'s1024': a policy can define 1024 series"):
        bench.policy("for i = 0, 1e6 do msys.audit_series.define('s' .. i, 'cidr', 60, 6) end")


def test_a_definition_that_contradicts_the_audits_own(bench: Timed, caplog: pytest.LogCaptureFixture) -> None:
    """The hook fails, each time it is asked; counts of others go on."""
    bench.audit.series.define("n", "cidr", 61, 6)
    policy = bench.policy(count_in("init"))
    ac = bench.session()
    assert policy.validate_connect(ac) is ACCEPT
    assert policy.last_error == "'n': is defined already, and its interval is 61, not 60"
    (record,) = caplog.records
    assert record.getMessage() == f"{policy.path}: validate_connect failed: {policy.last_error}"
    refusing = bench.policy(count_in("init"), on_error="refuse")
    assert refusing.validate_connect(ac).code == 421
    assert refusing.validate_ehlo(ac, "x").code == 451
    assert refusing.errors_by_hook == {"validate_connect": 1, "validate_ehlo": 1}
    assert bench.audit.series.count("n", "192.0.2.0/24") == 0
    with InboundAudit(clock=bench.clock) as other, other.listener().session("192.0.2.7") as session:
        assert refusing.validate_connect(session).text == "1"


def test_a_definition_that_contradicts_the_audit_it_was_made_with(bench: Timed) -> None:
    bench.audit.series.define("n", "string", 60, 6)
    with pytest.raises(PolicyError, match=r"policy\.lua:4: 'n': is defined already, and its type is string, not cidr"):
        bench.policy(count_in("init"), audit=bench.audit)


def test_a_contradiction_in_a_hook_can_be_caught(bench: Timed) -> None:
    bench.audit.series.define("n", "cidr", 61, 6)
    text = bench.say("select(2, pcall(msys.audit_series.define, 'n', 'cidr', 60, 6))")
    assert text == "'n': is defined already, and its interval is 61, not 60"
    assert bench.say("msys.audit_series.count('n')") == "0"


def test_series_of_python_are_counted_in_without_a_definition(bench: Timed) -> None:
    bench.audit.series.define("ours", "cidr", 60, 6)
    bench.audit.series.add("ours", "192.0.2.7", 41)
    assert bench.say("msys.audit_series.count('ours')", "msys.audit_series.add('ours')") == "42"


# ---- outside of a session

OUTSIDE = """
    {define}
    local mod, said = {{}}, {{}}
    function mod:init()
        local _, answer = pcall(function()
            local answer = {body}
            return answer
        end)
        said = tostring(answer)
    end
    function mod:validate_connect(ac, vctx) vctx:set_code(250, said) end
    msys.registerModule("m", mod)
"""


def outside(bench: Timed, body: str, **options: object) -> str:
    policy = bench.policy(OUTSIDE.format(define=DEFINE, body=body), **options)
    verdict = policy.validate_connect(bench.session())
    assert policy.errors == 0, policy.last_error
    return verdict.text


def test_outside_of_a_session_with_an_audit(bench: Timed) -> None:
    bench.session("192.0.2.9").record_rejection(3)
    bound = {"audit": bench.audit}
    assert outside(bench, "msys.audit_series.add('s', {key = '192.0.2.9', count = 5})", **bound) == "nil"
    assert outside(bench, "msys.audit_series.add('s', {key = '192.0.2.9', count = -7})", **bound) == "nil"
    assert outside(bench, "msys.audit_series.add('t', 'a\\0b')", **bound) == "nil"
    assert bench.audit.series.count("t", "a\0b") == 1
    assert outside(bench, "msys.audit_series.count('s', {key = '192.0.2.0/24', endv = 5})", **bound) == "-2"
    assert outside(bench, "msys.audit_series.remove_item('s', '192.0.2.9')", **bound) == "nil"
    assert outside(bench, "msys.audit_series.count('s', '192.0.2.9')", **bound) == "0"
    assert outside(bench, "msys.audit.rejections('300,6', '192.0.2.0/24')", **bound) == "3"
    assert outside(bench, "msys.audit.connections('300,6', {cidr = '192.0.2.9', startv = 0})", **bound) == "1"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("msys.audit_series.add('s')", "'s': needs a key"),
        ("msys.audit_series.count('s', '/24')", "'/24': is a length alone, and there is no connecting IP"),
        ("msys.audit_series.count('s')", "'s': needs a key"),
        ("msys.audit_series.remove_item('s')", "'s': needs a key"),
        ("msys.audit_series.add('nope', '192.0.2.9')", "'nope': no such series (known: s, t)"),
        ("msys.audit_series.add('s', 'x')", "'x': is not an address"),
        ("msys.audit_series.add('s', 5)", "5: is neither a text nor an accept construct"),
        ("msys.audit_series.add(nil, '192.0.2.9')", "None: no such series"),
        ("msys.audit.connections('300,6')", "no session is being validated, so there is no connecting IP"),
        ("msys.audit.connections('300,6', '/24')", "'/24': is a length alone"),
        ("msys.audit.connections('1' .. ',1', '192.0.2.9')", "'1,1': no such monitor"),
        ("msys.audit.connections(nil, '192.0.2.9')", "None: no such monitor"),
    ],
)
def test_errors_outside_of_a_session(bench: Timed, body: str, message: str) -> None:
    reported = outside(bench, body, audit=bench.audit)
    assert reported.startswith("policy.lua:9: ")
    assert message in reported


@pytest.mark.parametrize(
    "body",
    [
        "msys.audit_series.add('s', '192.0.2.9')", "msys.audit_series.count('s', '192.0.2.9')",
        "msys.audit_series.add()",
        "msys.audit_series.remove_item('s', '192.0.2.9')", "msys.audit.connections('300,6', '192.0.2.9')",
        "msys.audit.connections('300,6')", "msys.audit.connections()", "msys.audit_series.count('s')",
    ],
)  # fmt: skip
def test_outside_of_a_session_without_an_audit(bench: Timed, body: str) -> None:
    assert outside(bench, body) == (
        "policy.lua:9: no session is being validated, and the policy was made without an audit"
    )


# ---- what Python has to do


def test_less_than_nothing_in_every_window(bench: Timed, echo: LuaPolicy) -> None:
    """What is taken away needs trees of its own, which Python makes at the first time."""
    ac = bench.session()
    for n in range(1, 9):
        ask(echo, ac, f'msys.audit_series.add("s", {{count = -{n}}})')
        ask(echo, ac, f'msys.audit_series.add("t", {{key = "x", count = -{n}}})')
        assert ask(echo, ac, 'msys.audit_series.count("s")') == -n
        bench.clock.seconds += 300
    assert ask(echo, ac, 'msys.audit_series.count("s", {startv = 1, endv = 5})') == -(8 + 7 + 6 + 5 + 4)
    assert ask(echo, ac, 'msys.audit_series.count("t", {key = "x", startv = 1, endv = 5})') == -30
    SeriesStore(bench.audit).check()
