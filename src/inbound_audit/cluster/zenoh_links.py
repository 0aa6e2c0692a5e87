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
from collections.abc import Callable, Mapping
from typing import NamedTuple

import zenoh

from inbound_audit.cluster.engine import OnLink
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.cluster")

DISTRUST_S = 5.0
"""Seconds that the frames of a node are dropped after the last link of another certificate under its identity."""

MIN_ENDED_S = 0.7
"""A link that is newer is not ended. Zenoh connects again at once, from both ends: if an end ended links that are being
made, the other end would see that and do the same, hundreds of times a second, for seconds."""
SILENCE_S = 0.75
"""A node that has a link and was not heard for so long, which is three heartbeats, gets new links."""
ALIVE_S = 0.5
"""But only if the other end has sent something on a link so lately, such as Zenoh's signs of life. Otherwise it is
frozen or cut off, and Zenoh ends the link when its lease is over."""
MAX_TRIED = 4
"""Silent nodes whose links are looked at in one check: each takes O(descriptors), and many may be cut off at once."""
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

    def close_without_wait(self) -> bool:
        """Takes SO_LINGER off, which Zenoh sets to 10 s. It closes sockets on the few threads that send and receive for
        all links: else a node that is cut off would hold up this one's frames to all others for so long."""
        return self._with_socket(
            lambda one: one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        )

    def end(self) -> bool:
        return self._with_socket(lambda one: one.shutdown(socket.SHUT_RDWR))

    def is_alive(self) -> bool:
        """Whether the other end has sent something in the last ALIVE_S seconds."""
        silent_ms: list[int] = []

        def ask(one: socket.socket) -> None:
            info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV.size)
            silent_ms.extend(_LAST_DATA_RECV.unpack(info))

        self._with_socket(ask)
        return any(ms < 1000 * ALIVE_S for ms in silent_ms)

    def _with_socket(self, act: Callable[[socket.socket], None]) -> bool:
        """Whether the connection is there, as far as is known. O(descriptors of this process)."""
        ports = {(int(address.rpartition(":")[2]),) for address in (self.src, self.dst)}
        try:
            names = os.listdir("/dev/fd")
        except OSError:  # no descriptor is left
            return True
        found = False
        for name in names:
            with contextlib.suppress(OSError):  # it is no socket, has no other end, or was closed meanwhile
                one = socket.socket(fileno=int(name))
                try:
                    if {one.getsockname()[1:2], one.getpeername()[1:2]} == ports:
                        act(one)
                        found = True
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
        """Of each node, as it says."""
        self._nodes: dict[str, str] = {}
        """The node of each of these identities."""
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
            if node in self._identities or len(self._identities) < MAX_IDENTITIES:
                self._nodes.pop(self._identities.get(node, ""), None)
                self._identities[node] = identity
                self._nodes[identity] = node

    def identified(self, node: str) -> bool:
        return node in self._identities

    def renew_silent(self, heard: Mapping[str, float]) -> None:
        """Gives new links to nodes that were not heard for SILENCE_S, by the time at which each was heard last.
        O(links), and O(descriptors) for at most MAX_TRIED nodes."""
        with self._lock:
            now = time.monotonic()
            made: dict[str, float] = {}
            for link, at in self._made.items():
                made[link.identity] = max(at, made.get(link.identity, at))
            tried = 0
            for identity, at in made.items():
                node = self._nodes.get(identity)
                if node is not None and now - max(at, heard.get(node, at)) > SILENCE_S and tried < MAX_TRIED:
                    tried += self._renew(node, now)

    def renew(self, node: str) -> None:
        """Gives new links to a node of which nothing comes through. O(links)."""
        with self._lock:
            self._renew(node, time.monotonic())

    def _renew(self, node: str, now: float) -> bool:
        """Returns whether the links were looked at."""
        identity = self._identities.get(node, "")
        made = {link: at for link, at in self._made.items() if link.identity == identity}
        until, pause = self._renewals.get(node, (0.0, 0.0))
        if not made or now - max(made.values()) < MIN_ENDED_S or now < until:
            return False
        if not any(map(Link.is_alive, made)):
            self._renewals[node] = now + ALIVE_S, pause
            return True
        pause = min(2 * pause, MAX_RENEW_PAUSE_S) if now - until < MAX_RENEW_PAUSE_S else 0.0
        pause = max(pause, MIN_RENEW_PAUSE_S)
        self._renewals[node] = now + pause, pause
        logger.info("node %s: nothing comes through its links; they are made anew", node)
        self._end(identity)
        return True

    def distrusts(self, node: str) -> bool:
        """Whether its certificate shares an identity with another one: their frames can't be told apart. O(1)."""
        until = self._distrusted_until.get(node)
        return until is not None and time.monotonic() < until

    def _note(self, event: zenoh.LinkEvent) -> None:
        link = Link(str(event.link.zid), event.link.src, event.link.dst)
        if event.kind == zenoh.SampleKind.DELETE:
            self._forget(link)
            self._end(link.identity)
        elif link.close_without_wait():
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

    def _end(self, identity: str) -> None:
        """Ends the links to a node but those that are new."""
        before = time.monotonic() - MIN_ENDED_S
        for link in [one for one, at in self._made.items() if one.identity == identity and at < before]:
            if not link.end():
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
