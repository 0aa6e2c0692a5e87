"""What every engine of a cluster does, also while servers and other nodes are killed, stopped and hostile."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tests.support.authority import Authority
from tests.support.engine_nodes import Calls, Forger, Hosts, Node, NodeProcess
from tests.support.fake_engine import FakeEngine, FakeNetwork
from tests.support.ports import free_ports
from tests.support.redis_server import USER, Forwarder, RedisServer
from tests.support.waiting import PATIENCE, eventually, until_it_suffices

from inbound_audit.cluster.engine import EngineSettings, open_engine
from inbound_audit.cluster.frames import MAX_FRAME_BYTES

NAMES = ("mx1", "mx2", "mx3")


class Network:
    """What nodes of one kind of engine find one another by."""

    has_server = False
    hints = True
    """Whether the end of a node is told."""

    def __init__(self, stack: ExitStack, hosts: Hosts) -> None:
        self._stack = stack
        self._hosts = hosts

    def settings(self, node: str, cluster: str = "eu") -> EngineSettings:
        raise NotImplementedError

    def node(self, name: str, cluster: str = "eu", settings: EngineSettings | None = None) -> NodeProcess:
        node = NodeProcess(self._hosts, self.kind, settings or self.settings(name, cluster))
        self._stack.callback(node.end)
        return node

    def forger(self, settings: EngineSettings, **paths: object) -> Forger:
        return Forger(self._hosts, settings, **paths)

    def cluster(self, *names: str) -> list[NodeProcess]:
        """Nodes of which each hears all others."""
        nodes = [self.node(name) for name in names]
        connect(*nodes)
        return nodes


class Fake(Network):
    kind = "fake"

    def __init__(self, stack: ExitStack, hosts: Hosts) -> None:
        super().__init__(stack, hosts)
        self._networks: dict[str, FakeNetwork] = {}

    def node(self, name: str, cluster: str = "eu", settings: EngineSettings | None = None) -> Node:
        return Node(FakeEngine(self._networks.setdefault(cluster, FakeNetwork()), name), name)


class Zenoh(Network):
    kind = "zenoh"

    def __init__(self, stack: ExitStack, hosts: Hosts) -> None:
        super().__init__(stack, hosts)
        pytest.importorskip("zenoh", reason="needs the extra cluster-zenoh")
        self.ports = dict(zip((*NAMES, "again", "other"), free_ports(5), strict=True))

    def settings(self, node: str, cluster: str = "eu", at: str = "") -> EngineSettings:
        at = at or (node if cluster == "eu" else "other")
        addresses = {name: f"tcp/127.0.0.1:{port}" for name, port in self.ports.items()}
        return EngineSettings(cluster, node, (addresses.pop(at),), tuple(addresses.values()))


class Redis(Network):
    kind = "redis"
    has_server = True
    hints = False

    def __init__(self, stack: ExitStack, hosts: Hosts, place: Path) -> None:
        super().__init__(stack, hosts)
        pytest.importorskip("redis", reason="needs the extra cluster-redis")
        self.server = stack.enter_context(RedisServer(place))

    def settings(self, node: str, cluster: str = "eu") -> EngineSettings:
        return EngineSettings(cluster, node, join=(self.server.url,))


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    yield hosts
    hosts.kill()


@pytest.fixture
def make(hosts: Hosts, tmp_path: Path) -> Iterator[Callable[[str], Network]]:
    with ExitStack() as stack:
        yield lambda kind: {
            "fake": lambda: Fake(stack, hosts),
            "zenoh": lambda: Zenoh(stack, hosts),
            "zenoh with certificates": lambda: ZenohTls(stack, hosts, tmp_path),
            "redis": lambda: Redis(stack, hosts, tmp_path),
        }[kind]()


@pytest.fixture(params=["fake", "zenoh", "redis"])
def network(request: pytest.FixtureRequest, make: Callable[[str], Network]) -> Network:
    return make(request.param)


@pytest.fixture(params=["zenoh", "redis"])
def real(request: pytest.FixtureRequest, make: Callable[[str], Network]) -> Network:
    return make(request.param)


@pytest.fixture
def certified(make: Callable[[str], Network]) -> Network:
    return make("zenoh with certificates")


def connect(*nodes: Node | NodeProcess) -> None:
    """Waits until each node hears each other."""

    def all_heard() -> bool:
        for node in nodes:
            node.publish(b"hello")
        return all(hearer.heard(node.node, b"hello") for hearer in nodes for node in nodes if node is not hearer)

    eventually(all_heard, "each node hears each other")


def arrives(source: Node | NodeProcess, target: Calls, frame: bytes) -> None:
    """Delivery is not certain, so a frame is published until it has arrived."""
    eventually(
        lambda: source.publish(frame) and target.heard(source.node, frame), f"{target.node} hears {frame[:20]!r}"
    )


# ---- what every engine does


def test_frames_go_to_all_others_and_not_to_oneself(network):
    nodes = network.cluster(*NAMES)
    for node in nodes:
        frame = f"of {node.node}".encode()
        for other in nodes:
            if other is not node:
                arrives(node, other, frame)
    for node in nodes:
        assert {name for name, _ in node.frames} == {*NAMES} - {node.node}
        eventually(lambda node=node: node.up, "the link is up")


@pytest.mark.parametrize("size", [0, 1, 1500, 70_000, MAX_FRAME_BYTES])
def test_frames_of_any_length_arrive_whole(network, size):
    one, two = network.cluster("mx1", "mx2")
    arrives(one, two, bytes(number % 251 for number in range(size)))


def test_a_snapshot_comes_whole_from_its_origin(network):
    one, two, three = network.cluster(*NAMES)
    for node in (two, three):
        eventually(lambda node=node: one.ask(node.node) == node.snapshot(), "the snapshot is whole")


def test_a_snapshot_has_parts_of_the_length_of_a_frame(network):
    one, two = network.cluster("mx1", "mx2")
    two.offer(*[MAX_FRAME_BYTES] * 8)
    eventually(lambda: one.ask("mx2", 5.0) == two.snapshot(), "the snapshot is whole")


def test_an_unknown_node_has_no_snapshot(network):
    one, _ = network.cluster("mx1", "mx2")
    assert one.ask("mx9", 0.2) is None


def test_a_snapshot_that_can_not_be_made_is_none_and_the_next_one_comes(network):
    one, two = network.cluster("mx1", "mx2")
    two.offer()
    assert not one.ask("mx2", 0.5)
    two.offer(10, 20)
    eventually(lambda: one.ask("mx2"), "the snapshot comes")


def test_another_cluster_hears_nothing(network):
    one, two = network.cluster("mx1", "mx2")
    other = network.node("mx1", cluster="us")
    arrives(one, two, b"after the other cluster has come")
    other.publish(b"of the other cluster")
    assert other.ask("mx2", 0.2) is None
    arrives(one, two, b"and after it has spoken")
    assert other.frames == []
    assert not any(node.heard("mx1", b"of the other cluster") for node in (one, two))


@pytest.mark.parametrize("kind", ["zenoh", "zenoh with certificates"])
def test_a_link_to_another_cluster_is_reported(make, kind):
    """A mistake in --cluster looks like a cluster of one otherwise."""
    network = make(kind)
    one, two = network.node("mx1"), network.node("mx2", cluster="us")
    eventually(
        lambda: "mx2, to which this one has a link, is of the cluster us and not of eu" in one.log, "mx1 says so"
    )
    eventually(
        lambda: "mx1, to which this one has a link, is of the cluster eu and not of us" in two.log, "mx2 says so"
    )


def test_a_closed_engine_takes_nothing_and_hears_nothing(network):
    one, two = network.cluster("mx1", "mx2")
    two.close()
    two.close()
    before = len(two.frames)
    assert not two.publish(b"late")
    assert two.ask("mx1", 0.2) is None
    one.publish(b"to no other node", 20)
    assert one.ask("mx2", 0.2) is None
    assert len(two.frames) == before


def test_the_last_frame_before_the_end_arrives(network):
    """A node says goodbye, and closes its engine."""
    one, two = network.cluster("mx1", "mx2")
    two.publish(b"goodbye")
    two.close()
    eventually(lambda: one.heard("mx2", b"goodbye"), "the goodbye arrives")


# ---- servers and processes that die, stop and come back


def test_the_other_process_of_the_same_name_is_heard(real):
    """It has another host's counts: the receiver must learn of it."""
    one, two = real.cluster("mx1", "mx2")
    settings = real.settings("mx1") if real.has_server else real.settings("mx1", at="again")
    again = real.node("mx1", settings=settings)
    arrives(again, two, b"of the second mx1")
    arrives(again, one, b"of the second mx1")
    again.close()
    arrives(one, two, b"of the first mx1")


