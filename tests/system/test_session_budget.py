"""The budget of a session, as a peer of `inbound-audit serve` meets it: every option, on real sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import trustme
from benchmarks.hostile import HOST, banner_time, resident
from tests.support.command_line import Serve, begun, run
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually, until_it_suffices

from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.listeners.smtp_data import MAX_SIZE_FACTOR

MIB = 1 << 20
LINE = b"x" * 998 + b"\r\n"
TIMED_OUT = b"421 4.4.2 timeout exceeded\r\n"


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Serve]:
    with Serve(*options, listen=("127.0.0.1:0",)) as server:
        yield server
        assert server.complaints == []  # whatever these peers do is no warning


def greeted(server: Serve) -> Peer:
    peer = Peer(*server.addresses[0])
    assert peer.line().startswith(b"220")
    return peer


def replies(peer: Peer, *lines: bytes) -> list[bytes]:
    peer.send(b"".join(line + b"\r\n" for line in lines))
    return [peer.line().rstrip() for _ in lines]


def in_data(server: Serve) -> Peer:
    peer = begun(server.addresses[0])
    assert peer.ask(b"DATA").startswith(b"354")
    return peer


def comes_to_data(peer: Peer) -> bool:
    """The same with a limit under which the peer may be too slow."""
    dialogue = (b"HELO c", b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA")
    return peer.line().startswith(b"220") and all(peer_asks(peer, line)[:1] in (b"2", b"3") for line in dialogue)


def message(peer: Peer) -> list[bytes]:
    return [reply[:3] for reply in replies(peer, b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA", b".")]


# ---- time


def test_timeout_ends_a_silent_session() -> None:
    def attempt(limit_s: float) -> bool:
        with contextlib.ExitStack() as both, serving("--timeout", f"{limit_s:.0f}s") as server:
            one, two = (both.enter_context(Peer(*server.addresses[0])) for _ in range(2))
            in_time = comes_to_data(two)
            assert one.rest().endswith(TIMED_OUT)
            assert not in_time or two.rest() == TIMED_OUT
            return in_time

    until_it_suffices(attempt, 1)


def test_command_timeout_ends_a_command_that_comes_byte_by_byte() -> None:
    with serving("--command-timeout", "1s") as server, greeted(server) as peer:
        trickle(peer, b"x")
        assert peer.rest() == TIMED_OUT


def trickle(peer: Peer, data: bytes) -> None:
    """Sends the same again and again, until the server says something or closes the connection."""
    with contextlib.suppress(OSError):
        for _ in range(10_000):
            peer.send(data)
            if peer_has_replied(peer):
                break
            time.sleep(0.01)


def peer_has_replied(peer: Peer) -> bool:
    peer.socket.setblocking(False)
    try:
        return peer.socket.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return False
    finally:
        peer.socket.settimeout(PATIENCE)


def test_session_timeout_ends_a_busy_session() -> None:
    with serving("--session-timeout", "1s", "--max-commands", "1000000") as server, greeted(server) as peer:
        last = b""
        while line := peer_asks(peer, b"NOOP"):
            last = line
            time.sleep(0.01)
        assert last == TIMED_OUT


def peer_asks(peer: Peer, line: bytes) -> bytes:
    try:
        return peer.ask(line)
    except OSError:
        return b""


def test_min_rate_ends_a_message_that_trickles() -> None:
    def attempt(limit_s: float) -> bool:
        with (
            serving("--timeout", f"{limit_s:.0f}s", "--min-rate", "1000000") as server,
            Peer(*server.addresses[0]) as peer,
        ):
            if not comes_to_data(peer):
                return False
            trickle(peer, b"x\r\n")
            assert peer.rest() == TIMED_OUT
            return True

    until_it_suffices(attempt, 1)


def test_tls_timeout_ends_a_handshake_that_stalls(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with serving("--tls-cert", str(certificate), "--tls-timeout", "1s") as server, greeted(server) as peer:
        assert peer.ask(b"STARTTLS").startswith(b"220")
        peer.rest()
        assert server.stopped()["open"] == 0


def test_proxy_timeout_ends_a_balancer_that_stalls() -> None:
    with serving("--proxy-from", "127.0.0.1", "--proxy-timeout", "1s") as server:
        for begin in (b"", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"):
            with Peer(*server.addresses[0]) as peer:
                peer.send(begin)
                assert peer.rest() == b""


def test_a_peer_that_reads_no_reply_is_cut_off() -> None:
    with serving("--timeout", "1s", "--max-errors", "100000", "--max-commands", "100000") as server:
        peer = Peer(*server.addresses[0])
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(OSError):
            while True:
                peer.send(b"HELP\r\n" * 10_000)
        peer.close()
        assert server.stopped()["open"] == 0


# ---- bytes and numbers


def test_max_command_line() -> None:
    with serving("--max-command-line", "100") as server, greeted(server) as peer:
        assert replies(peer, b"NOOP " + b"x" * 93, b"NOOP " + b"x" * 94, b"NOOP " + b"x" * 20_000, b"NOOP") == [
            b"250 OK", b"500 5.5.2 line too long", b"500 5.5.2 line too long", b"250 OK",
        ]  # fmt: skip


def test_max_line() -> None:
    with serving("--max-line", "100") as server, in_data(server) as peer:
        assert peer.ask(b"x" * 98 + b"\r\n.") == b"250 OK\r\n"
        assert replies(peer, b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA", b"x" * 99 + b"\r\n.")[
            3
        ] == (b"500 5.5.2 a line may have 100 bytes")


def test_max_size() -> None:
    with serving("--max-size", "1000") as server, in_data(server) as peer:
        assert peer.ask(LINE + b".") == b"250 OK\r\n"
        assert replies(peer, b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA", b"x\r\n" + LINE + b".")[
            3
        ] == (b"552 5.3.4 a message may have 1000 bytes")
        assert message(peer) == [b"250", b"250", b"354", b"250"]


def test_message_memory() -> None:
    with serving("--max-size", "1000", "--message-memory", "1500") as server, in_data(server) as one:
        one.send(LINE)
        with in_data(server) as two:
            assert two.ask(LINE + b".") == b"451 4.3.1 no memory for the message, try again later\r\n"
        assert one.ask(b".") == b"250 OK\r\n"
        with in_data(server) as two:
            assert two.ask(LINE + b".") == b"250 OK\r\n"
    assert b"no message would be accepted" in run("serve", "--message-memory", "1K").stderr


def test_max_recipients() -> None:
    with serving("--max-recipients", "2") as server, begun(server.addresses[0]) as peer:
        assert replies(peer, *[b"RCPT TO:<c@d.example>"] * 2) == [b"250 OK", b"452 4.5.3 too many recipients"]


@pytest.mark.parametrize("command", [b"NOOP", b"RSET", b"HELP", b"VRFY <a@b.example>", b"HELO c", b"AUTH"])
def test_max_commands(command: bytes) -> None:
    with serving("--max-commands", "3") as server, greeted(server) as peer:
        assert replies(peer, *[command] * 4)[3] == b"421 4.7.0 too many commands without a message"


@pytest.mark.parametrize("command", [b"BOGUS", b"", b"\xff", b"BDAT 5 LAST", b"MAIL FROM:<", b"DATA", b"RCPT TO:<a@b>"])
def test_max_errors(command: bytes) -> None:
    with serving("--max-errors", "3") as server, greeted(server) as peer:
        peer.send((command + b"\r\n") * 4)
        answers = peer.rest().splitlines()
        assert [answer[:1] for answer in answers[:3]] == [b"5"] * 3
        assert answers[3:] == [b"421 4.7.0 too many errors"]


def test_a_message_gives_a_session_its_errors_back() -> None:
    with serving("--max-errors", "3") as server, greeted(server) as peer:
        peer.ask(b"HELO c")
        for _ in range(3):
            assert [reply[:3] for reply in replies(peer, b"BOGUS", b"BOGUS")] == [b"500"] * 2
            assert message(peer) == [b"250", b"250", b"354", b"250"]


def test_max_session_commands() -> None:
    with serving("--max-session-commands", "9") as server, greeted(server) as peer:
        peer.ask(b"HELO c")
        assert [message(peer) for _ in range(2)] == [[b"250", b"250", b"354", b"250"]] * 2
        assert [peer.ask(b"NOOP")[:3] for _ in range(3)] == [b"250", b"250", b"421"]


def test_max_messages() -> None:
    with serving("--max-messages", "2") as server, greeted(server) as peer:
        peer.ask(b"HELO c")
        assert [message(peer) for _ in range(2)] == [[b"250", b"250", b"354", b"250"]] * 2
        assert peer.ask(b"MAIL FROM:<a@b.example>") == b"421 4.7.0 too many messages\r\n"


def test_max_auth() -> None:
    with serving("--max-auth", "2") as server, greeted(server) as peer:
        peer.ask(b"HELO c")  # without an authenticator AUTH is no command, and so an error
        assert [reply[:3] for reply in replies(peer, *[b"AUTH PLAIN AGEAYg=="] * 2)] == [b"500"] * 2


# ---- the table


def test_the_docs_and_the_help_have_every_option_with_its_default() -> None:
    shown = run("serve", "--help").stdout.decode()
    rows = Path(__file__).parents[2].joinpath("docs", "listeners.md").read_text()
    for each in fields(SessionBudget):
        option, postfix = each.metadata["option"], each.metadata["postfix"]
        assert option in shown
        row = next(row for row in rows.splitlines() if row.startswith(f"| `{option}` | `{each.name}=`"))
        assert f"| {each.default:g} |" in row or f"| {each.default} |" in row
        assert each.metadata["what"] in row
        assert each.metadata["beyond"] in row
        assert not postfix or f"`{postfix}`" in row


@pytest.mark.parametrize("option", [each.metadata["option"] for each in fields(SessionBudget)])
def test_nothing_is_no_limit(option: str) -> None:
    for value in ("0", "-1", "x", ""):
        assert run("serve", option, value).returncode == 2


# ---- memory


def highest(server: Serve) -> int:
    """Bytes that the process has had in memory at the most."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.memory
