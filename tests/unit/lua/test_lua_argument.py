"""The argument of `ac:inbound_session_count`: from every Lua what Python answers, counts and words of errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.grammar import CASES, populate
from tests.support.lua_support import KINDS, Bench

from inbound_audit import LuaPolicy, Session
from inbound_audit.errors import CidrError, UnknownServiceType

ECHO = """
    local mod = {}
    function mod:validate_ehlo(text, ac, vctx)
        local ask = assert(loadstring("return " .. text))  -- the test writes what to ask as the client's name
        local ok, answer = pcall(function() local n = ac:inbound_session_count(ask()) return n end)
        vctx:set_code(ok and 250 or 251, tostring(answer))
    end
    msys.registerModule("echo", mod)
"""


@pytest.fixture
def echo(bench: Bench) -> LuaPolicy:
    return bench.policy(ECHO)


@pytest.fixture
def peers(bench: Bench) -> tuple[Session, Session]:
    peer4, peer6, sessions = populate(bench.audit)
    bench.sessions += sessions
    return peer4, peer6


def lua_literal(value: object) -> str:
    if value is None:
        return "nil"
    if isinstance(value, str):
        return '"' + "".join(f"\\{byte:03d}" for byte in value.encode()) + '"'
    return str(value).lower()


def from_lua(policy: LuaPolicy, ac: Session, arguments: tuple[object, ...]) -> int | str:
    """A count, or the error without the place where it was raised."""
    verdict = policy.validate_ehlo(ac, ", ".join(map(lua_literal, arguments)))
    assert policy.errors == 0, policy.last_error
    return int(verdict.text) if verdict.code == 250 else verdict.text.split(": ", 1)[1]


def from_python(ac: Session, arguments: tuple[object, ...]) -> int | str:
    try:
        return ac.inbound_session_count(*arguments)  # type: ignore[arg-type]
    except (CidrError, UnknownServiceType) as error:
        return str(error)


def test_the_table(echo: LuaPolicy, peers: tuple[Session, Session]) -> None:
    """Each row of the table that Python is held to, in the same words where it is an error."""
    for arguments, *answers in CASES:
        for ac, answer in zip(peers, answers, strict=True):
            reported = from_lua(echo, ac, arguments)
            if isinstance(answer, int):
                assert reported == answer, arguments
            else:
                assert answer in str(reported), arguments
                assert squeezed(reported).lower() == squeezed(from_python(ac, arguments)).lower()


def test_what_is_no_text_is_an_error(bench: Bench, echo: LuaPolicy) -> None:
    ac = bench.session()
    assert from_lua(echo, ac, (24,)) == "24: is not a text"
    assert from_lua(echo, ac, (False,)) == "false: is not a text"
    assert "known: SMTP" in str(from_lua(echo, ac, ("/24", False)))
    for arguments in ("{}", "print", "coroutine.create(print)"):
        assert echo.validate_ehlo(ac, arguments).text.endswith(": is not a text")


def test_an_accept_construct_is_no_text(bench: Bench) -> None:
    assert "accept construct" in bench.fails("ac:inbound_session_count(ac)")
    assert "is not a text" in bench.fails("ac:inbound_session_count(vctx)")
    assert "no such service type" in bench.fails("ac:inbound_session_count('/24', ac)")


def test_an_error_names_script_line_and_text(bench: Bench, echo: LuaPolicy) -> None:
    verdict = echo.validate_ehlo(bench.session(), '"/33x"')
    assert verdict.text.startswith("policy.lua:5: '/33x': ")


def test_three_names_for_one_count(bench: Bench) -> None:
    bench.session("192.0.2.8")
    text = bench.say(
        'ac:inbound_session_count("/24") .. " " .. msys.audit.inbound_session_count("/24") .. " " .. '
        'ac:pbp_inbound_session_count_service("SMTP", "/24") .. " " .. msys.audit.inbound_session_count() .. " " .. '
        'ac:pbp_inbound_session_count_service("Control") .. " " .. msys.audit.inbound_session_count(nil, "Control")'
    )
    assert text == "2 2 2 1 0 0"


def test_errors_of_the_other_names_name_the_line_of_their_caller(bench: Bench) -> None:
    assert bench.fails('msys.audit.inbound_session_count("x")').startswith("policy.lua:3: 'x': ")
    assert bench.fails('ac:pbp_inbound_session_count_service("/24", "SMTP")').startswith("policy.lua:3: '/24': no such")
    assert bench.fails('return 1 + ac.inbound_session_count("/24")').startswith("policy.lua:3: the accept construct is")
    assert bench.fails("return 1 + ac.inbound_session_count(nil)").startswith("policy.lua:3: the accept construct is")
    assert "is missing" in bench.fails('ac.pbp_inbound_session_count_service("SMTP", "/24")')
    assert "is missing" in bench.fails('ac.esmtp_capability_add("SIZE")')


def test_a_count_outside_of_a_session(bench: Bench) -> None:
    policy = bench.policy(
        """
        local mod = {}
        function mod:init() self.said = {pcall(msys.audit.inbound_session_count, "192.0.2.0/24")} end
        function mod:validate_connect(ac, vctx) vctx:set_code(250, tostring(self.said[2])) end
        msys.registerModule("m", mod)
        """
    )
    assert "no session is being validated" in policy.validate_connect(bench.session()).text


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
TEXTS = st.one_of(
    st.builds("{}/{}".format, ADDRESSES, st.integers(0, 129)),
    st.text("0123456789abcdef.:/[],-%x ", max_size=24),
    st.text(max_size=8),
)


@given(cidr=TEXTS, service=st.sampled_from([None, "SMTP", "Control"]))
def test_any_text(shared: tuple[LuaPolicy, LuaPolicy, Session], cidr: str, service: str | None) -> None:
    by_ffi, portable, ac = shared
    expected, fast, slow = (
        from_python(ac, (cidr, service)),
        from_lua(by_ffi, ac, (cidr, service)),
        from_lua(portable, ac, (cidr, service)),
    )
    assert squeezed(fast) == squeezed(slow)
    if cidr.isascii():
        assert squeezed(fast) == squeezed(expected)
    else:  # the first fault that is found is reported; Python finds this one before the core sees the text
        assert isinstance(fast, str)
        assert isinstance(expected, str)


def squeezed(answer: int | str) -> str:
    """A verdict's text holds no control characters, so none are compared."""
    return "".join(c for c in str(answer) if c.isprintable())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LuaPolicy, LuaPolicy, Session]]:
    benches = [Bench(tmp_path_factory.mktemp(name), KINDS[name]) for name in ("luajit-ffi", "luajit-portable")]
    by_ffi, portable = (bench.policy(ECHO) for bench in benches)
    yield by_ffi, portable, benches[0].session("2001:db8::7")
    for bench in benches:
        bench.close()
