"""The agent: two hosts of one machine count each other's sessions over an engine in memory.

Each host is an audit of its own name with a listener and, in a thread, an agent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_engine import FakeEngine, FakeNetwork
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit
from inbound_audit.cluster import agent as room
from inbound_audit.cluster.agent import Agent
from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.engine import Engine, EngineSettings
from inbound_audit.cluster.frames import Frame, FrameType, pack, unpack
from inbound_audit.cluster.node_state import State
from inbound_audit.errors import CapacityError, ClusterError
from inbound_audit.series.requests import handle
from inbound_audit.shared import View

pytestmark = pytest.mark.system

CIDR = "192.0.2.0/24"


class Host:
    """A listener's process and an agent, which share counts under the name of the node."""

    def __init__(self, network: FakeNetwork, node: str, name: str | None = None, *join: str) -> None:
        self.node, self.name = node, name or node
        self.settings = EngineSettings("eu", node, join=join)
        self.audit = InboundAudit(shared=self.name)
        self.smtp = self.audit.listener("SMTP")
        self.opened: list[EngineSettings] = []
        self.engines: list[FakeEngine] = []
        self.failure: Exception | None = None
        self._network = network
        self.agent = Agent(self.name, None, lambda: self.settings, self._make)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _make(self, settings: EngineSettings) -> Engine:
        if settings.tls_cert == "bad":
            raise ClusterError("--tls-cert bad: is no certificate")
        self.opened.append(settings)
        self.engines.append(FakeEngine(self._network, settings.node))
        return self.engines[-1]

    def _run(self) -> None:
        try:
            self.agent.run()
        except Exception as error:
            self.failure = error

    def count(self, cidr: str = CIDR) -> int:
        return self.audit.inbound_session_count(cidr, "inbound_cidr")

    def kill(self) -> None:
        """The agent goes without a word."""
        self._network.engines.remove(self.engines[-1])
        self.stop()

    def stop(self) -> None:
        self.agent.stop()
        self.thread.join(PATIENCE)

    def close(self) -> None:
        self.stop()
        self.audit.close()


Hosts = Callable[..., Host]


@pytest.fixture
def hosts(place: Path) -> Iterator[Hosts]:
    network = FakeNetwork()
    with ExitStack() as at_end:

        def make(node: str, name: str | None = None, *join: str) -> Host:
            made = Host(network, node, name, *join)
            at_end.callback(made.close)
            return made

        yield make


def test_two_hosts_count_the_sessions_of_both(hosts: Hosts) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    with two.smtp.session("192.0.2.8"):
        with one.smtp.session("192.0.2.7"), one.smtp.session("2001:db8::7"):
            for host in (one, two):
                eventually(lambda host=host: host.count() == 2 and host.count("2001:db8::/32") == 1)
                assert host.audit.inbound_session_count(CIDR, "SMTP") == 1
        eventually(lambda: two.count() == 1)
    eventually(lambda: (one.count(), two.count()) == (0, 0))


def test_the_nodes_are_listed(hosts: Hosts) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    with one.smtp.session("192.0.2.7"), two.smtp.session("192.0.2.8"), two.smtp.session("192.0.2.9"):
        eventually(lambda: [(n.name, n.state, n.sessions, n.hosts) for n in one.audit.nodes] == [
            ("mx1", "this host", 1, 0), ("mx2", "heard", 2, 2),
        ])  # fmt: skip
        with View("mx1") as view:
            assert [node.name for node in view.nodes] == ["mx1", "mx2"]
        with View("mx1", node="mx2") as view:
            assert view.tree("SMTP") == one_tree(two.audit)
    assert InboundAudit().nodes == ()


def one_tree(audit: InboundAudit) -> list[tuple[int, str]]:
    return list(audit.tree("SMTP"))


def test_a_node_that_says_goodbye_is_gone_at_once(hosts: Hosts) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    with two.smtp.session("192.0.2.8"):
        eventually(lambda: one.count() == 1)
        two.stop()
        eventually(lambda: one.count() == 0)
        assert two.count() == 1
        eventually(lambda: two.audit.nodes == ())
    assert two.failure is None


def test_a_frame_that_has_waited_is_a_sign_of_life_of_when_it_came(place: Path) -> None:
    agent = Agent("mx1", None, lambda: EngineSettings("eu", "mx1"), lambda settings: FakeEngine(FakeNetwork(), "mx1"))
    beat = pack(Frame(FrameType.HEARTBEAT, 1, 1))
    now = time.monotonic()
    agent._handle([("mx2", beat, now - 60), ("mx3", beat, now)])
    agent._receiver.tick(now)
    assert [(name, state.state) for name, state in agent._receiver.nodes.items() if name != "mx1"] == [
        ("mx2", State.LOST), ("mx3", State.HEARD),
    ]  # fmt: skip
    agent.stop()
    agent.run()


