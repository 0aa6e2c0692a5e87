"""The names of `msys`, `require` and `module`, as published policies use them."""

from __future__ import annotations

import os

import pytest
from tests.support.lua_support import Bench
from tests.support.sieve_support import PATIENT_MS
from tests.support.waiting import eventually

from inbound_audit import LuaPolicy

MODULES = [
    "msys", "msys.core", "msys.audit", "msys.audit_series", "msys.cidr", "msys.pbp", "msys.policyeditor",
    "msys.extended.ac", "msys.extended.vctx", "msys.extended.message", "string", "table", "math", "os", "coroutine",
    "_G",
]  # fmt: skip


def test_every_module_is_found(bench: Bench) -> None:
    for module in MODULES:
        assert bench.say(f"type(require('{module}'))") == "table"
    assert bench.say("require('msys.audit') == msys.audit and require('msys.core') == msys.core") == "true"


def test_constants(bench: Bench) -> None:
    core = "local c = msys.core"
    assert bench.say("c.VALIDATE_CONT ~= c.VALIDATE_DONE and c.VCTX_CONN ~= c.VCTX_MESS", core) == "true"
    assert bench.say("c.ECMESS_CTX_CONN == c.VCTX_CONN and c.ECMESS_CTX_MESS == c.VCTX_MESS", core) == "true"
    assert bench.say("c.AF_INET ~= c.AF_INET6", core) == "true"


SPLIT = """
    local text, family = tostring(ac.remote_addr), msys.core.ec_sockaddr_family(ac.remote_addr)
    local sep = family == msys.core.AF_INET and ":" or family == msys.core.AF_INET6 and "%." or error("no family")
    local ip = text:sub(1, text:find(sep) - 1)
"""


@pytest.mark.parametrize(
    ("remote", "ip"),
    [("192.0.2.7:25", "192.0.2.7"), ("[2001:db8::7]:25", "2001:db8::7"), ("::ffff:192.0.2.7", "192.0.2.7")],
)
def test_policies_split_the_address_as_they_do(bench: Bench, remote: str, ip: str) -> None:
    assert bench.say("ip .. ' ' .. ac.remote_ip", SPLIT, remote) == f"{ip} {ip}"


def test_the_family_of_what_is_no_address(bench: Bench) -> None:
    assert bench.say("msys.core.ec_sockaddr_family('x') == nil and msys.core.ec_sockaddr_family(nil) == nil") == "true"


def test_values_of_the_context(bench: Bench) -> None:
    conn, mess = "msys.core.VCTX_CONN", "msys.core.VCTX_MESS"
    assert bench.say(f"vctx:exists({conn}, 'k')") == "0"
    assert bench.say(f"vctx:exists({conn}, 'k')", f"vctx:set({conn}, 'k', 'v')") == "1"
    assert bench.say(f"vctx:exists({mess}, 'k')", f"vctx:set({conn}, 'k', 'v')") == "0"
    assert bench.say(f"vctx:exists({conn}, 'k')", f"vctx:set({conn}, 'k', 1) vctx:set({conn}, 'k', nil)") == "0"
    assert bench.say(f"vctx:get({conn}, 'k')") == "nil"
    assert bench.say(f"type(vctx:get({conn}, 'k')) .. vctx:get({conn}, 'k')", f"vctx:set({conn}, 'k', 5)") == "string5"
    assert bench.say(f"vctx:get({mess}, 'k')", f"vctx:set({mess}, 'k', true)") == "true"
    assert bench.say("vctx.mine", "vctx.mine = 7") == "7"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("vctx:set(9, 'k', 'v')", "policy.lua:3: 9: is neither msys.core.VCTX_CONN nor msys.core.VCTX_MESS"),
        ("vctx:get('k')", "policy.lua:3: k: is neither"),
        ("vctx:exists(nil, 'k')", "policy.lua:3: nil: is neither"),
        ("vctx:get(1, 5)", "policy.lua:3: 5: the key of a context value must be a string"),
        ("vctx:set(1, 'k', {})", "policy.lua:3: the value of k must be a text or a number, not a table"),
        ("vctx:set(1, 'k', print)", "not a function"),
        ("msys.expandMacro(5)", "policy.lua:3: msys.expandMacro: the text must be a string"),
        ("msys.pbp.size_in_bytes('big')", "policy.lua:3: big: is not a size such as '30m'"),
        ("msys.pbp.set_whitelist({}, 1)", "policy.lua:3: msys.pbp.set_whitelist: expected"),
        ("msys.pbp.set_whitelist(vctx, 9, 'x', true)", "policy.lua:3: 9: is neither"),
        ("msys.pbp.check_whitelist('x')", "policy.lua:3: msys.pbp.check_whitelist: expected"),
        ("msys.core.accept_construct_get_message_construct(1)", "policy.lua:3: accept_construct_get_message_construct"),
        ("ac:esmtp_capability_add()", "policy.lua:3: nil: is not the name of an ESMTP capability"),
        ("ac:esmtp_capability_remove('')", "policy.lua:3: : is not the name of an ESMTP capability"),
        ("require(5)", "policy.lua:3: require: the name of a module must be a string"),
        ("loadstring(5)", "policy.lua:3: loadstring: the chunk must be a string"),
    ],
)
def test_errors_name_the_line_of_their_caller(bench: Bench, body: str, message: str) -> None:
    assert message in bench.fails(body)


