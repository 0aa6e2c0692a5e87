"""`inbound-audit serve` with and without a gate: one meaning, one set of figures."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.command_line import Serve, run
from tests.support.gates import connect, lua_policy, said
from tests.support.waiting import eventually

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")]

both = pytest.mark.usefixtures("both_ways")

# More than one gate has sockets for.
MANY = ["127.0.0.1:0"] * 300
OWN = "127.0.0.77"

REFUSE_ALL = lua_policy('vctx:disconnect(421, "not today, " .. ac:inbound_session_count("/32"))')


@both
def test_limits_refuse_with_the_same_words_and_figures() -> None:
    with Serve("--limit", "/32=1", "--exempt", "127.0.0.9/32") as server:
        port = server.addresses[0][1]
        with connect(port) as first, connect(port) as second, connect(port, "127.0.0.9") as exempt:
            assert said(second) == b"421 connection limit exceeded\r\n"
            assert first.recv(4) == exempt.recv(4) == b"220 "
        total = server.stopped()
        figures = [total[name] for name in ("opened", "accepted", "refused", "uncounted", "failures", "open")]
        assert figures == [3, 2, 1, 0, 0, 0]
        assert server.complaints == []


@both
def test_a_script_is_asked_about_who_is_let_in(tmp_path: Path) -> None:
    (tmp_path / "policy.lua").write_text(REFUSE_ALL)
    with Serve("--policy", str(tmp_path / "policy.lua")) as server:
        with connect(server.addresses[0][1]) as peer:
            assert said(peer) == b"421 not today, 1\r\n"
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["refused"]) == (1, 0, 1)


@both
def test_a_balancer_is_not_limited_and_its_clients_are() -> None:
    with Serve("--limit", "/32=1", "--proxy-from", "127.0.0.2/32") as server:
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
def test_a_dry_run_counts_whom_it_would_refuse() -> None:
    with Serve("--limit", "/32=1", "--dry-run") as server:
        port = server.addresses[0][1]
        with connect(port) as first, connect(port) as second:
            assert first.recv(4) == second.recv(4) == b"220 "
        total = server.stopped()
        assert (total["accepted"], total["refused"], total["would_refuse"]) == (2, 0, 1)


@both
def test_more_addresses_than_a_gate_has_sockets() -> None:
    """From an address of their own: so many ports may get a connection that is meant for a server that has ended."""
    with Serve("--limit", "/32=1", listen=MANY) as server:
        assert len(server.addresses) == len(MANY)
        with connect(server.addresses[0][1], OWN) as first:
            assert first.recv(4) == b"220 "
            with connect(server.addresses[-1][1], OWN) as last:
                assert said(last) == b"421 connection limit exceeded\r\n"
        assert server.stopped()["refused"] >= 1


@both
def test_workers_count_together() -> None:
    with Serve("--limit", "/32=4", "--workers", "2", "--shared", f"test-{uuid4().hex[:8]}") as server:
        port = server.addresses[0][1]
        peers = [connect(port) for _ in range(12)]
        words = [peer.recv(4) for peer in peers]
        assert words.count(b"220 ") <= 4
        assert words.count(b"421 ") >= 8
        for peer in peers:
            peer.close()
        server.stopped()


# ---- which of the two


@pytest.mark.parametrize(("options", "threads"), [((), 2), (("--gate",), 2), (("--no-gate",), 1)])
def test_a_gate_accepts_unless_it_is_not_wanted(options: tuple[str, ...], threads: int) -> None:
    with Serve(*options) as server:
        eventually(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == threads, f"{threads} threads")
        assert server.stopped()["open"] == 0
        assert "no_gate" not in {event["event"] for event in server.events}


def without_gates(error: str) -> tuple[str, ...]:
    """The command on a system that refuses what a gate needs, from the second gate on."""
    program = f"""
import errno, os, sys
from inbound_audit.__main__ import main
from inbound_audit.listeners.gate import Gate
opened, made = Gate._open, []
def refuse(gate, *arguments, **options):
    if made:
        raise OSError({error}, os.strerror({error}))
    made.append(gate)
    opened(gate, *arguments, **options)
Gate._open = refuse
sys.exit(main())
"""
    return (sys.executable, "-c", program)


@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--shared", "no-gates")])
def test_without_a_gate_a_server_accepts_in_python_and_says_so_once(place: Path, workers: tuple[str, ...]) -> None:
    with Serve("--limit", "/32=1", *workers, listen=MANY, command=without_gates("errno.EAGAIN")) as server:
        names = [event["event"] for event in server.events]
        assert names[:4] == ["listening", "no_gate", "discarding", "policy"]
        assert names.count("no_gate") == 1
        assert server.event("no_gate")["reason"] == "resource temporarily unavailable"
        with connect(server.addresses[0][1], OWN) as first:
            assert first.recv(4) == b"220 "
            with connect(server.addresses[-1][1], OWN) as last:
                assert said(last) == b"421 connection limit exceeded\r\n"
        assert server.stopped()["refused"] >= 1
        assert server.complaints == []


@pytest.mark.parametrize(
    ("options", "asked"), [(("--gate",), "--gate"), (("--shed", "5"), "--shed"), (("--gate", "--shed", "5"), "--shed")]
)
@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--shared", "no-gates")])
def test_a_gate_that_was_asked_for_and_can_not_be_had_ends_the_start(
    place: Path, options: tuple[str, ...], asked: str, workers: tuple[str, ...]
) -> None:
    addresses = [word for address in MANY for word in ("--listen", address)]
    command = without_gates("errno.ENOSYS")
    done = run("serve", *addresses, *options, *workers, command=command)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == (
        f"inbound-audit: {asked}: there can be no gate: function not implemented; leave {asked} out\n"
    )


@pytest.mark.parametrize("option", [("--gate",), ("--shed", "5")])
def test_a_gate_is_refused_where_there_is_none(option: tuple[str, ...]) -> None:
    # Python reads its own configuration by the system's name, so it is read first.
    program = "import sys, zoneinfo; sys.platform = 'darwin'; from inbound_audit.__main__ import main; sys.exit(main())"
    done = run("serve", *option, command=(sys.executable, "-c", program))
    assert done.returncode == 2
    assert f"{option[0]} needs Linux: leave it out" in done.stderr.decode()
