"""A gate when descriptors run out, in forks, with dead and stopped processes, and over many connections."""

from __future__ import annotations

import gc
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.forking import UNDER_ASAN
from tests.support.gates import connect, end, gated, reset, said, take_all
from tests.support.listening import warnings_kept
from tests.support.sharing import NAME, Worker, Workers, rounds
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate
from inbound_audit.shared import View

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")]

ROOT = Path(__file__).parents[2]

forks_beside_threads = pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(capacity=1 << 24) as audit:
        yield audit


GATE = """
import ctypes, gc, logging, os, resource, socket, time
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate
from tests.support.gates import descriptors
from tests.support.waiting import PATIENCE, eventually
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listening.bind(("127.0.0.1", PORT if "PORT" in globals() else 0))
listening.listen(512)
"""
ALONE = GATE + "audit = InboundAudit(capacity=1 << 24)\n"
TOGETHER = GATE + f"audit = InboundAudit(shared={NAME!r}, capacity=1 << 24)\n"
OPEN = "gate = Gate(audit.listener('SMTP', 'mx'), LIMITS, [listening], threads=THREADS)\nkept = []\n"


def port_of(worker: Worker) -> int:
    return worker.do("listening.getsockname()[1]")  # type: ignore[return-value]


def begun(hire: Workers, setup: str, limits: str, threads: int = 1) -> Worker:
    worker = hire(setup)
    worker.do(OPEN.replace("LIMITS", limits).replace("THREADS", str(threads)))
    return worker


def ended(peer: socket.socket) -> bool:
    """Whether the server has closed the connection; never waits."""
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def decided(worker: Worker, peers: list[socket.socket]) -> set[socket.socket]:
    """Waits until each of these peers is let in, and kept, or refused. Returns those that are let in."""
    of = {peer.getsockname()[1]: peer for peer in peers}
    let_in: set[int] = set()

    def is_decided() -> bool:
        let_in.update(worker.do("kept.extend(gate.get(0, 100)) or [c.getpeername()[1] for c, s in kept]"))  # type: ignore[call-overload]
        refused, _, _ = select.select([peer for port, peer in of.items() if port not in let_in], [], [], 0)
        return len(let_in) + len(refused) == len(peers)

    eventually(is_decided, "that each is let in or refused")
    return {of[port] for port in let_in}


# ---- descriptors


def test_without_descriptors_peers_are_told_so_and_the_gate_goes_on(hire: Workers) -> None:
    worker = begun(hire, ALONE, "None")
    worker.do("most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]")
    worker.do("resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 10, most))")
    peers = [connect(port_of(worker)) for _ in range(40)]
    let_in = decided(worker, peers)
    assert 0 < len(let_in) < 40
    assert {said(peer) for peer in peers if peer not in let_in} == {b"421 4.7.0 too busy, try again later\r\n"}
    assert worker.do("audit.total()") == len(let_in)
    worker.do("for c, s in kept: c.close(); s.close()\nkept.clear()")
    with connect(port_of(worker)) as peer:
        worker.do("kept += gate.get(PATIENCE)")
        assert worker.do("(len(kept), audit.total())") == (1, 1)
        assert not ended(peer)
    for peer in peers:
        peer.close()


def test_the_table_of_all_files_is_as_a_limit_of_this_process(hire: Workers) -> None:
    """Without any descriptor, not even the spare one, the gate rests and finds its way back."""
    worker = begun(hire, ALONE, "None", threads=2)
    worker.do("import os\nfilled = []\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))")
    worker.do("while True:\n    try:\n        filled.append(os.dup(2))\n    except OSError:\n        break")
    peers = [connect(port_of(worker)) for _ in range(20)]
    # One lane may take the number that the other one has freed for a moment: then a peer is let in. If both numbers
    # are taken, no lane can say a word.
    eventually(lambda: worker.do("gate.opened + gate.failures") >= 20, "that no descriptor is left")
    assert worker.do("gate.opened") <= 2
    worker.do("for fd in filled: os.close(fd)")
    last = connect(port_of(worker))
    let_in = decided(worker, [*peers, last])
    assert last in let_in
    worker.do("for c, s in kept: c.close(); s.close()")
    for peer in [*peers, last]:
        assert said(peer) == (b"" if peer in let_in else b"421 4.7.0 too busy, try again later\r\n")
        peer.close()