def test_macros(bench: Bench) -> None:
    setup = "vctx:set(msys.core.VCTX_CONN, 'a', 1) vctx:set(msys.core.VCTX_MESS, 'b c', 'x%{i}')"
    text = "[%{i}|%{spfv1:i}|%{vctx_conn:a}|%{vctx_mess:b c}|%{vctx_conn:b c}|%{vctx_mess:}|%{other}|%{}|100%]"
    assert bench.say(f"msys.expandMacro('{text}')", setup, "[2001:db8::7]:1") == (
        "[2001:db8::7|2001:db8::7|1|x%{i}|||%{other}|%{}|100%]"
    )
    policy = bench.hook(
        "vctx:set_code(250, msys.expandMacro('%{vctx_conn:ehlo_domain}'))", "validate_ehlo(s, ac, vctx)"
    )
    assert policy.validate_ehlo(bench.session(), "mx.example.org").text == "mx.example.org"


def test_whitelists(bench: Bench) -> None:
    check = "msys.pbp.check_whitelist"
    on = "msys.pbp.set_whitelist(vctx, 'good', true)"
    assert bench.say(f"{check}(vctx, 'good')") == "false"
    assert bench.say(f"{check}(vctx, 'good')", on) == "true"
    assert bench.say(f"{check}(vctx, {{'other', 'good'}})", on) == "true"
    assert bench.say(f"{check}(vctx, {{honor_whitelist = {{'good'}}}})", on) == "true"
    assert bench.say(f"{check}(vctx, {{honor_whitelist = 'good'}})", on) == "true"
    assert bench.say(f"{check}(vctx, {{'other'}})", on) == "false"
    assert bench.say(f"{check}(vctx, {{}})", on) == "false"
    assert bench.say(f"{check}(vctx, nil)", on) == "false"
    assert bench.say(f"{check}(vctx, 'good')", on + " msys.pbp.set_whitelist(vctx, 'good', false)") == "false"
    mess = "msys.pbp.set_whitelist(vctx, msys.core.VCTX_MESS, 'good', true)"
    assert bench.say(f"{check}(vctx, 'good')", mess) == "true"
    assert bench.say("vctx:exists(msys.core.VCTX_CONN, 'dp_whitelist_good')", on) == "1"


@pytest.mark.parametrize(
    ("size", "number"),
    [("30m", 31457280), ("30M", 31457280), ("1k", 1024), ("1kb", 1024), ("2 g", 2147483648), ("100", 100),
     ("1.5k", 1536), ("7b", 7)],
)  # fmt: skip
def test_sizes(bench: Bench, size: str, number: int) -> None:
    assert bench.say(f"msys.pbp.size_in_bytes('{size}')") == str(number)


