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
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import zenoh

from inbound_audit.cluster.certificates import check_certificate
from inbound_audit.cluster.engine import (
    EngineSettings,
    OnAsk,
    OnFrame,
    OnGone,
    OnLink,
    check_protected,
    is_loopback,
    snapshot_parts,
)
from inbound_audit.cluster.frames import MAX_FRAME_BYTES, MAX_PARTS, is_name
from inbound_audit.errors import ClusterError
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.cluster")

LEASE_MS = 1500
"""A link that is silent for so long is closed. Each end sends a sign of life four times in that time."""

RETRY_MS = {"period_init_ms": 100, "period_max_ms": 500, "period_increase_factor": 2}
"""Waits between attempts to connect."""

MAX_ASKING = 64
"""Queries for a snapshot that wait at once; further ones go unanswered."""

DISTRUST_S = 5.0
"""Seconds that the frames of a node are dropped after the last link of another certificate under its identity."""

CLOSE_TIMEOUT_S = 3.0

_T = TypeVar("_T")
_FROM_OTHERS = ["put", "delete", "reply", "declare_queryable", "liveliness_token"]
_TO_US = ["declare_subscriber", "query", "liveliness_query", "declare_liveliness_subscriber"]


class Address(NamedTuple):
    """Where a node listens: `tls/mx2:7447`, `tcp/[::1]:7447`."""

    protocol: str
    host: str
    port: int


def parse_address(option: str, text: str) -> Address:
    """Raises ClusterError, which names the option, if the text is no address."""
    protocol, slash, place = text.partition("/")
    host, colon, port = place.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    ok = slash and colon and protocol in ("tcp", "tls") and name and not set(name) & set("[]/?#, ")
    if not ok or (":" in name and not bracketed) or not (port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        raise ClusterError(
            f"{option} {text!r}: not an address such as tls/mx2:7447, tcp/127.0.0.1:7447 or tls/[::]:7447"
        )
    return Address(protocol, name, int(port))


def speakers(settings: EngineSettings) -> tuple[str, ...]:
    """The names of the nodes that may speak, this one among them. Raises ClusterError if they are not known."""
    names = list(settings.nodes)
    if not names:
        for text in settings.join:
            host = parse_address("--join", text).host
            if not is_name(host) or is_loopback(host) or host.replace(".", "").isdecimal():
                raise ClusterError(
                    f"--join {text}: with TLS a node speaks under the name in its certificate, and an address has "
                    "none: give --nodes the names of all nodes, such as mx1,mx2"
                )
            names.append(host)
    for name in names:
        if not is_name(name):
            raise ClusterError(f"--nodes {name!r}: a name is 1 to 63 letters, digits, '.', '_' and '-', such as mx1")
    return tuple(dict.fromkeys([settings.node, *names]))


def _access(cluster: str, names: tuple[str, ...]) -> dict[str, object]:
    """Zenoh's access control: a certificate of a name has the keys of that name, and everybody hears."""
    rules: list[dict[str, object]] = [
        {"id": "/out", "flows": ["egress"], "messages": _FROM_OTHERS + _TO_US, "key_exprs": ["**"]},
        {"id": "/in", "flows": ["ingress"], "messages": _TO_US, "key_exprs": ["ia/**"]},
    ]
    subjects: list[dict[str, object]] = [{"id": "/all"}]
    policies: list[dict[str, object]] = [{"rules": ["/out", "/in"], "subjects": ["/all"]}]
    for name in names:
        keys = [f"ia/{cluster}/{name}/**", f"ia/*/{name}/alive"]  # that it is of another cluster is heard, too
        rules.append({"id": name, "flows": ["ingress"], "messages": _FROM_OTHERS, "key_exprs": keys})
        subjects.append({"id": name, "cert_common_names": [name]})
        policies.append({"rules": [name], "subjects": [name]})
    allowed = [{"permission": "allow", **rule} for rule in rules]
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": allowed,
        "subjects": subjects,
        "policies": policies,
    }


