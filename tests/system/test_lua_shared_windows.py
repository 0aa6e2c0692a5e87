"""`msys.audit` and `msys.audit_series` in processes that count together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.lua_support import KINDS
from tests.support.lua_windows import ECHO, MONITORS, Timed, ask, timed
from tests.support.sharing import NAME, Worker, Workers
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def sharing(request: pytest.FixtureRequest, tmp_path: Path, place: Path) -> Iterator[Timed]:
    yield from timed(tmp_path, request.param, shared=NAME, capacity=1 << 24, monitor_bytes=1 << 22)


OTHER = f"""
from inbound_audit import InboundAudit, LuaPolicy
def begin(path, lua, ffi, seconds):
    global audit, ac, policy
    bounds = dict(capacity=1 << 24, monitor_bytes=1 << 22)
    audit = InboundAudit(shared=NAME, monitors={MONITORS!r}, clock=lambda: seconds, **bounds)
    ac = audit.listener().session("192.0.2.7")
    policy = LuaPolicy(path, lua=lua, ffi=ffi)
def tell(text):
    verdict = policy.validate_ehlo(ac, text)
    assert policy.errors == 0, policy.last_error
    return verdict.text
"""


def join(sharing: Timed, hire: Workers) -> Worker:
    """Another process, with a session from the same address, that runs the Lua that the test sends."""
    path = sharing.write("policy.lua", ECHO)
    (other,) = hire.hire(1, OTHER)
    names = {**sharing.kind._asdict(), "path": str(path), "seconds": sharing.clock.seconds}
    other.do("begin(path, lua, ffi, seconds)", **names)
    return other


def test_sums_over_processes(sharing: Timed, hire: Workers) -> None:
    """What policies of other processes add is counted by ours, and goes with them."""
    others = [join(sharing, hire) for _ in range(2)]
    for n, other in enumerate(others, 1):
        assert other.do("tell(text)", text=f'msys.audit_series.add("s", {{count = -{n}}})') == "nil"
        assert other.do("tell(text)", text=f'msys.audit_series.add("t", {{key = "text", count = {n}}})') == "nil"
    echo = sharing.policy(ECHO)
    ac = sharing.session()
    ask(echo, ac, 'msys.audit_series.add("s", {count = 10})')
    assert ask(echo, ac, 'msys.audit_series.count("s")') == 7
    assert ask(echo, ac, 'msys.audit_series.count("t", "text")') == 3
    assert ask(echo, ac, 'msys.audit.connections("300,6")') == 3
    assert others[0].do("tell(text)", text='msys.audit_series.count("s", "/24")') == "7"
    others[1].kill()
    eventually(lambda: ask(echo, ac, 'msys.audit_series.count("s")') == 9)


def test_a_shared_audit(sharing: Timed) -> None:
    echo = sharing.policy(ECHO)
    ac = sharing.session()
    for key in ("nil", '"192.0.2.9"', "{count = -5}", '{key = "2001:db8::1", count = 2}'):
        assert ask(echo, ac, f'msys.audit_series.add("s", {key})') is None
    ask(echo, ac, 'msys.audit_series.add("t", "text")')
    assert ask(echo, ac, 'msys.audit_series.count("s", "/24")') == -3
    assert ask(echo, ac, 'msys.audit.connections("300,6", {endv = 1})') == 1
    for key in ("nil", "ac", '"2001:db8::1"'):
        assert ask(echo, ac, f'msys.audit_series.remove_item("s", {key})') is None
    assert ask(echo, ac, 'msys.audit_series.remove_item("t", "text")') is None
    assert [ask(echo, ac, f'msys.audit_series.count("s", "{key}")') for key in ("/24", "2001:db8::1")] == [1, 0]
    assert ask(echo, ac, 'msys.audit_series.count("t", "text")') == 0
    assert ask(echo, ac, 'msys.audit_series.remove_item("t")') == "'t': needs a key"
    assert ask(echo, ac, 'msys.audit_series.remove_item("t", ac)') == "'t': needs a key"
    assert ask(echo, ac, 'msys.audit_series.remove_item("nope")') == "'nope': no such series (known: s, t)"
    assert str(ask(echo, ac, 'msys.audit_series.remove_item("s", "x")')).startswith("'x': is not an address")


def test_a_key_is_forgotten_in_all_processes(sharing: Timed, hire: Workers) -> None:
    other, echo = join(sharing, hire), sharing.policy(ECHO)
    ac = sharing.session()
    for key in ("nil", '"192.0.2.9"', '"2001:db8::1"'):
        other.do("tell(text)", text=f'msys.audit_series.add("s", {key})')
        ask(echo, ac, f'msys.audit_series.add("s", {key})')
        assert ask(echo, ac, f'msys.audit_series.count("s", {key})') == 2
        assert ask(echo, ac, f'msys.audit_series.remove_item("s", {key})') is None
        assert ask(echo, ac, f'msys.audit_series.count("s", {key})') == 0
    other.do("tell(text)", text='msys.audit_series.add("t", "na\u00efve")')
    ask(echo, ac, 'msys.audit_series.remove_item("t", "na\u00efve")')
    assert ask(echo, ac, 'msys.audit_series.count("t", "na\u00efve")') == 0