def test_an_agent_rests_after_few_changes_and_not_while_more_wait(place: Path) -> None:
    """Heartbeats have waited for the end of a wait, and the next ones do."""
    agent = Agent("mx1", None, lambda: EngineSettings("eu", "mx1"), lambda settings: FakeEngine(FakeNetwork(), "mx1"))
    beat, change = (
        ("mx2", pack(Frame(type_, 1, 2)), time.monotonic()) for type_ in (FrameType.HEARTBEAT, FrameType.DELTA)
    )
    assert agent._rest_s([beat, change]) > 0
    assert agent._rest_s([]) == agent._rest_s([beat]) == agent._rest_s([change] * room.MAX_FRAMES_A_STEP) == 0
    agent.stop()
    agent.run()


def test_a_node_that_is_killed_is_gone_after_its_lease(hosts: Hosts) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    with two.smtp.session("192.0.2.8"):
        eventually(lambda: one.count() == 1)
        two.kill()
        eventually(lambda: one.count() == 0)


def test_an_agent_that_ends_takes_the_other_nodes_out_of_the_count(hosts: Hosts) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    with one.smtp.session("192.0.2.7"), two.smtp.session("192.0.2.8"):
        eventually(lambda: one.count() == 2)
        one.stop()
        eventually(lambda: one.count() == 1)


def test_of_two_nodes_of_one_name_one_is_silent_and_says_so(hosts: Hosts) -> None:
    first = hosts("mx1", "a")
    eventually(lambda: first.agent.status()["linked"] is not None)
    hosts("mx2")
    second = hosts("mx1", "b")
    eventually(lambda: first.agent.status()["duplicate"] or second.agent.status()["duplicate"])