LIBRARY = """
    module("inbound.library", package.seeall)
    require("msys.core")
    conf = {limit = 3}
    function over(ac) return ac:inbound_session_count("/32") > conf.limit end
    local function hidden() end
"""


def test_module_makes_a_global_table_that_sees_the_globals(bench: Bench) -> None:
    bench.write("inbound/library.lua", LIBRARY)
    setup = "local lib = require('inbound.library')"
    assert bench.say("lib == inbound.library and lib == package.loaded['inbound.library']", setup) == "true"
    assert (
        bench.say("lib._NAME .. ' ' .. lib._PACKAGE .. ' ' .. tostring(lib._M == lib)", setup)
        == "inbound.library inbound. true"
    )
    assert bench.say("lib.over(ac)", setup) == "false"
    assert bench.say("rawget(lib, 'hidden') == nil and over == nil and rawget(_G, 'conf') == nil", setup) == "true"


def test_module_in_the_policy_itself_and_twice(bench: Bench) -> None:
    policy = bench.policy(
        """
        module("one.two", package.seeall)
        x = 1
        module("one", package.seeall)
        y = two.x + 1
        registered = msys.registerModule("m", {validate_connect = function(self, ac, vctx)
            vctx:set_code(250, x == nil and y .. two.x)
        end})
        """
    )
    assert policy.validate_connect(bench.session()).text == "21"
    assert policy.errors == 0, policy.last_error
    assert "name conflict for module 'msys.core.AF_INET'" in bench.fails("module('msys.core.AF_INET')")


def test_require_returns_what_a_file_returns_and_loads_it_once(bench: Bench) -> None:
    bench.write("counted.lua", "times = (times or 0) + 1 return {name = ...}")
    bench.write("plain.lua", "plain_was_here = 1")
    bench.write("pack/init.lua", "return 'the package'")
    bench.write("elsewhere/far.lua", "return 'far'")
    assert bench.say("require('counted').name .. times", "require('counted') require('counted')") == "counted1"
    assert bench.say("tostring(require('plain')) .. plain_was_here") == "true1"
    assert bench.say("require('pack')") == "the package"
    assert bench.say("require('far')", search=[bench.directory / "elsewhere"]) == "far"
    here = bench.directory / "elsewhere"
    assert bench.say("require('far')", f"package.path = package.path .. ';{here}/?.lua'") == "far"
    assert bench.say("require('made')", "package.preload.made = function(name) return name .. ' up' end") == "made up"


def test_require_that_fails(bench: Bench) -> None:
    bench.write("broken.lua", "x = 1\nx = = 2")
    bench.write("raising.lua", "\nerror('at load')")
    bench.write("sub/a.lua", "require('sub.b')")
    bench.write("sub/b.lua", "\nrequire('sub.a')")
    assert bench.fails("require('broken')").endswith("broken.lua:2: unexpected symbol near '='")
    assert bench.fails("require('raising')") == "raising.lua:2: at load"
    assert bench.fails("require('sub.a')") == f"sub{os.sep}b.lua:2: loop or previous error loading module 'sub.a'"
    missing = bench.fails("require('no.such')")
    assert "module 'no.such' not found: no file '" in missing
    assert f"{bench.directory / 'no' / 'such.lua'}" in missing


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_module_that_cannot_be_read(bench: Bench) -> None:
    bench.write("secret.lua", "return 1").chmod(0)
    assert "secret.lua: Permission denied" in bench.fails("require('secret')")


def list_policy(bench: Bench, options: str, remote: str = "192.0.2.7") -> str:
    policy = bench.policy(
        f"""
        local mod = {{}}
        function mod:init() msys.cidr.define("list", {{type = "rbldnsd", source = "list.txt", {options}}}) end
        function mod:validate_connect(ac, vctx)
            local mine, other = msys.cidr.query("list"), msys.cidr.query("list", "10.1.2.3")
            vctx:set_code(250, tostring(mine) .. " " .. tostring(other))
        end
        msys.registerModule("m", mod)
        """
    )
    verdict = policy.validate_connect(bench.session(remote))
    assert policy.errors == 0, policy.last_error
    return verdict.text


