"""Where `serve` listens: the text of an address, and the sockets that are bound for it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from inbound_audit.cli.failure import Failure, reason

DEFAULT_PORT = 2525

# Errors that mean "this machine has no such family", as in a container without IPv6.
_NO_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}

_ADVICE = {
    errno.EADDRINUSE: "; stop what listens there, or choose another --listen",
    errno.EADDRNOTAVAIL: "; this machine has no such address",
    errno.EACCES: "; a port below 1024 needs root or CAP_NET_BIND_SERVICE",
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
        if not colon or (text.count(":") > 1 and not bracketed):
            raise ValueError(f"{text!r}: write ADDRESS:PORT, with an IPv6 address in brackets, such as [::1]:2525")
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError(f"{text!r}: {port!r} is no port between 0 and 65535")
        host = host[1:-1] if bracketed else host
        return cls(None if host in ("", "*") and not bracketed else host, int(port))

    def __str__(self) -> str:
        return f"{bracket(self.host or '*')}:{self.port}"


# Used when no --listen is given: this machine alone, in the families that it has.
LOCAL = (Endpoint("127.0.0.1", DEFAULT_PORT), Endpoint("::1", DEFAULT_PORT))


def bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def name_of(listening: socket.socket) -> str:
    """``127.0.0.1:2525`` or ``[::1]:2525``, with the port that the system chose."""
    host, port = listening.getsockname()[:2]
    return f"{bracket(host)}:{port}"


def bind(endpoints: Iterable[Endpoint]) -> list[socket.socket]:
    """Bound sockets for the endpoints, or for `LOCAL` without any. Raises Failure, and then none is left bound."""
    endpoints = list(endpoints)
    with ExitStack() as undo:
        bound = []
        for endpoint in endpoints or LOCAL:
            try:
                bound += [undo.enter_context(listening) for listening in _sockets(endpoint)]
            except OSError as error:
                if not endpoints and error.errno in _NO_FAMILY:
                    continue
                advice = _ADVICE.get(error.errno or 0, "")
                raise Failure(f"cannot listen on {endpoint}: {reason(error)}{advice}") from None
        if not bound:
            raise Failure("cannot listen: this machine has neither 127.0.0.1 nor ::1; name an address with --listen")
        undo.pop_all()
        return bound


def _sockets(endpoint: Endpoint) -> Iterator[socket.socket]:
    if endpoint.host is None:
        yield _both_families(endpoint.port)
        return
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        # Without dualstack_ipv6 an IPv6 socket takes IPv6 alone, so that 0.0.0.0 and [::] can stand side by side.
        yield socket.create_server(address[:2] if family == socket.AF_INET else address, family=family)


def _both_families(port: int) -> socket.socket:
    """One socket for both, so that port 0 is one port."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_FAMILY:
                raise
    return socket.create_server(("0.0.0.0", port))
