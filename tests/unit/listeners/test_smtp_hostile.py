"""Whatever a peer does, no log record is above INFO, asyncio has nothing to report, and the next peer is served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import AuthResult
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import listening
from tests.support.listening import WAYS, Peer, serving
from tests.support.waiting import eventually

from inbound_audit import Verdict
from inbound_audit.listeners import Guard
from inbound_audit.listeners.smtp import protocol_factory

pytestmark = pytest.mark.usefixtures("acceptor", "quick_close")

acceptor, audit = listening.acceptor, listening.audit  # fixtures
guard, quick_close = listening.guard, listening.quick_close

BEGUN = b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def served(
    guard: Guard, tls: Any, caplog: pytest.LogCaptureFixture, hostile: Callable[[Peer], None], **kwargs: Any
) -> None:
    """Lets a hostile peer at a server, and checks what came of it."""
    caplog.set_level(logging.DEBUG)
    kwargs = {"tls_context": tls[0], "hostname": "mx.example", "idle_s": 0.3, "session_s": 30, **kwargs}
    with serving(protocol_factory(kwargs.pop("handler", Sink()), guard, **kwargs), WAYS[0]) as (thread, address):
        peer = Peer(*address)
        hostile(peer)
        eventually(lambda: guard.open == 0, "the end of the session")
        peer.close()
        # Also so that the hostile one, which may have left at once, was accepted. A header may come late here.
        header = b"PROXY UNKNOWN\r\n" if kwargs.get("proxy_from") else b""
        eventually(lambda: is_served(address, header), "a good peer")
        eventually(lambda: guard.open == 0, "the end of both")
        assert thread.complaints == []
    loud = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert loud == []


def is_served(address: tuple[str, int], header: bytes) -> bool:
    with Peer(*address) as good, contextlib.suppress(OSError):  # on a busy machine it may be cut off for its silence
        good.send(header)
        greeted = good.line().startswith(b"220")
        assert greeted or header
        return greeted and good.ask(b"QUIT").startswith(b"221")
    return False


def sends(*pieces: bytes, then: str = "rest") -> Callable[[Peer], None]:
    def hostile(peer: Peer) -> None:
        try:
            for piece in pieces:
                peer.send(piece)
        except OSError:
            return  # the server has cut it off
        getattr(peer, then)()

    return hostile


def in_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext], *pieces: bytes, then: str = "") -> Callable[[Peer], None]:
    def hostile(peer: Peer) -> None:
        assert peer.line().startswith(b"220")
        answer = peer.ask(b"STARTTLS")
        assert answer.startswith(b"220") or not answer  # on a busy machine a peer may be cut off for its silence
        with contextlib.suppress(OSError), tls[1].wrap_socket(peer.socket, server_hostname="127.0.0.1") as secret:
            for piece in pieces:
                secret.sendall(piece)
            if then == "raw":
                secret.detach()

    return hostile


NO_ADDRESSES = [b"<", b"<@", b"<a@", b"(" * 1900, b'"', b"<>" * 900, b"@" * 900, b"[", b"<a@[", b"<a@b> ="]
NO_PARAMETERS = [b"=", b"SIZE", b"SIZE=x", b"SIZE=" + b"9" * 1900, b"BODY=9", b"AUTH", b"AUTH=", b"SMTPUTF8=1"]
DIALOGUES = {
    "silence": sends(),
    "a reset at once": sends(then="reset"),
    "a reset in DATA": sends(BEGUN + b"DATA\r\nabc", then="reset"),
    "a close in DATA": sends(BEGUN + b"DATA\r\nabc", then="close"),
    "a stalled STARTTLS": sends(b"STARTTLS\r\n"),
    "no handshake": sends(b"STARTTLS\r\n", b"EHLO in the clear\r\n" * 9),
    "a record of TLS that is none": sends(b"STARTTLS\r\n", b"\x16\x03\x01\xff\xff" + bytes(5000)),
    "a reset in the handshake": sends(b"STARTTLS\r\n", b"\x16\x03\x01", then="reset"),
    "a close in the handshake": sends(b"STARTTLS\r\n", then="close"),
    "STARTTLS with more behind it": sends(b"STARTTLS\r\nEHLO c\r\nNOOP\r\n"),
    "unknown commands": sends(b"BOGUS\r\n" * 100),
    "BDAT": sends(BEGUN + b"BDAT 100 LAST\r\n" + b"x" * 100),
    "no command": sends(b"\r\n" * 100),
    "bytes": sends(bytes(range(256)) * 400),
    "NUL": sends(b"\0" * 100_000),
    "a command without an end": sends(b"x" * 1_000_000),
    "a long command": sends(b"NOOP " + b"x" * 5000 + b"\r\n", b"QUIT\r\n"),
    "CR": sends(b"MAIL FROM:<a@b.example>\rRCPT TO:<c@d.example>\r\n"),
    "8-bit": sends(b"EHLO \xff\xfe\r\nMAIL FROM:<\xff@b>\r\nVRFY \xff\r\nHELP \xff\r\nEXPN x\r\n"),
    "no addresses": sends(b"EHLO c\r\n", *(b"MAIL FROM:%s\r\n" % each for each in NO_ADDRESSES)),
    "parameters": sends(b"EHLO c\r\n", *(b"MAIL FROM:<a@b> %s\r\n" % each for each in NO_PARAMETERS)),
    "a message without an end": sends(BEGUN + b"DATA\r\n" + b"x" * 1_000_000),
    "a long line": sends(BEGUN + b"DATA\r\n" + b"x" * 5000 + b"\r\n.\r\nQUIT\r\n"),
    "AUTH in the clear": sends(b"EHLO c\r\n" + b"AUTH PLAIN AGEAYg==\r\n" * 9),
    "PROXY": sends(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n"),
    "PROXY 2": sends(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)),
    "HTTP": sends(b"GET / HTTP/1.1\r\nHost: mx.example\r\n\r\n"),
    "replies that are not read": sends(*[b"VRFY %s@b.example\r\n" % (b"x" * 1900)] * 90),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIALOGUES)
def test_a_hostile_dialogue(guard: Guard, tls: Any, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    served(guard, tls, caplog, DIALOGUES[kind], max_message_bytes=100_000)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((), id="nothing"),
        pytest.param((b"STARTTLS\r\nQUIT\r\n",), id="STARTTLS again"),
        pytest.param((b"EHLO c\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN\r\n=\r\nAUTH LOGIN\r\nYQ==\r\n*\r\n",), id="given up"),
        pytest.param((b"EHLO c\r\nAUTH PLAIN AGEAYg==\r\n",), id="AUTH that succeeds"),
        pytest.param((b"EHLO c\r\nAUTH LOGIN\r\n" + b"x" * 100_000,), id="AUTH without an end"),
        pytest.param((b"EHLO c\r\nAUTH NONE\r\nAUTH PLAIN \r\nAUTH PLAIN a b c\r\nAUTH\r\n" * 3,), id="no AUTH"),
        pytest.param((BEGUN + b"DATA\r\n", b"x" * 100_000), id="DATA"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("then", ["", "raw"])
def test_a_hostile_dialogue_in_tls(
    guard: Guard, tls: Any, caplog: pytest.LogCaptureFixture, pieces: tuple[bytes, ...], then: str
) -> None:
    def authenticate(*args: object) -> AuthResult:
        return AuthResult(success=True, auth_data=args[-1])

    served(guard, tls, caplog, in_tls(tls, *pieces, then=then), authenticator=authenticate)


@pytest.mark.parametrize(
    "header", [b"", b"PROXY TCP4 x\r\n", b"EHLO c\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x10\0\0", b"\r\n" * 9, b"PROXY "]
)
@pytest.mark.parametrize("then", ["rest", "close", "reset"])
def test_a_broken_header(guard: Guard, tls: Any, caplog: pytest.LogCaptureFixture, header: bytes, then: str) -> None:
    served(guard, tls, caplog, sends(header, then=then), proxy_from=["127.0.0.1"], proxy_s=0.2)


def test_a_peer_that_leaves_while_its_message_is_stored(
    guard: Guard, tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            await asyncio.sleep(0.05)
            return "250 stored"

    served(guard, tls, caplog, sends(BEGUN + b"DATA\r\nx\r\n.\r\n", then="reset"), handler=Slow())


def test_a_peer_that_leaves_a_tarpit(guard: Guard, tls: Any, caplog: pytest.LogCaptureFixture) -> None:
    guard.policy = listening.Script({"ehlo": Verdict(tarpit=0.1)})
    served(guard, tls, caplog, sends(b"EHLO c\r\n" * 9, then="reset"))


WORDS = [
    b"EHLO c", b"HELO c", b"MAIL FROM:", b"RCPT TO:", b"<a@b.example>", b"DATA", b"RSET", b"NOOP", b"VRFY", b"HELP",
    b"QUIT", b"STARTTLS", b"AUTH", b"PLAIN", b"LOGIN", b"SIZE=", b"BODY=8BITMIME", b" ", b"\r\n", b"\r\n", b"\r\n",
    b"\n", b"\r", b".", b"\0", b"\xff", b"\xc2\xb2", b"<", b">", b"@", b"(", b'"', b"\\", b"[", b"=", b"*", b"x" * 3000,
]  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(dialogue=st.lists(st.sampled_from(WORDS), max_size=60), utf8=st.booleans(), seed=st.integers(0, 9))
def test_any_dialogue(
    guard: Guard, tls: Any, caplog: pytest.LogCaptureFixture, dialogue: list[bytes], utf8: bool, seed: int
) -> None:
    caplog.clear()
    random.seed(seed)
    then = random.choice(["close", "reset"])
    served(guard, tls, caplog, sends(b"".join(dialogue), then=then), enable_SMTPUTF8=utf8)
