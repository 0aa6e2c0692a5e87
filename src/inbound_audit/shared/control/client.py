"""How to ask a process of a shared audit for something that only it can do: change its own counts.

Beside its file ``ID.owner`` each has a Unix socket ``ID.control``, that is its user's alone. A connection is one
question and one answer, each a JSON object in a line:

    {"do": "remove", "series": "failures", "key": "192.0.2.7"}
    {"ok": true, "defined": true}
    {"ok": false, "error": "..."}

`series.requests` lists the commands; `server` is the other side of the socket.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from inbound_audit.errors import SharedStateError
from inbound_audit.shared.control import MAX_REQUEST, file_of, path_of
from inbound_audit.shared.directory import Directory

if TYPE_CHECKING:
    from inbound_audit.shared.scanner import OwnerInfo

TIMEOUT_S = 2.0
"""Seconds to wait for answers, by default."""

BRIEF_TIMEOUT_S = 0.3
"""For what can be shown without their answers, so that a process that is stopped holds up nothing."""

MAX_ANSWER = 1 << 24
"""Bytes of an answer that are read."""

_SOCKET_GRACE_S = 0.3  # seconds: a process has its file a moment before its socket
_RETRY_DELAY_S = 0.01  # seconds between two tries to connect
_NOT_YET = (errno.ENOENT, errno.ECONNREFUSED)

Answer = dict[str, object]


def request_all(
    place: Directory, owner_ids: Iterable[str], message: Mapping[str, object], timeout: float = TIMEOUT_S
) -> dict[str, Answer | SharedStateError]:
    """Sends a request to several processes at once. Returns the answer of each, or why it has not answered after
    `timeout` seconds.

    Raises SharedStateError if the request is too long, or no descriptor is left.
    """
    line = json.dumps(message).encode() + b"\n"
    if len(line) > MAX_REQUEST:
        raise SharedStateError(f"a request of {len(line)} bytes; {MAX_REQUEST} are possible")
    asking: dict[str, _PendingRequest] = {}
    try:
        for owner_id in owner_ids:
            asking[owner_id] = _PendingRequest(path_of(place, owner_id), line)
        _exchange(list(asking.values()), time.monotonic() + timeout)
        late = SharedStateError(f"did not answer within {timeout:g} s")
        return {owner_id: one.answer or late for owner_id, one in asking.items()}
    except OSError as error:
        raise SharedStateError(f"no process can be asked: {error.strerror}") from None
    finally:
        for one in asking.values():
            one.close()


def request_owners(
    place: Directory, owners: Iterable[OwnerInfo], message: Mapping[str, object], timeout: float = TIMEOUT_S
) -> tuple[dict[str, Answer], list[str]]:
    """As `request_all`. Returns the answers of the processes that have carried the request out, by owner id, and a
    sentence for each of the others."""
    pids = {owner.id: owner.pid for owner in owners}
    answers: dict[str, Answer] = {}
    failures = []
    for owner_id, answer in request_all(place, pids, message, timeout).items():
        if isinstance(answer, SharedStateError):
            failures.append(f"process {pids[owner_id]} {answer}")
        elif not answer["ok"]:
            failures.append(f"process {pids[owner_id]} refused: {answer.get('error')}")
        else:
            answers[owner_id] = answer
    return answers, failures


def has_members(row: object, members: Mapping[str, Any]) -> TypeGuard[dict[str, Any]]:
    """Whether a part of an answer, which may be anything, has these members, each of its class."""
    return isinstance(row, dict) and all(name in row and isinstance(row[name], kind) for name, kind in members.items())


def user_of(place: Directory, owner_id: str) -> int | None:
    """Whose the socket of an owner is; None if it is gone."""
    try:
        return os.stat(file_of(owner_id), dir_fd=place.fd, follow_symlinks=False).st_uid
    except OSError:
        return None


def _exchange(asking: list[_PendingRequest], deadline: float) -> None:
    while waiting := [one for one in asking if one.answer is None]:
        left = deadline - time.monotonic()
        if left <= 0:
            return
        poll = select.poll()
        connected = {}
        for one in waiting:
            if one.connect():
                connected[one.socket.fileno()] = one
                poll.register(one.socket, select.POLLIN | (select.POLLOUT if one.unsent else 0))
        pause = left if len(connected) == len(waiting) else min(left, _RETRY_DELAY_S)
        for fd, _ in poll.poll(1000 * pause):
            connected[fd].step()


class _PendingRequest:
    """A question on its way to one process."""

    def __init__(self, path: str, line: bytes) -> None:
        self.answer: Answer | SharedStateError | None = None
        self.unsent = memoryview(line)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._path = path
        self._connected = False
        self._born_by = time.monotonic() + _SOCKET_GRACE_S
        self._received = bytearray()

    def connect(self) -> bool:
        """Whether there is a connection; if there can't be one, that is the answer."""
        if not self._connected and self.answer is None:
            try:
                self.socket.connect(self._path)
                self._connected = True
            except BlockingIOError:  # others are before us
                pass
            except OSError as error:
                if error.errno not in _NOT_YET or time.monotonic() > self._born_by:
                    self.answer = SharedStateError(_why_not_connected(error))
        return self._connected

    def step(self) -> None:
        """Sends and receives what is possible now."""
        try:
            if self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent, socket.MSG_NOSIGNAL) :]
            piece = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:  # it has gone, or let us go
            self.answer = SharedStateError(f"has not answered: {error.strerror}")
            return
        self._received += piece
        if not piece:
            self.answer = SharedStateError("closed the connection without an answer")
        elif self._received.endswith(b"\n"):
            self.answer = _parsed(self._received)
        elif len(self._received) > MAX_ANSWER:
            self.answer = SharedStateError("sends an answer without an end")

    def close(self) -> None:
        self.socket.close()


def _why_not_connected(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "belongs to another user; that user and root may ask it"
    if error.errno in _NOT_YET:
        return "accepts no requests, or has just ended"
    return f"can't be reached: {error.strerror}"


def _parsed(line: bytearray) -> Answer | SharedStateError:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        return SharedStateError("sent a malformed answer")
    return answer
