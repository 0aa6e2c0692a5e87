"""What goes wrong around real agents: what others send, ends of everything at once, clocks, memory, descriptors.

Each test has two hosts, and a program beside them that sends what it likes: over a server, or over Zenoh, which carries
frames and connects in another way.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import hosts_of
from tests.support.engine_nodes import Forger, Hosts
from tests.support.forking import UNDER_ASAN
from tests.support.gold_nodes import encode
from tests.support.redis_server import RedisServer
from tests.support.sharing import Worker, Workers, rounds
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit
from inbound_audit.cluster.engine import EngineSettings
from inbound_audit.cluster.frames import Frame, FrameType, pack
from inbound_audit.cluster.leases import LEASE_S

redis = pytest.importorskip("redis")
pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

NAMES = rounds(4_100, 10_000)
SET_CLOCK = """
import pathlib, time
def moved(clock, units):
    def now():
        pathlib.Path({path!r}).with_name("read").touch()
        return clock() + units * int(pathlib.Path({path!r}).read_text() or 0)
    return now
time.time, time.time_ns = moved(time.time, 1), moved(time.time_ns, 10**9)
"""
"""In a file that Python runs first: the wall clock is as many seconds ahead as a file says."""

MAX_RESIDENT_KIB = 400 << 10
"""The bounds of an agent, with 10,000 names: 64 MiB that wait, 4,000 nodes, and what Python needs."""


Said = Sequence[tuple[str, bytes]]
"""Frames, and the node as which each is sent."""

IPV6_HOST_BYTES = 44
"""What a host of another node takes, as docs/cluster.md says."""
MAX_SNAPSHOT_BYTES = 24 << 20


class ByRedis:
    """A client of the server."""

    def __init__(self, server: RedisServer, at_end: ExitStack) -> None:
        self._client = redis.Redis(port=server.port)
        at_end.callback(self._client.close)

    def __call__(self, said: Said) -> None:
        for node, frame in said:
            self._client.publish(f"ia:test:{node}", bytes(8) + frame)


class ByZenoh:
    """A process that has links to all agents."""

    def __init__(self, joins: Sequence[str], at_end: ExitStack) -> None:
        programs = Hosts()
        at_end.callback(programs.kill)
        self.kill = programs.kill
        self._program = Forger(programs, EngineSettings("test", "other", join=tuple(joins)))
        self.run = self._program.run
        eventually(lambda: self.run("len(list(session.info.peers_zid()))") == len(joins), "it has its links")

    def __call__(self, said: Said) -> None:
        how = "congestion_control=__import__('zenoh').CongestionControl.BLOCK"
        frames = [(node, frame.hex()) for node, frame in said]
        self.run(
            f"[session.put(f'ia/test/{{node}}/d', bytes.fromhex(frame), {how}) for node, frame in {frames}] and None"
        )


class Cluster:
    """mx1 and mx2, of which each has one session, and a program beside them."""

    def __init__(self, place: Path, at_end: ExitStack, engine: str = "redis") -> None:
        self._server = at_end.enter_context(RedisServer(place)) if engine == "redis" else None
        self.hosts = at_end.enter_context(hosts_of(2, self._server))
        self.audits: list[InboundAudit] = []
        self._at_end = at_end

    @property
    def server(self) -> RedisServer:
        assert self._server is not None
        return self._server

    def start(self) -> None:
        for host in self.hosts:
            self.audits.append(self._at_end.enter_context(host.audit()))
            self._at_end.enter_context(self.audits[-1].listener().session("192.0.2.1"))
            host.start()
        self.agree(2)

    def agree(self, sessions: int) -> None:
        """Waits until both count so many."""
        eventually(lambda: [audit.total("inbound_cidr") for audit in self.audits] == [sessions] * 2, f"{sessions}")

    @functools.cached_property
    def send(self) -> ByRedis | ByZenoh:
        return ByRedis(self._server, self._at_end) if self._server is not None else self.by_zenoh()

    @property
    def listening(self) -> list[str]:
        return [host.options[host.options.index("--listen") + 1] for host in self.hosts]

    def by_zenoh(self) -> ByZenoh:
        return ByZenoh(self.listening, self._at_end)

    def interrupt(self) -> None:
        """Ends what mx1 is connected to, and starts it again."""
        if self._server is not None:
            self._server.kill()
            self._server.start()
        else:
            self.hosts[1].agent.kill()
            self.hosts[1].agent.wait(PATIENCE)
            self.hosts[1].start()

    def check_agents(self) -> None:
        for host in self.hosts:
            assert host.agent.poll() is None, host.log
            assert "Traceback" not in host.log
            if not UNDER_ASAN:  # a sanitizer takes memory itself
                assert resident_kib(host.agent.pid) < MAX_RESIDENT_KIB


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as at_end:
        yield Cluster(tmp_path, at_end)


@pytest.fixture(params=["redis", "zenoh"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Over each engine."""
    pytest.importorskip(request.param)
    with ExitStack() as at_end:
        yield Cluster(tmp_path, at_end, request.param)


