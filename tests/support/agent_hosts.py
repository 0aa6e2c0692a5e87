"""Hosts of a cluster in one test: a directory for each, and agents and commands that run there."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import COMMAND, environment, run_forked
from tests.support.forked_commands import may_be_forked
from tests.support.networks import Networks
from tests.support.ports import free_ports
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit

PORT = 7447


class Host:
    """A directory in place of a host, and commands that run there. Counts are read and made in this process.

    `prefix` stands before each command, such as one that enters a network.
    """

    def __init__(self, root: str, name: str, options: Sequence[str], prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.directory = os.path.join(root, name)
        os.mkdir(self.directory, 0o700)
        self.options = ["--cluster", "test", "--node", name, *options]
        self.prefix = list(prefix)
        self.agents: list[subprocess.Popen[bytes]] = []
        self._log = Path(f"{self.directory}.log")

    def _environment(self) -> dict[str, str]:
        return {**environment(), "INBOUND_AUDIT_SHM": self.directory}

    @property
    def agent(self) -> subprocess.Popen[bytes]:
        """The one that was started last."""
        return self.agents[-1]

    @property
    def log(self) -> str:
        """What all of its agents have said."""
        return self._log.read_text()

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            command = [*self.prefix, *COMMAND, "agent", "mail", *self.options, *options, "--verbose"]
            self.agents.append(subprocess.Popen(command, env=self._environment(), stderr=log))
        return self.agent

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if not self.prefix and may_be_forked(self._environment()):
            done = run_forked(arguments, b"", None, self._environment())
            return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        return subprocess.run(
            [*self.prefix, *COMMAND, *arguments],
            env=self._environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def await_output(self, right: Callable[[str], object], *arguments: str) -> None:
        """Runs a command until its output is right: other processes publish what it shows at moments of their own, and
        on a busy machine the lease of a node that lives may end."""
        outputs: list[str] = []

        def is_right() -> object:
            outputs.append(self.run(*arguments).stdout)
            return right(outputs[-1])

        try:
            eventually(is_right)
        except AssertionError:
            raise AssertionError(f"{self.name}: {' '.join(arguments)}: {outputs[-1]}") from None

    def nodes(self) -> dict[str, tuple[str, int]]:
        """The state and the sessions of each node, as `cluster --json` has them."""
        return {row["node"]: (row["state"], row["sessions"]) for row in self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """What `cluster --json` says of each node."""
        done = self.run("cluster", "mail", "--json")
        return list(json.loads(done.stdout)["nodes"]) if done.returncode == 0 else []

    def audit(self, monitors: Sequence[str] = ()) -> InboundAudit:
        """The audit of this host, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INBOUND_AUDIT_SHM", self.directory)
            return InboundAudit(shared="mail", monitors=monitors)

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()


@contextmanager
def hosts_of(number: int, server: RedisServer | None = None, networks: Networks | None = None) -> Iterator[list[Host]]:
    """Hosts mx1, mx2 and so on, over that server or, without one, over Zenoh; in networks of their own, if any."""
    with tempfile.TemporaryDirectory(prefix="cluster-", dir="/dev/shm") as root, ExitStack() as at_end:
        hosts = []
        for at, options in enumerate(_options(number, server, networks)):
            prefix = networks.command(at) if networks else ()
            hosts.append(Host(root, f"mx{at + 1}", options, prefix))
            at_end.callback(hosts[-1].close)
        yield hosts


def _options(number: int, server: RedisServer | None, networks: Networks | None) -> list[list[str]]:
    """Of the agents of each host: over Zenoh one listens, and joins all others."""
    word = ["--insecure"] if networks else []
    if server is not None:
        return [["--engine", "redis", "--join", server.url, *word]] * number
    if networks is None:
        addresses = [f"tcp/127.0.0.1:{port}" for port in free_ports(number)]
    else:
        addresses = [f"tcp/{networks.address(at)}:{PORT}" for at in range(number)]
    joins = [[word for other in addresses if other != own for word in ("--join", other)] for own in addresses]
    return [["--listen", own, *others, *word] for own, others in zip(addresses, joins, strict=True)]
