"""How a process of a shared audit is asked to change its own counts: one JSON object per line over a Unix socket.

server      the socket of a process and the thread that handles requests
client      sends a request to several processes at once

The commands and their fields are in `series.requests`, which handles them.
"""

from __future__ import annotations

from inbound_audit.shared.directory import Directory

MAX_REQUEST = 1 << 20
"""Bytes of a request."""


def file_of(owner_id: str) -> str:
    """The name of an owner's socket."""
    return f"{owner_id}.control"


def path_of(place: Directory, owner_id: str) -> str:
    """Where it is, in few enough bytes for the address of a socket, whatever the directory's own path."""
    return f"/proc/self/fd/{place.fd}/{file_of(owner_id)}"
