"""Names of the reference: dumper, pcre, thread, messages, context variables, macros; and those that are absent."""

from __future__ import annotations

import pytest
from tests.support.lua_support import Bench

from inbound_audit.policy.message import Message

SENDER, FIRST, SECOND = "strong-bad@email.example.com", "first@example.org", "second@example.net"

# A hook that reports an expression at each stage of a session.
STAGES = """
    local mod = {}
    local function say(vctx, msg, ac)
        vctx:set_code(250, tostring(EXPRESSION))
    end
    function mod:validate_connect(ac, vctx) say(vctx, nil, ac) end
    function mod:validate_ehlo(text, ac, vctx) say(vctx, nil, ac) end
    function mod:validate_mailfrom(text, ac, vctx)
        say(vctx, msys.core.accept_construct_get_message_construct(ac).message, ac)
    end
    function mod:validate_rcptto(msg, text, ac, vctx) say(vctx, msg, ac) end
    function mod:validate_data(msg, ac, vctx) say(vctx, msg, ac) end
    function mod:validate_data_spool(msg, ac, vctx) say(vctx, msg, ac) end
    msys.registerModule("m", mod)
"""


def stages(bench: Bench, expression: str, remote: str = "192.0.2.3:25") -> list[str]:
    """The value of an expression in each hook of two transactions; `C` and `M` are the contexts."""
    script = STAGES.replace(
        "EXPRESSION", expression.replace(" C,", " msys.core.VCTX_CONN,").replace(" M,", " msys.core.VCTX_MESS,")
    )
    policy = bench.policy(script)
    ac, message = bench.session(remote), Message(SENDER, [], 10)
    said = [policy.validate_connect(ac).text]
    policy.validate_tls(ac, "TLS_AES_256_GCM_SHA384")
    said.append(policy.validate_ehlo(ac, "client.example").text)
    said.append(policy.validate_mailfrom(ac, SENDER).text)
    for recipient in (FIRST, SECOND):
        said.append(policy.validate_rcptto(ac, recipient, message).text)
        message.rcptto.append(recipient)
    said += [policy.validate_data(ac, message).text, policy.validate_data_spool(ac, message).text]
    said.append(policy.validate_mailfrom(ac, "").text)
    said.append(policy.validate_rcptto(ac, "postmaster", Message("", [], 0)).text)
    assert policy.errors == 0, policy.last_error
    return said


NIL = "nil"
VARIABLES = {
    "vctx:get( C, 'tls')": [NIL, *["true"] * 8],
    "vctx:get( C, 'tls_cipher')": [NIL, *["TLS_AES_256_GCM_SHA384"] * 8],
    "vctx:get( C, 'ehlo_string')": [NIL, *["client.example"] * 8],
    "vctx:get( M, 'mailfrom_string')": [NIL, NIL, *[SENDER] * 5, "", ""],
    "vctx:get( M, 'mailfrom_localpart')": [NIL, NIL, *["strong-bad"] * 5, "", ""],
    "vctx:get( M, 'mailfrom_domain')": [NIL, NIL, *["email.example.com"] * 5, "", ""],
    "vctx:get( M, 'rcptto_string')": [NIL, NIL, NIL, FIRST, SECOND, SECOND, SECOND, NIL, "postmaster"],
    "vctx:get( M, 'rcptto_localpart')": [NIL, NIL, NIL, "first", *["second"] * 3, NIL, "postmaster"],
    "vctx:get( M, 'rcptto_domain')": [NIL, NIL, NIL, "example.org", *["example.net"] * 3, NIL, ""],
    "vctx:get( C, 'connection_message_count')": [NIL, NIL, *["1"] * 5, "2", "2"],
    "vctx:get( C, 'connection_rcpt_count')": [NIL, NIL, NIL, "1", "2", "2", "2", "2", "3"],
    "vctx:get( C, 'message_rcpt_count')": [NIL, NIL, "0", "1", "2", "2", "2", "0", "1"],
    "msys.expandMacro('%{vctx_mess:mailfrom_domain}')": ["", "", *["email.example.com"] * 5, "", ""],
    "msg and msg:context_get( M, 'mailfrom_domain')": [NIL, NIL, *["email.example.com"] * 5, "", ""],
    "#vctx:recipient_list()": ["0", "0", "0", "0", "1", "2", "2", "0", "0"],
    "table.concat(vctx:recipient_list(), ' ')": ["", "", "", "", FIRST, *[f"{FIRST} {SECOND}"] * 2, "", ""],
}


