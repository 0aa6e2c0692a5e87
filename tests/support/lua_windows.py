"""The tests of windows in Lua share this: a bench with monitors and a clock, a policy that runs given code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.lua_support import KINDS, Bench, Kind
from tests.support.timing import Clock

from inbound_audit import LuaPolicy, Session
from inbound_audit.errors import InboundAuditError

MONITORS = ("300,6", "10,3")
MOST = 4294967295


class Timed(Bench):
    """A bench whose audit has two monitors, and a clock that the test sets."""

    clock: Clock


def timed(directory: Path, kind: Kind, **audit: object) -> Iterator[Timed]:
    clock = Clock()
    bench = Timed(directory, kind, **{"monitors": MONITORS, "clock": clock, **audit})
    bench.clock = clock
    try:
        yield bench
    finally:
        bench.close()


DEFINE = """
    msys.audit_series.define("s", "ip", 300, 6)
    msys.audit_series.define("t", "string", 300, 6)
"""

# The test writes what to do as the client's name.
ECHO = (
    DEFINE
    + """
    local mod = {}
    function mod:validate_ehlo(text, ac, vctx)
        local make = assert(loadstring("local ac, kept = ... return function() local n = " .. text .. " return n end"))
        local ask = make(ac, kept)
        local ok, answer = pcall(function() local n = ask() return n end)
        vctx:set_code(ok and 250 or 251, type(answer) == "number" and ("%.17g"):format(answer) or tostring(answer))
    end
    function mod:validate_mailfrom(text, ac, vctx) kept = ac end
    msys.registerModule("echo", mod)
"""
)


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Timed]:
    yield from timed(tmp_path, request.param)


@pytest.fixture
def echo(bench: Timed) -> LuaPolicy:
    return bench.policy(ECHO)


def ask(policy: LuaPolicy, ac: Session, expression: str) -> int | str | None:
    """The value of an expression in a hook: a number, None, or the error without the place where it was raised."""
    verdict = policy.validate_ehlo(ac, expression)
    assert policy.errors == 0, policy.last_error
    if verdict.code == 250:
        return None if verdict.text == "nil" else int(verdict.text)
    return verdict.text.split(": ", 1)[1]


def of_python(function: Callable[..., int | None], *arguments: Any, **options: Any) -> int | str | None:
    try:
        return function(*arguments, **options)
    except InboundAuditError as error:
        return str(error)


def literal(value: object) -> str:
    if isinstance(value, str):
        escaped = ("".join(f"\\{byte:03d}" for byte in character.encode()) for character in value)
        pairs = zip(value, escaped, strict=True)
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else code for c, code in pairs) + '"'
    return "nil" if value is None else str(value)


def table(**options: object) -> str:
    return "{" + ", ".join(f"{name} = {literal(value)}" for name, value in options.items()) + "}"


PEERS = [("192.0.2.7:25", "192.0.2.9", "198.51.100.1"), ("[2001:db8::7]:25", "2001:db8::9", "2001:db9::1")]
families = pytest.mark.parametrize(("peer", "near", "far"), PEERS, ids=("IPv4", "IPv6"))

CIDRS = [
    None, "/24", "/32", "/0", "/64", "/24,/56", "192.0.2.7", "192.0.2.0/24", "2001:db8::/32", "::ffff:192.0.2.7",
    "localhost", "", " /24", "/33x", "192.0.2.256", "192.0.2.0/33", "mx.example.org", "é", "/24\0", "192.0.2.07",
    "[::1",
]  # fmt: skip
WINDOWS = [(None, None), (0, 0), (0, 5), (1, None), (None, 2), (5, 5), (0, 6), (6, 6), (-1, 0), (2, 1), (0, 10**9)]

TEXTS = ["", " ", "mx.example.org", "MX.example.org", "192.0.2.7", "/24", "a\0b", "a\0c", "naïve", "x" * 4096]
