"""Which links of Zenoh are ended, and when: connections that are real, events and times that are not."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest

zenoh = pytest.importorskip("zenoh")

from inbound_audit.cluster import zenoh_links as room  # noqa: E402
from inbound_audit.cluster.engine import EngineSettings  # noqa: E402
from inbound_audit.cluster.leases import LONG_SILENCE_S, MANY_NODES, SILENCE_S  # noqa: E402
from inbound_audit.cluster.stand_still import MAX_PAUSE_S  # noqa: E402
from inbound_audit.cluster.zenoh_engine import CHECK_S, ZenohEngine  # noqa: E402
from inbound_audit.cluster.zenoh_links import Links  # noqa: E402


class Wire:
    """A connection to another node, of which both ends are here."""

    def __init__(self, identity: str, certificate: str | None, at_end: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.here = at_end.enter_context(socket.create_connection(server.getsockname()))
            self.there = at_end.enter_context(server.accept()[0])
        self.here.setblocking(False)
        self.identity = identity
        self.certificate = certificate

    @property
    def is_open(self) -> bool:
        try:
            while self.here.recv(100):
                pass
        except BlockingIOError:
            return True
        return False

    def event(self, kind: object) -> zenoh.LinkEvent:
        ends = [f"tcp/127.0.0.1:{one.getsockname()[1]}" for one in (self.here, self.there)]
        link = SimpleNamespace(zid=self.identity, src=ends[0], dst=ends[1], auth_identifier=self.certificate)
        return cast("zenoh.LinkEvent", SimpleNamespace(link=link, kind=kind))


class Node:
    """The links of a node, and the time."""

    def __init__(self, at_end: ExitStack) -> None:
        self.now = 1000.0
        self.up: list[bool] = []
        self.links = Links(None, self.up.append)
        self._at_end = at_end

    def link(self, identity: str, certificate: str | None = None) -> Wire:
        wire = Wire(identity, certificate, self._at_end)
        self.links.changed(wire.event(zenoh.SampleKind.PUT))
        return wire

    def lose(self, wire: Wire) -> None:
        self.links.changed(wire.event(zenoh.SampleKind.DELETE))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with ExitStack() as at_end:
        made = Node(at_end)
        monkeypatch.setattr(time, "monotonic", lambda: made.now)
        yield made


def test_the_end_of_a_link_ends_the_others_to_that_node(node: Node) -> None:
    first, second, other = node.link("a"), node.link("a"), node.link("b")
    node.now += 10
    node.lose(first)
    assert not second.is_open
    assert other.is_open


def test_the_end_of_a_link_ends_none_that_is_new(node: Node) -> None:
    """Else its end would be seen at the other end, which would end the next one, and so on for seconds."""
    old = node.link("a")
    node.now += 10
    new = [node.link("a") for _ in range(3)]
    node.lose(old)
    node.now += room.MIN_ENDED_S / 2
    node.lose(new[0])
    assert [wire.is_open for wire in new[1:]] == [True, True]


def test_the_end_of_a_link_ends_none_of_another_certificate(node: Node) -> None:
    """Each node can state the identity of another one."""
    one, stated = node.link("a", "mx2"), node.link("a", "mx3")
    node.now += 10
    node.lose(stated)
    assert one.is_open


def test_a_node_with_one_link_is_up_until_it_ends(node: Node) -> None:
    wire = node.link("a")
    node.lose(wire)
    node.lose(wire)
    assert node.up == [True, False]


@pytest.fixture
def silent(node: Node, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """The only link to mx2, which is alive and of which no frame has come for ten seconds."""
    monkeypatch.setattr(room, "ALIVE_S", 600)
    wire = node.link("a")
    node.links.identify("mx2", "a")
    wire.there.send(b"x")
    node.now += 10
    return wire


def test_a_silent_node_gets_new_links(node: Node, silent: Wire) -> None:
    other = node.link("b")
    node.links.renew_silent({})
    assert not silent.is_open
    assert other.is_open


def test_a_node_of_which_nothing_comes_through_gets_new_links(node: Node, silent: Wire) -> None:
    node.links.renew("mx2")
    assert not silent.is_open


def test_a_node_that_is_heard_keeps_its_links(node: Node, silent: Wire) -> None:
    node.links.renew_silent({"mx2": node.now - SILENCE_S / 2})
    assert silent.is_open


def test_a_node_that_is_frozen_keeps_its_links(node: Node, silent: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zenoh ends them when their lease is over."""
    monkeypatch.setattr(room, "ALIVE_S", 0)
    node.links.renew_silent({})
    node.links.renew("mx2")
    assert silent.is_open


def test_a_node_with_a_new_link_keeps_its_links(node: Node, silent: Wire) -> None:
    new = node.link("a")
    node.links.renew_silent({})
    node.links.renew("mx2")
    assert silent.is_open
    assert new.is_open


def test_a_node_that_is_not_known_keeps_its_links(node: Node, silent: Wire) -> None:
    node.links.identify("mx2", "c")
    node.links.renew_silent({})
    node.links.renew("mx2")
    node.links.renew("mx3")
    assert silent.is_open