def test_no_descriptor_and_no_count_is_left_after_many_connections(audit: InboundAudit) -> None:
    """Some stay and are served, some are refused, some reset at once."""
    number = rounds(3000, 500_000)
    with gated(audit.listener("SMTP"), Limits({"/32": 2}), threads=2, backlog=16) as (gate, port):
        stop, made = threading.Event(), [0, 0]

        def serve() -> None:
            while not stop.is_set():
                end(gate.get(0.1))

        def flood(seed: int) -> None:
            draw = random.Random(seed)
            for _ in range(number):
                peer = connect(port, f"127.0.0.{draw.randrange(1, 9)}")
                (reset if draw.random() < 0.3 else socket.socket.close)(peer)
                made[seed] += 1
                if made[seed] % 50 == 0:  # the system forgets peers that leave while its own queue is full
                    eventually(lambda: sum(made) - gate.opened < 200, "that the gate keeps up")

        servers = [threading.Thread(target=serve) for _ in range(2)]
        clients = [threading.Thread(target=flood, args=(seed,)) for seed in range(2)]
        for thread in servers + clients:
            thread.start()
        for thread in clients:
            thread.join()
        eventually(lambda: gate.opened == 2 * number and not gate.waiting, "the last connection")
        stop.set()
        for thread in servers:
            thread.join()
        assert audit.total() == 0


PEERS = """
import random, socket, sys
draw, kept = random.Random(int(sys.argv[2])), []
for _ in range(150):
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    kept.append(peer)
    try:
        peer.bind((f"127.0.0.{draw.randrange(2, 9)}", 0))
        peer.connect(("127.0.0.1", int(sys.argv[1])))
        if draw.random() < 0.5:
            peer.sendall(b"x" * draw.randrange(1, 3000))
        if draw.random() < 0.3:
            peer.shutdown(socket.SHUT_WR)
        if draw.random() < 0.3:
            peer.close()
    except OSError:
        pass  # it was refused already
print("all", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("linger", ["close", "abort", "drain"])
def test_however_a_peer_ends_its_connection_is_closed_once(audit: InboundAudit, linger: str) -> None:
    """By a kill while it waits, is drained or has not read its reply; by half a close, a close, or never."""
    options = {"linger": linger, "refusal": b"x" * 16000, "threads": 2, "backlog": 20}
    with gated(audit.listener("SMTP"), Limits({"/32": 3}), **options) as (gate, port):
        for seed in range(rounds(3, 100)):
            command = [sys.executable, "-c", PEERS, str(port), str(seed)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peers:
                assert peers.stdout is not None
                assert peers.stdout.readline() == b"all\n"
                if seed % 3 == 0:
                    end(gate.take())
                peers.kill()
            end(gate.take())
            eventually(lambda: gate.opened == 150 * (seed + 1), "all of them")  # noqa: B023
            end(gate.take())
        eventually(lambda: not gate.waiting and audit.total() == 0, "the end of all sessions")


# ---- forks


@forks_beside_threads
def test_a_process_forks_while_threads_take(hire: Workers) -> None:
    worker = begun(hire, ALONE, "Limits({'/32': 3})", threads=2)
    worker.do("import threading\nstop = threading.Event()")
    worker.do("def take():\n    while not stop.is_set(): kept.extend(gate.take())")
    worker.do("threads = [threading.Thread(target=take) for _ in range(2)]\nfor thread in threads: thread.start()")
    forks = "for _ in range(NUMBER):\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n    os.waitpid(pid, 0)"
    worker.do(forks.replace("NUMBER", str(rounds(100, 2000))))
    worker.do("stop.set()\nfor thread in threads: thread.join()")
    with connect(port_of(worker)):
        eventually(lambda: worker.do("len(gate.get(PATIENCE))") == 1, "the gate goes on")
    worker.do("for c, s in kept: c.close(); s.close()")


@forks_beside_threads
@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.CDLL(None).fork()"])
def test_a_child_has_no_gate_and_keeps_nothing_of_it(hire: Workers, fork: str) -> None:
    worker = begun(hire, ALONE, "Limits({'/32': 3})", threads=2)
    port = port_of(worker)
    peers = [connect(port) for _ in range(3)]
    eventually(lambda: worker.do("gate.waiting") == 3, "three that wait")
    worker.do(
        f"""