@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"x" * MIB, id="no CRLF"),
        pytest.param(LINE * 1000, id="lines"),
        pytest.param(b"\r\n" * MIB, id="empty lines"),
        pytest.param(b"\n" * MIB, id="bare LF"),
        pytest.param(b"\r" * MIB, id="bare CR"),
        pytest.param(b"..\r\n" * (MIB // 4), id="dots"),
    ],
)
def test_a_message_without_an_end_takes_no_memory_and_is_cut_off(piece: bytes) -> None:
    size = 32 * MIB
    with serving("--max-size", "32M") as server:
        before = resident([server.pid])
        with in_data(server) as peer:
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 400 * MIB:
                    peer.send(piece)
                    sent += len(piece)
            assert sent < 2 * MAX_SIZE_FACTOR * size  # the stuffed dots do not count, nor do the bytes in between
        assert highest(server) - before < 2 * size


@pytest.mark.memory
@pytest.mark.parametrize("option", [(), ("--maildir", "box")])
def test_the_largest_message_takes_twice_its_size(option: tuple[str, ...], tmp_path: Path) -> None:
    size = 64 * MIB
    options = [str(tmp_path / each) if each == "box" else each for each in option]
    with serving("--max-size", "64M", *options) as server:
        before = resident([server.pid])
        with in_data(server) as peer:
            for _ in range(size // len(LINE) - 1):
                peer.send(LINE)
            assert peer.ask(b".").startswith(b"250")
        assert highest(server) - before < 2 * size
        eventually(lambda: resident([server.pid]) < before + 20 * MIB, "the memory that was given back")


@pytest.mark.memory
def test_thirty_one_megabytes_of_empty_lines_are_a_message() -> None:
    with serving("--max-size", "32M") as server, in_data(server) as peer:
        before = resident([server.pid])
        peer.send(b"\r\n" * (31 * MIB // 2))
        assert peer.ask(b".") == b"250 OK\r\n"
        assert highest(server) - before < 64 * MIB


@pytest.mark.memory
def test_tiny_segments_take_no_memory() -> None:
    with serving() as server, in_data(server) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = resident([server.pid])
        for _ in range(20_000):
            peer.send(b"x\r\n")
        assert peer.ask(b".") == b"250 OK\r\n"
        assert highest(server) - before < 20 * MIB


@pytest.mark.memory
def test_hundred_hostile_peers_take_what_is_stated_and_good_ones_are_served(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with Serve("--limit", "/32=1000", "--tls-cert", str(certificate), listen=(f"{HOST}:0",)) as server:
        port, most = server.addresses[0][1], 0
        banner_time(port)
        before = resident([server.pid])
        command = [sys.executable, "-m", "benchmarks.hostile", str(port), "100", "6"]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as hostile:
            while hostile.poll() is None:
                banner_time(port)
                most = max(most, resident([server.pid]))
        assert hostile.returncode == 0
        assert most <= (96 + 256) * MIB
        eventually(lambda: resident([server.pid]) < before + 20 * MIB, "the memory that was given back")
        assert [line for line in server.complaints if "ERROR" in line or "WARNING" in line] == []