def test_address_lists(bench: Bench) -> None:
    bench.write(
        "list.txt", ":5:listed $\n192.0.2.0/24\n192.0.2.7 :7:exactly\n!10.1.2.3\n10.0.0.0/8 net\n2001:db8::/32 :6:v6\n"
    )
    assert list_policy(bench, "") == "127.0.0.7 nil"
    assert list_policy(bench, "record_type = 'A', default_value = ''") == "127.0.0.7 "
    assert list_policy(bench, "value = 'txt', default_value = false") == "exactly false"
    assert list_policy(bench, "record_type = 'TXT'", "192.0.2.9") == "listed 192.0.2.9 nil"
    assert list_policy(bench, "record_type = 'TXT', interpolate = false", "192.0.2.9") == "listed $ nil"
    assert list_policy(bench, "default_value = '127.0.0.0'", "[2001:db8::7]:25") == "127.0.0.6 127.0.0.0"
    assert list_policy(bench, "default_value = 'none'", "[2001:db9::7]:25") == "none none"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("define('l')", "expected a name and a table of options"),
        ("define('l', {type = 'datasource'})", "type datasource of 'l' is not part of inbound_audit"),
        ("define('l', {type = 'rbldnsd'})", "'l' needs a source"),
        ("define('l', {type = 'rbldnsd', source = 'x', refresh = -1})", "needs a source (a file) and a refresh"),
        (
            "define('l', {type = 'rbldnsd', source = 'x', record_type = 'MX'})",
            "record_type mx of 'l' is neither A nor TXT",
        ),
        ("define('l', {type = 'rbldnsd', source = 'missing'})", "missing: No such file"),
        ("query('nosuch')", "policy.lua:3: nosuch: no such list"),
        ("query(nil)", "nil: no such list"),
        ("reload('nosuch')", "nosuch: no such list"),
        ("define('l', {type = 'rbldnsd', source = 'good.txt'}) msys.cidr.query('l', 'nonsense')", "'nonsense'"),
        ("define('l', {type = 'rbldnsd', source = 'good.txt'}) msys.cidr.query('l', 5)", "5 is not an address"),
    ],
)
def test_address_lists_that_are_wrong(bench: Bench, call: str, message: str) -> None:
    bench.write("good.txt", "192.0.2.0/24\n")
    error = bench.fails(f"msys.cidr.{call}")
    assert error.startswith("policy.lua:3: ")
    assert message in error


def test_a_list_is_reloaded_on_request(bench: Bench) -> None:
    path = bench.write("list.txt", "10.0.0.0/8\n")
    policy = bench.policy(
        """
        local mod = {}
        msys.cidr.define("l", {type = "rbldnsd", source = "list.txt", refresh = 0})
        function mod:validate_ehlo(text, ac, vctx)
            if text == "reload" then msys.cidr.reload("l") end
            vctx:set_code(250, tostring(msys.cidr.query("l")))
        end
        msys.registerModule("m", mod)
        """
    )
    ac = bench.session()
    assert policy.validate_ehlo(ac, "x").text == "nil"
    path.write_text("192.0.2.0/24\n")
    assert policy.validate_ehlo(ac, "x").text == "nil"
    eventually(lambda: policy.validate_ehlo(ac, "reload").text == "127.0.0.2")
    path.unlink()
    eventually(lambda: policy.validate_ehlo(ac, "reload") and "list.txt: No such file" in str(policy.last_error))
    assert policy.validate_ehlo(ac, "x").text == "127.0.0.2"


