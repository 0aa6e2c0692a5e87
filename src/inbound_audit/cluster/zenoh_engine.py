"""Zenoh: every node has a link to every other, and no server is needed.

A node publishes on the key `ia/<cluster>/<node>/d`, answers queries on `.../s`, and holds the liveliness token
`.../alive`. With TLS, each node has a certificate whose common name is its name. Zenoh's access control keeps a
certificate to the keys of its name. It decides when a link is made, by the identity that the other end states, and that
identity may be another's: so frames of a node are dropped while its identity has links with several certificates.

Links carry messages by priority. Snapshots have a lower one than frames: their sender waits for a receiver that does
not read, and in the same queue the next frame would wait, too (measured: 5 s; 20 ms with two priorities).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import zenoh

from inbound_audit.cluster.engine import (
    EngineSettings,
    OnAsk,
    OnFrame,
    OnGone,
    OnLink,
    snapshot_parts,
)
from inbound_audit.cluster.frames import MAX_FRAME_BYTES, MAX_PARTS, is_name
from inbound_audit.cluster.zenoh_settings import configuration, speakers
from inbound_audit.errors import ClusterError
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.cluster")

MAX_ASKING = 64
"""Queries for a snapshot that wait at once; further ones go unanswered."""

DISTRUST_S = 5.0
"""Seconds that the frames of a node are dropped after the last link of another certificate under its identity."""

CLOSE_TIMEOUT_S = 3.0

ENDING_S = 1.0
"""Seconds that the end of a link, which takes milliseconds, is awaited."""

_T = TypeVar("_T")


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
    until the number is that of before, which may take hours. So the end of a link ends the others to that node, and
    those that are made meanwhile. Zenoh may report an end before the beginning: what is not there is not kept.

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

    def distrusts(self, node: str) -> bool:
        """Whether its certificate shares an identity with another one: their frames can't be told apart. O(1)."""
        return time.monotonic() < self._distrusted_until.get(node, 0.0)

    def _note(self, event: zenoh.LinkEvent) -> None:
        link = Link(str(event.link.zid), event.link.src, event.link.dst)
        if event.kind == zenoh.SampleKind.DELETE:
            self._links.pop(link, None)
            if self._ending.pop(link, None) is None:
                self._end(link.identity)
        elif link.close_without_wait():
            self._links[link] = event.link.auth_identifier
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
                del self._links[link]

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