def beat(epoch: int = 1, seq: int = 1) -> bytes:
    return pack(Frame(FrameType.HEARTBEAT, epoch, seq))


# ---- what others send


def test_more_names_than_there_is_room_for_hold_up_no_node(either: Cluster) -> None:
    either.start()
    for first in range(0, NAMES, 500):
        either.send([(f"name{name}", beat()) for name in range(first, min(first + 500, NAMES))])
    with either.audits[1].listener().session("192.0.2.2"):
        either.agree(3)
    assert all(len(audit.nodes) <= 1 + 4000 for audit in either.audits)  # this host, and so many others
    either.check_agents()
    agent = json.loads(either.hosts[0].run("cluster", "mail", "--json").stdout)["agent"]
    assert agent["unlisted"] > 0


def test_forged_frames_and_floods_are_counted_as_no_session(either: Cluster) -> None:
    """Under names of their own, and under those of nodes: what a node says next mends it."""
    either.start()
    records = encode({(4, host): 1 for host in range(1000)})
    forged = [
        b"", b"\xff" * 100, beat()[:-1], bytes(1 << 18),
        pack(Frame(FrameType.DELTA, 1, 5, 4, 0, 1 << 31, 1 << 60, 1, records)),
        pack(Frame(FrameType.DELTA, 1, 1 << 63, 0, 0, 1000, 1000, 7, records)),
        pack(Frame(FrameType.SNAPSHOT, 1, 9, 0, 0, 1, 1, 0, records, 0, 1)),
        pack(Frame(FrameType.GOODBYE, 1, 10)),
        beat(), pack(Frame(FrameType.OVERRIDES, 1, 1, 0, 0, 1, 1, 7, b"{}\n\n[[[[\xff\n" * 10_000, tree=3)),
    ]  # fmt: skip
    for name in ("mx1", "mx2", "mx3"):
        either.send([(name, frame) for frame in forged])
    for first in range(2, rounds(3_000, 20_000), 500):
        either.send([("mx4", beat(seq=seq)) for seq in range(first, first + 500)])
    later = beat()[:4] + b"\xff" + beat()[5:-4]
    later += struct.pack("<I", zlib.crc32(later))
    with either.audits[1].listener().session("192.0.2.2"):
        either.agree(3)
        states = {}

        def listed() -> bool:
            either.send([("mx5", later)])
            states.update({node.name: node.state for node in either.audits[0].nodes})
            return states.get("mx5") == "other version"

        eventually(listed, "the node of another version is listed")
        eventually(lambda: either.hosts[0].nodes().get("mx2") == ("heard", 2), "mx2 is heard")
    either.check_agents()