import signal
before = descriptors()
reading, writing = os.pipe()
pid = {fork}
if pid == 0:
    try:
        listening.close()
        answer = (gate.closed, gate.fileno(), gate.take(), gate.get(1), gate.waiting, audit.total())
        gate.close()
        answer += (descriptors() < before - 5,)
        os.write(writing, repr(answer).encode())
        signal.pause()
    finally:
        os._exit(1)
os.close(writing)
told = os.read(reading, 1000)
os.close(reading)
"""
    )
    assert worker.do("told") == repr((True, -1, [], [], 0, 0, True)).encode()
    with connect(port) as fourth:  # the parent's gate goes on
        assert said(fourth) == b"421 4.7.0 connection limit exceeded\r\n"
    eventually(lambda: worker.do("(gate.waiting, audit.total())") == (3, 3), "the end of the fourth")
    worker.do("for c, s in gate.get(PATIENCE): c.close(); s.close()")
    for peer in peers:
        assert said(peer) == b""  # although the child lives
        peer.close()
    worker.do("gate.close()\nlistening.close()")
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    worker.do("os.kill(pid, 9)\nos.waitpid(pid, 0)")


WATCHED = """
def watched():
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink("/proc/self/fd/" + name) == "anon_inode:[eventpoll]":
                with open("/proc/self/fdinfo/" + name) as info:
                    found += [line for line in info if line.startswith("tfd:")]
    return len(found)
import contextlib
"""


@forks_beside_threads
def test_a_child_that_is_not_known_of_keeps_no_drained_socket_watched(hire: Workers) -> None:
    """The lane would be called for it again and again, as long as the child lives."""
    worker = hire(ALONE + WATCHED)
    worker.do("gate = Gate(audit.listener('SMTP', 'mx'), Limits({'/32': 0}), [listening], linger='drain')")
    watched = worker.do("watched()")
    with connect(port_of(worker)) as late, connect(port_of(worker)) as peer:
        eventually(lambda: worker.do("watched()") == watched + 2, "both are drained")
        worker.do("lib = ctypes.CDLL(None)\npid = lib.fork()\nif pid == 0: lib.pause()")
        peer.close()
        eventually(lambda: worker.do("watched()") == watched, "the end of both")
        late.sendall(b"x")
    worker.do("os.kill(pid, 9)\nos.waitpid(pid, 0)\ngate.close()\nlistening.close()")


@forks_beside_threads
def test_forks_in_a_flood_are_between_two_batches(hire: Workers) -> None:
    """So no child has a descriptor of a connection that was just being decided."""
    worker = begun(hire, ALONE, "Limits({'/32': 0})", threads=2)
    port, stop = port_of(worker), threading.Event()

    def flood() -> None:
        while not stop.is_set():
            connect(port).close()

    clients = [threading.Thread(target=flood) for _ in range(2)]
    for thread in clients:
        thread.start()
    try:
        left = worker.do(
            f"""