def test_a_node_that_stays_silent_gets_new_links_ever_more_rarely(node: Node, silent: Wire) -> None:
    ended = []
    node.lose(silent)
    for _ in range(1000):
        wire = node.link("a")
        wire.there.send(b"x")
        node.now += SILENCE_S + 0.01
        node.links.renew_silent({})
        if not wire.is_open:
            ended.append(node.now)
            node.lose(wire)
        if len(ended) == 6:
            break
    pauses = [after - before for before, after in pairwise(ended)]
    assert len(ended) == 6
    assert all(pause >= room.MIN_RENEW_PAUSE_S * 2**at for at, pause in enumerate(pauses))


def test_a_node_may_have_another_identity_after_a_restart(node: Node, silent: Wire) -> None:
    again = node.link("c")
    again.there.send(b"x")
    node.links.identify("mx2", "c")
    node.now += 10
    node.links.renew_silent({})
    assert silent.is_open
    assert not again.is_open


@pytest.fixture(params=["mx2", None], ids=["certificates", "no certificates"])
def claimed(node: Node, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Wire:
    """The only link to mx2, which is alive. Both mx2 and mx3 say that it is theirs."""
    monkeypatch.setattr(room, "ALIVE_S", 600)
    wire = node.link("a", request.param)
    if request.param is not None:
        node.links.identify("mx3", "a")
    node.links.identify("mx2", "a")
    node.links.identify("mx3", "a")
    wire.there.send(b"x")
    node.now += 10
    return wire


def test_a_node_that_says_the_identity_of_another_does_not_end_its_links(node: Node, claimed: Wire) -> None:
    node.links.renew_silent({"mx2": node.now})
    node.links.renew("mx3")
    assert claimed.is_open


def test_a_node_that_says_the_identity_of_another_does_not_hide_its_silence(node: Node, claimed: Wire) -> None:
    node.links.renew_silent({"mx3": node.now})
    assert not claimed.is_open


def test_a_node_that_has_said_the_identity_of_another_does_not_take_it_away(node: Node, claimed: Wire) -> None:
    node.links.identify("mx3", "b")
    node.links.renew_silent({})
    assert not claimed.is_open


def test_the_descriptors_are_read_for_all_silent_nodes_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to find the links that are alive, and once to end them: there may be hundreds of each."""
    monkeypatch.setattr(room, "ALIVE_S", 600)
    wires = [node.link(identity) for identity in "abcdefgh" for _ in range(2)]
    for wire in wires:
        node.links.identify(f"mx-{wire.identity}", wire.identity)
        wire.there.send(b"x")
    node.now += 10
    reads: list[object] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: reads.append(path) or listdir(path))
    node.links.renew_silent({f"mx-{wire.identity}": node.now for wire in wires})
    assert not reads
    node.links.renew_silent({})
    assert not any(wire.is_open for wire in wires)
    assert len(reads) == 2
    node.links.renew_silent({})
    assert len(reads) == 2


def check(node: Node, heard: dict[str, float], *pauses_s: float) -> None:
    """What the thread of an engine does that checks links. Its own node says nothing, as if another one had its name.
    Each of these pauses comes beside one that the thread makes."""
    engine = ZenohEngine(EngineSettings("eu", "mx1", listen=("tcp/127.0.0.1:7447",)))
    engine._links = node.links
    engine._heard = heard
    pauses = iter(pauses_s)

    def wait(pause_s: float) -> bool:
        more_s = next(pauses, None)
        node.now += pause_s + (more_s or 0.0)
        return more_s is None

    engine._ended = cast("threading.Event", SimpleNamespace(wait=wait))
    engine._check_links()


def test_in_a_large_cluster_a_node_may_be_silent_for_longer(node: Node, silent: Wire) -> None:
    """Its heartbeats come less often. There may be more nodes than are known here."""
    for number in range(MANY_NODES // 2):
        node.links.identify(f"other{number}", f"identity{number}")
    node.links.renew_silent({"mx2": node.now - SILENCE_S - 0.01})
    assert silent.is_open
    node.links.renew_silent({"mx2": node.now - LONG_SILENCE_S - 0.01})
    assert not silent.is_open


CHECKS = 2 * int(SILENCE_S / CHECK_S)


def test_links_are_checked_so_often_that_no_check_is_a_stand_still() -> None:
    assert CHECK_S <= MAX_PAUSE_S / 2


def test_a_node_that_says_nothing_gives_new_links_to_one_that_is_silent(node: Node, silent: Wire) -> None:
    check(node, {}, *[0.0] * CHECKS)
    assert not silent.is_open


@pytest.mark.parametrize("pause_s", [SILENCE_S, 1.0, 100.0])
def test_a_node_that_stood_still_takes_no_other_for_silent(node: Node, silent: Wire, pause_s: float) -> None:
    """What the others have said meanwhile is heard soon after."""
    few = [0.0] * (CHECKS // 2)
    check(node, {}, *[pause_s, *few] * 3)
    assert silent.is_open
    check(node, {}, pause_s, *few, *few)
    assert not silent.is_open