@pytest.mark.parametrize(("expression", "values"), VARIABLES.items(), ids=VARIABLES)
def test_what_is_known_at_each_stage(bench: Bench, expression: str, values: list[str]) -> None:
    assert stages(bench, expression) == values


def test_the_recipient_of_each_is_the_one_that_is_asked_about(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod, seen = {}, {}
        function mod:validate_data_spool_each_rcpt(msg, ac, vctx)
            seen[#seen + 1] = vctx:get(msys.core.VCTX_MESS, "rcptto_localpart") .. "=" .. msg:rcptto()
            vctx:set_code(250, table.concat(seen, " "))
        end
        msys.registerModule("m", mod)
        """
    )
    verdict = policy.validate_data_spool(bench.session(), Message(SENDER, [FIRST, SECOND], 1))
    assert verdict.text == f"first={FIRST} second={SECOND}"


# ---- messages


def test_a_message_has_the_context_of_its_session(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        local C, M = msys.core.ECMESS_CTX_CONN, msys.core.ECMESS_CTX_MESS
        function mod:validate_rcptto(msg, text, ac, vctx)
            msg:context_set(M, "n", 5)
            msg:context_set(C, "c", "conn")
            local e, value = msg:context_exists_and_get(M, "n")
            local missing, nothing = msg:context_exists_and_get(M, "missing")
            vctx:set_code(250, table.concat({
                e, type(value), value, missing, tostring(nothing), "'" .. msg:context_get(M, "missing") .. "'",
                msg:context_exists(C, "c"), msg:context_exists(M, "c"), vctx:get(C, "c"),
                msg:context_delete(C, "c"), msg:context_delete(C, "c"), vctx:exists(C, "c"),
            }, " "))
        end
        msys.registerModule("m", mod)
        """
    )
    assert policy.validate_rcptto(bench.session(), "a@b", Message()).text == "1 string 5 0 nil '' 1 0 conn 1 0 0"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("msg:context_set(5, 'k', 'v')", "5: is neither msys.core.VCTX_CONN nor msys.core.VCTX_MESS"),
        ("msg:context_get(1, nil)", "nil: the key of a context value must be a string"),
        ("msg:context_set(1, 'k', {})", "the value of k must be a text or a number"),
        ("msg:header('X')", "msg:header is not part of inbound_audit"),
        ("msg:discard()", "msg:discard is not part of inbound_audit"),
        ("vctx:add_recipient('a@b')", "vctx:add_recipient is not part of inbound_audit"),
        ("vctx:recipient_list({'a@b'})", "vctx:recipient_list(addresses) is not part of inbound_audit"),
        ("msys.dnsLookup('example.com', 'A')", "msys.dnsLookup is not part of inbound_audit"),
        ("msys.core.string_new()", "msys.core.string_new is not part of inbound_audit"),
        ("msys.db.query('x')", "msys.db.query is not part of inbound_audit"),
        ("require('json').decode('{}')", "json.decode is not part of inbound_audit"),
        ("require('json') json.decode('{}')", "json.decode is not part of inbound_audit"),
        (
            "require('msys.validate.dkim') msys.validate.dkim.sign()",
            "msys.validate.dkim.sign is not part of inbound_audit",
        ),
        ("require('thread') thread.spawn()", "thread.spawn is not part of inbound_audit"),
        ("require('msys.extended.message_routing') msys.extended.message_routing.x()", "is not part of inbound_audit"),
        ("require('msys.nosuch')", "module 'msys.nosuch' not found"),
        ("vctx:pbp_action(5, 'x')", "5: is not an SMTP reply code"),
    ],
)
def test_an_error_has_the_place_of_its_caller(bench: Bench, call: str, message: str) -> None:
    policy = bench.hook(call, "validate_rcptto(msg, text, ac, vctx)", on_error="refuse")
    assert not policy.validate_rcptto(bench.session(), "a@b", Message())
    assert str(policy.last_error).startswith("policy.lua:3: ")
    assert message in str(policy.last_error)


ABSENT = """
    json msys.adaptive msys.datasource msys.db msys.delivery msys.extended.message_routing msys.http.client
    msys.http_lua msys.httpclnt msys.smpp msys.timer msys.validate.dkim msys.validate.opendkim msys.gauge_cache
"""


@pytest.mark.parametrize("name", ABSENT.split())
def test_modules_that_are_not_available_may_be_required(bench: Bench, name: str) -> None:
    assert bench.say(f"type(require('{name}'))") == "table"


def test_a_file_of_that_name_comes_first(bench: Bench) -> None:
    bench.write("json.lua", "return {decode = function() return 'mine' end}")
    assert bench.say("require('json').decode()") == "mine"