def test_a_killed_node_is_told_and_comes_back(real):
    one = real.node("mx1")
    two = real.node("mx2")
    connect(one, two)
    two.kill()
    if real.hints:
        eventually(lambda: "mx2" in one.gone, "the end of mx2 is told")
    assert one.ask("mx2", 0.5) is None
    assert one.publish(b"to no other node")
    two = real.node("mx2")
    arrives(two, one, b"again")
    eventually(lambda: one.ask("mx2"), "the snapshot of the new process")


def test_publishing_does_not_wait_for_what_is_stopped(real):
    """Of the 500 frames each would wait for the other's time-out, and the test would be ended."""
    one = real.node("mx1")
    two = real.node("mx2")
    connect(one, two)
    stopped = real.server if real.has_server else two
    stopped.signal(signal.SIGSTOP)
    taken = one.publish(bytes(MAX_FRAME_BYTES), 500)
    assert one.ask("mx2", 0.5) is None
    stopped.signal(signal.SIGCONT)
    if real.has_server:
        assert not taken  # no more than a few wait in memory
    eventually(lambda: one.up, "the link is up")
    arrives(one, two, b"afterwards")
    arrives(two, one, b"afterwards")


def test_publishing_does_not_wait_for_a_node_that_does_not_read_its_snapshot(real):
    one, three = real.node("mx1"), real.node("mx3")
    two = real.node("mx2")
    connect(one, two, three)
    one.offer(*[MAX_FRAME_BYTES] * 64)
    two.ask_without_waiting("mx1")
    eventually(lambda: one.asked, "mx2 has asked")
    two.signal(signal.SIGSTOP)
    one.publish(b"while mx2 does not read", 200)
    arrives(one, three, b"to a node that reads")
    two.signal(signal.SIGCONT)
    arrives(one, two, b"to a node that reads again")


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_closing_does_not_wait_for_what_is_dead(real, how):
    one = real.node("mx1")
    two = real.node("mx2")
    connect(one, two)
    dead = real.server if real.has_server else two
    if how == "stopped":
        dead.signal(signal.SIGSTOP)
    else:
        dead.kill()
    one.publish(bytes(10_000), 100)
    one.close()
    assert one.exit() == 0
    if how == "stopped":
        dead.signal(signal.SIGCONT)


