"""Every example in the help of a command is run; so is the start line of the systemd unit."""

from __future__ import annotations

import configparser
import contextlib
import gzip
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.support.command_line import Manager, environment
from tests.support.fake_engine import FakeEngine, FakeNetwork
from tests.support.forked_commands import starter
from tests.support.ports import free_ports
from tests.support.sharing import Worker
from tests.support.terminals import Terminal
from tests.support.waiting import PATIENCE, eventually

import inbound_audit.cli
from inbound_audit import InboundAudit
from inbound_audit.cli import main
from inbound_audit.cluster.agent import Agent
from inbound_audit.cluster.engine import EngineSettings
from inbound_audit.series import requests

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

ROOT = Path(__file__).parents[2]
CLI = Path(inbound_audit.cli.__file__).parent
UNIT, AGENT_UNIT = (CLI / f"inbound-audit{of}.service" for of in ("", "-agent"))
SERVICES, SOCKETS = (sorted(CLI.glob(f"*.{kind}")) for kind in ("service", "socket"))
each_service = pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")

COUNTS = """
from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
audit = InboundAudit(shared=NAME, capacity=1 << 24, monitors=("300,6",))
audit.series.define("failures", "ip", 300, 6)
audit.series.add("failures", "192.0.2.7", 3)
kept = [audit.listener(service).session("192.0.2.7") for service in ("SMTP", "ECStream")]
kept.append(audit.listener("SMTP").session("2001:db8::7"))
audit.deny("192.0.2.0/24", why="a test")
audit.allow("192.0.2.7", why="a test")
guard = Guard(audit.listener("SMTP"), Limits())
"""


def examples() -> Iterator[str]:
    for command in (main, *main.commands.values()):
        lines = (command.epilog or "").partition("Examples:")[2].partition("Exit status")[0].splitlines()
        found = [line.strip() for line in lines if re.match(r"  [a-z]", line) and "inbound-audit" in line]
        assert found or command.name == "help"
        yield from found


EXAMPLES = sorted(set(examples()))


