"""A reload of `serve` reads its files in threads: whatever they are, sessions go on, and the old ones stay in use."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import smtplib
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from benchmarks.hostile import resident
from tests.support.command_line import Serve, run
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually

POLICY = """
require("msys.core")
local answer = require("answer")
local policy = {}
function policy:validate_rcptto(msg, str, ac, vctx)
  vctx:set_code(550, answer)
  return msys.core.VALIDATE_DONE
end
msys.registerModule("policy", policy)
"""
MIB = 1 << 20
BOMBS = {
    "large.lua": POLICY.replace('require("answer")', "{} for i = 1, 3e5 do answer[i] = {i} end"),  # 30 MB
    "failing.lua": "kept = {} for i = 1, 3e5 do kept[i] = {i} end error('wrong')",
    "large.sieve": "keep;" * 5_000,
}
GIVES_BACK = "import sys; from inbound_audit.cli import memory, run; memory.INTERVAL_S = 0.1; sys.exit(run())"
WORKERS = ("--workers", "2", "--shared", "reloaded") if sys.platform == "linux" else ()


def large(path: Path) -> None:
    """More than any of these files may have; it takes no room on the disk."""
    path.touch()
    os.truncate(path, 10 << 30)


def link_to_a_pipe(path: Path) -> None:
    pipe = path.with_suffix(".pipe")
    if not pipe.exists():
        os.mkfifo(pipe)
    path.symlink_to(pipe)


WRONG: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "link to a pipe": link_to_a_pipe,
    "large": large,
    "directory": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: None,
    "garbage": lambda path: path.write_bytes(bytes(range(256))),
}


def answers(server: Serve) -> int:
    """To how many reloads the server has said what became of them."""
    done = sum(event["event"] == "reloaded" for event in server.events)
    return done + sum("not reloaded" in line for line in server.complaints)


class Files:
    """A policy with a module, a certificate chain and a key of its own."""

    def __init__(self, place: Path) -> None:
        self.authority = trustme.CA()
        self.paths = {
            name: place / f"{name}.{'lua' if name in ('policy', 'answer') else 'pem'}"
            for name in ("policy", "answer", "chain", "key")
        }
        self.write("one")

    def write(self, answer: str) -> None:
        for path in self.paths.values():
            with contextlib.suppress(FileNotFoundError):
                path.rmdir() if path.is_dir() else path.unlink()
        self.paths["policy"].write_text(POLICY)
        self.paths["answer"].write_text(f'return "{answer}"')
        made = self.authority.issue_cert("127.0.0.1", "::1")
        made.cert_chain_pems[0].write_to_path(self.paths["chain"])
        made.private_key_pem.write_to_path(self.paths["key"])

    def replace(self, name: str, wrong: str) -> None:
        self.paths[name].unlink()
        WRONG[wrong](self.paths[name])

    @property
    def options(self) -> list[str]:
        policy, _, chain, key = map(str, self.paths.values())
        return ["--policy", policy, "--tls-cert", chain, "--tls-key", key]

    def presented(self, address: tuple[str, int]) -> tuple[object, bytes]:
        """The number of the certificate, and the policy's answer."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        with smtplib.SMTP(*address, timeout=PATIENCE) as client:
            client.starttls(context=context)
            client.ehlo("client")
            client.mail("a@example.net")
            answer = client.rcpt("b@example.com")[1]
            assert isinstance(client.sock, ssl.SSLSocket)
            return client.sock.getpeercert()["serialNumber"], answer  # type: ignore[index]


def refusals(server: Serve) -> list[str]:
    return [line for line in server.complaints if "not reloaded" in line]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    (tmp_path / "files").mkdir()
    return Files(tmp_path / "files")


@pytest.mark.parametrize(("options", "wrong"), [((), [*WRONG]), (WORKERS, ["pipe"])], ids=["alone", "workers"])
def test_a_file_that_is_none_holds_no_session_up(files: Files, options: tuple[str, ...], wrong: list[str]) -> None:
    with Serve(*files.options, *options) as server, Peer(*server.addresses[0]) as peer:
        address = server.addresses[0]
        old = files.presented(address)
        assert peer.line().startswith(b"220")
        for number, (name, kind) in enumerate(itertools.product(files.paths, wrong), 1):
            files.write("two")
            files.replace(name, kind)
            server.tell(signal.SIGHUP)
            eventually(
                lambda n=number: sum("not reloaded" in line for line in server.complaints) == n, f"{name} {wrong}"
            )
            assert peer.ask(b"HELO client").startswith(b"250")
            assert files.presented(address) == old, (name, kind)
        files.write("three")
        server.tell(signal.SIGHUP)
        server.event("reloaded")
        new = files.presented(address)
        assert new[0] != old[0]
        assert new[1] == b"three"
        assert peer.ask(b"HELO client").startswith(b"250")


@pytest.mark.parametrize("wrong", ["pipe", "large"])
@pytest.mark.parametrize("name", ["policy", "answer", "chain", "key"])
def test_a_file_that_is_none_ends_the_start(files: Files, name: str, wrong: str) -> None:
    files.replace(name, wrong)
    done = run("serve", "--listen", "127.0.0.1:0", *files.options)
    assert done.returncode == 1
    assert files.paths[name].name.removesuffix(".lua").encode() in done.stderr


def test_an_open_session_presents_the_new_certificate(files: Files) -> None:
    context = ssl.create_default_context()
    files.authority.configure_trust(context)
    with Serve(*files.options) as server:
        old = files.presented(server.addresses[0])
        with smtplib.SMTP(*server.addresses[0], timeout=PATIENCE) as client:
            files.write("two")
            server.tell(signal.SIGHUP)
            server.event("reloaded")
            client.starttls(context=context)
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.sock.getpeercert()["serialNumber"] != old[0]  # type: ignore[index]


@pytest.mark.memory
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says how much memory a process has")
@pytest.mark.parametrize("kind", BOMBS)
def test_the_memory_of_a_policy_that_was_replaced_goes_back(tmp_path: Path, kind: str) -> None:
    """The server has had no connection: nothing but the reloads tells it that there is memory to give back."""
    path, bomb = tmp_path / kind, BOMBS[kind]
    good = "keep;" if kind.endswith("sieve") else POLICY.replace('require("answer")', "1")
    path.write_text(good)
    with Serve("--policy", str(path), command=(sys.executable, "-c", GIVES_BACK)) as server:
        before = resident([server.pid])
        for number, script in enumerate([bomb] * 10 + [good]):
            path.write_text(script)
            server.tell(signal.SIGHUP)
            eventually(lambda n=number: answers(server) > n, "the reload")  # type: ignore[misc]
        eventually(lambda: resident([server.pid]) < before + 16 * MIB, "the memory that was given back")