def test_a_process_may_end_without_closing_its_engine(real):
    one = real.node("mx1")
    two = real.node("mx2")
    connect(one, two)
    two.host.send("publish", b"".hex(), 100_000)
    assert one.exit() == 0


def test_a_process_ends_while_its_snapshot_is_on_its_way_to_a_node_that_is_stopped(real):
    one = real.node("mx1")
    two = real.node("mx2")
    connect(one, two)
    one.offer(*[MAX_FRAME_BYTES] * 64)
    two.ask_without_waiting("mx1")
    eventually(lambda: one.asked, "mx2 has asked")
    two.signal(signal.SIGSTOP)
    one.close()
    assert one.exit() == 0
    two.signal(signal.SIGCONT)


@pytest.fixture(params=["zenoh", "zenoh with certificates"])
def linked(request: pytest.FixtureRequest, make: Callable[[str], Network]) -> list[NodeProcess]:
    """Two nodes over Zenoh, which have joined each other."""
    return make(request.param).cluster("mx1", "mx2")


def test_a_node_that_is_cut_off_holds_up_no_other(linked):
    """Else one of few threads waits until what was sent to it has arrived, and frames to others wait, too."""
    for node in linked:
        eventually(lambda node=node: node.lingering() == 0, f"the connections of {node.node} are closed without a wait")


