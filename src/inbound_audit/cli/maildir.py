"""The handlers of `serve`: messages are kept in a Maildir, or discarded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mailbox
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inbound_audit.cli.failure import Failure, reason
from inbound_audit.descriptor import make_directories, sync_directory
from inbound_audit.log_limiter import LogLimiter

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, Envelope, Session

logger = logging.getLogger("inbound_audit.serve")


_PIECE_BYTES = 1 << 16


class Discard:
    """An aiosmtpd handler that accepts every message and keeps none."""

    def __init__(self) -> None:
        self._errors = LogLimiter(logger)

    async def handle_exception(self, error: Exception) -> str:
        """The reply tells the peer to try again later, not what broke."""
        self._errors.report(logging.ERROR, "an SMTP command failed: %s: %s", type(error).__name__, error)
        return "451 4.3.0 local error, try again later"

    def close(self) -> None:
        """Waits until all messages are written."""


class Maildir(Discard):
    """An aiosmtpd handler that writes each message into a Maildir, and replies 250 when it is written.

    Raises Failure if the directory can't be made, or no thread can be started.

    One thread writes: a slow disk delays only the sessions that wait for it, and the standard library's Maildir names
    its files by a counter that is not safe in two threads.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        path = Path(os.path.abspath(directory))
        try:
            for part in ("tmp", "new", "cur"):
                make_directories(str(path / part), mode_above=0o777)
            for above in (path, *path.parents):  # also what a process had made that ended before this
                with contextlib.suppress(PermissionError):  # one that we can't read was not made by us
                    sync_directory(above)
            self._box = _open_box(path)
        except OSError as error:
            raise Failure(f"--maildir {directory}: {reason(error)}") from None
        self._new = path / "new"
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="maildir")
        try:
            self._writer.submit(os.getpid)  # starts the thread: no message finds that the system has none to give
        except RuntimeError as error:
            raise Failure(f"--maildir {directory}: {error}") from None

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        message: Any = _Pieces(trace(server, session, envelope), envelope.original_content or b"")
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer, self._store, message)
        except (OSError, mailbox.Error) as error:
            self._errors.report(logging.ERROR, "a message could not be stored: %s", error)
            return "451 4.3.0 the message could not be stored, try again later"
        return "250 2.0.0 OK"

    def _store(self, message: Any) -> None:
        """When this returns, the message survives a power failure. Raises OSError and mailbox.Error."""
        self._box.add(message)
        sync_directory(self._new)  # mailbox syncs the file, not its name

    def close(self) -> None:
        self._writer.shutdown()


def _open_box(path: Path) -> mailbox.Maildir:
    """The standard library's Maildir of a directory. Raises OSError with the true cause: the library takes one that it
    can't read for one that is not there."""
    try:
        return mailbox.Maildir(path, factory=None, create=False)
    except mailbox.NoSuchMailboxError:
        os.stat(path)
        return mailbox.Maildir(path, factory=None, create=False)


class _Pieces:
    """A message as a file for `mailbox`: in pieces of whole lines, as one copy of a message would need its memory again
    and a piece for each line much time. `body` has lines with CRLF, all of them."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self._pieces = self._cut(head, body)

    @staticmethod
    def _cut(head: bytes, body: bytes) -> Iterator[bytes]:
        yield head
        begin = 0
        while begin < len(body):
            end = body.find(b"\n", begin + _PIECE_BYTES) + 1 or len(body)
            yield body[begin:end].replace(b"\r\n", b"\n")
            begin = end

    def readline(self) -> bytes:
        return next(self._pieces, b"")

    read = readline


def trace(server: SMTP, session: Session, envelope: Envelope) -> bytes:
    """The header lines that the last hop adds (RFC 5321, 4.4); behind a balancer they name the real client."""
    counted = getattr(server, "inbound_session", None)
    peer = counted.remote_ip if counted is not None else "unknown"
    literal = f"[IPv6:{peer}]" if ":" in peer else f"[{peer}]"
    protocol = ("ESMTP" if session.extended_smtp else "SMTP") + ("S" if session.ssl else "")
    lines = [
        f"Return-Path: <{envelope.mail_from or ''}>",
        *(f"Delivered-To: {recipient}" for recipient in envelope.rcpt_tos),
        f"Received: from {session.host_name or 'unknown'} ({literal}) by {server.hostname} with {protocol};"
        f" {formatdate(localtime=True)}",
    ]
    return "".join(_printable(line) + "\n" for line in lines).encode("ascii", "replace")


def _printable(line: str) -> str:
    """Replaces the control characters that a peer may have put into a name."""
    return "".join(character if character.isprintable() else "?" for character in line)
