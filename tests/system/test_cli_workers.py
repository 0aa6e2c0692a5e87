"""`inbound-audit serve --workers`: several processes on one port, their supervisor, and limits over the sum."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.support.command_line import COMMAND, SHUTDOWN, Serve, address_of, begun, environment, run
from tests.support.listening import Peer
from tests.support.ports import free_ports
from tests.support.sharing import fewest_files, open_sockets
from tests.support.waiting import PATIENCE, eventually

import inbound_audit.cli
from inbound_audit.__main__ import main
from inbound_audit.cli import sockets
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.sockets import Endpoint

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone"),
    pytest.mark.usefixtures("place"),
]

POLICY = """
local policy = {}
function policy:validate_connect(ac, vctx)
  if ac:inbound_session_count("/0") > %d then vctx:disconnect(421, "not today") end
  return msys.core.VALIDATE_CONT
end
require("msys.core")
msys.registerModule("policy", policy)
"""
NO_LUA = "local a = 1\nlocal = 2\n"
FREE = ("--limit", "/0=100000")
FIELDS = ("opened", "accepted", "refused", "messages", "would_refuse", "uncounted", "failures", "unlogged")


def several(number: int, *arguments: str, **more: Any) -> Serve:
    return Serve("--workers", str(number), "--shared", f"test-{uuid4().hex[:8]}", *arguments, **more)


def failing(*arguments: str, cwd: Path | None = None) -> str:
    """Runs `serve --workers 3`, which has to say one line and nothing else; that line."""
    done = run("serve", "--workers", "3", "--shared", "test", "--listen", "127.0.0.1:0", *arguments, cwd=cwd)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)


def gone(pid: int) -> bool:
    """The process has ended, whether or not its status was asked for since."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def connect(server: Serve, number: int, way: int = 0) -> list[Peer]:
    """Peers that were all let in."""
    peers = [Peer(*server.addresses[way]) for _ in range(number)]
    assert {peer.line()[:3] for peer in peers} == {b"220"}
    return peers


def close(peers: list[Peer]) -> None:
    for peer in peers:
        peer.close()


def cut_off(peers: list[Peer]) -> list[Peer]:
    """Those whose connection is gone."""

    def is_gone(peer: Peer) -> bool:
        try:
            return peer.ask(b"NOOP") == b""
        except OSError:
            return True

    return [peer for peer in peers if is_gone(peer)]


def refuses(address: tuple[str, int]) -> bool:
    """Nobody listens there."""
    try:
        socket.create_connection(address, PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def names(server: Serve) -> list[str]:
    return [event["event"] for event in server.events if event["event"] != "second"]


# ---- one port


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        (["127.0.0.1:0"], ["127.0.0.1"]),
        (["[::1]:0"], ["::1"]),
        ([":0"], ["127.0.0.1", "::1"]),
        (["127.0.0.1:0", "[::1]:0"], ["127.0.0.1"]),
    ],
    ids=["ipv4", "ipv6", "both-in-one", "both"],
)
def test_all_workers_answer_on_one_port(listen: list[str], hosts: list[str]) -> None:
    with several(3, *FREE, listen=listen) as server:
        assert len(server.workers) == len(set(server.workers)) == 3
        assert len(server.addresses) == len(listen)
        port = server.addresses[0][1]
        before = {pid: open_sockets(pid) for pid in server.workers}
        peers = [Peer(hosts[i % len(hosts)], port) for i in range(60)]
        assert {peer.line()[:3] for peer in peers} == {b"220"}
        each = [open_sockets(pid) - before[pid] for pid in server.workers]
        assert sum(each) == 60
        assert min(each) > 0
        close(peers)
        total = server.stopped()
        assert total == {**dict.fromkeys(FIELDS, 0), "open": 0, "opened": 60, "accepted": 60}
        assert names(server)[:3] == ["listening", "discarding", "policy"]
        assert names(server)[-1] == "stopped"
        assert server.complaints == []