def test_registrations_for_something_else_are_warned_of(
    bench_of_first_kind: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    policy = bench_of_first_kind.policy("require('msys.adaptive') msys.adaptive.registerRules({}) ")
    assert policy.validate_connect(bench_of_first_kind.session())
    assert "msys.adaptive.registerRules is not part of inbound_audit: what it registers is never called" in caplog.text


def test_pbp_action_sets_the_reply_and_ends_the_hook(bench: Bench) -> None:
    policy = bench.hook("return vctx:pbp_action(555, 'No soup for you'), true")
    verdict = policy.validate_connect(bench.session())
    assert (verdict.accepted, verdict.code, verdict.text, verdict.disconnect) == (False, 555, "No soup for you", False)


def test_fcdns_is_not_checked_and_says_so(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    policy = bench.hook(
        """
        local ok, reverse, forward = msys.pbp.fcdns_check(ac, vctx)
        local status = vctx:get(msys.core.VCTX_CONN, "fcdns_status")
        vctx:set_code(250, table.concat({tostring(ok), reverse, forward, status}, ","))
        """
    )
    for _ in range(2):
        assert policy.validate_connect(bench.session()).text == "true,not checked,not checked,not checked"
    assert len([line for line in caplog.messages if "msys.pbp.fcdns_check" in line]) == 1


def test_a_lock_is_always_free(bench: Bench) -> None:
    policy = bench.policy(
        """
        local lock = require("thread").mutex(thread.MUTEX_ERRORCHECK)
        local mod = {}
        function mod:validate_connect(ac, vctx)
            lock:lock()
            vctx:set_code(250, tostring(lock:trylock()))
            error("held")
        end
        function mod:validate_ehlo(text, ac, vctx)
            lock:lock()
            lock:unlock()
            vctx:set_code(250, "free")
        end
        msys.registerModule("m", mod)
        """
    )
    ac = bench.session()
    policy.validate_connect(ac)
    assert policy.validate_ehlo(ac, "x").text == "free"


# ---- dumper and patterns

DUMPS = {
    "5": "5",
    "'a\"b'": '"a\\"b"',
    "nil": "nil",
    "true": "true",
    "{}": "{}",
    "{3, 'x', k = true, ['a b'] = {}}": '{\n  [1] = 3,\n  [2] = "x",\n  ["a b"] = {},\n  k = true,\n}',
    "{['end'] = 1, ['2'] = 2, ends = 3}": '{\n  ["2"] = 2,\n  ["end"] = 1,\n  ends = 3,\n}',
    "{a = {b = 1}}": "{\n  a = {\n    b = 1,\n  },\n}",
}


@pytest.mark.parametrize(("value", "text"), DUMPS.items(), ids=DUMPS)
def test_dumper(bench: Bench, value: str, text: str) -> None:
    bench.say(
        "true", setup=f"assert(require('msys.dumper').Dumper({value}) == [==[{text}]==], msys.dumper.Dumper({value}))"
    )


def test_dumper_of_a_table_inside_itself(bench: Bench) -> None:
    assert "itself" in bench.say("(msys.dumper.Dumper(t):gsub('%s', ''))", setup="local t = {} t.t = t")


def test_dumper_of_keys_that_have_no_text(bench: Bench) -> None:
    key = "[setmetatable({}, {__tostring = function() return nil end})] = 1"
    assert bench.say(f"#msys.dumper.Dumper({{{key}, {key}}}) > 0") == "true"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("msys.pcre.match('a@b.example', '@(.*)$')[1]", "b.example"),
        ("msys.pcre.match('a@b.example', '(?P<localpart>[^@]+)@(?P<domain>.+)').domain", "b.example"),
        ("msys.pcre.match('a@b.example', '(x)?@')[1]", "nil"),
        ("msys.pcre.match('a@b.example', '(x)?@')[0]", "@"),
        ("msys.pcre.match('A', '(?i)a')[0]", "A"),
        ("msys.pcre.match('\\255\\0x', '.\\\\x00')[0] == '\\255\\0'", "true"),
        ("msys.pcre.match('abc', 'x')", "nil"),
        ("msys.pcre.match(550, '5')[0]", "5"),
        ("select('#', msys.pcre.match('abc', '(')) .. select(3, msys.pcre.match('abc', '('))", "31"),
        ("(select(2, msys.pcre.match('abc', '(?=x)'))):find('(?=x)', 1, true) ~= nil", "true"),
        ("table.concat(msys.pcre.split('a1b22c', '[0-9]+'), ' ')", "a b c"),
        ("#msys.pcre.split('', ',')", "1"),
        ("#msys.pcre.split('a,', ',')", "2"),
        ("#msys.pcre.split(('x,'):rep(4000), ',')", "4001"),
        ("msys.pcre.replace('4.7.1 text', '^([0-9])[0-9.]* ?', '<$1>$$')", "<4>$text"),
        ("msys.pcre.replace('aXbX', 'X', '')", "ab"),
        ("msys.pcre.replace('ab', '(a)(x)?', '$2-$9-${1}')", "--ab"),
    ],
)
def test_patterns(bench: Bench, expression: str, value: str) -> None:
    pytest.importorskip("re2")
    assert bench.say(expression) == value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("match(('x'):rep(8193), 'x')", "a text has at most 8192 bytes, not 8193"),
        ("split(('x'):rep(8193), 'x')", "a text has at most 8192 bytes, not 8193"),
        ("match('x', ('x'):rep(1001))", "a pattern has at most 1000 bytes, not 1001"),
        ("match('x', ('(x)'):rep(33))", "a pattern has at most 32 groups, not 33"),
        ("replace(('x'):rep(8000), 'x', ('y'):rep(1000))", "the text would have more than 1048576 bytes"),
        ("replace('x', 'x', ('y'):rep(1001))", "a replacement has at most 1000 bytes, not 1001"),
        ("match({}, 'x')", "msys.pcre.match: expected strings, not a table"),
    ],
)
def test_bounds_of_patterns(bench: Bench, call: str, message: str) -> None:
    pytest.importorskip("re2")
    error = bench.fails(f"msys.pcre.{call}")
    assert error.startswith("policy.lua:3: ")
    assert message in error


