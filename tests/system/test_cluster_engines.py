"""What every engine of a cluster does, also while servers and other nodes are killed, stopped and hostile."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trustme
from tests.support.engine_nodes import Calls, Node, NodeProcess, free_ports
from tests.support.fake_engine import FakeEngine, FakeNetwork
from tests.support.redis_server import USER, RedisServer
from tests.support.waiting import eventually

from inbound_audit.cluster.engine import Engine, EngineSettings, open_engine
from inbound_audit.cluster.frames import MAX_FRAME_BYTES

NAMES = ("mx1", "mx2", "mx3")


class Network:
    """What nodes of one kind of engine find one another by."""

    has_server = False
    hints = True
    """Whether the end of a node is told."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def engine(self, node: str, cluster: str = "eu") -> Engine:
        return open_engine(self.kind, self.settings(node, cluster))

    def settings(self, node: str, cluster: str = "eu") -> EngineSettings:
        raise NotImplementedError

    def node(self, name: str, cluster: str = "eu") -> Node:
        node = Node(self.engine(name, cluster), name)
        self._stack.callback(node.close)
        return node

    def process(self, name: str) -> NodeProcess:
        node = NodeProcess(self.kind, self.settings(name))
        self._stack.callback(node.kill)
        return node

    def cluster(self, *names: str) -> list[Node]:
        """Nodes of which each hears all others."""
        nodes = [self.node(name) for name in names]
        connect(*nodes)
        return nodes


class Fake(Network):
    kind = "fake"

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        self._networks: dict[str, FakeNetwork] = {}

    def engine(self, node: str, cluster: str = "eu") -> Engine:
        return FakeEngine(self._networks.setdefault(cluster, FakeNetwork()), node)


class Zenoh(Network):
    kind = "zenoh"

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
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

    def __init__(self, stack: ExitStack, place: Path) -> None:
        super().__init__(stack)
        pytest.importorskip("redis", reason="needs the extra cluster-redis")
        self.server = stack.enter_context(RedisServer(place))

    def settings(self, node: str, cluster: str = "eu") -> EngineSettings:
        return EngineSettings(cluster, node, join=(self.server.url,))


def made(kind: str, place: Path) -> Iterator[Network]:
    with ExitStack() as stack:
        yield {"fake": Fake, "zenoh": Zenoh, "redis": lambda stack: Redis(stack, place)}[kind](stack)


