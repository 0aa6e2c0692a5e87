"""Redis or Valkey: a server that many mail sites have already carries frames by publish and subscribe.

A node publishes on the channel `ia:<cluster>:<node>`. A node that wants its snapshot publishes on
`ia-ask:<cluster>:<node>`, and reads the parts on `ia-snap:<cluster>:<node>`: so a rule of the server can keep a user to
the channels of one node. A client that publishes to a dead server waits. So publishing has a thread of its own, and so
has reading.

    publish -- frames --> the thread that writes --> server --> the thread that reads -- frames --> on_frame
                               ^-- asked for a snapshot ----------------'

Messages begin with 8 random bytes: of the engine that published, in a frame, since it hears itself; of the answer, in a
part of a snapshot, since answers to several nodes come on one channel.

Lock rule: `_changed` is held for a few assignments, and for `on_link`, so that its calls keep their order.
"""

from __future__ import annotations

import logging
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.retry import Retry

from inbound_audit.cluster.engine import (
    EngineSettings,
    OnAsk,
    OnFrame,
    OnGone,
    OnLink,
    check_protected,
    snapshot_parts,
)
from inbound_audit.cluster.frames import MAX_FRAME_BYTES, MAX_PARTS, is_name
from inbound_audit.errors import ClusterError, cause_of
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.regular_file import read_setting

logger = logging.getLogger("inbound_audit.cluster")

MAX_WAITING = 64
"""Frames that wait to be published. While so many wait, the server is dead or too slow, and further ones are lost."""

SOCKET_TIMEOUT_S = 1.0
"""Seconds for a publication and its answer."""

CONNECT_TIMEOUT_S = 0.5
"""Seconds for a connection. The kernel sends its first packet again after 1 s: until then an attempt that began before
the network was whole again finds nothing."""

PING_S, SILENCE_S = 0.5, 1.5
"""Seconds without a message until the server is asked whether it is there, and until it counts as dead."""

MIN_RETRY_S, MAX_RETRY_S = 0.1, 0.25
"""Seconds between attempts to connect; each wait is twice the one before. Of each a half is drawn at random: else all
nodes of a cluster would come back in one moment, when their server does."""
MAX_DOUBLINGS = 8  # that many reach any MAX_RETRY_S; from 1,024 on there is no such number

CLOSE_TIMEOUT_S = 3.0

ASK_AGAIN_S = 0.5
"""A request for a snapshot of which no part has come is sent again after so long."""

_FRAME = struct.Struct("<8s")  # the engine that published
_PART = struct.Struct("<8sHH")  # the answer, the number of the part, and how many there are