TRAINING = {
    "policy.lua": """
        require("msys.core");
        local policies = {"inbound.limits"};
        local loaded_policies = {};
        for k, v in ipairs(policies) do table.insert(loaded_policies, require(v)); end;
        local mod = {}
        local function call_policy(self, phase, ac, vctx)
          for k, v in ipairs(loaded_policies) do
            local continue, code, str, disconnect = v.check(self, phase, ac, vctx);
            if not continue then
              vctx:set_code(code, str);
              if disconnect then vctx.disconnect = 1; end
              return false;
            end
          end
          return true;
        end
        local function purge_self(self) for k, v in pairs(self) do self[k] = nil; end end
        function mod:init() for k, v in ipairs(loaded_policies) do v.init(); end return true; end
        function mod:core_validate_accept(ac, vctx)
          purge_self(self);
          if not call_policy(self, "accept", ac, vctx) then return msys.core.VALIDATE_DONE; end
          return msys.core.VALIDATE_CONT;
        end
        function mod:validate_connect(ac, vctx)
          if not call_policy(self, "connect", ac, vctx) then return msys.core.VALIDATE_DONE; end
          return msys.core.VALIDATE_CONT;
        end
        function mod:validate_dealloc() purge_self(self); end
        msys.registerModule("inbound_policy", mod);
    """,
    "inbound/limits.lua": """
        module("inbound.limits", package.seeall);
        require("msys.cidr"); require("msys.extended.ac"); require("msys.pbp");
        local conf = {good = {type = "rbldnsd", source = "good.txt", record_type = "TXT", default_value = ""}};
        function init() for k, list in pairs(conf) do msys.cidr.define(k, list); end return true; end
        function check(self, phase, ac, vctx)
          if phase == "accept" then
            for k in pairs(conf) do
              if msys.cidr.query(k) != "" then msys.pbp.set_whitelist(vctx, msys.core.VCTX_CONN, k, true); end
            end
            return true;
          end
          local limit = msys.pbp.check_whitelist(vctx, "good") and 500 or 1;
          if ac:pbp_inbound_session_count_service("SMTP", "/32") > limit then
            return false, 421, string.format("4.7.1 <%s> Too many", ac.remote_ip), true;
          end
          return true;
        end
    """,
}  # fmt: skip


def test_a_policy_in_the_shape_of_the_published_ones(bench: Bench) -> None:
    for name, text in TRAINING.items():
        bench.write(name, text)
    bench.write("good.txt", "198.51.100.0/24 trusted\n2001:db8:9::/48\n")
    policy = LuaPolicy(bench.directory / "policy.lua", **bench.kind._asdict(), max_hook_ms=PATIENT_MS)
    bench.policies.append(policy)
    for host, limited in (
        ("192.0.2.7", True),
        ("2001:db8::7", True),
        ("198.51.100.7", False),
        ("2001:db8:9::7", False),
    ):
        assert policy.validate_connect(bench.session(host)).accepted
        second = policy.validate_connect(bench.session(host))
        assert second.accepted is not limited
        if limited:
            assert (second.code, second.text, second.disconnect) == (421, f"4.7.1 <{host}> Too many", True)
    assert policy.errors == 0, policy.last_error


@pytest.mark.parametrize(
    "call", ["vctx:pbp_action('x')", "vctx:disconnect(999)", "msys.audit.connections('x')", "('x'):rep(1e9)", "ac:x()"]
)
def test_an_error_of_a_call_that_is_returned_has_the_place_of_the_call(bench: Bench, call: str) -> None:
    for statement in (f"return {call}", f"if ac then return {call}; end", f"do return {call} end"):
        assert bench.fails(statement).startswith("policy.lua:3: "), statement


def test_a_call_that_is_returned_returns_all_its_results(bench: Bench) -> None:
    first = "local t = {f = function() return 1, nil, 3, nil end} function t:g(...) return t.f(...) end "
    assert bench.say("select('#', (function() return t:g() end)())", first) == "4"
    assert bench.say("f(100000)", "local function g(n) return n == 0 and 'end' or n end "
                     "function f(n) if n > 0 then return f(n - 1) end return g(n) end") == "end"  # fmt: skip