# By command, what its examples write.
EXPECTED = {
    "count": r"192\.0\.2\.",
    "replay": r"connections",
    "show": r"192\.0\.2\.|^1$",
    "top": r"192\.0\.2\.|^2$",
    "ps": r"SMTP default 2|.sessions.: ?3",
    "cluster": r'node mx1, connected|^"mx1"$',
    "metrics": r"inbound_audit_|serving http|sessions|^$",
    "web": r"^serving ",
    "check": r"serve: |^\[?\]?$|a policy|\$schema|^$",
    "deny": r"is denied until",
    "allow": r"is allowed until",
    "lift": r"is lifted",
    "decisions": r"192\.0\.2\.0/24",
    "why": r"^192\.0\.2\.7 would be let in$|^true$",
    "map": r"^$|<svg",
    "ls": r"mail .* 3$|^mail$",
    "man": r"^$",
    "completion": r"inbound_audit_completion",
    "console": r"192\.0\.2\.7/32|Connections 300/0: 2|inbound_cidr|failures 300/0: \d|^$",
}


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def worker(hire) -> Worker:
    return hire(COUNTS)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the examples read, and with the programs that they call."""
    (tmp_path / "access.log").write_text('192.0.2.7 - - [01/Nov/2026:00:00:00 +0000] "GET / HTTP/1.1" 200 7\n' * 3)
    (tmp_path / "access.log.gz").write_bytes(gzip.compress((tmp_path / "access.log").read_bytes()))
    connect = "Nov  1 00:00:00 mx postfix/smtpd[7]: connect from unknown[192.0.2.7]"
    for name in ("mail.log", "mail.log.1"):
        (tmp_path / name).write_text(f"{connect}\n")
    (tmp_path / "mail.log.2.gz").write_bytes(gzip.compress(connect.encode()))
    (tmp_path / "sessions.csv").write_text("begun,src,duration\n2026-11-01T00:00:00Z,192.0.2.7,1\n")
    shutil.copytree(ROOT / "examples" / "policies", tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / "examples" / "inbound-audit.toml", tmp_path)
    certificate = trustme.CA().issue_cert("mx.example")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(tmp_path / "chain.pem", append=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "inbound-audit").write_text(starter().script())
    (programs / "inbound-audit").chmod(0o755)
    script(programs / "journalctl", f"echo '{connect}'")
    if shutil.which("jq") is None:
        script(programs / "jq", "cat")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run(command: str, directory: Path) -> str:
    """The first output of an example; one that does not end by itself is ended as by Ctrl-C."""
    with subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command], cwd=directory, env=environment(), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        try:
            output = process.stdout.readline()
            if re.search(r" (serve|guard|milter|policyd|web)\b|--watch| metrics .*--listen", command):
                if re.search(r" (serve|guard|milter|policyd)\b", command):  # the second line says that it is ready
                    output += process.stdout.readline()
                os.killpg(process.pid, signal.SIGINT)
            output += process.stdout.read()
            errors = process.stderr.read()
            status = process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in errors
    assert status in (0, 130) if "|" in command and "--watch" in command else status == 0, errors
    return output


class Nodes:
    """Two agents in the test's own process, which count for `mail` here and on another host."""

    def __init__(self, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        network = FakeNetwork()
        here = os.environ["INBOUND_AUDIT_SHM"]
        self.agents = [self._agent("mx1", network)]
        monkeypatch.setenv("INBOUND_AUDIT_SHM", str(there))
        self.audit = InboundAudit(shared="mail")
        self.session = self.audit.listener().session("192.0.2.8")
        self.agents.append(self._agent("mx2", network))
        monkeypatch.setenv("INBOUND_AUDIT_SHM", here)
        requests.COMMANDS["cluster"] = self.agents[0]._command  # both have asked to answer
        self.threads = [threading.Thread(target=agent.run) for agent in self.agents]
        for thread in self.threads:
            thread.start()
        eventually(lambda: [(node.name, node.sessions) for node in self.agents[0]._audit.nodes][1:] == [("mx2", 1)])

    @staticmethod
    def _agent(node: str, network: FakeNetwork) -> Agent:
        settings = EngineSettings("eu", node)
        return Agent("mail", None, lambda: settings, lambda _: FakeEngine(network, node))

    def close(self) -> None:
        for agent, thread in zip(self.agents, self.threads, strict=True):
            agent.stop()
            thread.join()
        self.session.close()
        self.audit.close()


@pytest.fixture
def nodes(place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    there = tmp_path_factory.mktemp("mx2")
    there.chmod(0o700)
    with contextlib.closing(Nodes(there, monkeypatch)) as made:
        yield made


@pytest.mark.parametrize("example", [one for one in EXAMPLES if " agent " in one])
def test_an_example_of_agents(example: str, shell: Path, place: Path) -> None:
    """Without another node, and without a server: it says so, and goes on until Ctrl-C."""
    (port,) = free_ports(1)
    with subprocess.Popen(
        ["bash", "-c", re.sub(r":\d{4}$", f":{port}", example)], cwd=shell, env=environment(), text=True,
        start_new_session=True, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr
        try:
            assert "reaches no other node" in process.stderr.readline()
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(PATIENCE) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("example", [one for one in EXAMPLES if "--node mx2" in one or "inbound-audit cluster " in one])
def test_an_example_of_a_cluster(example: str, worker: Worker, shell: Path, nodes: Nodes) -> None:
    assert re.search(EXPECTED[example.split("inbound-audit ")[1].split()[0]], run(example, shell))


@pytest.mark.parametrize(
    "example", [one for one in EXAMPLES if not re.search(r" agent |--node mx2|inbound-audit cluster ", one)]
)
def test_an_example(example: str, worker: Worker, shell: Path) -> None:
    command = example.replace("4711", str(worker.pid))
    if " serve" in command:
        command = re.sub(r" --listen \S+", "", command) + " --listen 127.0.0.1:0 --hostname mx.example"
        assert "listening" in run(command, shell)
        return
    if re.search(r" (guard|milter|policyd)\b", command):  # the user of the example may not read what the test has made
        command = re.sub(r" --listen \S+| --user \S+", "", command) + f" --listen unix:{shell}/socket"
        assert "listening" in run(command, shell)
        return
    if " watch " in command:
        with Terminal(*shlex.split(command)[1:]) as terminal:
            terminal.shows("192.0.2.7/32")
            terminal.type(b"q")
            assert terminal.end() == 0
        return
    if " web " in command:
        command = re.sub(r" --listen \S+", "", command) + f" --listen unix:{shell}/socket"
    if "--watch" in command:  # into a pipe jq writes a line only when its buffer is full
        command = command.replace("jq ", "jq --unbuffered ")
    command = re.sub(r"metrics mail --listen \S+", "metrics mail --listen 127.0.0.1:0", command)
    command = re.sub(r"(completion \w+) > \S+", r"\1", command)
    output = run(re.sub(r"--textfile \S+", "--textfile audit.prom", command), shell)
    assert re.search(EXPECTED[example.split("inbound-audit ")[1].split()[0]], output, re.MULTILINE)


def test_there_are_examples_of_every_command() -> None:
    for name in main.commands.keys() - {"help"}:
        assert any(f"inbound-audit {name}" in example for example in EXAMPLES)


def settings_of(path: Path, section: str = "Service") -> configparser.SectionProxy:
    # Not strict: a setting that is a list may stand several times; the last line is read here.
    unit = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    return unit[section]


@each_service
def test_a_unit_locks_its_service_down(unit: Path) -> None:
    """What `systemd-analyze security` can't rate, or is not everywhere to rate."""
    service = settings_of(unit)
    lines = unit.read_text().splitlines()
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 2
    assert {"MemoryMax", "TasksMax", "LimitNOFILE"} <= set(service)
    assert [line for line in lines if line.startswith("SystemCallFilter=")][:2] == [
        "SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources",
    ]  # fmt: skip
    for name in (
        "DynamicUser", "LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices", "PrivateTmp",
        "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs",
        "ProtectKernelModules", "ProtectKernelTunables", "RemoveIPC", "RestrictNamespaces", "RestrictRealtime",
        "RestrictSUIDSGID",
    ):  # fmt: skip
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict"
    assert service["ProtectProc"] == "invisible"


def test_the_units_differ_in_what_their_services_need() -> None:
    serve, agent = settings_of(UNIT), settings_of(AGENT_UNIT)
    assert serve["CapabilityBoundingSet"] == serve["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert agent["CapabilityBoundingSet"] == agent.get("AmbientCapabilities", "") == ""
    families = {"AF_INET", "AF_INET6", "AF_UNIX"}
    assert set(serve["RestrictAddressFamilies"].split()) == families
    assert set(agent["RestrictAddressFamilies"].split()) == families | {"AF_NETLINK"}
    assert int(serve["TimeoutStopSec"]) > 30 + 17
    assert "User" not in serve
    assert serve["RuntimeDirectoryPreserve"] == "yes"
    for unit in SERVICES:
        service = settings_of(unit)
        assert service.get("User", UNIT.stem) == UNIT.stem  # which is the user of serve's unit, that names none
        for name in ("RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve", "UMask"):
            assert serve[name] == service[name]
        if unit not in (UNIT, AGENT_UNIT):
            assert service["CapabilityBoundingSet"] == service.get("AmbientCapabilities", "") == ""
            assert (service["IPAddressDeny"], service["IPAddressAllow"]) == ("any", "localhost")
            assert set(service["RestrictAddressFamilies"].split()) == families


@pytest.mark.parametrize("unit", SOCKETS, ids=lambda unit: unit.stem)
def test_a_socket_has_its_service(unit: Path) -> None:
    service = CLI / f"{unit.stem}.service"
    found = settings_of(unit, "Socket")
    if "SocketGroup" in found:  # Postfix may connect, and the service listens nowhere else
        assert (found["SocketGroup"], found["SocketMode"]) == ("postfix", "0660")
        assert settings_of(service, "Unit")["Requires"] == unit.name
        assert "--listen" not in settings_of(service)["ExecStart"]
    else:
        assert service == UNIT
        assert found["ListenStream"] == "25"


def rating_of(unit: Path) -> str:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates no file")
    assert done.returncode == 0, done.stdout[-300:]
    return re.findall(r"exposure level for \S+: (\d+\.\d+)", done.stdout)[0]


@each_service
@needs_analyze
def test_systemd_rates_a_unit_as_safe(unit: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    (stated,) = re.findall(rf"^\| `{unit.name}`.*\| (\d\.\d) \|$", page, re.MULTILINE)
    # A systemd that knows more settings rates by those, too.
    assert abs(float(rating_of(unit)) - float(stated)) < 0.5


def test_the_units_start_line_is_a_command(worker: Worker, shell: Path) -> None:
    service = settings_of(UNIT)
    start = service["ExecStart"].replace("/usr/local/bin/", "").replace("%S", str(shell))
    (shell / service["StateDirectory"]).mkdir()
    assert "listening" in run(start.replace(":25", "127.0.0.1:0") + " --hostname mx.example", shell)
    assert (shell / "inbound-audit" / "maildir").is_dir()


def test_the_start_line_of_the_agents_unit_is_a_command(shell: Path, place: Path, tmp_path: Path) -> None:
    """It is what systemd is told: ready, alive, stopping."""
    pytest.importorskip("zenoh")
    authority = trustme.CA()
    certificate = authority.issue_cert("mx1", common_name="mx1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    words = shlex.split(settings_of(AGENT_UNIT)["ExecStart"].replace("\\\n", " ").replace("/usr/local/bin/", ""))
    command = [word.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)) for word in words]
    command[command.index("--listen") + 1] = f"tls/127.0.0.1:{free_ports(1)[0]}"
    with contextlib.closing(Manager(f"{shell}/notify")) as manager, subprocess.Popen(
        [str(shell / "bin" / command[0]), *command[1:]],
        env={**environment(), "NOTIFY_SOCKET": f"{shell}/notify"}, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            manager.await_line("READY=1")
            manager.await_line("WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            manager.await_line("STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@needs_analyze
def test_systemd_takes_the_units(shell: Path) -> None:
    program = shell / "bin" / "inbound-audit"
    units = [shell / unit.name for unit in (*SERVICES, *SOCKETS)]
    for unit in units:
        unit.write_text((CLI / unit.name).read_text().replace("/usr/local/bin/inbound-audit", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