def test_a_pattern_takes_time_that_grows_with_the_text_alone(bench_of_first_kind: Bench) -> None:
    pytest.importorskip("re2")
    assert bench_of_first_kind.say("msys.pcre.match(('a'):rep(8000), '^(a|a)*(a|aa)+$b')") == "nil"


def test_without_the_library_the_extra_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from inbound_audit.lua import pcre

    pcre._compile.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "re2", None)
    assert "policy.lua:3: msys.pcre needs google-re2: pip install 'inbound-audit[sieve]'" in bench.fails(
        "msys.pcre.match('a', 'b')"
    )
    pcre._compile.cache_clear()


# ---- macros (the examples of RFC 7208, section 7.4)

IPV6 = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
MACROS = {
    "%{spfv1:s}": SENDER,
    "%{spfv1:o}": "email.example.com",
    "%{spfv1:d}": "email.example.com",
    "%{spfv1:d4}": "email.example.com",
    "%{spfv1:d2}": "example.com",
    "%{spfv1:d1}": "com",
    "%{spfv1:dr}": "com.example.email",
    "%{spfv1:d2r}": "example.email",
    "%{spfv1:l}": "strong-bad",
    "%{spfv1:l-}": "strong.bad",
    "%{spfv1:lr}": "strong-bad",
    "%{spfv1:lr-}": "bad.strong",
    "%{spfv1:l1r-}": "strong",
    "%{spfv1:h}": "client.example",
    "%{spfv1:i}": "192.0.2.3",
    "%{i}": "192.0.2.3",
    "%{spfv1:ir}.%{spfv1:v}._spf.%{spfv1:d2}": "3.2.0.192.in-addr._spf.example.com",
    "%{spfv1:lr-}.lp._spf.%{spfv1:d2}": "bad.strong.lp._spf.example.com",
    "%{spfv1:S}": "strong-bad%40email.example.com",
    "%{spfv1:d0}": "%{spfv1:d0}",
    "%{spfv1:x}": "%{spfv1:x}",
    "%{spfv1:}": "%{spfv1:}",
    "%{unknown}": "%{unknown}",
}


@pytest.mark.parametrize(("macro", "text"), MACROS.items(), ids=MACROS)
def test_macros(bench: Bench, macro: str, text: str) -> None:
    assert stages(bench, f"msys.expandMacro('{macro}')")[3] == text


def test_macros_of_ipv6(bench: Bench) -> None:
    assert stages(bench, "msys.expandMacro('%{spfv1:ir}.%{spfv1:v} %{i} %{spfv1:i}')", "[2001:db8::cb01]:25")[3] == (
        f"{IPV6}.ip6 2001:db8::cb01 2001:db8::cb01"
    )


def test_macros_without_a_sender(bench: Bench) -> None:
    assert stages(bench, "msys.expandMacro('%{spfv1:s} %{spfv1:d}')")[-1] == "postmaster@client.example client.example"


