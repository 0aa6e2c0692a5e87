"""The links of a node over Zenoh: the certificates that they were made with, and their ends."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import zenoh

from inbound_audit.cluster.engine import OnLink
from inbound_audit.cluster.leases import silence_s
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.cluster")

DISTRUST_S = 5.0
"""Seconds that the frames of a node are dropped after the last link of another certificate under its identity."""

MIN_ENDED_S = 0.7
"""A link that is newer is not ended. Zenoh connects again at once, from both ends: if an end ended links that are being
made, the other end would see that and do the same, hundreds of times a second, for seconds."""
ALIVE_S = 0.5
"""A node of which nothing comes through gets new links, but only if its end has sent something on a link so lately,
such as Zenoh's signs of life. Otherwise it is frozen or cut off, and Zenoh ends the link when its lease is over."""
MIN_RENEW_PAUSE_S = 1.0
MAX_RENEW_PAUSE_S = 48.0
"""From one such end to the next. It doubles while the node goes on to need it: a slow machine is not made slower."""

_LAST_DATA_RECV = struct.Struct("52xI")
"""In the kernel's `struct tcp_info`: milliseconds since something came."""

MAX_IDENTITIES = 4000
"""Nodes whose identity is known."""


class Link(NamedTuple):
    """A connection to another node: the identity that it states, and the two ends, such as `tcp/127.0.0.1:7447`."""

    identity: str
    src: str
    dst: str

    @property
    def ports(self) -> frozenset[tuple[int]]:
        return frozenset((int(address.rpartition(":")[2]),) for address in (self.src, self.dst))


def close_without_wait(link: Link) -> bool:
    """Takes SO_LINGER off, which Zenoh sets to 10 s. It closes sockets on the few threads that send and receive for all
    links: else a node that is cut off would hold up this one's frames to all others for so long. Returns whether the
    connection is there, as far as is known."""

    def close(_: Link, one: socket.socket) -> None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))

    return bool(_on_sockets([link], close))


def end(links: Iterable[Link]) -> set[Link]:
    """Returns those whose connection was there, as far as is known."""
    return _on_sockets(links, lambda _, one: one.shutdown(socket.SHUT_RDWR))


def alive(links: Iterable[Link]) -> set[Link]:
    """Returns those of which the other end has sent something in the last ALIVE_S seconds."""
    found: set[Link] = set()

    def ask(link: Link, one: socket.socket) -> None:
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV.size)
        if _LAST_DATA_RECV.unpack(info)[0] < 1000 * ALIVE_S:
            found.add(link)

    _on_sockets(links, ask)
    return found


def _on_sockets(links: Iterable[Link], act: Callable[[Link, socket.socket], None]) -> set[Link]:
    """Acts on the socket of each of these links, and returns those that have one, as far as is known.

    O(links + descriptors of this process): some 10 microseconds per descriptor, however many links there are.
    """
    of_ports: dict[frozenset[tuple[int]], list[Link]] = {}
    for link in links:
        of_ports.setdefault(link.ports, []).append(link)
    found: set[Link] = set()
    try:
        names = os.listdir("/dev/fd") if of_ports else []
    except OSError:  # no descriptor is left
        return {link for same in of_ports.values() for link in same}
    for name in names:
        with contextlib.suppress(OSError):  # it is no socket, has no other end, or was closed meanwhile
            one = socket.socket(fileno=int(name))
            try:
                for link in of_ports.get(frozenset((one.getsockname()[1:2], one.getpeername()[1:2])), ()):
                    act(link, one)
                    found.add(link)
            finally:
                one.detach()
    return found


