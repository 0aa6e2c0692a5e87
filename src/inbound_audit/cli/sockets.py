"""Where a command listens: parses an address, and binds sockets for it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from inbound_audit.cli.failure import Failure, reason

DEFAULT_PORT = 2525

Create = Callable[..., socket.socket]
"""`socket.create_server`, or a function with the same arguments."""

# Errors that mean "this machine has no such family", as in a container without IPv6.
_NO_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}

_ADVICE = {
    errno.EADDRINUSE: "; stop what listens there, or choose another --listen",
    errno.EADDRNOTAVAIL: "; this machine has no such address",
    errno.EACCES: "; a port below 1024 needs root or CAP_NET_BIND_SERVICE, a Unix socket a directory of this user",
}


class Endpoint(NamedTuple):
    """An address to listen on. `host` is None for all addresses of both families; port 0 lets the system choose."""

    host: str | None
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """``127.0.0.1:25``, ``[::1]:25``, ``localhost:25``; ``:25`` and ``*:25`` are both families.

        Raises ValueError.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if text.isdecimal():
            raise ValueError(f"{text!r}: write --listen :{text} for every address of this machine, or ADDRESS:{text}")
        if not colon or (text.count(":") > 1 and not bracketed):
            raise ValueError(f"{text!r}: write ADDRESS:PORT, with an IPv6 address in brackets, such as [::1]:2525")
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError(f"{text!r}: {port!r} is not a port from 0 to 65535")
        host = host[1:-1] if bracketed else host
        return cls(None if host in ("", "*") and not bracketed else host, int(port))

    def __str__(self) -> str:
        return f"{bracket(self.host or '*')}:{self.port}"


class UnixEndpoint(NamedTuple):
    """A Unix socket to listen on; `mode` is who may connect, as bits of a file."""

    path: str
    mode: int = 0o660

    @classmethod
    def parse(cls, text: str) -> Endpoint | UnixEndpoint:
        """``unix:/run/mail/milter``, ``inet:127.0.0.1:8893``, and what `Endpoint.parse` reads. Raises ValueError."""
        kind, colon, rest = text.partition(":")
        if not colon or kind not in ("unix", "local", "inet", "inet6"):
            return Endpoint.parse(text)
        if kind in ("inet", "inet6"):
            port, at, host = rest.partition("@")  # libmilter writes PORT@HOST
            return Endpoint.parse(f"{bracket(host)}:{port}" if at else rest)
        if not rest.startswith("/"):
            raise ValueError(f"{text!r}: write an absolute path, such as unix:/run/inbound-audit/milter")
        if len(os.fsencode(rest)) > _MAX_PATH_BYTES:
            raise ValueError(f"{text!r}: the path of a Unix socket has at most {_MAX_PATH_BYTES} bytes")
        return cls(rest)

    def __str__(self) -> str:
        return f"unix:{self.path}"


_MAX_PATH_BYTES = 107
"""unix(7): 108 with the zero byte at its end."""

_FIRST_HANDED = 3
"""The first descriptor that systemd hands over (SD_LISTEN_FDS_START)."""

_LOCK_S = 10.0
"""Seconds until a process that makes a Unix socket is taken for one that stands still."""

# Used when no --listen is given: this machine alone, in the families that it has.
LOCAL = (Endpoint("127.0.0.1", DEFAULT_PORT), Endpoint("::1", DEFAULT_PORT))


def bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def name_of(listening: socket.socket) -> str:
    """``127.0.0.1:2525`` or ``[::1]:2525``, with the port that the system chose; ``unix:/run/mail/milter``."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"{bracket(host)}:{port}"


def bind(
    endpoints: Sequence[Endpoint | UnixEndpoint],
    default: Sequence[Endpoint | UnixEndpoint] = LOCAL,
    *,
    unix: bool = False,
) -> list[socket.socket]:
    """Binds sockets for the endpoints. Without any it returns those that systemd hands over (with `unix` Unix sockets,
    too), or binds sockets for `default`. Raises Failure and leaves none bound."""
    if are_handed_over():
        if endpoints:
            raise Failure("--listen and sockets of systemd: leave out --listen, or stop the unit of the sockets")
        return _handed_over(unix)
    return _bind(endpoints, socket.create_server, default)


def hold(endpoints: Sequence[Endpoint]) -> list[socket.socket]:
    """Like `bind`, but its own sockets do not listen: they keep the addresses and ports for the sockets of `beside`."""
    return bind(endpoints) if are_handed_over() else _bind(endpoints, _hold, LOCAL)


def are_handed_over() -> bool:
    """Whether systemd hands sockets over to this process (sd_listen_fds(3)), and they have not been taken yet."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0"


