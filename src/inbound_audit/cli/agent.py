"""`inbound-audit agent`: the process that makes this host a node of a cluster."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from inbound_audit._ipcount import parse_monitor
from inbound_audit.cli import logs, params, view_options
from inbound_audit.cli.config.source import config_option, options_again
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.service_manager import ServiceManager
from inbound_audit.errors import CapacityError, ClusterError, SharedStateError
from inbound_audit.regular_file import read_setting

if TYPE_CHECKING:
    from inbound_audit.cluster.agent_lock import AgentLock
    from inbound_audit.cluster.engine import EngineSettings

logger = logging.getLogger("inbound_audit.cluster")

_FIXED = ("name", "cluster", "node", "engine", "group", "monitor", "manager", "json", "verbose")
"""Options that need a restart."""

STAND_BY_S = 0.05
"""Seconds between two tries of a stand-by to take over: the others miss a killed agent after 0.3 s."""


def engine_settings(options: Mapping[str, Any]) -> EngineSettings:
    """The options for an engine, and the addresses in a file, as of now. Raises ClusterError."""
    from inbound_audit.cluster.engine import EngineSettings

    join_file = options["join_file"]
    given = EngineSettings(**{name: options[name] for name in EngineSettings._fields})
    return given._replace(join=(*given.join, *_joined(join_file)), nodes=given.nodes or ())


class _Now:
    """The options as they are at each call, in the configuration file if there is one. Those that a running agent can't
    change are as they were at the start."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._again = options_again(options)
        self._first = options

    def __call__(self) -> EngineSettings:
        """Raises ClusterError."""
        try:
            options = self._again()
        except Failure as failure:
            raise ClusterError(failure.format_message()) from None
        kept = sorted(name for name in _FIXED if options[name] != self._first[name])
        if kept:
            names = ", ".join(f"agent.{name.replace('_', '-')}" for name in kept)
            logger.warning("not reloaded, restart for: %s", names)
        return engine_settings({**options, **{name: self._first[name] for name in _FIXED}})


def _joined(path: str | None) -> list[str]:
    """The lines of a file, without comments. Raises ClusterError."""
    if path is None:
        return []
    try:
        lines = read_setting(path).decode().splitlines()
    except OSError as error:
        raise ClusterError(f"--join-file {path}: {reason(error)}") from None
    except UnicodeDecodeError:
        raise ClusterError(f"--join-file {path}: is not text") from None
    return [address for line in lines if (address := line.partition("#")[0].strip())]


@params.kind("NAME,...")
def node_names(text: str) -> tuple[str, ...]:
    """``mx1,mx2`` as the names."""
    return tuple(name.strip() for name in text.split(","))