def test_both_families_may_have_the_same_port() -> None:
    (port,) = free_ports(1)
    with several(2, listen=[f"0.0.0.0:{port}", f"[::]:{port}"]) as server:
        for host in ("127.0.0.1", "::1"):
            with Peer(host, port) as peer:
                assert peer.line().startswith(b"220")
        assert server.stopped()["accepted"] == 2


def test_another_supervisor_does_not_get_the_port() -> None:
    with several(2) as server:
        host, port = server.addresses[0]
        reported = failing("--listen", f"{host}:{port}")
        assert f"{host}:{port}: address already in use" in reported
        assert server.running


def test_an_address_is_held_for_others_and_accepts_no_connection() -> None:
    held = sockets.hold([Endpoint("127.0.0.1", 0), Endpoint(None, 0)])
    with contextlib.ExitStack() as closed:
        for place in held:
            closed.enter_context(place)
        port = held[1].getsockname()[1]
        assert refuses(("127.0.0.1", port))
        one, other = sockets.beside(held), sockets.beside(held)
        for own in (*one, *other):
            closed.enter_context(own)
            own.listen()
        assert [sockets.name_of(own) for own in one] == [sockets.name_of(own) for own in other]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), PATIENCE).close()
        with pytest.raises(Failure, match="in use"):
            sockets.hold([Endpoint("127.0.0.1", 0), Endpoint("127.0.0.1", port)])


def test_beside_a_socket_that_is_not_shared_there_is_no_place() -> None:
    with socket.socket() as alone, socket.socket() as free:
        alone.bind(("127.0.0.1", 0))
        free.bind(("127.0.0.1", 0))
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(Failure, match=rf"127\.0\.0\.1:{alone.getsockname()[1]}: address already in use"):
            sockets.beside([free, alone])


# ---- limits hold over the sum


@pytest.mark.usefixtures("both_ways")
def test_a_limit_holds_over_all_workers_at_every_moment() -> None:
    async def knock(address: tuple[str, int]) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*address)
        return (await reader.readline())[:3], writer

    async def storm(number: int, address: tuple[str, int]) -> list[bytes]:
        """All connect at once and hold on to what they get."""
        answers = await asyncio.wait_for(asyncio.gather(*(knock(address) for _ in range(number))), PATIENCE)
        for _, writer in answers:
            writer.close()
        return [answer for answer, _ in answers]

    with several(4, "--limit", "/32,/64=50") as server:
        for address in server.addresses:
            first = asyncio.run(storm(500, address))
            # Two that come at the same moment may both be refused.
            assert 0 < first.count(b"220") <= 50
            assert first.count(b"220") + first.count(b"421") == 500
        total = server.stopped()
        assert total["opened"] == total["accepted"] + total["refused"] == 1000
        assert server.complaints == []


def test_sessions_one_after_the_other_fill_a_limit_to_the_last_place() -> None:
    with several(3, "--limit", "/32,/64=20") as server:
        peers = connect(server, 20)
        with Peer(*server.addresses[0]) as peer:
            assert peer.line().startswith(b"421")
        close(peers)


def test_two_servers_that_share_a_name_count_together() -> None:
    limit = ("--shared", "test-together", "--limit", "/32=3")
    with Serve(*limit) as one, Serve("--workers", "2", *limit) as several:
        peers = [*connect(one, 1), *connect(several, 2)]
        for server in (one, several):
            with Peer(*server.addresses[0]) as peer:
                assert peer.line().startswith(b"421")
        close(peers)
        assert "workers" not in one.event("listening")


# ---- a worker dies