def connection(settings: EngineSettings) -> dict[str, Any]:
    """The arguments of a client. Raises ClusterError for settings that can't be right."""
    if settings.listen:
        raise ClusterError(f"--listen {settings.listen[0]}: nodes reach one another by the server: leave it out")
    if len(settings.join) != 1:
        raise ClusterError("--join takes the URL of one server, such as rediss://redis.example.net:6379/0")
    (text,) = settings.join
    try:
        url = urlsplit(text)
        port = url.port or 6379
        database = int(url.path.strip("/") or 0)
    except ValueError:
        raise _no_url(text) from None
    if url.scheme not in ("redis", "rediss") or not url.hostname or url.query or url.fragment or database < 0:
        raise _no_url(text)
    if url.username is not None or url.password is not None:
        raise ClusterError(
            "--join: other users of this machine can read a password there: give --user, --password-file"
        )
    tls = url.scheme == "rediss"
    check_protected("--join", text, url.hostname, tls, settings.insecure)
    arguments = {
        "host": url.hostname,
        "port": port,
        "db": database,
        "username": settings.user,
        "password": settings.password(),
        "protocol": 2,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    return arguments | (_tls(settings) if tls else {})


def _no_url(text: str) -> ClusterError:
    return ClusterError(f"--join {text!r}: not the URL of a server, such as rediss://redis.example.net:6379/0")


def _tls(settings: EngineSettings) -> dict[str, Any]:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ClusterError("--tls-cert and --tls-key go together")
    for option, file in (
        ("--tls-cert", settings.tls_cert),
        ("--tls-key", settings.tls_key),
        ("--tls-ca", settings.tls_ca),
    ):
        try:
            if file is not None:
                read_setting(file)
        except OSError as error:
            raise ClusterError(f"{option} {file}: {cause_of(error)}") from None
    return {
        "ssl": True,
        "ssl_certfile": settings.tls_cert,
        "ssl_keyfile": settings.tls_key,
        "ssl_ca_certs": settings.tls_ca,
    }


class RedisEngine:
    """An `Engine`. Raises ClusterError if the settings can't be right."""

    def __init__(self, settings: EngineSettings) -> None:
        self._connection = connection(settings)
        self._server = settings.join[0]
        self._node = settings.node
        self._cluster = settings.cluster
        self._run = secrets.token_bytes(8)
        self._frames: deque[bytes] = deque()
        self._asked = False
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._up = {"reads": False, "writes": False}
        self._threads: list[threading.Thread] = []
        self._log = LogLimiter(logger)

    def open(self, on_frame: OnFrame, on_ask: OnAsk, on_link: OnLink, on_gone: OnGone) -> None:
        self._on_frame, self._on_ask, self._on_link = on_frame, on_ask, on_link
        on_link(False)
        for role, serve in (("reads", self._read), ("writes", self._write)):
            name = f"inbound_audit {role} Redis"
            thread = threading.Thread(target=self._keep, args=(role, serve), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.close()
                raise ClusterError(f"--engine redis: {error}") from None
            self._threads.append(thread)

    def publish(self, frame: bytes) -> bool:
        with self._changed:
            taken = len(self._frames) < MAX_WAITING and not self._closing.is_set()
            if taken:
                self._frames.append(frame)
                self._changed.notify()
            return taken

    def ask(self, node: str, timeout_s: float) -> list[bytes] | None:
        deadline = time.monotonic() + timeout_s
        answers = Answers()
        try:
            with self._client() as client, client.pubsub() as channel:
                channel.subscribe(self._channel("ia-snap", node))
                while (left := deadline - time.monotonic()) > 0 and not self._closing.is_set():
                    message = channel.get_message(timeout=min(left, ASK_AGAIN_S))
                    if message is None and not answers.begun:  # the node may have been without a connection
                        client.publish(self._channel("ia-ask", node), b"")
                    if message is None:
                        continue
                    if message["type"] == "subscribe" and not client.publish(self._channel("ia-ask", node), b""):
                        return None
                    if message["type"] == "message" and (parts := answers.add(message["data"])):
                        return parts
        except (redis.RedisError, OSError) as error:
            self._report(error)
        return None

    def close(self) -> None:
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)

    def _client(self) -> redis.Redis:
        return redis.Redis(**self._connection)

    def _channel(self, kind: str, node: str) -> str:
        return f"{kind}:{self._cluster}:{node}"

    # ---- the two threads

    def _keep(self, role: str, serve: Callable[[redis.Redis, Callable[[], None]], None]) -> None:
        """Connects again and again, until `close`."""
        backoff = EqualJitterBackoff(MAX_RETRY_S, MIN_RETRY_S)
        failures = 0

        def up() -> None:
            nonlocal failures
            failures = 0
            self._say(role, True)

        while not self._closing.is_set():
            try:
                with self._client() as client:
                    serve(client, up)
            except (redis.RedisError, OSError) as error:
                self._report(error)
            self._say(role, False)
            self._closing.wait(backoff.compute(failures))
            failures = min(failures + 1, MAX_DOUBLINGS)

    def _write(self, client: redis.Redis, up: Callable[[], None]) -> None:
        client.ping()
        up()
        own = self._channel("ia", self._node)
        while (work := self._next()) is not None:
            frame, asked = work
            if frame is not None:
                client.publish(own, _FRAME.pack(self._run) + frame)
            if asked:
                self._send_snapshot(client)
        client.publish(self._channel("ia-ask", self._node), b"")  # the thread that reads finds out that it is to end

    def _next(self) -> tuple[bytes | None, bool] | None:
        """A frame to publish, and whether a snapshot is wanted; None at the end, when no frame is left."""
        with self._changed:
            while not (self._frames or self._asked or self._closing.is_set()):
                self._changed.wait()
            if not self._frames and self._closing.is_set():
                return None
            frame = self._frames.popleft() if self._frames else None
            asked, self._asked = self._asked, False
            return frame, asked

    def _send_snapshot(self, client: redis.Redis) -> None:
        parts = snapshot_parts(self._on_ask)
        answer = secrets.token_bytes(8)
        for number, part in enumerate(parts):
            client.publish(self._channel("ia-snap", self._node), _PART.pack(answer, number, len(parts)) + part)

    def _read(self, client: redis.Redis, up: Callable[[], None]) -> None:
        with client.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.psubscribe(self._channel("ia", "*"))
            channel.subscribe(self._channel("ia-ask", self._node))
            heard = time.monotonic()
            while not self._closing.is_set():
                message = channel.get_message(timeout=PING_S)
                now = time.monotonic()
                if message is not None:
                    heard = now
                    self._take(message, up)
                elif now - heard > SILENCE_S:
                    raise redis.TimeoutError("the server is silent")
                else:
                    channel.ping()

    def _take(self, message: dict[str, Any], up: Callable[[], None]) -> None:
        if message["type"] == "pmessage":
            self._frame(message["channel"], message["data"])
        elif message["type"] == "message":
            with self._changed:
                self._asked = True
                self._changed.notify()
        elif message["type"] == "subscribe":  # the second of two, so both are there
            up()

    def _frame(self, channel: bytes, data: bytes) -> None:
        node = channel.decode("ascii", "replace")[len(self._channel("ia", "")) :]
        length = len(data) - _FRAME.size
        ours = data.startswith(self._run) or self._closing.is_set()
        if not ours and is_name(node) and 0 <= length <= MAX_FRAME_BYTES:
            self._on_frame(node, data[_FRAME.size :])

    def _say(self, role: str, up: bool) -> None:
        with self._changed:
            before = all(self._up.values())
            self._up[role] = up
            if before != all(self._up.values()):
                self._on_link(not before)

    def _report(self, error: Exception) -> None:
        self._log.report(logging.WARNING, "%s: %s", self._server, error)


class Answers:
    """Parts of snapshots that come on one channel, until one snapshot is whole."""

    MAX = 4
    """Answers at once; more are dropped."""

    def __init__(self) -> None:
        self._parts: dict[bytes, dict[int, bytes]] = {}

    @property
    def begun(self) -> bool:
        """Whether a part has come."""
        return bool(self._parts)

    def add(self, message: bytes) -> list[bytes] | None:
        """The parts of a snapshot if this was the last missing one."""
        if not _PART.size <= len(message) <= _PART.size + MAX_FRAME_BYTES:
            return None
        answer, number, parts = _PART.unpack_from(message)
        if not number < parts <= MAX_PARTS or (answer not in self._parts and len(self._parts) == self.MAX):
            return None
        have = self._parts.setdefault(answer, {})
        have[number] = message[_PART.size :]
        return list(have.values()) if len(have) == parts else None