sockets = []
for _ in range({rounds(20, 500)}):
    pid = os.fork()
    if pid == 0:
        names = [os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd") if int(n) > 2 and
                 os.path.lexists(f"/proc/self/fd/{{n}}")]
        os._exit(sum(name.startswith("socket:") for name in names))
    sockets.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
        )
        assert left is None
        assert len(set(worker.do("sockets"))) == 1  # type: ignore[call-overload]
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    worker.do("gate.close()")
    assert worker.do("audit.total()") == 0


# ---- other code of the process


@pytest.mark.parametrize("linger", ["close", "drain"])
def test_a_process_that_closes_all_its_descriptors_has_no_gate(linger: str) -> None:
    """As a program does that becomes a daemon. What it opens then stays open, and no thread of the gate runs on."""
    script = f"""
from tests.support.gates import connect, descriptors, tasks
running = tasks()
limits = Limits({{"/32": 0}}, exempt=["127.0.0.2"])
gate = Gate(audit.listener("SMTP"), limits, [listening], threads=2, linger={linger!r})
peers = [connect(listening.getsockname()[1], f"127.0.0.{{i}}") for i in (1, 2) * 3]
eventually(lambda: gate.waiting == gate.refused == 3, "all six")
most = descriptors() + 50
os.closerange(3, most)
reads, writes = os.pipe()
kept = [os.dup(reads) for _ in range(most)]
assert gate.get() == []
eventually(lambda: gate.closed and not gate._is_lost and tasks() <= running, "its end")
gate.close()
del gate
gc.collect()
os.write(writes, b"x")
assert os.read(reads, 10) == b"x"
assert all(os.path.sameopenfile(reads, each) for each in kept)
assert audit.total() == 0
for each in [listening, *peers]:
    each.detach()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", ALONE + script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "other code of this process has closed a descriptor" in done.stderr


def test_whoever_else_accepts_from_the_same_socket_has_what_the_gate_has_not(audit: InboundAudit) -> None:
    """Each connection has one end, and the socket its own time again."""
    script = """
import select, socket, sys
listening = socket.socket(fileno=int(sys.argv[1]))
print("begun", flush=True)
while True:
    select.select([listening], [], [])
    try:
        connection, _ = listening.accept()
    except BlockingIOError:
        continue  # the gate was first
    connection.settimeout(60)
    connection.sendall(b"other")
    connection.close()
