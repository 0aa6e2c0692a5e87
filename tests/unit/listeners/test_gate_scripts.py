"""A script in Lua or Sieve behind a gate: the gate asks the limits, and the script is asked about who is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

import pytest
from tests.support.gates import connect, lua_policy, said
from tests.support.listening import LoopThread
from tests.support.sieve_support import PATIENT_MS
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits, load_policy
from inbound_audit.listeners import Guard
from inbound_audit.listeners.aio import counted
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")

# Each refuses the second session of an address.
LUA = lua_policy('if ac:inbound_session_count("/32") > 1 then vctx:disconnect(421, "by the script") end')
SIEVE = """
require ["variables", "relational", "comparator-i;ascii-numeric"];
($sessions) = audit_service "SMTP" "/32";
if ec_test :value "gt" :comparator "i;ascii-numeric" "${sessions}" "1" {
  ec_disconnect 421 "by the script";
}
"""


class Hello(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"hello\n")


@pytest.mark.parametrize(("language", "script"), [("lua", LUA), ("sieve", SIEVE)])
def test_a_script_is_asked_about_who_is_within_the_limits(tmp_path: Path, language: str, script: str) -> None:
    path = tmp_path / f"policy.{language}"
    path.write_text(script)
    with (
        InboundAudit(capacity=1 << 22) as audit,
        contextlib.closing(load_policy(path, audit=audit, max_hook_ms=PATIENT_MS)) as policy,
        LoopThread() as thread,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        guard = Guard(audit.listener("SMTP"), policy)
        gate = Gate(guard.listener, Limits({"/24": 2}), [listening], guard=guard)
        factory = counted(Hello, guard, refusal=lambda verdict: verdict.text.encode())

        async def begin():
            return gate.serve(thread.loop, factory)

        async def end():
            server.close()
            await server.wait_closed()

        server, port = thread.do(begin), listening.getsockname()[1]
        with connect(port) as first, connect(port, "127.0.0.2") as second:
            assert first.recv(6) == second.recv(6) == b"hello\n"
            with connect(port, "127.0.0.3") as third:
                assert said(third) == b"421 4.7.0 connection limit exceeded\r\n"
            eventually(lambda: audit.total() == 2, "the end of the third")
            assert (gate.accepted, gate.refused, policy.errors) == (2, 1, 0)
        eventually(lambda: audit.total() == 0, "the end of both")
        with connect(port) as first:
            assert first.recv(6) == b"hello\n"
            with connect(port) as second:
                assert said(second) == b"by the script"
            eventually(lambda: audit.total() == 1, "the end of the second")
        eventually(lambda: guard.open == 0, "the end of all")
        assert (gate.accepted, gate.refused) == (4, 1)
        assert (guard.opened, guard.accepted, guard.refused, guard.failures) == (5, 3, 2, 0)
        thread.do(end)
        assert thread.complaints == []