@pytest.mark.usefixtures("both_ways")
def test_a_worker_that_is_killed_takes_its_sessions_with_it_and_is_replaced() -> None:
    with several(3, "--limit", "/32=30") as server:
        peers = connect(server, 30)
        second = server.event("second")
        eventually(lambda: sum(e["accepted"] for e in server.events if e["event"] == "second") == 30, "30 reported")
        assert second["busiest"]["prefix"] == "127.0.0.0/24"
        victim = server.workers[0]
        kill(victim)
        death = server.event("worker")
        assert (death["pid"], death["status"], death["signal"], death["delay"]) == (victim, None, "SIGKILL", 0.1)
        again = server.event("restarted")
        assert again["replaces"] == victim
        assert again["pid"] not in server.workers
        assert gone(victim)
        lost = cut_off(peers)
        assert 0 < len(lost) < 30

        def room() -> bool:
            with Peer(*server.addresses[0]) as peer:
                return peer.line().startswith(b"220")

        eventually(room, "room for others")

        def only_what_is_left() -> bool:
            """The one for which there was room has come, and has ended."""
            return server.total["accepted"] > 30 and server.total["open"] == 30 - len(lost)

        eventually(only_what_is_left, "the sessions that are left reported")
        before = server.total["accepted"]
        peers += connect(server, len(lost))
        with Peer(*server.addresses[0]) as peer:
            assert peer.line().startswith(b"421")
        close(peers)
        total = server.stopped()
        assert before >= 30
        assert total["accepted"] == before + len(lost)
        assert total["open"] == 0
        assert server.complaints == []


def test_each_worker_that_dies_early_is_waited_for_twice_as_long() -> None:
    with several(2, command=patched("workers.STABLE_AFTER_S = 3600.0")) as server:
        victim = server.workers[1]
        for number, delay in enumerate((0.1, 0.2, 0.4)):
            kill(victim)
            assert server.event("worker", number)["pid"] == victim
            assert server.event("worker", number)["delay"] == delay
            victim = server.event("restarted", number)["pid"]
        kill(server.workers[0])  # each place has a pause of its own
        assert server.event("worker", 3)["delay"] == 0.1
        server.event("restarted", 3)
        assert server.stopped()["open"] == 0


def test_a_worker_that_ran_for_long_is_replaced_at_once_again() -> None:
    with several(2, command=patched("workers.STABLE_AFTER_S = 0.0")) as server:
        victim = server.workers[1]
        for number in range(3):
            kill(victim)
            assert server.event("worker", number)["delay"] == 0.1
            victim = server.event("restarted", number)["pid"]


def test_the_pause_has_a_bound() -> None:
    with several(2, command=patched("workers.MAX_PAUSE_S = 0.2", "workers.STABLE_AFTER_S = 3600.0")) as server:
        victim = server.workers[1]
        for number, delay in enumerate((0.1, 0.2, 0.2)):
            kill(victim)
            assert server.event("worker", number)["delay"] == delay
            victim = server.event("restarted", number)["pid"]


def patched(*statements: str) -> tuple[str, ...]:
    """The command with something else in its modules."""
    program = "\n".join(
        [
            "import os, sys",
            "from inbound_audit.cli import worker, workers",
            *statements,
            "from inbound_audit.__main__ import main",
            "sys.exit(main())",
        ]
    )
    return (sys.executable, "-c", program)


def test_a_worker_that_cannot_be_replaced_is_tried_again(tmp_path: Path) -> None:
    policy = tmp_path / "policy.lua"
    policy.write_text(POLICY % 100)
    with several(2, "--policy", str(policy)) as server:
        policy.write_text(NO_LUA)
        kill(server.workers[0])
        failed = server.event("worker", 1)
        assert (failed["status"], failed["signal"], failed["delay"]) == (1, None, 0.2)
        assert "policy.lua:2:" in server.complaint(f"worker {failed['pid']} could not start: --policy")
        close(connect(server, 3))  # the other one serves
        policy.write_text(POLICY % 100)
        server.event("restarted")
        assert server.stopped()["accepted"] == 3


def test_a_fork_that_fails_is_tried_again() -> None:
    program = """
fork, left = os.fork, [True, True, False]
def sometimes():
    if left and not left.pop(0):
        raise BlockingIOError(11, "no")
    return fork()
os.fork = sometimes
"""
    with several(2, command=patched(program)) as server:
        kill(server.workers[0])
        server.complaint("a worker cannot be started: resource temporarily unavailable; another attempt in 0.2 s")
        assert server.event("restarted")["replaces"] == server.workers[0]