@pytest.mark.parametrize("either", ["zenoh"], indirect=True)
def test_programs_that_end_without_a_word_leave_nothing(either: Cluster) -> None:
    """Each has a connection of its own to mx1, says that it is alive, and is killed with the others."""
    either.start()
    one, number = either.audits[0], rounds(100, 1_000)
    config = {
        "mode": "client",
        "connect": {"endpoints": either.listening[:1]},
        "scouting": {"multicast": {"enabled": False}},
    }
    programs = either.by_zenoh()
    programs.run("globals().update(zenoh=__import__('zenoh'))")
    programs.run(f"globals().update(config=zenoh.Config.from_json5({json.dumps(config)!r}))")
    programs.run(f"globals().update(all=[zenoh.open(config) for _ in range({number})])")
    token = "liveliness().declare_token(f'ia/test/end{at}/alive')"
    programs.run(f"globals().update(tokens=[one.{token} for at, one in enumerate(all)])")
    programs.run(f"[one.put(f'ia/test/end{{at}}/d', {beat()!r}) for at, one in enumerate(all)] and None")
    eventually(lambda: any(node.name == f"end{number - 1}" and node.counted for node in one.nodes), "it is heard")
    programs.kill()
    eventually(lambda: {node.name for node in one.nodes if node.counted} == {"mx1", "mx2"}, "they are gone")
    tokens = "sorted(str(reply.ok.key_expr) for reply in session.liveliness().get('ia/test/*/alive'))"
    after = either.by_zenoh()
    eventually(lambda: after.run(tokens) == ["ia/test/mx1/alive", "ia/test/mx2/alive"], "no sign of life is left")
    with either.audits[1].listener().session("192.0.2.2"):
        either.agree(3)
    either.check_agents()


def test_two_agents_of_one_name_are_listed_as_duplicate(cluster: Cluster) -> None:
    cluster.start()
    other = cluster.hosts[1]
    other.options[other.options.index("--node") + 1] = "mx1"
    other.agent.terminate()
    other.agent.wait(PATIENCE)
    other.start()
    words = "give each node a name of its own"
    eventually(lambda: "duplicate" in {node.state for audit in cluster.audits for node in audit.nodes}, "a duplicate")
    eventually(lambda: any(words in host.run("cluster", "mail").stdout for host in cluster.hosts), words)


# ---- ends