def test_the_two_links_between_nodes_end_together(linked):
    """Else one end may begin anew while the other goes on, and frames are dropped for as long as the link was up."""
    from inbound_audit.cluster.zenoh_links import MIN_ENDED_S  # where Zenoh is installed

    one, two = linked

    def both_end() -> bool:
        """A link that is new does not end with the other one."""
        time.sleep(MIN_ENDED_S)
        before = one.connections()
        if len(before) == 2:
            one.end_link(min(before))
            eventually(lambda: min(before) not in one.connections(), "one link has ended")
            time.sleep(MIN_ENDED_S / 2)
        return len(before) == 2 and not before & one.connections()

    eventually(both_end, "both links have ended")
    eventually(lambda: len(one.connections()) == 2, "there are two again")
    arrives(one, two, b"again")
    arrives(two, one, b"again")


def test_links_that_no_answer_comes_through_are_made_anew(make):
    """As when one end has lost what the other end has declared."""
    network = make("zenoh")
    one = network.node("mx1")
    with closing(network.forger(network.settings("mx3"))) as other:
        other.run("globals().update(token=session.liveliness().declare_token(f'ia/eu/mx3/id/{session.info.zid()}'))")
        eventually(lambda: len(one.connections()) == 2, "each has joined the other one")
        before = one.connections()
        eventually(lambda: one.ask("mx3") is None and not before & one.connections(), "both links have ended")


def test_the_link_goes_down_and_comes_up_again(real):
    one = real.node("mx1")
    two = real.node("mx2")
    connect(one, two)
    eventually(lambda: one.up, "the link is up")
    if real.has_server:
        real.server.kill()
    else:
        two.kill()
    eventually(lambda: not one.up, "the link is down")
    if real.has_server:
        real.server.start()
    else:
        two = real.node("mx2")
    eventually(lambda: one.up, "the link is up again")
    arrives(one, two, b"again")
    arrives(two, one, b"again")


def test_an_engine_opens_without_the_others_and_finds_them(real):
    if real.has_server:
        real.server.kill()
    one = real.node("mx1")
    assert one.links == [False]
    assert one.ask("mx2", 0.2) is None
    one.publish(b"heard by no node")
    if real.has_server:
        real.server.start()
    two = real.node("mx2")
    connect(one, two)
    eventually(lambda: one.up, "the link is up")


def test_a_request_that_is_lost_is_sent_again(make):
    """The first is; a node answers the second."""
    network = make("redis")
    one = network.node("mx1")

    def answer() -> None:
        for message in asked.listen():
            requests.append(message["type"])
            if requests.count("message") == 2:
                client.publish("ia-snap:eu:mx9", _PART.pack(b"12345678", 0, 1) + b"a part")
                return

    import redis

    from inbound_audit.cluster.redis_engine import _PART

    requests: list[str] = []
    with redis.Redis(port=network.server.port) as client, client.pubsub() as asked:
        asked.subscribe("ia-ask:eu:mx9")
        answering = threading.Thread(target=answer)
        answering.start()
        eventually(lambda: one.up, "the link is up")
        assert one.ask("mx9", PATIENCE) == [b"a part"]
        answering.join()


def test_connections_that_lead_nowhere_are_given_up(make):
    network = make("redis")
    one = network.node("mx1")
    with closing(Forwarder(network.server.port)) as forwarder:
        two = network.node(
            "mx2", settings=network.settings("mx2")._replace(join=(f"redis://127.0.0.1:{forwarder.port}",))
        )
        connect(one, two)
        forwarder.swallow()
        arrives(one, two, b"on a new connection")
        arrives(two, one, b"on a new connection")
        two.close()


