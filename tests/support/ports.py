"""Ports for servers that have to be told one."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 10_000, 32_000
"""Linux hands out none of these by itself (`net.ipv4.ip_local_port_range`). One that it does hand out may become the
port of a connection, or of a server in another process, between the look at it and its use."""

_draw = random.SystemRandom()
_handed_out: set[int] = set()


def free_ports(number: int) -> list[int]:
    """Ports that nothing uses, each of them once in this process."""
    found: list[int] = []
    while len(found) < number:
        port = _draw.randrange(FIRST, LAST)
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            found.append(port)
    return found


def low_port() -> int | None:
    """A free port that only root may bind, None if there is none."""
    ports = range(600, 1024)
    return next((port for port in _draw.sample(ports, len(ports)) if _is_free(port)), None)


def _is_free(port: int) -> bool:
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as one:
                one.bind(("", port))
    except OSError:
        return False
    return True
