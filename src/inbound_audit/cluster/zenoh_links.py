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
from collections.abc import Callable
from typing import NamedTuple

import zenoh

from inbound_audit.cluster.engine import OnLink
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.cluster")

ENDING_S = 1.0
"""Seconds that the end of a link, which takes milliseconds, is awaited."""

DISTRUST_S = 5.0
"""Seconds that the frames of a node are dropped after the last link of another certificate under its identity."""

MIN_RENEWED_S = 1.5
"""Links to a node of which nothing comes through are ended if they are so old."""
MIN_RENEW_PAUSE_S = 3.0
MAX_RENEW_PAUSE_S = 48.0
"""From one such end to the next. It doubles while the node goes on to need it: a slow machine is not made slower."""

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
    of a link ends the others to that node, and those that are made meanwhile; and what gets through no longer is ended
    by `renew`. Zenoh may report an end before the beginning: what is not there is not kept.

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
        self._renewals: dict[str, tuple[float, float]] = {}
        """Until when the links to a node are not ended by `renew`, and the pause that ends then."""
        self._ending: dict[Link, float] = {}
        """Until when the end of each is awaited that was ended here."""
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
                self._identities[node] = identity

    def identified(self, node: str) -> bool:
        return node in self._identities

    def renew(self, node: str) -> None:
        """Ends the links to a node of which nothing comes through, unless they are new. O(links)."""
        with self._lock:
            now = time.monotonic()
            identity = self._identities.get(node, "")
            made = [at for link, at in self._made.items() if link.identity == identity]
            until, pause = self._renewals.get(node, (0.0, 0.0))
            if not made or now - max(made) < MIN_RENEWED_S or now < until:
                return
            pause = min(2 * pause, MAX_RENEW_PAUSE_S) if now - until < MAX_RENEW_PAUSE_S else 0.0
            pause = max(pause, MIN_RENEW_PAUSE_S)
            self._renewals[node] = now + pause, pause
            self._end(identity)

    def distrusts(self, node: str) -> bool:
        """Whether its certificate shares an identity with another one: their frames can't be told apart. O(1)."""
        return time.monotonic() < self._distrusted_until.get(node, 0.0)

    def _note(self, event: zenoh.LinkEvent) -> None:
        link = Link(str(event.link.zid), event.link.src, event.link.dst)
        if event.kind == zenoh.SampleKind.DELETE:
            self._forget(link)
            if self._ending.pop(link, None) is None:
                self._end(link.identity)
        elif link.close_without_wait():
            self._links[link] = event.link.auth_identifier
            self._made[link] = time.monotonic()
            self._report(event.link.auth_identifier, link.dst)
            now = time.monotonic()
            if any(one.identity == link.identity and now < until for one, until in self._ending.items()):
                self._end(link.identity)
        if self._names is not None:
            before, self._mixed = self._mixed, self._sharing()
            until = time.monotonic() + DISTRUST_S  # frames of a link that has ended may still be on their way
            self._distrusted_until |= dict.fromkeys(before, until) | dict.fromkeys(self._mixed, math.inf)
            if self._mixed:
                message = "certificates of %s are used under one identity: frames of these nodes are dropped"
                self.log.report(logging.ERROR, message, ", ".join(sorted(self._mixed)), kind="mixed")

    def _end(self, identity: str) -> None:
        for link in [one for one in self._links if one.identity == identity and one not in self._ending]:
            if link.end():
                self._ending[link] = time.monotonic() + ENDING_S
            else:
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