# ---- what others send


def test_what_other_programs_send_is_no_frame(real):
    one, two = real.cluster("mx1", "mx2")
    junk = [b"", b"\xff", b"x" * (MAX_FRAME_BYTES + 9), bytes(1 << 20)]
    names = ["*", "mx 2", "mx2/x", "", "m" * 64, "\N{SNOWMAN}", "mx2"]
    send = {"zenoh": send_by_zenoh, "redis": send_by_redis}[real.kind]
    send(real, names, junk)
    arrives(one, two, b"after all that")
    eventually(lambda: two.ask("mx1") == one.snapshot(), "snapshots come after all that")
    for node in (one, two):
        assert {name for name, _ in node.frames} <= {"mx1", "mx2"}
        assert node.longest <= MAX_FRAME_BYTES


def send_by_redis(real, names, junk):
    import redis

    with redis.Redis(port=real.server.port) as client:
        for name in names:
            for payload in junk:
                for kind in ("ia", "ia-ask", "ia-snap"):
                    client.publish(f"{kind}:eu:{name}", payload)
        client.publish(b"ia:eu:\xff", b"x")


def send_by_zenoh(real, names, junk):
    forger = real.forger(EngineSettings("eu", "mx3", join=real.settings("mx3").join))
    with closing(forger):
        eventually(lambda: forger.run("len(list(session.info.peers_zid()))") == 2, "it is linked to both")
        keys = [f"ia/eu/{name}" for name in names if name not in ("", "mx2/x")] + ["ia/eu/**", "ia/*"]
        for key in keys:
            for length in map(len, junk):
                forger.run(f"session.put({key!r} + '/d', bytes({length}))")
            forger.run(f"session.delete({key!r} + '/d')")
            forger.run(f"list(session.get({key!r} + '/s', timeout=0.2)) and None")
            if "*" not in key:
                forger.run(f"session.liveliness().declare_token({key!r} + '/alive').undeclare()")
        wrong = "lambda query: query.reply('ia/eu/mx1/s', bytes(1 << 20))"
        forger.run(f"session.declare_queryable('ia/eu/mx1/s', {wrong}).undeclare()")


# ---- certificates, users and passwords


class ZenohTls(Zenoh):
    """Nodes with certificates; `mx1` and `mx2` may speak."""

    kind = "zenoh"

    def __init__(self, stack: ExitStack, hosts: Hosts, place: Path) -> None:
        super().__init__(stack, hosts)
        self.authority = Authority(place / "authority")

    def settings(
        self, node: str, cluster: str = "eu", at: str = "", authority: Authority | None = None
    ) -> EngineSettings:
        plain = super().settings(node, cluster, at)
        return plain._replace(
            listen=tuple(address.replace("tcp/", "tls/") for address in plain.listen),
            join=tuple(address.replace("tcp/", "tls/") for address in plain.join),
            nodes=("mx1", "mx2"),
            **(authority or self.authority).files(node),
        )


def test_nodes_with_certificates_hear_one_another(certified):
    one, two = certified.cluster("mx1", "mx2")
    eventually(lambda: one.ask("mx2") == two.snapshot(), "the snapshot is whole")
    two.close()
    eventually(lambda: "mx2" in one.gone, "the end is told")


def test_a_certificate_of_another_authority_is_not_let_in(certified, tmp_path):
    stranger = Authority(tmp_path / "stranger")
    one = certified.node("mx1")
    with closing(certified.forger(certified.settings("mx2", at="again", authority=stranger))) as forger:
        forger.run("[session.put('ia/eu/mx2/d', b'forged') for _ in range(50)] and None")
        connect(one, certified.node("mx2"))
        forger.run("[session.put('ia/eu/mx2/d', b'forged') for _ in range(50)] and None")
    assert not one.heard("mx2", b"forged")