def test_ends_of_a_worker_its_agent_and_the_server(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.start()
    monkeypatch.setenv("INBOUND_AUDIT_SHM", cluster.hosts[1].directory)
    workers = Workers()
    try:
        worker = count_beside(workers, 3)
        cluster.agree(5)
        worker.freeze()
        time.sleep(2 * LEASE_S)
        with cluster.audits[0].listener().session("192.0.2.2"):
            cluster.agree(6)  # what a stopped process has open is open
        worker.thaw()
        cluster.agree(5)
        worker.kill()
        cluster.agree(2)
        worker = count_beside(workers, 4)
        cluster.agree(6)
        worker.kill()
        cluster.hosts[1].agent.kill()
        cluster.server.kill()
        eventually(lambda: [audit.total("inbound_cidr") for audit in cluster.audits] == [1, 1], "each counts itself")
        cluster.hosts[1].start()  # where there is no server
        eventually(lambda: "reaches no other node" in cluster.hosts[1].log, "it says so")
        cluster.server.start()
        cluster.agree(2)
    finally:
        workers.close()


def count_beside(workers: Workers, sessions: int) -> Worker:
    """A process that counts so many sessions."""
    worker = workers()
    worker.do("audit = InboundAudit(shared='mail')")
    worker.do(f"kept = [audit.listener().session('192.0.2.{{}}'.format(at)) for at in range({sessions})]")
    return worker


def test_a_server_that_is_stopped_is_as_a_server_that_ends(cluster: Cluster) -> None:
    cluster.start()
    cluster.server.signal(signal.SIGSTOP)
    eventually(lambda: [audit.total("inbound_cidr") for audit in cluster.audits] == [1, 1], "each counts itself")
    cluster.server.signal(signal.SIGCONT)
    cluster.agree(2)


# ---- clocks, memory, descriptors


def test_a_wall_clock_that_is_set_changes_no_count_and_no_age(cluster: Cluster, tmp_path: Path) -> None:
    """The clock of one agent, an hour ahead and back."""
    clock = tmp_path / "clock"
    (tmp_path / "sitecustomize.py").write_text(SET_CLOCK.format(path=str(clock)))
    cluster.hosts[0].prefix = ["env", f"PYTHONPATH={tmp_path}:{os.environ.get('PYTHONPATH', '')}"]
    clock.write_text("0")
    cluster.start()
    for hours in (1, -1, 0):
        clock.write_text(f"{hours * 3600}")
        for at, audit in enumerate(cluster.audits):
            with audit.listener().session("192.0.2.2"):
                cluster.agree(3)
                assert all(0 <= node.age_s < 600 for node in cluster.audits[1 - at].nodes)
            cluster.agree(2)
    assert (tmp_path / "read").exists()
    cluster.check_agents()


def test_orders_to_read_joins_anew_count_no_session_twice(either: Cluster) -> None:
    """While an agent connects, a host counts itself as it is and the others as they were last heard, or not at all."""
    either.start()
    for number in range(rounds(30, 1_000)):
        either.hosts[0].agent.send_signal(signal.SIGHUP)
        with either.audits[number % 2].listener().session("192.0.2.2"):
            if number % 10 == 0:
                either.agree(3)
            assert [audit.total() for audit in either.audits] == [2 - number % 2, 1 + number % 2]
            assert {audit.total("inbound_cidr") for audit in either.audits} <= {1, 2, 3, 4}
    either.agree(2)
    either.check_agents()


def test_a_node_with_many_hosts_joins_and_takes_the_memory_that_the_page_says(cluster: Cluster) -> None:
    """Three times as much, and what the frames of its snapshot take while they are handled."""
    cluster.start()
    cluster.hosts[1].agent.terminate()
    cluster.hosts[1].agent.wait(PATIENCE)
    hosts = rounds(100_000, 999_999)
    listener = cluster.audits[1].listener()
    kept = [listener.session(f"2001:db8:{at & 65535:x}:{at >> 16:x}::1") for at in range(hosts)]
    before = resident_kib(cluster.hosts[0].agent.pid)
    cluster.hosts[1].start()
    cluster.agree(hosts + 2)
    taken = resident_kib(cluster.hosts[0].agent.pid) - before << 10
    assert taken < 3 * IPV6_HOST_BYTES * hosts + MAX_SNAPSHOT_BYTES
    for session in kept:
        session.close()
    cluster.agree(2)


def test_an_agent_without_descriptors_goes_on(either: Cluster) -> None:
    either.start()
    host, audit = either.hosts[0], either.audits[0]
    soft, hard = resource.prlimit(host.agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(host.agent.pid, resource.RLIMIT_NOFILE, (3, hard))
    either.interrupt()
    with either.audits[1].listener().session("192.0.2.2"):
        eventually(lambda: audit.total("inbound_cidr") == 1, "mx1 counts itself")
        if "redis" in host.options:  # Zenoh tries again in silence
            eventually(lambda: "Too many open files" in host.log, "it says why")
        resource.prlimit(host.agent.pid, resource.RLIMIT_NOFILE, (soft, hard))
        either.agree(3)
    either.check_agents()


@pytest.fixture
def little_memory(cluster: Cluster) -> Iterator[Path]:
    """The directory of mx1, with room for 16 MiB."""
    place = cluster.hosts[0].directory
    if os.geteuid() != 0:
        pytest.skip("needs root's rights, to mount a small file system")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", place], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr.strip()}")
    try:
        yield Path(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_no_room_for_shared_counts_is_reported_and_outlasted(little_memory: Path, cluster: Cluster) -> None:
    cluster.start()
    one, two = cluster.audits
    listener = two.listener()
    kept = [listener.session(f"10.0.{at >> 8}.{at & 255}") for at in range(50)]
    cluster.agree(52)
    fill(little_memory / "other")
    kept += [listener.session(f"10.{at >> 8}.{at & 255}.1") for at in range(30_000)]
    host = cluster.hosts[0]
    eventually(lambda: host.nodes().get("mx2") == ("too large", None), "mx2 is listed and not counted")
    eventually(lambda: one.total("inbound_cidr") == 1, "mx1 counts itself")
    host.await_output(lambda said: "No space left on device" in said, "cluster", "mail")
    eventually(lambda: "mx2: too large" in host.log, "the agent says so")
    (little_memory / "other").unlink()
    cluster.agree(30_052)
    for session in kept:
        session.close()
    cluster.agree(2)
    cluster.check_agents()


def fill(path: Path) -> None:
    """Takes all that is left of a file system."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(file, bytes(4096))
    finally:
        os.close(file)
