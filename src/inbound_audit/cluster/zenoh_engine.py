"""Zenoh: every node has a link to every other, and no server is needed.

A node publishes on the key `ia/<cluster>/<node>/d`, answers queries on `.../s`, and holds the liveliness tokens
`.../alive` and `.../id/<identity>`: the latter says whose links are its. With TLS, each node has a certificate whose
common name is its name. Zenoh's access control keeps a certificate to the keys of its name. It decides when a link is
made, by the identity that the other end states, and that identity may be another's: so frames of a node are dropped
while its identity has links with several certificates.

Links carry messages by priority. Snapshots have a lower one than frames: their sender waits for a receiver that does
not read, and in the same queue the next frame would wait, too (measured: 5 s; 20 ms with two priorities).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

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
from inbound_audit.cluster.stand_still import StandStill
from inbound_audit.cluster.zenoh_links import Links
from inbound_audit.cluster.zenoh_settings import MAX_UNHEARD, configuration, speakers
from inbound_audit.errors import ClusterError

logger = logging.getLogger("inbound_audit.cluster")

CHECK_S = 0.2
"""Seconds from one check for nodes that are silent to the next."""

FEW_NODES = 20
REST_PER_NODE_S, MAX_REST_S = 0.0005, 0.05
"""Seconds from one time that frames are taken from Zenoh to the next, per node beyond FEW_NODES and at most. Those that
come meanwhile are taken together: if a thread of Zenoh called Python for each, that would cost more than all else that
is done with it here. The other nodes wait longer than that before they speak again."""

MAX_KEYS = 8000
"""Keys of which is noted whose they are: to read one takes longer than all else that is done with a frame here."""

ASK_AGAIN_S = 0.6
"""A request for a snapshot of which no part has come is sent once more after so long: a link that has ended may have
lost it, or the answer. The first one stays open: its answer may be late only."""

MAX_ASKING = 64
"""Queries for a snapshot that wait at once; further ones go unanswered."""

CLOSE_TIMEOUT_S = 3.0

_T = TypeVar("_T")


class Answer:
    """The parts of a snapshot as they come, on threads of Zenoh. It is given to `ended` when no more come."""

    def __init__(self, ended: queue.SimpleQueue[Answer]) -> None:
        self.parts: list[bytes] = []
        self.excess = False
        """More came than an answer may have."""
        self._ended = ended

    def take(self, reply: zenoh.Reply) -> None:
        sample = reply.ok
        if sample is None:  # a node has failed, or the time is over: what came may be whole all the same
            return
        if len(self.parts) == MAX_PARTS or len(sample.payload) > MAX_FRAME_BYTES:
            self.excess = True
        elif not self.excess:
            self.parts.append(bytes(sample.payload))

    def end(self) -> None:
        self._ended.put(self)


class ZenohEngine:
    """An `Engine`. Raises ClusterError if the settings can't be right."""

    def __init__(self, settings: EngineSettings) -> None:
        self._configuration = configuration(settings)
        self._names = speakers(settings) if settings.tls_cert else None
        self._root = f"ia/{settings.cluster}"
        self._own = f"{self._root}/{settings.node}"
        self._queries: queue.Queue[zenoh.Query | None] = queue.Queue(MAX_ASKING)
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._heard: dict[str, float] = {}
        """When each node was heard last whose identity is known."""
        self._node_of: dict[str, str] = {}
        """The nodes of the keys that were heard."""
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
        self._closed = False
        atexit.register(self._end)
        self._on_frame, self._on_ask, self._on_gone = on_frame, on_ask, on_gone
        self._links = Links(self._names, on_link)
        self._links.changed()
        self._declare()
        try:
            for work in (self._answer, self._hear, self._check_links):
                thread = threading.Thread(target=work, name=f"inbound_audit {work.__name__[1:]}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:
            self._end()
            raise ClusterError(f"--engine zenoh: {error}") from None

    def _declare(self) -> None:
        def direct(
            function: Callable[[_T], None],
        ) -> zenoh.handlers.Callback[_T]:  # on the thread that receives: what waits is bounded by the agent
            made: zenoh.handlers.Callback[_T] = zenoh.handlers.Callback(function, indirect=False)
            return made

        session = self._session
        session.info.declare_link_events_listener(direct(self._links.changed), history=True)
        self._frames = session.declare_subscriber(f"{self._root}/*/d", zenoh.handlers.FifoChannel(MAX_UNHEARD))
        session.declare_queryable(f"{self._own}/s", direct(self._query))
        session.liveliness().declare_subscriber("ia/*/*/alive", direct(self._alive))
        session.liveliness().declare_subscriber(f"{self._root}/*/id/*", direct(self._identity), history=True)
        self._tokens = [
            session.liveliness().declare_token(f"{self._own}/{key}") for key in ("alive", f"id/{session.info.zid()}")
        ]
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
            answer = self._answer_of(node, timeout_s)
        except zenoh.ZError:  # it is closed
            return None
        if answer.excess:
            return None
        if not answer.parts:
            self._links.renew(node)
        return answer.parts or None

    def _answer_of(self, node: str, timeout_s: float) -> Answer:
        """The first answer that has parts. Raises ZError."""
        ended: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        first = self._request(node, timeout_s, ended)
        try:
            return ended.get(timeout=ASK_AGAIN_S)
        except queue.Empty:
            again = not first.parts
        if again:
            self._request(node, max(timeout_s - ASK_AGAIN_S, CHECK_S), ended)
        answer = ended.get()
        return ended.get() if again and not answer.parts else answer

    def _request(self, node: str, timeout_s: float, ended: queue.SimpleQueue[Answer]) -> Answer:
        answer = Answer(ended)
        self._session.get(
            f"{self._root}/{node}/s",
            zenoh.handlers.Callback(answer.take, answer.end, indirect=False),
            timeout=timeout_s,
            consolidation=zenoh.ConsolidationMode.NONE,
            congestion_control=zenoh.CongestionControl.BLOCK,
            priority=zenoh.Priority.DATA_LOW,
            allowed_destination=zenoh.Locality.REMOTE,
        )
        return answer

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
        self._ended.set()
        with contextlib.suppress(queue.Full):  # then the thread has a query to find out by
            self._queries.put_nowait(None)
        self._session.close()  # type: ignore[no-untyped-call]
        for thread in self._threads:
            thread.join()
        atexit.unregister(self._end)

    def _answer(self) -> None:
        while (query := self._queries.get()) is not None and not self._closed:
            with query, contextlib.suppress(zenoh.ZError):  # the node that asked has gone, or the session ends
                for part in snapshot_parts(self._on_ask):
                    query.reply(f"{self._own}/s", part)

    def _check_links(self) -> None:
        """Gives new links to nodes that are silent, also while this node itself says nothing. O(links + nodes) per
        CHECK_S, and if one is silent O(descriptors of this process)."""
        stand_still = StandStill(time.monotonic())
        while not self._ended.wait(CHECK_S):
            stand_still.check(time.monotonic())
            self._links.renew_silent(self._heard, stand_still.ended_at)

    def _hear(self) -> None:
        with contextlib.suppress(zenoh.ZError):  # it is closed
            while True:
                sample: zenoh.Sample | None = self._frames.recv()
                while sample is not None:
                    self._frame(sample)
                    sample = self._frames.try_recv()
                if (nodes := len(self._node_of)) > FEW_NODES:
                    time.sleep(min(REST_PER_NODE_S * (nodes - FEW_NODES), MAX_REST_S))

    def _frame(self, sample: zenoh.Sample) -> None:
        node = self._node(sample)
        if node is None or sample.kind != zenoh.SampleKind.PUT:
            return
        payload = sample.payload
        if len(payload) <= MAX_FRAME_BYTES and not self._links.distrusts(node):
            if self._links.identified(node):
                self._heard[node] = time.monotonic()
            self._on_frame(node, bytes(payload))

    # ---- on threads of Zenoh

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

    def _identity(self, sample: zenoh.Sample) -> None:
        key, _, identity = str(sample.key_expr).rpartition("/")
        root, _, node = key.removesuffix("/id").rpartition("/")
        if sample.kind == zenoh.SampleKind.PUT and root == self._root and is_name(node):
            self._links.identify(node, identity)

    def _other_cluster(self, key: str) -> None:
        cluster, _, node = key.removeprefix("ia/").removesuffix("/alive").partition("/")
        if f"ia/{cluster}" != self._root and is_name(cluster) and is_name(node):
            message = (
                "node %s, to which this one has a link, is of the cluster %s and not of %s: see --cluster and --join"
            )
            self._links.log.report(logging.WARNING, message, node, cluster, self._root[3:], kind=(cluster, node))

    def _node(self, sample: zenoh.Sample) -> str | None:
        """The node whose key it is. A key of others may be a pattern."""
        if self._closed:
            return None
        key = str(sample.key_expr)
        node = self._node_of.get(key)
        if node is None:
            root, _, name = key.rpartition("/")[0].rpartition("/")
            if root == self._root and is_name(name):
                node = name
                if len(self._node_of) < MAX_KEYS:
                    self._node_of[key] = node
        return node
