"""What carries frames between the nodes of a cluster: the calls of an engine, its settings, and its making by name.

An engine is trusted with delivery alone. Frames may be lost, repeated or come in another order; the receiver repairs
that. Frames and names are those of other nodes: an engine checks the length and the name, and nothing else.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, Protocol

from inbound_audit.cluster.frames import is_name
from inbound_audit.errors import ClusterError, cause_of, did_you_mean
from inbound_audit.regular_file import read_setting

logger = logging.getLogger("inbound_audit.cluster")

OnFrame = Callable[[str, bytes], None]
OnAsk = Callable[[], list[bytes]]
OnLink = Callable[[bool], None]
OnGone = Callable[[str], None]

_ENGINES = {
    "zenoh": ("zenoh_engine", "ZenohEngine", "eclipse-zenoh"),
    "redis": ("redis_engine", "RedisEngine", "redis"),
}


class Engine(Protocol):
    """Delivers frames of this node to all other nodes of its cluster, and theirs to this node.

    Callbacks come on any thread of the engine, several at once, and must return soon. The process does not fork after
    `open`: the engine's threads would not exist in the child.
    """

    def open(self, on_frame: OnFrame, on_ask: OnAsk, on_link: OnLink, on_gone: OnGone) -> None:
        """Starts, without waiting for another node or a server.

        `on_frame(node, frame)`: another node has published. That may be another process that has the name of this node.
        `on_ask()`: another node wants the parts of this node's snapshot.
        `on_link(up)`: whether this node can reach any other; the first call comes before `open` returns.
        `on_gone(node)`: a hint that the node has ended. It may be wrong, and it may not come.
        Raises ClusterError if the engine can't start with these settings, such as an address that is in use.
        """

    def publish(self, frame: bytes) -> bool:
        """Sends a frame of this node, at most MAX_FRAME_BYTES. Never waits. Returns whether it was taken: one that is
        not taken is lost, and one that is taken may be lost as well."""

    def ask(self, node: str, timeout_s: float) -> list[bytes] | None:
        """The parts of a node's snapshot in any order, from that node itself; None if it sends none within `timeout_s`
        seconds, or has more than MAX_PARTS. Waits, so it is called on a thread that may wait."""

    def close(self) -> None:
        """Sends what was taken if that takes no time, and ends the engine's threads within a few seconds, also while a
        server or another node does not respond. No callback comes afterwards."""


class EngineSettings(NamedTuple):
    """What an engine is opened with. The names of options in messages are those of `inbound-audit agent`."""

    cluster: str
    node: str
    listen: tuple[str, ...] = ()
    """Addresses at which other nodes reach this one. Not for a server."""
    join: tuple[str, ...] = ()
    """Addresses of all other nodes; or the URL of the server."""
    nodes: tuple[str, ...] = ()
    """With TLS: the names of the nodes that may speak; empty: the host names in `join`."""
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    insecure: bool = False
    """Other hosts without TLS."""
    user: str | None = None
    password_file: str | None = None

    def password(self) -> str | None:
        """The first line of the password file. Raises ClusterError."""
        if self.password_file is None:
            return None
        try:
            return read_setting(self.password_file).decode().partition("\n")[0].removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            why = cause_of(error) if isinstance(error, OSError) else "is not text"
            raise ClusterError(f"--password-file {self.password_file}: {why}") from None


def open_engine(kind: str, settings: EngineSettings) -> Engine:
    """An engine by its name, whose `open` is still to be called.

    Raises ClusterError, which says what to do, for an unknown engine, one whose library is not installed, and settings
    that can't be right: names, addresses, certificates.
    """
    if kind not in _ENGINES:
        raise ClusterError(f"{kind!r}: no such engine (known: {', '.join(_ENGINES)}){did_you_mean(kind, _ENGINES)}")
    for option, name in (("--cluster", settings.cluster), ("--node", settings.node)):
        if not is_name(name):
            raise ClusterError(f"{option} {name!r}: a name is 1 to 63 letters, digits, '.', '_' and '-', such as mx1")
    module, engine, library = _ENGINES[kind]
    try:
        made = getattr(import_module(f"inbound_audit.cluster.{module}"), engine)
    except ModuleNotFoundError as error:
        if error.name != kind:
            raise
        raise ClusterError(f"the engine {kind} needs {library}: pip install 'inbound-audit[cluster-{kind}]'") from None
    checked: Engine = made(settings)
    return checked


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, whatever the network. No name is resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_protected(option: str, address: str, host: str, tls: bool, insecure: bool) -> None:
    """Raises ClusterError if frames would go to other hosts without TLS, and `insecure` does not allow that."""
    if not (tls or insecure or is_loopback(host)):
        raise ClusterError(
            f"{option} {address}: without TLS any host on the way could change counts: give --tls-cert, --tls-key and "
            "--tls-ca, or --insecure if the network is your own"
        )


def single_join_warning(settings: EngineSettings, known_nodes: int) -> str | None:
    """What the agent logs if this node was given one address and the cluster has more than two nodes; else None.

    If the node at that address ends, a node that loses its links at that time finds none of the others again.
    `known_nodes` includes this node.
    """
    if known_nodes <= 2 or len(settings.join) != 1 or "://" in settings.join[0]:
        return None
    return (
        f"--join has one address, {settings.join[0]}, and the cluster has {known_nodes} nodes: while that node is "
        "away, this one can't come back after a network failure. Give --join the addresses of all nodes"
    )


def snapshot_parts(on_ask: OnAsk) -> list[bytes]:
    """This node's snapshot; nothing, and a log entry, if it can't be made: the engine's thread goes on."""
    try:
        return on_ask()
    except Exception:
        logger.exception("the snapshot that another node asked for can't be made")
        return []