@pytest.fixture(params=["fake", "zenoh", "redis"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    yield from made(request.param, tmp_path)


@pytest.fixture(params=["zenoh", "redis"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    yield from made(request.param, tmp_path)


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
        assert all(node.links[-1:])


@pytest.mark.parametrize("size", [0, 1, 1500, 70_000, MAX_FRAME_BYTES])
def test_frames_of_any_length_arrive_whole(network, size):
    one, two = network.cluster("mx1", "mx2")
    arrives(one, two, bytes(number % 251 for number in range(size)))


def test_a_snapshot_comes_whole_from_its_origin(network):
    one, two, three = network.cluster(*NAMES)
    for node in (two, three):
        eventually(
            lambda node=node: sorted(one.ask(node.node) or ()) == sorted(node.snapshot()), "the snapshot is whole"
        )


def test_a_snapshot_has_parts_of_the_length_of_a_frame(network):
    one, two = network.cluster("mx1", "mx2")
    parts = [bytes([number]) * MAX_FRAME_BYTES for number in range(8)]
    two.snapshot = lambda: parts
    eventually(lambda: sorted(one.ask("mx2", 5.0) or ()) == parts, "the snapshot is whole")


def test_an_unknown_node_has_no_snapshot(network):
    one, _ = network.cluster("mx1", "mx2")
    assert one.ask("mx9", 0.2) is None


def test_a_snapshot_that_can_not_be_made_is_none_and_the_next_one_comes(network):
    one, two = network.cluster("mx1", "mx2")
    two.snapshot, whole = (lambda: []), two.snapshot
    assert not one.ask("mx2", 0.5)
    two.snapshot = whole
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


def test_a_link_to_another_cluster_is_reported(tmp_path, caplog):
    """With and without certificates: a mistake in --cluster looks like a cluster of one otherwise."""
    for made in (Zenoh, lambda stack: ZenohTls(stack, tmp_path)):
        with ExitStack() as stack:
            network = made(stack)
            network.node("mx1")
            network.node("mx2", cluster="us")
            for text in (
                "mx2, to which this one has a link, is of the cluster us and not of eu",
                "cluster eu and not of us",
            ):
                eventually(lambda text=text: text in caplog.text, "the mistake is reported")
        caplog.clear()


def test_a_closed_engine_takes_nothing_and_hears_nothing(network):
    one, two = network.cluster("mx1", "mx2")
    two.close()
    two.close()
    before = len(two.frames)
    assert not two.publish(b"late")
    for number in range(20):
        one.publish(b"%d" % number)
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
    again = Node(open_engine(real.kind, settings), "mx1")
    with closing(again):
        arrives(again, two, b"of the second mx1")
        arrives(again, one, b"of the second mx1")
    arrives(one, two, b"of the first mx1")


def test_a_killed_node_is_told_and_comes_back(real):
    one = real.node("mx1")
    two = real.process("mx2")
    connect(one, two)
    two.kill()
    if real.hints:
        eventually(lambda: "mx2" in one.gone, "the end of mx2 is told")
    assert one.ask("mx2", 0.5) is None
    assert one.publish(b"to no other node")
    two = real.process("mx2")
    arrives(two, one, b"again")
    eventually(lambda: one.ask("mx2"), "the snapshot of the new process")


def test_publishing_does_not_wait_for_what_is_stopped(real):
    """Of the 500 frames each would wait for the other's time-out, and the test would be ended."""
    one = real.node("mx1")
    two = real.process("mx2")
    connect(one, two)
    stopped = real.server if real.has_server else two
    stopped.signal(signal.SIGSTOP)
    taken = [one.publish(bytes(MAX_FRAME_BYTES)) for _ in range(500)]
    assert one.ask("mx2", 0.5) is None
    stopped.signal(signal.SIGCONT)
    if real.has_server:
        assert not all(taken)  # no more than a few wait in memory
    eventually(lambda: one.up, "the link is up")
    arrives(one, two, b"afterwards")
    arrives(two, one, b"afterwards")


def test_publishing_does_not_wait_for_a_node_that_does_not_read_its_snapshot(real):
    one, three = real.node("mx1"), real.node("mx3")
    two = real.process("mx2")
    connect(one, two, three)
    asked = []
    one.snapshot = lambda: asked.append(True) or [bytes(MAX_FRAME_BYTES)] * 200
    two.ask_without_waiting("mx1")
    eventually(lambda: asked, "mx2 has asked")
    two.signal(signal.SIGSTOP)
    for number in range(200):
        one.publish(b"%d" % number)
    arrives(one, three, b"to a node that reads")
    two.signal(signal.SIGCONT)
    one.snapshot = lambda: [b"small"]
    arrives(one, two, b"to a node that reads again")


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_closing_does_not_wait_for_what_is_dead(real, how):
    one = real.node("mx1")
    two = real.process("mx2")
    connect(one, two)
    (real.server if real.has_server else two).signal(how)
    for _ in range(100):
        one.publish(bytes(10_000))
    one.close()


def test_the_link_goes_down_and_comes_up_again(real):
    one = real.node("mx1")
    two = real.process("mx2")
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
        two = real.process("mx2")
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
    assert one.up


# ---- what others send


def test_what_other_programs_send_is_no_frame(real):
    one, two = real.cluster("mx1", "mx2")
    junk = [b"", b"\xff", b"x" * (MAX_FRAME_BYTES + 9), bytes(1 << 20)]
    names = ["*", "mx 2", "mx2/x", "", "m" * 64, "\N{SNOWMAN}", "mx2"]
    send = {"zenoh": send_by_zenoh, "redis": send_by_redis}[real.kind]
    send(real, names, junk)
    arrives(one, two, b"after all that")
    eventually(lambda: sorted(two.ask("mx1") or ()) == sorted(one.snapshot()), "snapshots come after all that")
    for node in (one, two):
        assert {name for name, _ in node.frames} <= {"mx1", "mx2"}
        assert max(len(frame) for _, frame in node.frames) <= MAX_FRAME_BYTES


def send_by_redis(real, names, junk):
    import redis

    with redis.Redis(port=real.server.port) as client:
        for name in names:
            for payload in junk:
                for kind in ("ia", "ia-ask", "ia-snap"):
                    client.publish(f"{kind}:eu:{name}", payload)
        client.publish(b"ia:eu:\xff", b"x")


def raw_session(settings, **paths):
    """A program that speaks Zenoh, is configured as a node, and keeps to no rule."""
    import zenoh

    from inbound_audit.cluster.zenoh_engine import configuration

    config = zenoh.Config()
    for path, value in (configuration(settings) | paths).items():
        if path != "access_control":
            config.insert_json5(path, json.dumps(value))
    return zenoh.open(config)


def send_by_zenoh(real, names, junk):
    import zenoh

    with raw_session(EngineSettings("eu", "mx3", join=real.settings("mx3").join)) as session:
        eventually(lambda: len(list(session.info.peers_zid())) == 2, "it is linked to both")
        keys = [f"ia/eu/{name}" for name in names if name not in ("", "mx2/x")] + ["ia/eu/**", "ia/*"]
        for key in keys:
            for payload in junk:
                session.put(f"{key}/d", payload, congestion_control=zenoh.CongestionControl.BLOCK)
            session.delete(f"{key}/d")
            list(session.get(f"{key}/s", timeout=0.2))
        tokens = [session.liveliness().declare_token(f"{key}/alive") for key in keys if "*" not in key]
        for token in tokens:
            token.undeclare()
        wrong = session.declare_queryable("ia/eu/mx1/s", lambda query: query.reply("ia/eu/mx1/s", bytes(1 << 20)))
        wrong.undeclare()


# ---- certificates, users and passwords


class Authority:
    """Signs certificates, whose common name is the name of a node."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._authority = trustme.CA()
        place.mkdir()
        self.file = place / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def files(self, name: str) -> dict[str, str]:
        """Settings with a certificate of that name."""
        made = self._authority.issue_cert("127.0.0.1", common_name=name)
        chain, key = self._place / f"{name}.pem", self._place / f"{name}.key"
        made.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        return {"tls_cert": str(chain), "tls_key": str(key), "tls_ca": str(self.file)}


class ZenohTls(Zenoh):
    """Nodes with certificates; `mx1` and `mx2` may speak."""

    def __init__(self, stack: ExitStack, place: Path) -> None:
        super().__init__(stack)
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


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[ZenohTls]:
    with ExitStack() as stack:
        yield ZenohTls(stack, tmp_path)


def test_nodes_with_certificates_hear_one_another(certified):
    one, two = certified.cluster("mx1", "mx2")
    eventually(lambda: sorted(one.ask("mx2") or ()) == sorted(two.snapshot()), "the snapshot is whole")
    two.close()
    eventually(lambda: "mx2" in one.gone, "the end is told")


def test_a_certificate_of_another_authority_is_not_let_in(certified, tmp_path):
    stranger = Authority(tmp_path / "stranger")
    forged = certified.settings("mx2", at="again", authority=stranger)
    one = certified.node("mx1")
    with raw_session(forged) as session:
        for number in range(50):
            session.put("ia/eu/mx2/d", b"%d" % number)
        connect(one, certified.node("mx2"))
    assert [frame for _, frame in one.frames if frame != b"hello"] == []


def test_a_certificate_speaks_for_its_own_name_alone(certified, caplog):
    one, two = certified.cluster("mx1", "mx2")
    with raw_session(certified.settings("mx3")._replace(nodes=("mx1", "mx2", "mx3"))) as session:
        eventually(lambda: "certificate of 'mx3'" in caplog.text, "mx1 reports the certificate")
        queryable = session.declare_queryable("ia/eu/mx2/s", lambda query: query.reply("ia/eu/mx2/s", b"forged"))
        token = session.liveliness().declare_token("ia/eu/mx2/alive")
        for name in ("mx1", "mx2", "mx3", "**"):
            session.put(f"ia/eu/{name}/d", b"forged")
        assert sorted(one.ask("mx2") or ()) == sorted(two.snapshot())
        token.undeclare()
        queryable.undeclare()
        arrives(two, one, b"after all that")
    assert not any(frame == b"forged" for node in (one, two) for _, frame in node.frames)
    assert one.gone == []


def test_frames_under_a_shared_identity_are_dropped(certified):
    """Zenoh takes a further link for one of a known node if it states that node's identity."""
    one = certified.node("mx1")
    alone = {"id": "abc123", "scouting/gossip/enabled": False}
    true = certified.settings("mx2")
    with raw_session(true._replace(join=()), **alone) as session:
        eventually(lambda: session.put("ia/eu/mx2/d", b"true") or one.heard("mx2", b"true"), "mx1 hears mx2")
        false = certified.settings("mx3")._replace(listen=(), join=certified.settings("mx1").listen)
        with raw_session(false, **alone) as forger:
            eventually(lambda: one.engine._links.mixed, "mx1 finds the second certificate")
            for _ in range(1000):
                forger.put("ia/eu/mx2/d", b"forged")
        eventually(lambda: not one.engine._links.mixed, "the second certificate is gone")
    assert not one.heard("mx2", b"forged")
    connect(one, certified.node("mx2"))


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
        eventually(lambda: sorted(nodes[0].ask("mx2") or ()) == sorted(nodes[1].snapshot()), "the snapshot is whole")
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
