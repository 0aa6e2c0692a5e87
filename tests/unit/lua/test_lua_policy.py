"""`LuaPolicy` from outside: hooks in their order, verdicts, errors, what is kept and for how long, threads."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from pathlib import Path

import pytest
from tests.support.lua_support import Bench

from inbound_audit import InboundAudit, LuaPolicy
from inbound_audit.errors import PolicyError
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import ACCEPT, Verdict

LIMIT = """
    require("msys.core")
    local mod = {}
    function mod:validate_connect(ac, vctx)
        local count = ac:inbound_session_count("/32")
        if count > 1 then
            vctx:disconnect(421, "too many from " .. ac.remote_ip)
            return msys.core.VALIDATE_DONE
        end
        return msys.core.VALIDATE_CONT
    end
    msys.registerModule("limit", mod)
"""


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"])
def test_the_first_session_passes_and_the_second_does_not(bench: Bench, host: str) -> None:
    policy = bench.policy(LIMIT)
    first = bench.session(host)
    assert policy.validate_connect(first) is ACCEPT
    second = bench.session(host)
    reported = host.removeprefix("::ffff:")
    assert policy.validate_connect(second) == Verdict(False, 421, f"too many from {reported}", disconnect=True)
    first.close()
    assert policy.validate_connect(second)
    assert (policy.errors, policy.last_error, policy.sessions) == (0, None, 0)


def test_rebinding_is_seen_by_the_next_hook(bench: Bench) -> None:
    policy = bench.hook("vctx:set_code(250, ac.remote_addr)")
    ac = bench.session("10.0.0.1:9")
    assert policy.validate_connect(ac).text == "10.0.0.1:9"
    ac.rebind("[2001:db8::9]:77")
    assert policy.validate_connect(ac).text == "2001:db8::9.77"


ORDER = """
    trace = {}
    local function module(name, stop_at)
        local mod = {}
        for _, hook in ipairs({"core_validate_accept", "validate_connect", "validate_ehlo", "validate_mailfrom",
                "validate_rcptto", "validate_data", "validate_data_spool", "validate_data_spool_each_rcpt"}) do
            mod[hook] = function(self, ...)
                local words = {}
                for i = 1, 4 do
                    local v = select(i, ...)
                    if type(v) == "string" then words[#words + 1] = v
                    elseif type(v) == "userdata" then words[#words + 1] = "ac"
                    elseif type(v) == "table" then
                        local m = v.mailfrom and v
                        words[#words + 1] = m and m:mailfrom() .. ">" .. m:rcptto() .. "=" .. m:get_message_size()
                            or tostring(v)
                    end
                end
                trace[#trace + 1] = name .. "." .. hook .. "(" .. table.concat(words, ",") .. ")"
                if hook == stop_at then return msys.core.VALIDATE_DONE end
                return msys.core.VALIDATE_CONT
            end
        end
        function mod:validate_dealloc() trace[#trace + 1] = name .. ".validate_dealloc" end
        function mod:init() trace[#trace + 1] = name .. ".init" return true end
        function mod:deinit() trace[#trace + 1] = name .. ".deinit" print(table.concat(trace, " ")) end
        msys.registerModule(name, mod)
    end
    module("a", "validate_ehlo")
    module("b")
"""


def test_hooks_run_in_order_until_one_is_done(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inbound_audit.lua")
    policy = bench.policy(ORDER)
    ac = bench.session()
    message = Message(mailfrom="s@example.org", size=42, rcptto=["x@example.net"])
    assert policy.validate_connect(ac) is ACCEPT
    assert policy.validate_ehlo(ac, "mx.example.org") is ACCEPT
    assert policy.validate_mailfrom(ac, "s@example.org") is ACCEPT
    assert policy.validate_rcptto(ac, "x@example.net", message) is ACCEPT
    message.rcptto.append("y@example.net")
    assert policy.validate_data(ac, message) is ACCEPT
    assert policy.validate_data_spool(ac, message) is ACCEPT
    policy.end_session(ac)
    policy.close()
    policy.close()
    v = "validation context"
    last = f"s@example.org>y@example.net=42,ac,{v}"
    assert policy.errors == 0, policy.last_error
    assert caplog.messages[1:] == [
        f"{policy.path}: a.init b.init a.core_validate_accept(ac,{v}) b.core_validate_accept(ac,{v}) "
        f"a.validate_connect(ac,{v}) b.validate_connect(ac,{v}) a.validate_ehlo(mx.example.org,ac,{v}) "
        f"a.validate_mailfrom(s@example.org,ac,{v}) b.validate_mailfrom(s@example.org,ac,{v}) "
        f"a.validate_rcptto(s@example.org>x@example.net=42,x@example.net,ac,{v}) "
        f"b.validate_rcptto(s@example.org>x@example.net=42,x@example.net,ac,{v}) "
        f"a.validate_data({last}) b.validate_data({last}) a.validate_data_spool({last}) b.validate_data_spool({last}) "
        f"a.validate_data_spool_each_rcpt(s@example.org>x@example.net=42,ac,{v}) "
        f"b.validate_data_spool_each_rcpt(s@example.org>x@example.net=42,ac,{v}) "
        f"a.validate_data_spool_each_rcpt({last}) b.validate_data_spool_each_rcpt({last}) "
        "a.validate_dealloc b.validate_dealloc a.deinit b.deinit"
    ]


def test_a_disconnect_at_accept_skips_connect(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        function mod:core_validate_accept(ac, vctx) return vctx:disconnect(554, "early") end
        function mod:validate_connect(ac, vctx) vctx:set_code(250, "late") end
        msys.registerModule("m", mod)
        """
    )
    assert policy.validate_connect(bench.session()) == Verdict(False, 554, "early", disconnect=True)


def test_done_at_accept_does_not_skip_connect(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        function mod:core_validate_accept(ac, vctx) self.seen = 1 return msys.core.VALIDATE_DONE end
        function mod:validate_connect(ac, vctx) vctx:set_code(250, "seen " .. self.seen) end
        msys.registerModule("m", mod)
        """
    )
    assert policy.validate_connect(bench.session()).text == "seen 1"


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("", ACCEPT),
        ("return msys.core.VALIDATE_CONT", ACCEPT),
        ("return msys.core.VALIDATE_DONE", ACCEPT),
        ("vctx:set_code(250, 'welcome')", Verdict(True, 250, "welcome")),
        ("vctx:set_code('550', 'no')", Verdict(False, 550, "no")),
        ("vctx:set_code(450)", Verdict(False, 450, "refused by policy")),
        ("vctx:set_code('450 4.7.1 later')", Verdict(False, 450, "4.7.1 later")),
        ("vctx:set_code(550, 'a') vctx:set_code(250, 'b')", Verdict(True, 250, "b")),
        ("return vctx:disconnect(421, 'bye')", Verdict(False, 421, "bye", disconnect=True)),
        ("return vctx:disconnect('421', 'bye')", Verdict(False, 421, "bye", disconnect=True)),
        ("vctx:disconnect('too many')", Verdict(False, 421, "too many", disconnect=True)),
        ("vctx:disconnect()", Verdict(False, 421, "refused by policy", disconnect=True)),
        ("vctx:disconnect(221, 'closing')", Verdict(False, 221, "closing", disconnect=True)),
        ("return vctx:pbp_disconnect(554, 'listed')", Verdict(False, 554, "listed", disconnect=True)),
        ("vctx.disconnect = 1", Verdict(False, 421, "refused by policy", disconnect=True)),
        ("vctx:set_code(550, 'no') vctx.disconnect = 1", Verdict(False, 550, "no", disconnect=True)),
        ("vctx.disconnect = 1 vctx:set_code(250, 'ok')", Verdict(True, 250, "ok", disconnect=True)),
        ("vctx.disconnect = 1 vctx.disconnect = 0", ACCEPT),
        ("vctx.disconnect = 1 vctx:disconnect(554, 'a method')", Verdict(False, 554, "a method", disconnect=True)),
        ("vctx:tarpit(2.5)", Verdict(tarpit=2.5)),
        ("vctx:tarpit(5) vctx:tarpit('3')", Verdict(tarpit=5.0)),
        ("vctx:tarpit(0)", ACCEPT),
        ("vctx:tarpit(9) vctx:disconnect(421, 'slowly')", Verdict(False, 421, "slowly", 9.0, True)),
        ("vctx:set_code(550, 'one\\r\\n250 two\\0three')", Verdict(False, 550, "one 250 two three")),
        ("vctx:set_code(550, 'gr\\195\\188n \\255')", Verdict(False, 550, "grün \ufffd")),
    ],
)  # fmt: skip
def test_verdicts(bench: Bench, body: str, verdict: Verdict) -> None:
    policy = bench.hook(body)
    assert policy.validate_connect(bench.session()) == verdict
    assert policy.errors == 0, policy.last_error


def test_a_reply_lasts_for_one_hook(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        function mod:validate_connect(ac, vctx)
            self.kept = vctx
            vctx:set_code(550, "x")
            vctx:tarpit(3)
            vctx.disconnect = 1
        end
        function mod:validate_ehlo(text, ac, vctx) assert(self.kept == vctx) end
        msys.registerModule("m", mod)
        """
    )
    ac = bench.session()
    assert not policy.validate_connect(ac)
    assert policy.validate_ehlo(ac, "x") is ACCEPT
    assert policy.errors == 0, policy.last_error


BROKEN = [
    ("error('boom')", "policy.lua:3: boom"),
    ("error({})", "the error is not a string"),
    ("local x = nil + 1", "policy.lua:3: attempt to perform arithmetic on a nil value"),
    ("vctx:nosuch()", "policy.lua:3: attempt to call method 'nosuch' (a nil value)"),
    ("return true", "validate_connect of module 'm' returned true, which is neither"),
    ("return 7", "returned 7"),
    ("return {}", "returned table: 0x"),
    ("vctx:set_code(99, 'x')", "policy.lua:3: 99: is not an SMTP reply code"),
    ("vctx:set_code(600, 'x')", "policy.lua:3: 600: is not an SMTP reply code between 200 and 599"),
    ("vctx:set_code('x', 'y')", "policy.lua:3: x: is not an SMTP reply code"),
    ("vctx:set_code()", "policy.lua:3: nil: is not an SMTP reply code"),
    ("vctx:disconnect(7)", "policy.lua:3: 7: is not an SMTP reply code"),
    ("vctx:tarpit(-1)", "policy.lua:3: -1: is not a number of seconds"),
    ("vctx:tarpit(0/0)", "is not a number of seconds"),
    ("vctx:tarpit(math.huge)", "is not a number of seconds"),
    ("vctx:tarpit('soon')", "policy.lua:3: soon: is not a number of seconds"),
    ("vctx.set = 1", "policy.lua:3: vctx:set is a method"),
    ("coroutine.yield()", "attempt to yield"),
    ("error('caf\\195\\169 \\255')", "policy.lua:3: café \\xff"),
]


@pytest.mark.parametrize(("body", "message"), BROKEN)
def test_a_hook_that_fails_lets_in_and_is_logged(
    bench: Bench, body: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = bench.hook(body)
    assert policy.validate_connect(bench.session()) is ACCEPT
    assert policy.last_error is not None
    assert message in policy.last_error
    assert policy.errors_by_hook == {"validate_connect": 1}
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("inbound_audit.lua", "ERROR")
    assert record.getMessage() == f"{policy.path}: validate_connect failed: {policy.last_error}"


def test_a_hook_that_fails_refuses_if_so_set(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        for _, hook in ipairs({"validate_connect", "validate_ehlo"}) do mod[hook] = function() error("boom") end end
        msys.registerModule("m", mod)
        """,
        on_error="refuse",
    )
    ac = bench.session()
    refused = policy.validate_connect(ac)
    assert (refused.accepted, refused.code, refused.disconnect) == (False, 421, True)
    assert "boom" not in refused.text
    refused = policy.validate_ehlo(ac, "x")
    assert (refused.accepted, refused.code, refused.disconnect) == (False, 451, False)
    assert policy.errors_by_hook == {"validate_connect": 1, "validate_ehlo": 1}


def test_a_burst_of_errors_is_one_line_a_hook(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    policy = bench.policy(
        """
        local mod = {}
        function mod:validate_connect() error("one") end
        function mod:validate_ehlo() error("two") end
        msys.registerModule("m", mod)
        """
    )
    ac = bench.session()
    for _ in range(1000):
        policy.validate_connect(ac)
    policy.validate_ehlo(ac, "x")
    assert policy.errors == 1001
    assert [m.rpartition(" ")[2] for m in caplog.messages] == ["one", "two"]


def test_one_broken_module_does_not_spoil_the_next_session(bench: Bench) -> None:
    policy = bench.hook("if ac.remote_ip == '192.0.2.7' then error('boom') end vctx:set_code(250, ac.remote_ip)")
    assert policy.validate_connect(bench.session("192.0.2.7")) is ACCEPT
    assert policy.validate_connect(bench.session("192.0.2.8")).text == "192.0.2.8"


COUNTER = """
    local mod = {total = 0}
    function mod:validate_connect(ac, vctx)
        self.commands = 0
        vctx:set(msys.core.VCTX_CONN, "name", ac.remote_ip)
    end
    function mod:validate_ehlo(text, ac, vctx)
        self.commands = (self.commands or 0) + 1
        vctx:set_code(250, text .. " " .. self.commands .. " " .. tostring(vctx:get(msys.core.VCTX_CONN, "name"))
            .. " " .. self.total)
    end
    function mod:validate_dealloc() mod.total = mod.total + (self.commands or 100) end
    msys.registerModule("m", mod)
"""


def test_a_table_of_its_own_for_each_session(bench: Bench) -> None:
    policy = bench.policy(COUNTER)
    one, two = bench.session("192.0.2.1"), bench.session("192.0.2.2")
    policy.validate_connect(one)
    policy.validate_connect(two)
    assert policy.sessions == 2
    assert policy.validate_ehlo(one, "a").text == "a 1 192.0.2.1 0"
    assert policy.validate_ehlo(one, "b").text == "b 2 192.0.2.1 0"
    assert policy.validate_ehlo(two, "c").text == "c 1 192.0.2.2 0"
    one.close()
    policy.end_session(one)
    policy.end_session(two)
    assert policy.sessions == 0
    assert policy.validate_ehlo(bench.session("192.0.2.3"), "d").text == "d 1 nil 3"
    assert policy.errors == 0, policy.last_error


def test_what_a_hook_did_not_write_is_not_kept(bench: Bench) -> None:
    policy = bench.policy(LIMIT)
    for _ in range(100):
        policy.validate_connect(bench.session())
    assert policy.sessions == 0


def test_sessions_that_never_end_are_bounded(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    policy = bench.policy(COUNTER, max_sessions=10)
    first = bench.session("192.0.2.1")
    policy.validate_connect(first)
    others = [bench.session(f"192.0.3.{i}") for i in range(250)]
    for i, ac in enumerate(others):
        policy.validate_connect(ac)
        if i % 3:
            policy.end_session(ac)
    assert policy.sessions == 10
    assert policy.validate_ehlo(others[249], "x").text == "x 1 192.0.3.249 0"
    assert policy.validate_ehlo(first, "x").text == "x 1 nil 0"
    assert [r.getMessage() for r in caplog.records] == [
        f"{policy.path}: too many sessions are kept; the oldest is forgotten"
    ]
    assert policy.errors == 0, policy.last_error


def test_ended_sessions_behind_a_long_one_leave_nothing(bench: Bench) -> None:
    policy = bench.policy(COUNTER)
    first = bench.session("192.0.2.1")
    policy.validate_connect(first)
    for _ in range(3000):
        with bench.listener.session("192.0.2.2") as ac:
            policy.validate_connect(ac)
            policy.end_session(ac)
    assert policy.sessions == 1
    assert policy.validate_ehlo(first, "x").text.startswith("x 1 192.0.2.1")


def test_values_of_a_message_end_with_it(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        function mod:validate_mailfrom(text, ac, vctx)
            local msg = msys.core.accept_construct_get_message_construct(ac).message
            vctx:set_code(250, tostring(vctx:get(msys.core.VCTX_MESS, "n")) .. " " .. msg:mailfrom())
            vctx:set(msys.core.VCTX_MESS, "n", (vctx:get(msys.core.VCTX_CONN, "n") or 0) + 1)
            vctx:set(msys.core.VCTX_CONN, "n", vctx:get(msys.core.VCTX_MESS, "n"))
        end
        function mod:validate_rcptto(msg, text, ac, vctx)
            vctx:set_code(250, vctx:get(msys.core.VCTX_MESS, "n") .. " " .. vctx:get(msys.core.VCTX_CONN, "n"))
        end
        msys.registerModule("m", mod)
        """
    )
    ac = bench.session()
    assert policy.validate_mailfrom(ac, "a@example.org").text == "nil a@example.org"
    assert policy.validate_rcptto(ac, "r@example.org", Message()).text == "1 1"
    assert policy.validate_mailfrom(ac, "b@example.org").text == "nil b@example.org"
    assert policy.validate_rcptto(ac, "r@example.org", Message()).text == "2 2"
    assert policy.errors == 0, policy.last_error


def test_a_refused_recipient_ends_the_round(bench: Bench) -> None:
    policy = bench.hook(
        "if msg:rcptto() == 'b@x' then vctx:set_code(550, 'not b') end vctx:tarpit(1)",
        "validate_data_spool_each_rcpt(msg, ac, vctx)",
    )
    ac = bench.session()
    assert policy.validate_data_spool(ac, Message(rcptto=["a@x"])) == Verdict(tarpit=1.0)
    assert policy.validate_data_spool(ac, Message(rcptto=["a@x", "b@x", "c@x"])) == Verdict(False, 550, "not b", 1.0)
    assert policy.validate_data_spool(ac, Message()) is ACCEPT


def test_capabilities(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        function mod:validate_connect(ac, vctx)
            ac:esmtp_capability_add("SIZE 100")
            ac:esmtp_capability_add("SIZE 100")
            ac:esmtp_capability_remove("8BITMIME")
        end
        function mod:validate_ehlo(text, ac, vctx)
            if text ~= "plain" then ac:esmtp_capability_add("X-" .. text) end
        end
        msys.registerModule("m", mod)
        """
    )
    ac = bench.session()
    assert policy.capabilities(ac) == ((), ())
    policy.validate_connect(ac)
    policy.validate_ehlo(ac, "HELLO")
    assert policy.capabilities(ac) == (("SIZE 100", "X-HELLO"), ("8BITMIME",))
    assert policy.validate_ehlo(ac, "a\r\n250 b") is ACCEPT
    assert policy.last_error == "policy.lua:9: X-a\r\n250 b: is not the name of an ESMTP capability"
    policy.end_session(ac)
    assert policy.capabilities(ac) == ((), ())


def test_what_is_known_of_a_session(bench: Bench) -> None:
    listener = bench.audit.listener("IMAP", "im")
    policy = bench.hook(
        "vctx:set_code(250, table.concat({tostring(ac.remote_addr), ac.remote_ip, ac.remote_port, ac.version,"
        " ac.conn_id, ac.service_type, ac.listener_name, tostring(ac.local_addr)}, ' '))"
    )
    with listener.session("[2001:db8::7]:99", "[2001:db8::1]:143") as ac:
        assert policy.validate_connect(ac).text == (
            f"2001:db8::7.99 2001:db8::7 99 6 {ac.conn_id} IMAP im 2001:db8::1.143"
        )
    with listener.session(("::ffff:192.0.2.7", 5, 0, 0)) as ac:
        assert policy.validate_connect(ac).text == f"192.0.2.7:5 192.0.2.7 5 4 {ac.conn_id} IMAP im nil"
    assert policy.errors == 0, policy.last_error


KEEPER = """
    local mod = {}
    function mod:validate_connect(ac, vctx) kept, context = ac, vctx end
    function mod:validate_ehlo(text, ac, vctx)
        local answers = {pcall(assert(loadstring("return " .. text)))}
        vctx:set_code(250, tostring(answers[2]))
    end
    msys.registerModule("m", mod)
"""


def test_an_accept_construct_that_is_kept_answers_for_ever(bench: Bench) -> None:
    """Its session, listener, audit and their owner's references are gone; the policy keeps what it points into."""
    policy = bench.policy(KEEPER)
    audit = InboundAudit()
    gone = audit.listener("SMTP", "gone").session("2001:db8::7")
    policy.validate_connect(gone)
    gone.close()
    audit.close()
    alive = weakref.ref(audit)
    del gone, audit
    gc.collect()
    assert alive() is not None
    ac = bench.session()
    assert policy.validate_ehlo(ac, "kept:inbound_session_count('/0')").text == "0"
    assert policy.validate_ehlo(ac, "kept:inbound_session_count()").text == "0"
    assert policy.validate_ehlo(ac, "kept.remote_addr").text == "2001:db8::7.0"
    assert policy.validate_ehlo(ac, "kept.listener_name").text == "gone"
    assert "no such service type" in policy.validate_ehlo(ac, "kept:inbound_session_count('/0', 'nope')").text
    assert "local_addr is known while" in policy.validate_ehlo(ac, "kept.local_addr").text
    assert "is not being validated" in policy.validate_ehlo(ac, "kept:esmtp_capability_add('X')").text
    assert (
        "not the accept construct of the session"
        in policy.validate_ehlo(ac, "msys.core.accept_construct_get_message_construct(kept)").text
    )
    assert policy.validate_ehlo(ac, "context:set(1, 'a', 'b') or context:get(1, 'a')").text == "b"
    policy.close()
    del policy
    bench.policies.clear()
    gc.collect()
    assert alive() is None


def test_a_kept_accept_construct_still_counts_others(bench: Bench) -> None:
    policy = bench.policy(KEEPER)
    first = bench.session("192.0.2.7")
    policy.validate_connect(first)
    first.close()
    ac = bench.session("192.0.2.8")
    assert policy.validate_ehlo(ac, "kept:inbound_session_count('/24')").text == "1"
    assert policy.validate_ehlo(ac, "kept:inbound_session_count()").text == "0"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("local x = = 1", "policy.lua:1: unexpected symbol near '='"),
        ("x.y.z = 1", "policy.lua:1: attempt to index global 'x' (a nil value)"),
        ("error({})", "the error is not a string"),
        ("", "registers no module"),
        ("msys.registerModule('m')", "policy.lua:1: msys.registerModule: expected a name and a table of hooks"),
        ("msys.registerModule({}, 'm')", "expected a name and a table"),
        ("msys.registerModule('m', {init = function() error('in init') end})", "policy.lua:1: in init"),
        ("msys.registerModule('m', {init = function() return false end})", "init of module 'm' returned false"),
        ("while true do end", "steps"),
        ("msys.registerModule('m', {init = function() while true do end end})", "steps"),
        ("\x1bLJ", "is Lua bytecode; a policy must be source"),
    ],
)
def test_a_script_that_cannot_be_loaded(bench: Bench, script: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        bench.policy(script, max_steps=1000)
    assert str(caught.value).startswith(str(bench.directory / "policy.lua"))
    assert message in str(caught.value)


def test_a_script_that_cannot_be_read(bench: Bench) -> None:
    with pytest.raises(PolicyError, match=r"missing\.lua: No such file"):
        LuaPolicy(bench.directory / "missing.lua", **bench.kind._asdict())
    with pytest.raises(PolicyError, match="is not a regular file"):
        LuaPolicy(bench.directory, **bench.kind._asdict())


def test_settings_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "p.lua"
    path.write_text(LIMIT)
    with pytest.raises(PolicyError, match="on_error 'perhaps'"):
        LuaPolicy(path, on_error="perhaps")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=r"Lua 5\.1 has no FFI"):
        LuaPolicy(path, lua="lua51", ffi=True)
    with pytest.raises(PolicyError, match="this lupa has no lua99"):
        LuaPolicy(path, lua="lua99")
    with pytest.raises(PolicyError, match=r"Lua 5\.4: policies are written in Lua 5\.1"):
        LuaPolicy(path, lua="lua54")
    for option, least in (("max_steps", 1), ("max_memory", 2 << 20), ("max_sessions", 1)):
        for wrong in (-1, 0, least - 1, True, "1", 1e9):
            with pytest.raises(PolicyError, match=f"{option} {wrong!r}: expected a whole number from {least}"):
                LuaPolicy(path, **{option: wrong})  # type: ignore[arg-type]
    policy = LuaPolicy(path)
    assert policy.ffi
    assert policy.implementation.startswith("LuaJIT 2.1")
    assert policy.path == path
    policy.close()


def test_a_module_that_is_registered_late(bench: Bench) -> None:
    policy = bench.policy(
        """
        local late = {}
        function late:init() self.ready = "yes" end
        function late:validate_ehlo(text, ac, vctx) vctx:set_code(250, self.ready) end
        local mod = {}
        function mod:init() msys.registerModule("late", late) end
        msys.registerModule("m", mod)
        """
    )
    assert policy.validate_ehlo(bench.session(), "x").text == "yes"


def test_a_misspelt_hook_is_warned_of(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.policy("msys.registerModule('m', {validate_conect = print, helper = print, validate_ehlo = print})")
    assert caplog.messages == [
        f"{bench.directory / 'policy.lua'}: module 'm' has a function validate_conect, "
        "which is not a hook and is never called; did you mean 'validate_connect'?"
    ]


def test_print_goes_to_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inbound_audit.lua")
    bench.connect("print('seen', ac.remote_ip, nil, 3)")
    assert caplog.messages == [f"{bench.directory / 'policy.lua'}: seen\t192.0.2.7\tnil\t3"]


def test_a_closed_policy_answers_as_a_failing_one(bench: Bench) -> None:
    policy = bench.policy(LIMIT, on_error="refuse")
    ac = bench.session()
    policy.close()
    assert policy.validate_connect(ac).code == 421
    assert policy.validate_ehlo(ac, "x").code == 451
    assert policy.last_error == "the policy is closed"
    policy.end_session(ac)
    assert policy.capabilities(ac) == ((), ())
    assert policy.sessions == 0
    assert policy.errors == 2


def test_a_deinit_that_fails_is_logged(bench: Bench) -> None:
    policy = bench.policy("msys.registerModule('m', {deinit = function() error('boom') end})")
    policy.close()
    assert policy.errors_by_hook == {"deinit": 1}


@pytest.mark.parametrize("text", ["mx\udcff.example", "grün", "nul\0", "\ud800", "x" * 10_000])
def test_texts_from_the_wire_arrive_as_their_bytes(bench: Bench, text: str) -> None:
    policy = bench.hook(
        "self.seen = text vctx:set_code(250, #text .. ' ' .. text:byte(-1))", "validate_ehlo(text, ac, vctx)"
    )
    ac = bench.session()
    data = text.encode("utf-8", "surrogateescape" if text != "\ud800" else "backslashreplace")
    assert policy.validate_ehlo(ac, text).text == f"{len(data)} {data[-1]}"


def test_threads_ask_and_count_at_once(bench: Bench) -> None:
    """Threads open, ask and close through one policy; each sees its own session, and in the end nothing is left."""
    policy = bench.policy(
        """
        local mod = {}
        function mod:validate_connect(ac, vctx)
            self.who = ac.remote_ip
            for i = 1, 20 do
                local n = ac:inbound_session_count("/32")
                local net = ac:inbound_session_count("/24")
                if n < 1 or net < n - 1 then error("torn: " .. n .. " " .. net) end
            end
        end
        function mod:validate_ehlo(text, ac, vctx)
            if self.who ~= ac.remote_ip or text ~= self.who then error("mixed up " .. self.who .. " " .. text) end
            vctx:set_code(250, self.who)
        end
        msys.registerModule("m", mod)
        """
    )
    wrong: list[object] = []

    def work(number: int) -> None:
        for i in range(150):
            host = f"10.0.{number}.{i % 5}" if i % 2 else f"2001:db8:{number}::{i % 5:x}"
            with bench.listener.session(host) as ac:
                verdicts = policy.validate_connect(ac), policy.validate_ehlo(ac, ac.remote_ip)
                policy.end_session(ac)
                if verdicts[1].text != ac.remote_ip:
                    wrong.append((host, verdicts, policy.last_error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert policy.errors == 0, policy.last_error
    assert (policy.sessions, bench.audit.total()) == (0, 0)


def test_a_policy_is_collected(bench: Bench) -> None:
    policy = bench.policy(KEEPER)
    policy.validate_connect(bench.session())
    bench.policies.clear()
    gone = weakref.ref(policy)
    del policy
    gc.collect()
    assert gone() is None