"""
    time_s = socket.SOL_SOCKET, socket.SO_RCVTIMEO
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        listening.setsockopt(*time_s, struct.pack("ll", 5, 0))
        before, number = listening.getsockopt(*time_s, 16), listening.fileno()
        with subprocess.Popen(
            [sys.executable, "-c", script, str(number)], pass_fds=[number], stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"begun\n"
            with Gate(audit.listener("SMTP"), Limits({"/32": 0}), [listening], threads=2, refusal=b"gate") as gate:
                ends = []
                for _ in range(rounds(300, 20_000)):
                    with connect(listening.getsockname()[1]) as peer:
                        ends.append(said(peer))
                assert set(ends) <= {b"gate", b"other"}
                eventually(lambda: ends.count(b"gate") == gate.opened == gate.refused, "the last refusal")
            other.kill()
        assert listening.getsockopt(*time_s, 16) == before
    assert audit.total() == 0


# ---- processes that count together


def test_four_gates_let_in_no_more_than_the_limit(hire: Workers) -> None:
    first = begun(hire, TOGETHER, "Limits({'/32': 50})")
    port = port_of(first)
    others = [begun(hire, f"PORT = {port}\n" + TOGETHER, "Limits({'/32': 50})") for _ in range(3)]
    workers = [first, *others]
    peers: list[socket.socket] = []
    lock = threading.Lock()

    def come(number: int) -> None:
        for _ in range(number):
            peer = connect(port)
            with lock:
                peers.append(peer)

    clients = [threading.Thread(target=come, args=(125,)) for _ in range(4)]
    for thread in clients:
        thread.start()
    while any(thread.is_alive() for thread in clients):
        assert sum(worker.do("gate.accepted") for worker in workers) <= 50  # type: ignore[misc]
    decided = "gate.accepted + gate.refused + gate.queue_full"  # which a gate counts a moment after `opened`
    eventually(lambda: sum(worker.do(decided) for worker in workers) == 500, "each connection")  # type: ignore[misc]
    let_in = [worker.do("gate.accepted") for worker in workers]
    assert 0 < sum(let_in) <= 50  # type: ignore[arg-type]
    with View(NAME) as view:
        eventually(lambda: view.total("SMTP") == sum(let_in), "the end of the refused sessions")  # type: ignore[arg-type]
        # A worker that is killed takes its sessions with it, and its connections end.
        workers[0].kill()
        workers[0].await_end()
        rest = sum(let_in[1:])  # type: ignore[arg-type]
        eventually(lambda: workers[1].do("audit.total()") == rest, "the end of its sessions")
        eventually(lambda: sum(not ended(peer) for peer in peers) == rest, "the end of its connections")
    for peer in peers:
        peer.close()


def test_a_worker_that_is_stopped_keeps_what_it_has_and_no_more(hire: Workers) -> None:
    first = begun(hire, TOGETHER, "Limits({'/32': 3})")
    with connect(port_of(first)) as peer:
        eventually(lambda: first.do("gate.waiting") == 1, "one that waits")
        first.freeze()
        other = begun(hire, TOGETHER, "Limits({'/32': 3})")
        peers = [connect(port_of(other)) for _ in range(3)]
        eventually(lambda: other.do("gate.accepted + gate.refused") == 3, "three more")
        assert other.do("(gate.accepted, gate.refused)") == (2, 1)
        first.thaw()
        assert not ended(peer)
    for peer in peers:
        peer.close()


@forks_beside_threads
def test_a_gate_of_a_child_counts_in_the_child_s_own_file(hire: Workers) -> None:
    """As a server that forks its workers after it has made the audit."""
    parent = hire(TOGETHER)
    child = parent.fork()
    child.do(OPEN.replace("LIMITS", "Limits({'/32': 1})").replace("THREADS", "1"))
    with connect(port_of(child)), connect(port_of(child)) as second:
        assert said(second) == b"421 4.7.0 connection limit exceeded\r\n"
        eventually(lambda: parent.do("audit.total()") == 1, "that the parent sees it")
    child.do("gate.close()")
    assert parent.do("audit.total()") == 0


def test_what_is_taken_and_forgotten_is_closed(audit: InboundAudit) -> None:
    with gated(audit.listener("SMTP"), None) as (gate, port), connect(port), warnings_kept() as warned:
        take_all(gate, 1)
        gc.collect()
        assert audit.total() == 0
    assert len([text for text in warned if "closed" in text]) == 2  # of the socket, and of the session


def test_close_beside_takers_and_a_flood() -> None:
    for seed in range(rounds(10, 300)):
        draw = random.Random(seed)
        with InboundAudit(capacity=1 << 24) as audit:
            with gated(audit.listener("SMTP"), Limits({"/32": 3}), threads=2, backlog=4) as (gate, port):
                stop = threading.Event()

                def serve() -> None:
                    while not gate.closed:
                        end(gate.get())

                def flood() -> None:
                    while not stop.is_set():  # noqa: B023
                        try:
                            connect(port).close()
                        except OSError:
                            return

                def exchange() -> None:
                    while not gate.closed:
                        gate.limits = Limits({"/32": 2})

                threads = [threading.Thread(target=job) for job in (serve, serve, flood, flood, exchange)]
                for thread in threads:
                    thread.start()
                time.sleep(draw.random() * 0.05)
                gate.close()
                stop.set()
                gate.sockets[0].close()  # a flood waits where connections are not accepted
                for thread in threads:
                    thread.join(PATIENCE)
                    assert not thread.is_alive()
            assert audit.total() == 0