class Links:
    """The links of this node, and the certificates that they were made with.

    Two nodes that join each other have two links. These must end together: if one end has lost both and begins anew,
    while the other one has kept one, Zenoh numbers messages from the start at the one end, and the other drops them
    until the number is that of before, which may take hours; or it never learns whom to ask for a snapshot. So the end
    of a link ends the others to that node, but those that are new; and where nothing gets through although the links
    are alive, `renew` ends them. Zenoh may report an end before the beginning: what is not there is not kept.

    Lock rule: its own lock, held for a few assignments, for calls to sockets that do not wait, and for `on_link`, so
    that its calls keep their order.
    """

    def __init__(self, names: tuple[str, ...] | None, on_link: OnLink) -> None:
        self._mixed: frozenset[str] = frozenset()
        self._distrusted_until: dict[str, float] = {}
        self._names = names
        self._on_link = on_link
        self._up: bool | None = None
        self._links: dict[Link, str | None] = {}
        self._made: dict[Link, float] = {}
        self._identities: dict[str, str] = {}
        """Of each node, as it says. Those that have said so first come first."""
        self._renewals: dict[str, tuple[float, float]] = {}
        """Until when the links to a node are not ended by `renew`, and the pause that ends then."""
        self._lock = threading.Lock()
        self.log = LogLimiter(logger)

    def changed(self, event: zenoh.LinkEvent | None = None) -> None:
        """A link was made or has ended. O(links)."""
        with self._lock:
            if event is not None:
                self._note(event)
            if self._up != bool(self._links):
                self._up = bool(self._links)
                self._on_link(self._up)

    def identify(self, node: str, identity: str) -> None:
        """Notes which identity a node has, as it says. O(1)."""
        with self._lock:
            if self._identities.get(node) == identity:
                return
            known = self._identities.pop(node, None) is not None
            if known or len(self._identities) < MAX_IDENTITIES:
                self._identities[node] = identity

    def identified(self, node: str) -> bool:
        return node in self._identities

    def renew_silent(self, heard: Mapping[str, float], since: float = -math.inf) -> None:
        """Gives new links to the nodes that were not heard for `silence_s`, by the time at which each was heard last;
        to none before this node has heard for so long itself, `since` that time. O(links + nodes), and if one is silent
        O(descriptors of this process)."""
        with self._lock:
            now = time.monotonic()
            before = now - silence_s(len(self._identities))
            if since < before:
                self._renew([node for node in self._identities if heard.get(node, -math.inf) < before], now)

    def renew(self, node: str) -> None:
        """Gives new links to a node of which nothing comes through. O(links + nodes + descriptors)."""
        with self._lock:
            self._renew([node], time.monotonic())

    def _renew(self, nodes: Iterable[str], now: float) -> None:
        """All descriptors are read twice at most, however many nodes there are."""
        of_nodes = self._of_nodes()
        due = {
            node: links
            for node in nodes
            if (links := of_nodes.get(node))
            and now - max(self._made[link] for link in links) >= MIN_ENDED_S
            and now >= self._renewals.get(node, (0.0, 0.0))[0]
        }
        lives = alive(link for links in due.values() for link in links)
        ended: list[Link] = []
        for node, links in due.items():
            if not lives.isdisjoint(links):
                until, pause = self._renewals.get(node, (0.0, 0.0))
                pause = min(2 * pause, MAX_RENEW_PAUSE_S) if now - until < MAX_RENEW_PAUSE_S else 0.0
                pause = max(pause, MIN_RENEW_PAUSE_S)
                self._renewals[node] = now + pause, pause
                logger.info("node %s: nothing comes through its links; they are made anew", node)
                ended += links
        self._end(ended)

    def _of_nodes(self) -> dict[str, list[Link]]:
        """The links of each node: those of its certificate; without one, those of the node that was the first to say
        their identity, as each can say that of another node."""
        firsts = {identity: node for node, identity in reversed(self._identities.items())}
        of_nodes: dict[str, list[Link]] = {}
        for link, certificate in self._links.items():
            node = firsts.get(link.identity) if certificate is None else certificate
            if node is not None and self._identities.get(node) == link.identity:
                of_nodes.setdefault(node, []).append(link)
        return of_nodes

    def distrusts(self, node: str) -> bool:
        """Whether its certificate shares an identity with another one: no frame shows which sent it. O(1)."""
        until = self._distrusted_until.get(node)
        return until is not None and time.monotonic() < until

    def _note(self, event: zenoh.LinkEvent) -> None:
        link = Link(str(event.link.zid), event.link.src, event.link.dst)
        if event.kind == zenoh.SampleKind.DELETE:
            name = self._links.get(link, event.link.auth_identifier)
            self._forget(link)
            self._end([one for one, of in self._links.items() if (one.identity, of) == (link.identity, name)])
        elif close_without_wait(link):
            self._links[link] = event.link.auth_identifier
            self._made[link] = time.monotonic()
            self._report(event.link.auth_identifier, link.dst)
        if self._names is not None:
            before, self._mixed = self._mixed, self._sharing()
            until = time.monotonic() + DISTRUST_S  # frames of a link that has ended may still be on their way
            self._distrusted_until |= dict.fromkeys(before, until) | dict.fromkeys(self._mixed, math.inf)
            if self._mixed:
                message = "certificates of %s are used under one identity: frames of these nodes are dropped"
                self.log.report(logging.ERROR, message, ", ".join(sorted(self._mixed)), kind="mixed")

    def _end(self, links: Iterable[Link]) -> None:
        """Ends those that are not new."""
        before = time.monotonic() - MIN_ENDED_S
        old = {link for link in links if self._made[link] < before}
        for link in old - end(old):
            self._forget(link)

    def _forget(self, link: Link) -> None:
        self._links.pop(link, None)
        self._made.pop(link, None)

    def _report(self, name: str | None, address: str) -> None:
        if self._names is not None and name not in self._names:
            self.log.report(
                logging.WARNING,
                "%s has a certificate of %r, which is no node: what it sends is dropped. Nodes: %s (--nodes)",
                address,
                name,
                ", ".join(self._names),
                kind=name,
            )

    def _sharing(self) -> frozenset[str]:
        of: dict[str, set[str]] = {}
        for link, name in self._links.items():
            of.setdefault(link.identity, set()).add(str(name))
        return frozenset().union(*(names for names in of.values() if len(names) > 1))