# ---- options

OPTIONS = {
    "msys.audit_series.define('x', 'ip', 60, 6, {persit = true})": "unknown option 'persit'; did you mean 'persist'?",
    "msys.audit_series.define('x', 'ip', 60, 6, {foo = 1})": "unknown option 'foo' (known: max_bytes, max_hosts, ",
    "msys.audit_series.define('x', 'ip', 60, 6, {[1] = true})": "unknown option '1'",
    "msys.audit_series.define('x', 'ip', 60, 6, {[{}] = true})": "unknown option 'table: ",
    "msys.audit_series.define('x', 'ip', 60, 6, {persist = 'no'})": "option 'persist' must be true or false, not 'no'",
    "msys.audit_series.define('x', 'ip', 60, 6, {serialize = {}})": "option 'serialize' must be true or false",
    "msys.audit_series.define('x', 'ip', 60, 6, {replicate = 'bogus'})": "'bogus'",
    "msys.audit_series.define('x', 'ip', 60, 6, {replicate = true})": "True",
    "msys.audit_series.define('x', 'ip', 60, 6, {replicate = {}})": "table: ",
    "msys.audit_series.add('x', {kye = ac})": "msys.audit_series.add: unknown option 'kye'; did you mean 'key'?",
    "msys.audit_series.count('x', {starty = 0})": "count: unknown option 'starty'; did you mean 'startv'?",
    "msys.audit_series.count('x', {count = 1})": "msys.audit_series.count: unknown option 'count'",
    "msys.audit.connections('300,' .. 6, {cird = '/24'})": "connections: unknown option 'cird'; did you mean 'cidr'?",
    "msys.audit.rejections('300,' .. 6, {endw = 1})": "rejections: unknown option 'endw'; did you mean 'endv'?",
    "msys.cidr.define('l', {type = 'rbldnsd', sorce = 'x'})": "define: unknown option 'sorce'; did you mean 'source'?",
    "msys.cidr.define('l', {type = 'empty', interpolate = 'x'})": "option 'interpolate' must be true or false",
}


@pytest.mark.parametrize(("call", "message"), OPTIONS.items(), ids=OPTIONS)
def test_options_that_are_wrong(bench: Bench, call: str, message: str) -> None:
    error = bench.fails(call)
    assert error.startswith("policy.lua:3: ")
    assert message in error


@pytest.mark.parametrize("where", ["none", "cluster", "manager", None])
def test_replicate_has_three_values(bench: Bench, where: str | None) -> None:
    options = "" if where is None else f", {{replicate = '{where}'}}"
    bench.connect(f"msys.audit_series.define('x', 'ip', 60, 6{options})")
    assert bench.audit.series.defined("x").replicate == (where or "none")
    with bench.audit.listener().session("192.0.2.7") as ac:
        bench.hook("msys.audit_series.add('x')").validate_connect(ac)
    assert bench.audit.series.count("x", "192.0.2.7") == 1  # on a single host each of them counts


def test_a_series_is_replicated_in_one_way(bench: Bench) -> None:
    define = "msys.audit_series.define('x', 'ip', 60, 6, {replicate = '%s'}) "
    bench.connect(define % "none" + define % "manager" + define % "none")
    assert bench.audit.series.defined("x").replicate == "manager"
    error = bench.fails(define % "manager" + define % "cluster")
    assert error.endswith("'x': is defined already, and its replicate is manager, not cluster")


def test_a_policy_may_keep_tables_of_its_own_beside_the_options_of_a_list(bench: Bench) -> None:
    bench.write("list.txt", "192.0.2.0/24 listed: $\n")
    lists = (
        "{type = 'rbldnsd', source = 'list.txt', record_type = 'TXT', optimize_hosts = true, limits = {max_conn = 5}}"
    )
    assert bench.say("msys.cidr.query('l')", setup=f"msys.cidr.define('l', {lists})") == "listed: 192.0.2.7"
    plain = lists.replace("limits", "interpolate = false, limits")
    assert bench.say("msys.cidr.query('l')", setup=f"msys.cidr.define('l', {plain})") == "listed: $"


def test_an_empty_list(bench: Bench) -> None:
    for options in ("'empty'", "{type = 'empty'}"):
        assert bench.say("msys.cidr.query('l')", setup=f"msys.cidr.define('l', {options})") == "nil"
    assert (
        bench.say("msys.cidr.query('l')", setup="msys.cidr.define('l', {type = 'empty', default_value = 'x'})") == "x"
    )