def test_a_worker_that_fails_logs_a_traceback() -> None:
    with several(2, command=patched("worker.Worker._receive_orders = lambda *_: None", FAILS)) as server:
        # Both fail when their first second is over.
        event = server.event("worker")
        assert (event["status"], event["signal"]) == (1, None)
        server.complaint("a worker failed")
        server.complaint("it broke")


FAILS = """
async def beat(self):
    import asyncio
    await asyncio.sleep(1)
    raise RuntimeError("it broke")
worker.Worker._report_each_second = beat
"""


def test_a_worker_inherits_nothing_of_its_supervisor() -> None:
    with several(3) as server:
        first = server.workers[0]
        numbers: set[int] = set()

        def are_alike() -> bool:
            """A thread that looks around may stand in the middle of it for long."""
            numbers.clear()
            numbers.update(map(fewest_files, server.workers))
            return len(numbers) == 1

        eventually(are_alike, "as many files of each worker")
        (files,) = numbers
        with Peer(*server.addresses[0]) as peer:
            assert peer.line().startswith(b"220")
            assert server.event("second")["busiest"]  # the supervisor has looked into the counts
        supervisor = fewest_files(server.pid)
        kill(first)
        again = server.event("restarted")["pid"]
        eventually(lambda: open_files(again) == files, "as many files as the first had")

        def files_after_a_session() -> int:
            with Peer(*server.addresses[0]) as peer:  # then the supervisor finds out whose counts there are
                peer.line()
            return open_files(server.pid)

        eventually(lambda: files_after_a_session() == supervisor, "as many files of the supervisor")
        assert len(os.listdir(f"/proc/{server.pid}/task")) == 1


@pytest.mark.usefixtures("both_ways")
def test_without_its_supervisor_a_worker_accepts_no_more_and_ends() -> None:
    with several(3, "--grace", "1h") as server:
        with begun(server.addresses[0]) as peer:
            workers = server.workers
            server.tell(signal.SIGKILL)
            eventually(lambda: sum(map(gone, workers)) == 2, "the end of the two that have no session")
            eventually(lambda: refuses(server.addresses[0]), "the end of accepting")
            assert peer.ask(b"DATA").startswith(b"354")
            assert peer.ask(b".").startswith(b"250")
            assert peer.rest() == SHUTDOWN
        eventually(lambda: all(map(gone, workers)), "the end of all")


# ---- the end


@pytest.mark.parametrize(("number", "gate"), [(signal.SIGTERM, ()), (signal.SIGINT, ("--no-gate",))])
def test_a_stop_ends_idle_sessions_and_lets_transactions_end(number: signal.Signals, gate: tuple[str, ...]) -> None:
    with several(3, "--grace", "1h", *gate) as server:
        address = server.addresses[1]
        with begun(address) as client:
            idle = connect(server, 9, 1)
            server.tell(number)
            assert server.event("stopping")["open"] == 1
            assert {peer.rest() for peer in idle} == {SHUTDOWN}
            assert refuses(address)
            assert client.ask(b"DATA").startswith(b"354")
            assert client.ask(b"Subject: x\r\n\r\nx\r\n.").startswith(b"250")
            assert client.rest() == SHUTDOWN
        assert server.end() == 0
        close(idle)
        assert all(map(gone, server.workers))
        total = server.event("stopped")["total"]
        assert (total["accepted"], total["messages"], server.event("stopped")["cut"]) == (10, 1, 0)
        assert names(server) == ["listening", "discarding", "policy", "stopping", "stopped"]
        assert server.complaints == []


def test_signals_that_reach_workers_too_change_nothing() -> None:
    with several(2, "--grace", "1h") as server, begun(server.addresses[0]) as peer:
        for _ in range(2):
            # As a terminal and a service manager do: all processes get them, in whatever order.
            for pid in server.workers:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    kill(pid, number)
            assert peer.ask(b"NOOP").startswith(b"250")
        close(connect(server, 8))
        server.tell(signal.SIGINT)
        for pid in server.workers:
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGINT)
        assert server.event("stopping")["open"] == 1
        assert peer.ask(b"NOOP").startswith(b"250")
        server.tell(signal.SIGINT)
        assert peer.rest().startswith(b"421 4.3.2")
        assert server.end() == 0
        assert server.event("stopped")["cut"] == 1