def test_a_reload_moves_no_count_and_keeps_good_settings(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    with two.smtp.session("192.0.2.8"):
        eventually(lambda: one.count() == 1)
        epoch = one.agent.status()["nodes"][0]["epoch"]  # type: ignore[index]
        two.settings = two.settings._replace(join=("mx1:1",))
        two.agent.reload()
        eventually(lambda: len(two.engines) == 2)
        assert one.count() == 1
        two.settings = two.settings._replace(tls_cert="bad")
        two.agent.reload()
        eventually(lambda: any("the old settings stay in use" in line for line in caplog.messages))
        assert [settings.join for settings in two.opened] == [(), ("mx1:1",)]
    eventually(lambda: one.count() == 0)
    assert one.agent.status()["nodes"][0]["epoch"] == epoch  # type: ignore[index]


def test_one_address_for_many_nodes_is_warned_of(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    hosts("mx1", None, "mx2:7447")
    hosts("mx2")
    hosts("mx3")
    eventually(lambda: any("--join has one address" in line for line in caplog.messages))


def test_the_status_is_what_the_control_socket_answers(hosts: Hosts) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    eventually(lambda: len(one.audit.nodes) == 2)
    answer = handle(one.audit, b'{"do": "cluster"}')
    assert b'"cluster": "eu"' in answer
    assert b'"ok": true' in answer
    assert two.failure is None


def test_more_names_than_sections_move_the_agent_to_a_new_file(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sections of a file keep their names: names that come and go use them up."""
    one = hosts("mx1")
    monkeypatch.setattr(one.agent._receiver, "bounds", Bounds(max_nodes=4))
    for number in range(8):
        other = hosts(f"node{number}")
        with other.smtp.session(f"192.0.2.{number + 1}"):
            eventually(lambda: one.count() == 1)
        other.close()
        eventually(lambda: one.count() == 0)


def test_windows_are_in_the_first_word_of_an_agent(place: Path) -> None:
    """Until then the others keep what an agent before this one has said, unless a snapshot has less."""
    said: list[int] = []

    class Noting(FakeEngine):
        def publish(self, frame: bytes) -> bool:
            said.append(unpack(frame).tree)
            return super().publish(frame)

    with InboundAudit(shared="mx1") as audit:
        audit.series.define("events", "ip", interval=86400, num_windows=2, replicate="cluster")
        audit.series.add("events", "192.0.2.8")
        network, settings = FakeNetwork(), EngineSettings("eu", "mx1")
        agent = Agent("mx1", None, lambda: settings, lambda settings: Noting(network, settings.node))
        thread = threading.Thread(target=agent.run)
        thread.start()
        eventually(lambda: len(said) >= 2)
        agent.stop()
        thread.join(PATIENCE)
    assert said[:2] == [0, 1]


def test_windows_move_with_the_agent_to_a_new_file(hosts: Hosts) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    for host in (one, two):
        host.audit.series.define("events", "ip", interval=86400, num_windows=2, replicate="cluster")
    two.audit.series.add("events", "192.0.2.8", 2)
    eventually(lambda: one.audit.series.count("events", CIDR, 0, 1) == 2)
    with one.agent._lock:
        one.agent._move()
    eventually(lambda: one.audit.series.count("events", CIDR, 0, 1) == 2)
    two.audit.series.add("events", "192.0.2.8", 2)
    eventually(lambda: one.audit.series.count("events", CIDR, 0, 1) == 4)


def test_windows_that_are_too_many_are_logged(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = hosts("mx1"), hosts("mx2")
    monkeypatch.setattr(one.agent._receiver.copies, "bounds", Bounds(max_window_hosts=1))
    for host in (one, two):
        host.audit.series.define("events", "ip", interval=86400, num_windows=2, replicate="cluster")
    for address in ("192.0.2.8", "192.0.2.9"):
        two.audit.series.add("events", address)
    with two.smtp.session("192.0.2.8"):
        eventually(lambda: any("the windows of node mx2 are not counted" in line for line in caplog.messages))
        eventually(lambda: one.count() == 1)
    assert one.audit.series.count("events", CIDR, 0, 1) == 0
    assert one.failure is None


def test_many_nodes_are_counted_by_their_sum(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MIN_SUMMED", 2)
    one = hosts("mx1")
    two = hosts("mx2")
    with two.smtp.session("192.0.2.8"):
        three = hosts("mx3")
        with three.smtp.session("192.0.2.9"):
            eventually(lambda: one.agent._trees.sum and one.count() == 2)
            three.stop()
            eventually(lambda: one.count() == 1)
        two.stop()
    eventually(lambda: one.count() == 0 and not one.agent._trees.sum)


def no_room(*arguments: object) -> None:
    raise CapacityError("no room")


def test_an_agent_that_can_not_begin_leaves_the_audit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inbound_audit.cluster.agent.NodeTrees", no_room)
    with pytest.raises(CapacityError, match="no room"):
        Agent("mx1", None, lambda: EngineSettings("eu", "mx1"), lambda settings: FakeEngine(FakeNetwork(), "mx1"))
    assert not list(place.rglob("*.owner"))


def test_an_agent_that_can_not_move_ends_and_leaves_the_audit(
    hosts: Hosts, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = hosts("mx1")
    eventually(lambda: one.agent.status()["linked"] is not None)
    monkeypatch.setattr("inbound_audit.cluster.agent.NodeTrees", no_room)
    monkeypatch.setattr(one.agent._receiver, "full", True)
    one.thread.join(PATIENCE)
    assert isinstance(one.failure, CapacityError)
    one.audit.close()
    assert not list(place.rglob("*.owner"))


def test_an_engine_that_does_not_open_is_the_end(place: Path) -> None:
    class Broken(FakeEngine):
        def open(self, *callbacks: object) -> None:
            raise ClusterError("--listen :1: address in use")

    agent = Agent("mx1", None, lambda: EngineSettings("eu", "mx1"), lambda settings: Broken(FakeNetwork(), "mx1"))
    with pytest.raises(ClusterError, match="address in use"):
        agent.run()


def test_threads_that_can_not_be_started_end_no_agent(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Asking for a snapshot, and opening an engine, take threads."""
    one = hosts("mx1")
    opens = FakeEngine.open

    def no_thread(engine: FakeEngine, *callbacks: Any) -> None:
        raise ClusterError("--engine fake: can't start new thread")

    with hosts("mx2").smtp.session("192.0.2.8"):
        eventually(lambda: one.count() == 1)
        monkeypatch.setattr(FakeEngine, "open", no_thread)
        one.agent.reload()
        eventually(lambda: any("can't start new thread; it is tried again" in line for line in caplog.messages))
        eventually(lambda: one.count() == 0)  # nothing is heard
        monkeypatch.setattr(FakeEngine, "open", opens)
        eventually(lambda: one.count() == 1)
        real = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: _starts(thread, real, first="_0"))
        with hosts("mx3").smtp.session("192.0.2.9"), hosts("mx4").smtp.session("192.0.2.10"):
            eventually(lambda: one.count() == 3)
    assert one.failure is None


def _starts(thread: threading.Thread, real: Callable[[threading.Thread], None], first: str = "none") -> None:
    """No thread that asks starts, but the `first` of an agent."""
    if thread.name.startswith("inbound_audit cluster") and not thread.name.endswith(first):
        raise RuntimeError("can't start new thread")
    real(thread)


def test_no_agent_without_a_thread_that_asks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent("mx1", None, lambda: EngineSettings("eu", "mx1"), lambda settings: FakeEngine(FakeNetwork(), "mx1"))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: _starts(thread, lambda thread: None))
    with pytest.raises(ClusterError, match="can't start new thread"):
        agent.run()