def _tls(settings: EngineSettings) -> dict[str, object]:
    """The transport of certificates. The name in one is checked by access control, not against the address: addresses
    that nodes pass on to one another are numbers."""
    return {
        "root_ca_certificate": settings.tls_ca,
        "listen_certificate": settings.tls_cert,
        "listen_private_key": settings.tls_key,
        "connect_certificate": settings.tls_cert,
        "connect_private_key": settings.tls_key,
        "enable_mtls": True,
        "verify_name_on_connect": False,
        "close_link_on_expiration": True,
    }


def configuration(settings: EngineSettings) -> dict[str, object]:
    """What Zenoh is configured with, by its paths. Raises ClusterError for settings that can't be right."""
    files = {"--tls-cert": settings.tls_cert, "--tls-key": settings.tls_key, "--tls-ca": settings.tls_ca}
    missing = [option for option, file in files.items() if file is None]
    tls = not missing
    if missing and len(missing) < len(files):
        raise ClusterError(f"{', '.join(files)} go together: {' and '.join(missing)} is missing")
    if not settings.listen and not settings.join:
        raise ClusterError("a node needs --listen, at which others reach it, or --join, at which it reaches them")
    for option, addresses in (("--listen", settings.listen), ("--join", settings.join)):
        for text in addresses:
            address = parse_address(option, text)
            if (address.protocol == "tls") != tls:
                raise ClusterError(
                    f"{option} {text}: give --tls-cert, --tls-key and --tls-ca"
                    if not tls
                    else f"{option} {text}: with --tls-cert every address begins with tls/"
                )
            check_protected(option, text, address.host, tls, settings.insecure)
    paths: dict[str, object] = {
        "mode": "peer",
        "listen/endpoints": list(settings.listen),
        "connect/endpoints": list(settings.join),
        "connect/timeout_ms": -1,
        "connect/exit_on_failure": False,
        "connect/retry": RETRY_MS,
        "scouting/multicast/enabled": False,
        "open/return_conditions": {"connect_scouted": False, "declares": False},
        "transport/link/protocols": ["tls" if tls else "tcp"],
        "transport/link/tx/lease": LEASE_MS,
        "transport/link/rx/max_message_size": 2 * MAX_FRAME_BYTES,
        "transport/unicast/max_sessions": 4000,
        "transport/shared_memory/enabled": False,  # another user's memory is not to be mapped
    }
    if tls:
        check_certificate(str(settings.tls_cert), str(settings.tls_key), str(settings.tls_ca), settings.node)
        paths |= {
            "transport/link/tls": _tls(settings),
            "access_control": _access(settings.cluster, speakers(settings)),
        }
    return paths


class Links:
    """The links of this node, and the certificates that they were made with.

    Lock rule: its own lock, held for a few assignments and for `on_link`, so that its calls keep their order.
    """

    def __init__(self, names: tuple[str, ...] | None, on_link: OnLink) -> None:
        self._mixed: frozenset[str] = frozenset()
        self._distrusted_until: dict[str, float] = {}
        self._names = names
        self._on_link = on_link
        self._up: bool | None = None
        self._links: dict[tuple[str, str, str], str | None] = {}
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
        link = event.link
        key = (str(link.zid), link.src, link.dst)
        if event.kind == zenoh.SampleKind.DELETE:
            self._links.pop(key, None)
        else:
            self._links[key] = link.auth_identifier
            self._report(link.auth_identifier, link.dst)
        if self._names is not None:
            before, self._mixed = self._mixed, self._sharing()
            until = time.monotonic() + DISTRUST_S  # frames of a link that has ended may still be on their way
            self._distrusted_until |= dict.fromkeys(before, until) | dict.fromkeys(self._mixed, math.inf)
            if self._mixed:
                message = "certificates of %s are used under one identity: frames of these nodes are dropped"
                self.log.report(logging.ERROR, message, ", ".join(sorted(self._mixed)), kind="mixed")

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
        for (identity, _, _), name in self._links.items():
            of.setdefault(identity, set()).add(str(name))
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
        self._closed = False
        atexit.register(self._end)
        self._on_frame, self._on_ask, self._on_gone = on_frame, on_ask, on_gone
        self._links = Links(self._names, on_link)
        self._links.changed()
        self._answering = threading.Thread(target=self._answer, name="inbound_audit answers", daemon=True)
        self._answering.start()
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
            ending.start()
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