@click.command(
    epilog="""\b
Examples:
  inbound-audit agent mail --cluster eu --node mx1 --listen tcp/127.0.0.1:7447
  inbound-audit agent mail --cluster eu --node mx1 --engine redis --join redis://127.0.0.1:6379
\b
Signals: TERM and INT leave the cluster; HUP connects again, with the certificates, the password, the addresses of
  --join-file and the file of --config as they are then.
\b
Exit status: 0 stopped by a signal, 1 could not start, 2 usage."""
)
@view_options.name_argument
@params.option("--cluster", "NAME", "The cluster; its nodes hear no other one.", required=True)
@params.option("--node", "NAME", "This node; no other node of the cluster has its name.", required=True)
@click.option(
    "--engine",
    type=click.Choice(["zenoh", "redis"]),
    default="zenoh",
    help="What carries the counts: zenoh needs no server, redis is a server of Redis or Valkey.",
)
@params.option(
    "--listen", "ADDRESS", "Zenoh: other nodes connect here, such as tls/[::]:7447; repeatable.", multiple=True
)
@params.option(
    "--join",
    "ADDRESS",
    "Zenoh: the other nodes, all of them, such as tls/mx2:7447. Redis: the server, such as rediss://cache:6379. "
    "Repeatable.",
    multiple=True,
)
@params.option("--join-file", "FILE", "More addresses to join, one a line; HUP reads them again.")
@params.option(
    "--nodes",
    node_names,
    "Zenoh with TLS: all nodes, by the names in their certificates.  [default: the hosts in --join]",
)
@params.option(
    "--monitor",
    params.monitor,
    "Count this monitor over the cluster, such as 300,6; repeatable. Series do so by their `replicate`.",
    multiple=True,
)
@click.option("--manager", is_flag=True, help="Count the series here that are replicated to managers.")
@params.option("--tls-cert", "PEM", "This node's certificate, whose name is the node's.")
@params.option("--tls-key", "PEM", "Its key.")
@params.option("--tls-ca", "PEM", "Who has signed the other nodes' certificates.")
@params.option("--user", "USER", "Redis: the user.")
@params.option("--password-file", "FILE", "Redis: the password, in a file.")
@click.option("--insecure", is_flag=True, help="Without TLS connect to other hosts, too: for a network of your own.")
@params.option("--group", "GROUP", "Members of this Unix group may read the counts, as in serve.")
@config_option
@click.option("--json", is_flag=True, help="Log in JSON, one object per line.")
@click.option("--verbose", "-v", is_flag=True, help="Log each node that comes, goes or is repaired.")
def agent(**options: Any) -> None:
    """Make this host a node of a cluster, and `inbound_cidr` the sessions of all nodes.

    NAME is what the processes of this host share under (serve --shared NAME). One agent a host and audit; a second
    one waits, and takes over when the first one ends. No process of the host waits for the agent, or for the network:
    without the agent `inbound_cidr` is the sessions of this host.
    """
    now = _Now(options)
    logs.set_up(options["verbose"], options["json"])
    try:
        _run(options["name"], options["group"], options["engine"], now, options["monitor"], options["manager"])
    except (CapacityError, ClusterError, SharedStateError) as error:
        raise Failure(str(error)) from None


def _run(
    name: str,
    group: str | None,
    engine: str,
    settings: Callable[[], EngineSettings],
    monitors: Iterable[str],
    is_manager: bool,
) -> None:
    """Returns after a signal to stop."""
    from inbound_audit.cluster.agent import Agent
    from inbound_audit.cluster.agent_lock import AgentLock
    from inbound_audit.cluster.engine import open_engine
    from inbound_audit.shared.directory import SharedDirectory

    open_engine(engine, settings())  # a mistake is found at once, also by a stand-by
    stop = threading.Event()
    with contextlib.ExitStack() as held:
        manager = held.enter_context(contextlib.closing(ServiceManager()))
        place = held.enter_context(contextlib.closing(SharedDirectory(name, group)))
        held.callback(place.remove_if_empty)
        lock = AgentLock(place)
        held.callback(lock.release)
        held.enter_context(_signals(stop.set))
        _stand_by(name, lock, stop, manager)
        if not stop.is_set():

            def chore() -> None:
                manager.notify("WATCHDOG=1")
                if not lock.take():
                    raise SharedStateError(f"{place.path}: another agent has taken over: our lock was removed")

            pairs = [parse_monitor(text) for text in monitors]
            names = [f"{interval},{windows}" for interval, windows in pairs]
            agent = Agent(name, group, settings, partial(open_engine, engine), chore, names, is_manager)
            with _signals(agent.stop, agent.reload):
                if stop.is_set():  # meanwhile
                    agent.stop()
                manager.notify("READY=1")
                agent.run()
                manager.notify("STOPPING=1")


def _stand_by(name: str, lock: AgentLock, stop: threading.Event, manager: ServiceManager) -> None:
    """Waits until no other agent runs, or for a stop."""
    if not lock.take():
        logger.warning("another agent of %r runs here; this one waits, and takes over when it ends", name)
    while not lock.take() and not stop.is_set():
        manager.notify("READY=1", "WATCHDOG=1")
        stop.wait(STAND_BY_S)


@contextlib.contextmanager
def _signals(stop: Callable[[], object], reload: Callable[[], object] = lambda: None) -> Iterator[None]:
    """TERM and INT stop, HUP reloads, in the block."""
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    before = {number: signal.signal(number, lambda *_, act=act: act()) for number, act in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