def test_after_the_grace_sessions_of_all_workers_are_cut() -> None:
    with several(3, "--grace", "0", *FREE) as server:
        peers = [begun(server.addresses[0]) for _ in range(30)]
        server.tell(signal.SIGTERM)
        assert {peer.rest() for peer in peers} == {SHUTDOWN}
        assert server.end() == 0
        assert server.event("stopping")["open"] == server.event("stopped")["cut"] == 30
        close(peers)


def test_a_worker_that_does_not_end_is_killed() -> None:
    with several(2, "--grace", "0", command=patched("workers.KILL_TIMEOUT_S = 3.0")) as server:
        kill(server.workers[0], signal.SIGSTOP)
        server.tell(signal.SIGTERM)
        assert server.end() == 0
        server.complaint(f"worker {server.workers[0]} does not end and is killed")
        death = server.event("worker")
        assert (death["pid"], death["signal"], death["delay"]) == (server.workers[0], "SIGKILL", None)
        assert names(server)[-1] == "stopped"


def test_a_stop_while_a_worker_is_to_be_replaced_replaces_it_no_more() -> None:
    with several(2, command=patched("workers.MIN_PAUSE_S = workers.MAX_PAUSE_S = 3600.0")) as server:
        for pid in server.workers:
            kill(pid)
        server.event("worker", 1)
        assert server.stopped()["open"] == 0
        assert "restarted" not in names(server)


READY_WHEN_STOPPED = """
import select
serve = worker.serve
def late(settings, held, supervisor):
    print(flush=True)
    select.select([supervisor], [], [])  # until there is an order
    return serve(settings, held, supervisor)
worker.serve = late
"""


