"""A HUP: an agent takes the addresses, the certificate and the password that are in its files by then.

What can't be right is logged, and the settings before stay in use.
"""

from __future__ import annotations

import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.agent_hosts import Host, hosts_of
from tests.support.authority import Authority
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

from inbound_audit import InboundAudit

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Cluster:
    """Hosts, of which each has one session more than the one before."""

    def __init__(self, hosts: list[Host], at_end: ExitStack) -> None:
        self.hosts = hosts
        self._at_end = at_end
        self.audits: list[InboundAudit] = []

    def start(self) -> None:
        for at, host in enumerate(self.hosts):
            host.start()
            self.audits.append(self._at_end.enter_context(host.audit()))
            for number in range(1 << at):
                self._at_end.enter_context(self.audits[-1].listener().session(f"192.0.2.{number + 1}"))

    def counts(self, at: int, *others: int) -> None:
        """Waits until that host counts itself and these others alone."""
        expected = sum(1 << node for node in (at, *others))
        eventually(lambda: self.audits[at].total("inbound_cidr") == expected, f"mx{at + 1} counts {expected}")

    def reload(self, at: int) -> None:
        self.hosts[at].agent.send_signal(signal.SIGHUP)

    def refuses(self, at: int, words: str) -> None:
        """After a reload that host logs these words, and goes on with the settings before."""
        said = len(self.hosts[at].log)

        def logged() -> bool:
            lines = self.hosts[at].log[said:].splitlines()
            return any(words in line and "the old settings stay in use" in line for line in lines)

        self.reload(at)
        eventually(logged, f"{words!r} in the log of mx{at + 1}")


def test_addresses_that_were_added_and_removed(at_end: ExitStack, tmp_path: Path) -> None:
    pytest.importorskip("zenoh")
    joined = tmp_path / "joined"
    cluster = Cluster(at_end.enter_context(hosts_of(3)), at_end)
    first, *others = cluster.hosts
    addresses = [host.options[host.options.index("--listen") + 1] for host in others]
    first.options = ["--cluster", "test", "--node", "mx1", "--join-file", str(joined)]
    for host, address in zip(others, addresses, strict=True):
        host.options = ["--cluster", "test", "--node", host.name, "--listen", address]
    joined.write_text(f"{addresses[0]}\n")
    cluster.start()
    cluster.counts(0, 1)
    cluster.counts(1, 0)
    cluster.counts(2)
    joined.write_text(f"# {addresses[0]}\n{addresses[1]}\n")
    cluster.reload(0)
    cluster.counts(0, 2)
    cluster.counts(1)
    cluster.counts(2, 0)
    joined.write_text("nowhere\n")
    cluster.refuses(0, "--join 'nowhere': not an address")
    joined.unlink()
    cluster.refuses(0, "--join-file")
    cluster.counts(0, 2)
    joined.write_text("\n".join(addresses))
    cluster.reload(0)
    for at in range(3):
        cluster.counts(at, *{0, 1, 2} - {at})


def test_a_certificate_that_was_renewed(at_end: ExitStack, tmp_path: Path) -> None:
    pytest.importorskip("zenoh")
    authority = Authority(tmp_path / "authority")
    cluster = Cluster(at_end.enter_context(hosts_of(2)), at_end)
    for host in cluster.hosts:
        files = [word for option, file in authority.files(host.name).items() for word in (option_of(option), file)]
        host.options = [option.replace("tcp/", "tls/") for option in host.options] + ["--nodes", "mx1,mx2", *files]
    cluster.start()
    cluster.counts(0, 1)
    cluster.counts(1, 0)

    def renew(name: str = "mx1") -> bytes:
        """A certificate in the files of mx1, as another node is shown it."""
        return ssl.PEM_cert_to_DER_cert(Path(authority.files(name, "mx1")["tls_cert"]).read_text())

    shown = renew()
    cluster.reload(0)
    eventually(lambda: presented(cluster.hosts[0], authority) == shown, "the new certificate is in use")
    cluster.counts(0, 1)
    cluster.counts(1, 0)
    renew("mx9")
    cluster.refuses(0, "its common name is 'mx9', and this node is 'mx1'")
    chain = Path(authority.files("mx1")["tls_cert"])
    chain.write_text(chain.read_text()[:200])
    cluster.refuses(0, "not a certificate and its unencrypted key")
    chain.unlink()
    cluster.refuses(0, str(chain))
    assert presented(cluster.hosts[0], authority) == shown
    with cluster.audits[1].listener().session("192.0.2.9"):
        eventually(lambda: cluster.audits[0].total("inbound_cidr") == 4, "what mx2 says is heard")
    shown = renew()
    cluster.reload(0)
    eventually(lambda: presented(cluster.hosts[0], authority) == shown, "the last certificate is in use")
    cluster.counts(0, 1)
    cluster.counts(1, 0)


def option_of(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def presented(host: Host, authority: Authority) -> bytes | None:
    """The certificate that the agent of a host shows to who connects; None while it does not listen."""
    port = int(host.options[host.options.index("--listen") + 1].rpartition(":")[2])
    client = ssl.create_default_context(cafile=str(authority.file))
    client.check_hostname = False
    try:
        with socket.create_connection(("127.0.0.1", port)) as link, client.wrap_socket(link) as wrapped:
            return wrapped.getpeercert(binary_form=True)
    except OSError:
        return None


def test_a_password_that_was_changed(at_end: ExitStack, tmp_path: Path) -> None:
    pytest.importorskip("redis")
    server = at_end.enter_context(RedisServer(tmp_path, "requirepass before"))
    cluster = Cluster(at_end.enter_context(hosts_of(2, server)), at_end)
    passwords = [tmp_path / host.name for host in cluster.hosts]
    for host, file in zip(cluster.hosts, passwords, strict=True):
        host.options += ["--password-file", str(file)]
        file.write_text("before\n")
    cluster.start()
    cluster.counts(0, 1)
    server.kill()
    server.configuration.write_text(server.configuration.read_text().replace("pass before", "pass after"))
    server.start()
    for at, host in enumerate(cluster.hosts):
        eventually(lambda host=host: "username-password" in host.log or "WRONGPASS" in host.log, "it is logged")
        cluster.counts(at)
    passwords[0].unlink()
    cluster.refuses(0, f"--password-file {passwords[0]}")
    for at, file in enumerate(passwords):
        file.write_text("after\n")
        cluster.reload(at)
    cluster.counts(0, 1)
    cluster.counts(1, 0)