def test_a_certificate_is_let_in_until_it_expires(certified):
    """Zenoh checks the dates of a link when it is made, and ends it when one of its certificates expires."""
    one = certified.node("mx1")
    settings = certified.settings("mx2")._replace(listen=())
    begin = datetime.now(timezone.utc) - timedelta(days=2)

    def forger(end: datetime) -> Forger:
        made = certified.authority.files("mx2", "expiring", begin, end)
        tls = {"connect_certificate": made["tls_cert"], "connect_private_key": made["tls_key"]}
        tls |= {"close_link_on_expiration": False}  # that is up to the other end
        return certified.forger(settings, **{f"transport/link/tls/{path}": value for path, value in tls.items()})

    def attempt(limit_s: float) -> bool:
        end = datetime.now(timezone.utc) + timedelta(seconds=limit_s)
        with closing(forger(end)) as peer:
            put = "session.put('ia/eu/mx2/d', b'in time')"
            eventually(lambda: peer.run(put) or one.heard("mx2", b"in time") or datetime.now(timezone.utc) > end)
            eventually(lambda: not peer.run("list(map(str, session.info.peers_zid()))"), "the link ends")
            return one.heard("mx2", b"in time")

    until_it_suffices(attempt, 3.0)
    with closing(forger(datetime.now(timezone.utc) - timedelta(days=1))) as peer:
        peer.run("[session.put('ia/eu/mx2/d', b'too late') for _ in range(50)] and None")
        connect(one, certified.node("mx2"))
        peer.run("[session.put('ia/eu/mx2/d', b'too late') for _ in range(50)] and None")
        assert not peer.run("list(map(str, session.info.peers_zid()))")
    assert not one.heard("mx2", b"too late")


def test_a_certificate_speaks_for_its_own_name_alone(certified):
    one, two = certified.cluster("mx1", "mx2")
    with closing(certified.forger(certified.settings("mx3")._replace(nodes=("mx1", "mx2", "mx3")))) as forger:
        eventually(lambda: "certificate of 'mx3'" in one.log, "mx1 reports the certificate")
        forger.run(
            "session.declare_queryable('ia/eu/mx2/s', lambda query: query.reply('ia/eu/mx2/s', b'forged')) and None"
        )
        for name in ("mx1", "mx2", "mx3", "**"):
            forger.run(f"session.put('ia/eu/{name}/d', b'forged')")
        eventually(lambda: is_whole(one.ask("mx2"), two), "the snapshot comes")

        def is_not_believed() -> bool:
            """mx2 also goes when its links are made anew, as it was silent on a busy machine: then it is no proof."""
            before = len(one.gone)
            forger.run("session.liveliness().declare_token('ia/eu/mx2/alive').undeclare()")
            arrives(two, one, b"after end %d" % before)
            eventually(lambda: is_whole(one.ask("mx2"), two), "the snapshot comes")
            return len(one.gone) == before

        eventually(is_not_believed, "mx1 does not believe that mx2 has ended")
    assert not any(frame == b"forged" for node in (one, two) for _, frame in node.frames)


def is_whole(answer: list[bytes] | None, origin: NodeProcess) -> bool:
    """Whether there was an answer in time. It is the origin's in any case."""
    assert not answer or answer == origin.snapshot()
    return bool(answer)


