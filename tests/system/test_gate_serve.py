"""`inbound-audit serve` with and without a gate: one meaning, one set of figures."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.command_line import Serve
from tests.support.gates import connect, said

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")]

both = pytest.mark.parametrize("gate", ["--gate", "--no-gate"])

REFUSE_ALL = """
require("msys.core")
require("msys.extended.ac")
require("msys.extended.vctx")
local policy = {}
function policy:validate_connect(ac, vctx)
  vctx:disconnect(421, "not today, " .. ac:inbound_session_count("/32"))
  return msys.core.VALIDATE_CONT
end
msys.registerModule("policy", policy)
"""


@both
def test_limits_refuse_with_the_same_words_and_figures(gate: str) -> None:
    with Serve("--limit", "/32=1", "--exempt", "127.0.0.9/32", gate) as server:
        port = server.addresses[0][1]
        with connect(port) as first, connect(port) as second, connect(port, "127.0.0.9") as exempt:
            assert said(second) == b"421 connection limit exceeded\r\n"
            assert first.recv(4) == exempt.recv(4) == b"220 "
        total = server.stopped()
        figures = [total[name] for name in ("opened", "accepted", "refused", "uncounted", "failures", "open")]
        assert figures == [3, 2, 1, 0, 0, 0]
        assert server.complaints == []


@both
def test_a_script_is_asked_about_who_is_let_in(gate: str, tmp_path: Path) -> None:
    (tmp_path / "policy.lua").write_text(REFUSE_ALL)
    with Serve("--policy", str(tmp_path / "policy.lua"), gate) as server:
        with connect(server.addresses[0][1]) as peer:
            assert said(peer) == b"421 not today, 1\r\n"
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["refused"]) == (1, 0, 1)


@both
def test_a_balancer_is_not_limited_and_its_clients_are(gate: str) -> None:
    with Serve("--limit", "/32=1", "--proxy-from", "127.0.0.2/32", gate) as server:
        port = server.addresses[0][1]
        peers = [connect(port, "127.0.0.2") for _ in range(3)]
        for peer, client in zip(peers, ("192.0.2.1", "192.0.2.2", "192.0.2.1"), strict=True):
            peer.sendall(f"PROXY TCP4 {client} 192.0.2.9 1000 25\r\n".encode())
            if client == "192.0.2.1" and peer is peers[2]:
                assert said(peer) == b"421 connection limit exceeded\r\n"
            else:
                assert peer.recv(4) == b"220 "
        for peer in peers:
            peer.close()
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["refused"]) == (3, 2, 1)


@both
def test_a_dry_run_counts_whom_it_would_refuse(gate: str) -> None:
    with Serve("--limit", "/32=1", "--dry-run", gate) as server:
        port = server.addresses[0][1]
        with connect(port) as first, connect(port) as second:
            assert first.recv(4) == second.recv(4) == b"220 "
        total = server.stopped()
        assert (total["accepted"], total["refused"], total["would_refuse"]) == (2, 0, 1)


@both
def test_more_addresses_than_a_gate_has_sockets(gate: str) -> None:
    with Serve("--limit", "/32=1", gate, listen=["127.0.0.1:0"] * 300) as server:
        assert len(server.addresses) == 300
        with connect(server.addresses[0][1]) as first:
            assert first.recv(4) == b"220 "
            with connect(server.addresses[-1][1]) as last:
                assert said(last) == b"421 connection limit exceeded\r\n"
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["refused"]) == (2, 1, 1)


@both
def test_workers_count_together(gate: str) -> None:
    with Serve("--limit", "/32=4", "--workers", "2", "--shared", f"test-{uuid4().hex[:8]}", gate) as server:
        port = server.addresses[0][1]
        peers = [connect(port) for _ in range(12)]
        words = [peer.recv(4) for peer in peers]
        assert words.count(b"220 ") <= 4
        assert words.count(b"421 ") >= 8
        for peer in peers:
            peer.close()
        server.stopped()