def test_a_stop_before_all_are_ready_is_not_lost(tmp_path: Path) -> None:
    policy = tmp_path / "policy.lua"
    policy.write_text(POLICY % 100)
    command = [*patched(READY_WHEN_STOPPED), "serve", "--workers", "2", "--shared", "test", "--listen", "[::1]:0"]
    with subprocess.Popen(
        [*command, "--json", "--policy", str(policy)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "\n"  # a worker is there, and not yet ready
        process.terminate()
        reported, complaints = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert complaints == ""
        assert "listening" not in reported
        assert '"stopped"' in reported


# ---- reload


def test_a_hangup_reloads_in_all_workers_and_is_logged_once(tmp_path: Path) -> None:
    policy = tmp_path / "policy.lua"
    policy.write_text(POLICY % 100)
    with several(3, "--policy", str(policy)) as server:
        for broken in (NO_LUA, None):
            if broken is None:
                policy.unlink()
            else:
                policy.write_text(broken)
            reported = len(server.complaints)
            server.tell(signal.SIGHUP)
            eventually(lambda reported=reported: len(server.complaints) > reported, "a complaint")
            assert "policy.lua" in server.complaints[-1]
            assert "not reloaded" in server.complaints[-1]
            assert "workers)" not in server.complaints[-1]
            close(connect(server, 9))
        assert len(server.complaints) == 2
        policy.write_text(POLICY % 0)
        server.tell(signal.SIGHUP)
        assert server.event("reloaded")["policy"].startswith(str(policy))
        for _ in range(12):
            with Peer(*server.addresses[0]) as peer:
                assert peer.rest() == b"421 not today\r\n"
        server.stopped()
        assert names(server).count("reloaded") == 1
        assert len(server.complaints) == 2


def test_hangups_that_come_in_a_burst_are_all_answered(tmp_path: Path) -> None:
    policy = tmp_path / "policy.lua"
    policy.write_text(POLICY % 100)
    with several(2, "--policy", str(policy)) as server:
        for _ in range(20):
            server.tell(signal.SIGHUP)
        policy.write_text(POLICY % 0)
        server.tell(signal.SIGHUP)  # what was written before the last one is in force after it

        def refused() -> bool:
            with Peer(*server.addresses[0]) as peer:
                return peer.line() == b"421 not today\r\n"

        eventually(refused, "the new policy")
        assert server.running


def test_limits_of_the_command_line_have_nothing_to_reload() -> None:
    with several(3, *FREE) as server:
        server.tell(signal.SIGHUP)
        server.complaint("nothing to reload")
        server.stopped()
        assert len(server.complaints) == 1


def test_a_worker_that_dies_with_an_order_unread_holds_up_no_reload(tmp_path: Path) -> None:
    policy = tmp_path / "policy.lua"
    policy.write_text(POLICY % 100)
    with several(2, "--policy", str(policy)) as server:

        def refused() -> bool:
            with Peer(*server.addresses[0]) as peer:
                peer.socket.settimeout(0.2)
                try:
                    return peer.line().startswith(b"421")
                except TimeoutError:  # it came to the one that is stopped
                    return False

        kill(server.workers[0], signal.SIGSTOP)
        policy.write_text(POLICY % 0)
        server.tell(signal.SIGHUP)
        eventually(refused, "a reload in the other one")
        assert "reloaded" not in names(server)
        kill(server.workers[0])
        server.event("reloaded")
        server.event("restarted")
        server.tell(signal.SIGHUP)
        server.event("reloaded", 1)
        assert server.complaints == []


def test_a_hangup_is_answered_while_no_worker_runs(tmp_path: Path) -> None:
    """Those that were killed can't be replaced while the policy is wrong."""
    policy = tmp_path / "policy.lua"
    policy.write_text(POLICY % 100)
    with several(2, "--policy", str(policy)) as server:
        policy.write_text(NO_LUA)
        for pid in server.workers:
            kill(pid)
        server.complaint("could not start")
        server.tell(signal.SIGHUP)
        server.complaint("no worker runs")
        policy.write_text(POLICY % 0)
        server.event("restarted", 1)
        with Peer(*server.addresses[0]) as peer:
            assert peer.rest() == b"421 not today\r\n"


# ---- it cannot start


def test_a_policy_that_does_not_compile_is_logged_once(tmp_path: Path) -> None:
    (tmp_path / "policy.lua").write_text(NO_LUA)
    assert "policy.lua:2:" in failing("--policy", "policy.lua", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ("--tls-cert missing.pem", "missing.pem"),
        ("--maildir /dev/null/box", "/dev/null/box"),
        ("--capacity 1K", "--capacity"),
        ("--group no-such-group", "no-such-group"),
        ("--listen 192.0.2.1:0", "192.0.2.1:0"),
    ],
)
def test_what_keeps_a_worker_from_starting_is_reported_once(arguments: str, reported: str) -> None:
    assert reported in failing(*arguments.split())


def test_a_directory_that_others_may_write_to_is_refused(place: Path) -> None:
    (place / "inbound_audit-test").mkdir(mode=0o777)
    (place / "inbound_audit-test").chmod(0o777)
    assert "refused" in failing()


def test_a_worker_that_dies_before_it_is_ready_ends_all() -> None:
    command = patched("worker.parts = lambda settings: os.kill(os.getpid(), 9)")
    done = subprocess.run(
        [*command, "serve", "--workers", "2", "--shared", "test", "--listen", "[::1]:0"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"inbound-audit: worker \d+ was killed by SIGKILL before it was ready\n", done.stderr)


def test_a_fork_that_fails_at_the_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", fork)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["serve", "--workers", "2", "--shared", "test", "--listen", "[::1]:0"]) == 1
    assert capsys.readouterr().err == ("inbound-audit: a worker cannot be started: resource temporarily unavailable\n")
    assert signal.getsignal(signal.SIGTERM) is before


# ---- the report


def test_seconds_and_totals_are_sums_over_workers() -> None:
    with several(3, "--limit", "/32,/64=8", "--prefixlen", "32,128") as server:
        for way, busiest in enumerate(["127.0.0.1/32", "::1/128"]):
            peers = connect(server, 8, way)
            with Peer(*server.addresses[way]) as refused:
                assert refused.line().startswith(b"421")
            eventually(lambda busiest=busiest: busiest in str(server.events), f"a line about {busiest}")
            close(peers)
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["refused"]) == (18, 16, 2)
        seconds = [event for event in server.events if event["event"] == "second"]
        assert {name: sum(second[name] for second in seconds) for name in FIELDS} == {
            name: total[name] for name in FIELDS
        }
        assert seconds[-1]["total"] == total


def test_the_figures_of_dead_workers_stay_without_their_sessions() -> None:
    with several(2, *FREE) as server:
        peers = connect(server, 20)
        eventually(lambda: server.total["accepted"] == 20, "20 reported")
        for number, pid in enumerate(server.workers):
            kill(pid)
            server.event("restarted", number)
        eventually(lambda: server.total["open"] == 0, "the end of all sessions reported")
        close(peers)
        close(connect(server, 5))
        assert server.stopped() == {**dict.fromkeys(FIELDS, 0), "open": 0, "opened": 25, "accepted": 25}


def test_a_quiet_server_tells_its_totals_all_the_same() -> None:
    with several(2, "--quiet", *FREE) as server:
        close(connect(server, 10))
        assert server.stopped()["accepted"] == 10
        assert (
            names(server)
            == [event["event"] for event in server.events]
            == ["listening", "discarding", "policy", "stopped"]
        )


def test_in_words() -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", "--listen", "[::1]:0", "--workers", "2", "--shared", "test", "--limit", "/32,/64=1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        assert re.fullmatch(r"\d\d:\d\d:\d\d  listening on \[::1\]:\d+ with 2 workers\n", line)
        address = address_of(line.split()[3])
        assert "discarded" in process.stdout.readline()
        assert process.stdout.readline()[10:] == "policy /32,/64=1\n"
        with Peer(*address) as peer:
            assert peer.line().startswith(b"220")
            line = process.stdout.readline()[10:]
            while "accepted +0" in line:  # a second ended between the connection and its answer
                line = process.stdout.readline()[10:]
            assert line == "open 1  accepted +1  refused +0  busiest ::/56 1\n"
        victim, _ = children(process.pid)
        kill(victim)
        lines = [process.stdout.readline()[10:]]
        while "replaces" not in lines[-1]:
            lines.append(process.stdout.readline()[10:])
        assert f"worker {victim} was killed by SIGKILL, another in 0.1 s\n" in lines
        assert re.fullmatch(rf"worker \d+ replaces {victim}\n", lines[-1])
        process.send_signal(signal.SIGTERM)
        *_, last = process.stdout.read().splitlines()
        assert last[10:] == "stopped: 1 accepted, 0 refused, 0 messages, 0 cut off"
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_report_that_is_not_read_stops_no_worker() -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", "--listen", "[::1]:0", "--workers", "2", "--shared", "test", *FREE],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        address = address_of(process.stdout.readline().split()[3])
        assert "discarded" in process.stdout.readline()
        assert "policy" in process.stdout.readline()
        process.stdout.close()
        with Peer(*address) as peer:
            assert peer.line().startswith(b"220")
            assert "without a report: standard output: broken pipe" in process.stderr.readline()
            assert peer.ask(b"NOOP").startswith(b"250")
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


def test_messages_of_all_workers_lie_in_one_maildir(tmp_path: Path) -> None:
    with several(3, "--maildir", str(tmp_path / "box"), *FREE) as server:
        for _ in range(12):
            with smtplib.SMTP(*server.addresses[0], timeout=PATIENCE) as client:
                client.sendmail("sender@example.net", ["one@example.com"], b"Subject: x\r\n\r\nx\r\n")
        assert len(list((tmp_path / "box" / "new").iterdir())) == 12
        assert server.stopped()["accepted"] == 12


def test_one_worker_that_shares_needs_no_supervisor() -> None:
    with Serve("--shared", "test-one", "--workers", "1", "--limit", "/32=1") as server:
        assert children(server.pid) == []
        with Peer(*server.addresses[0]) as peer:
            assert peer.line().startswith(b"220")
        server.stopped()


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert inbound_audit.cli.run(["serve", "--help"]) == 0
    reported = capsys.readouterr().out
    assert all(option in reported for option in ("--workers N", "--shared NAME", "--group GROUP"))