def test_frames_under_a_shared_identity_are_dropped(certified):
    """Zenoh takes a further link for one of a known node if it states that node's identity."""
    one = certified.node("mx1")
    alone = {"id": "abc123", "scouting/gossip/enabled": False}
    with closing(certified.forger(certified.settings("mx2")._replace(join=()), **alone)) as true:
        eventually(lambda: true.run("session.put('ia/eu/mx2/d', b'true')") or one.heard("mx2", b"true"), "mx2 is heard")
        false = certified.settings("mx3")._replace(listen=(), join=certified.settings("mx1").listen)
        with closing(certified.forger(false, **alone)) as forger:
            eventually(lambda: "used under one identity" in one.log, "mx1 finds the second certificate")
            forger.run("[session.put('ia/eu/mx2/d', b'forged') for _ in range(1000)] and None")
    connect(one, certified.node("mx2"))
    assert not one.heard("mx2", b"forged")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[..., EngineSettings]]:
    """A server with TLS and a user for each node; makes settings."""
    pytest.importorskip("redis", reason="needs the extra cluster-redis")
    authority = Authority(tmp_path / "authority")
    server = authority.files("server")
    options = [
        f"tls-cert-file {server['tls_cert']}",
        f"tls-key-file {server['tls_key']}",
        f"tls-ca-cert-file {server['tls_ca']}",
        "user default off",
        *(USER.format(node=node) for node in NAMES),
    ]

    def settings(node: str, password: str | None = None, authority: Authority = authority) -> EngineSettings:
        file = tmp_path / f"{node}.password"
        file.write_text(f"{password or f'secret-{node}'}\n")
        certificate = authority.files(node)
        return EngineSettings("eu", node, join=(running.url,), user=node, password_file=str(file), **certificate)

    with RedisServer(tmp_path, "\n".join(options), tls=True) as running:
        yield settings


def test_users_of_a_server_with_tls_are_held_to_their_node(guarded):
    import redis

    from inbound_audit.cluster.redis_engine import connection

    with ExitStack() as stack:
        nodes = [Node(open_engine("redis", guarded(name)), name) for name in ("mx1", "mx2")]
        for node in nodes:
            stack.callback(node.close)
        connect(*nodes)
        eventually(lambda: nodes[0].ask("mx2") == nodes[1].snapshot(), "the snapshot is whole")
        forger = stack.enter_context(redis.Redis(**connection(guarded("mx3"))))
        for channel in ("ia:eu:mx2", "ia-snap:eu:mx2", "ia:us:mx3"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                forger.publish(channel, b"forged")


@pytest.mark.parametrize("wrong", ["password", "authority"])
def test_a_server_that_refuses_is_reported_and_tried_again(guarded, wrong, tmp_path, caplog):
    settings = guarded("mx1", password="wrong") if wrong == "password" else guarded("mx1")
    if wrong == "authority":
        settings = settings._replace(tls_ca=str(Authority(tmp_path / "stranger").file))
    node = Node(open_engine("redis", settings), "mx1")
    with closing(node):
        text = {"password": "WRONGPASS", "authority": "CERTIFICATE_VERIFY_FAILED"}[wrong]
        eventually(lambda: text in caplog.text.replace("invalid username-password pair", "WRONGPASS"), "it is reported")
        assert node.links == [False]
        assert node.ask("mx2", 0.2) is None


MISSING_THREADS = """
import sys, threading
from inbound_audit.cluster.engine import EngineSettings, open_engine
from inbound_audit.errors import ClusterError

kind, listen, join = sys.argv[1:]
settings = EngineSettings("eu", "mx1", (listen,) if listen else (), (join,) if join else ())
start, missing = threading.Thread.start, []

def start_unless_missing(thread):
    if any(name in thread.name for name in missing):
        raise RuntimeError("can't start new thread")
    start(thread)

def opened():
    engine = open_engine(kind, settings)
    engine.open(lambda *frame: None, lambda: [], lambda up: None, lambda node: None)
    return engine

threading.Thread.start = start_unless_missing
for name in ("answer", "hear", "check_links") if kind == "zenoh" else ("reads", "writes"):
    missing[:] = [name]
    try:
        opened()
    except ClusterError as error:
        assert str(error) == f"--engine {kind}: can't start new thread", error
    else:
        raise AssertionError(f"it opened without {name}")
    assert threading.enumerate() == [threading.main_thread()]
missing.clear()
engine = opened()  # nothing of those before is in its way, such as their address
missing[:] = ["inbound_audit"]
engine.close()
assert threading.enumerate() == [threading.main_thread()]
"""


def test_a_thread_that_can_not_be_started_is_named_and_nothing_is_left(real):
    settings = real.settings("mx1")
    first = [next(iter(addresses), "") for addresses in (settings.listen, settings.join)]
    subprocess.run([sys.executable, "-c", MISSING_THREADS, real.kind, *first], check=True)