def _handed_over(unix: bool) -> list[socket.socket]:
    """The sockets that systemd hands over; once. Raises Failure for one at which nothing can be accepted."""
    number = os.environ["LISTEN_FDS"]
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if re.fullmatch("[0-9]{1,4}", number) is None:
        raise Failure(f"$LISTEN_FDS is no number of sockets: {number:.40}")
    families = (socket.AF_INET, socket.AF_INET6, *[socket.AF_UNIX] * unix)
    with ExitStack() as undo:
        handed = []
        for fd in range(_FIRST_HANDED, _FIRST_HANDED + int(number)):
            try:
                os.set_inheritable(fd, False)
                handed.append(undo.enter_context(socket.socket(fileno=fd)))
                listens = _listens(handed[-1])
            except OSError as error:
                raise Failure(f"descriptor {fd} of systemd is no socket: {reason(error)}") from None
            if not listens or handed[-1].type != socket.SOCK_STREAM or handed[-1].family not in families:
                kinds = "ADDRESS:PORT or a path" if unix else "ADDRESS:PORT"
                raise Failure(f"socket {fd} of systemd: write ListenStream={kinds} and Accept=no into its unit")
        undo.pop_all()
        return handed


def _listens(bound: socket.socket) -> bool:
    """Raises OSError."""
    return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def beside(held: Iterable[socket.socket]) -> list[socket.socket]:
    """Binds one more socket at the address of each held one; a connection goes to one of the sockets that listen. One
    of systemd listens already: all accept from it.

    Raises Failure and leaves none bound.
    """
    with ExitStack() as undo:
        bound = []
        for address in held:
            try:
                bound.append(undo.enter_context(address.dup() if _listens(address) else _share(address)))
            except OSError as error:
                raise Failure(f"cannot listen on {name_of(address)}: {reason(error)}") from None
        undo.pop_all()
        return bound


def _bind(
    endpoints: Sequence[Endpoint | UnixEndpoint], create: Create, default: Sequence[Endpoint | UnixEndpoint]
) -> list[socket.socket]:
    with ExitStack() as undo:
        bound = []
        for endpoint in endpoints or default:
            try:
                bound += [undo.enter_context(listening) for listening in _sockets(endpoint, create)]
            except OSError as error:
                if not endpoints and error.errno in _NO_FAMILY:
                    continue
                advice = _ADVICE.get(error.errno or 0, "")
                raise Failure(f"cannot listen on {endpoint}: {reason(error)}{advice}") from None
        if not bound:
            raise Failure("cannot listen: this machine has neither 127.0.0.1 nor ::1; name an address with --listen")
        undo.pop_all()
        return bound


def _sockets(endpoint: Endpoint | UnixEndpoint, create: Create) -> Iterator[socket.socket]:
    if isinstance(endpoint, UnixEndpoint):
        yield _unix(endpoint)
        return
    if endpoint.host is None:
        yield _both_families(endpoint.port, create)
        return
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        # Without dualstack_ipv6 an IPv6 socket accepts IPv6 only, so that 0.0.0.0 and [::] can both be bound.
        yield create(address[:2] if family == socket.AF_INET else address, family=family)


def _both_families(port: int, create: Create) -> socket.socket:
    """One socket for both families, so that port 0 is one port."""
    if socket.has_dualstack_ipv6():
        try:
            return create(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_FAMILY:
                raise
    return create(("0.0.0.0", port))


def _unix(endpoint: UnixEndpoint) -> socket.socket:
    """A socket of that path. What a server that has ended left there is removed; one that listens there is not.
    Raises OSError, and Failure as `_locked` does."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(os.path.dirname(endpoint.path)):
            if _is_abandoned(endpoint.path):
                os.unlink(endpoint.path)
            before = os.umask(0o777 & ~endpoint.mode)
            try:
                listening.bind(endpoint.path)
            finally:
                os.umask(before)
            listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Holds the lock of a directory (flock(2)), so that no starter takes the socket that another makes there for
    abandoned. The kernel releases it at any death, and no file is left. Raises OSError, and Failure after `_LOCK_S`."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Failure(
                        f"another process holds the lock of {directory}: stop it, or choose another directory"
                    ) from None
            time.sleep(0.02)
        yield
    finally:
        os.close(held)


def _is_abandoned(path: str) -> bool:
    """Whether a path is a socket on which no process listens. Raises OSError."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # a full queue means that a process listens
        return caller.connect_ex(path) == errno.ECONNREFUSED


def _hold(
    address: Any, *, family: int = socket.AF_INET, dualstack_ipv6: bool = False, shared: bool = False
) -> socket.socket:
    """`socket.create_server` without `listen`; later sockets may share the address. With `shared` it is such a one."""
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dualstack_ipv6)
        if shared:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
        # After `bind`: before it, another server of the same user with the same option would not be noticed, and the
        # two would divide the connections between them.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        held.close()
        raise
    return held


def _share(held: socket.socket) -> socket.socket:
    both = held.family == socket.AF_INET6 and not held.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return _hold(held.getsockname(), family=held.family, dualstack_ipv6=both, shared=True)