class ZenohEngine:
    """An `Engine`. Raises ClusterError if the settings can't be right."""

    def __init__(self, settings: EngineSettings) -> None:
        self._configuration = configuration(settings)
        self._names = speakers(settings) if settings.tls_cert else None
        self._root = f"ia/{settings.cluster}"
        self._own = f"{self._root}/{settings.node}"
        self._queries: queue.Queue[zenoh.Query | None] = queue.Queue(MAX_ASKING)
        self._closed = True

    def open(self, on_frame: OnFrame, on_ask: OnAsk, on_link: OnLink, on_gone: OnGone) -> None:
        zenoh.try_init_log_from_env()  # type: ignore[no-untyped-call]
        config = zenoh.Config()
        try:
            for path, value in self._configuration.items():
                config.insert_json5(path, json.dumps(value))
            self._session = zenoh.open(config)
        except zenoh.ZError as error:
            raise ClusterError(f"Zenoh can't start: {str(error).partition(' at /')[0]}") from None
        self._answering = threading.Thread(target=self._answer, name="inbound_audit answers", daemon=True)
        try:
            self._answering.start()
        except RuntimeError as error:
            self._session.close()  # type: ignore[no-untyped-call]
            raise ClusterError(f"--engine zenoh: {error}") from None
        self._closed = False
        atexit.register(self._end)
        self._on_frame, self._on_ask, self._on_gone = on_frame, on_ask, on_gone
        self._links = Links(self._names, on_link)
        self._links.changed()
        self._declare()

    def _declare(self) -> None:
        def direct(
            function: Callable[[_T], None],
        ) -> zenoh.handlers.Callback[_T]:  # on the thread that receives: what waits is bounded by the agent
            made: zenoh.handlers.Callback[_T] = zenoh.handlers.Callback(function, indirect=False)
            return made

        session = self._session
        session.info.declare_link_events_listener(direct(self._links.changed), history=True)
        session.declare_subscriber(f"{self._root}/*/d", direct(self._frame))
        session.declare_queryable(f"{self._own}/s", direct(self._query))
        session.liveliness().declare_subscriber("ia/*/*/alive", direct(self._alive))
        self._token = session.liveliness().declare_token(f"{self._own}/alive")
        self._publisher = session.declare_publisher(
            f"{self._own}/d",
            congestion_control=zenoh.CongestionControl.DROP,
            priority=zenoh.Priority.DATA_HIGH,
            allowed_destination=zenoh.Locality.REMOTE,
        )

    def publish(self, frame: bytes) -> bool:
        try:
            self._publisher.put(frame)
        except zenoh.ZError:  # it is closed
            return False
        return True

    def ask(self, node: str, timeout_s: float) -> list[bytes] | None:
        try:
            replies = self._session.get(
                f"{self._root}/{node}/s",
                timeout=timeout_s,
                consolidation=zenoh.ConsolidationMode.NONE,
                congestion_control=zenoh.CongestionControl.BLOCK,
                priority=zenoh.Priority.DATA_LOW,
                allowed_destination=zenoh.Locality.REMOTE,
            )
        except zenoh.ZError:  # it is closed
            return None
        parts: list[bytes] = []
        for reply in replies:
            sample = reply.ok
            if sample is None:  # a node has failed, or the time is over: what came may be whole all the same
                continue
            if len(parts) == MAX_PARTS or len(sample.payload) > MAX_FRAME_BYTES:
                return None
            parts.append(bytes(sample.payload))
        return parts or None

    def close(self) -> None:
        if not self._closed:
            # Not a daemon, so that the interpreter waits for it: with a peer that is stopped it takes up to 10 s.
            ending = threading.Thread(target=self._end, name="inbound_audit close", daemon=False)
            try:
                ending.start()
            except RuntimeError:
                self._end()  # however long it takes
            else:
                ending.join(CLOSE_TIMEOUT_S)

    def _end(self) -> None:
        """Also at exit: if the interpreter ended while a thread is in Zenoh, or calls back, the process would abort."""
        self._closed = True
        with contextlib.suppress(queue.Full):  # then the thread has a query to find out by
            self._queries.put_nowait(None)
        self._session.close()  # type: ignore[no-untyped-call]
        self._answering.join()
        atexit.unregister(self._end)

    def _answer(self) -> None:
        while (query := self._queries.get()) is not None and not self._closed:
            with query, contextlib.suppress(zenoh.ZError):  # the node that asked has gone, or the session ends
                for part in snapshot_parts(self._on_ask):
                    query.reply(f"{self._own}/s", part)

    # ---- on threads of Zenoh

    def _frame(self, sample: zenoh.Sample) -> None:
        node = self._node(sample)
        if node is None or sample.kind != zenoh.SampleKind.PUT or len(sample.payload) > MAX_FRAME_BYTES:
            return
        if not self._links.distrusts(node):
            self._on_frame(node, bytes(sample.payload))

    def _query(self, query: zenoh.Query) -> None:
        try:
            self._queries.put_nowait(query)
        except queue.Full:
            query.drop()  # type: ignore[no-untyped-call]

    def _alive(self, sample: zenoh.Sample) -> None:
        node = self._node(sample)
        if node is None:
            self._other_cluster(str(sample.key_expr))
        elif sample.kind == zenoh.SampleKind.DELETE:
            self._on_gone(node)

    def _other_cluster(self, key: str) -> None:
        cluster, _, node = key.removeprefix("ia/").removesuffix("/alive").partition("/")
        if f"ia/{cluster}" != self._root and is_name(cluster) and is_name(node):
            message = (
                "node %s, to which this one has a link, is of the cluster %s and not of %s: see --cluster and --join"
            )
            self._links.log.report(logging.WARNING, message, node, cluster, self._root[3:], kind=(cluster, node))

    def _node(self, sample: zenoh.Sample) -> str | None:
        """The node whose key it is. A key of others may be a pattern."""
        root, _, node = str(sample.key_expr).rpartition("/")[0].rpartition("/")
        return node if root == self._root and is_name(node) and not self._closed else None
