"""Builds the SMTP client in client.c into .bench/, with the compiler that built Python, and runs it. Linux only.

The client in `mail` is Python, and costs about what its server does. Two workers on two processors share these with the
client, and that one would be what is measured: when a connection costs the server w and the client c, two processors
serve no more than 2w / (w + c) times what one does that has no client on it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.scale import OUT

QUIT = ("220", "QUIT", "221")
MESSAGE = (
    "220", "EHLO client.example",
    "250", "MAIL FROM:<from@client.example>",
    "250", "RCPT TO:<to@bench.example>",
    "250", "DATA",
    "354", "From: <from@client.example>\r\nTo: <to@bench.example>\r\nSubject: one of many\r\n\r\nHello.\r\n.",
    "250", *QUIT[1:],
)  # fmt: skip
"""Dialogues: a reply code, what is sent after it, the next code, and so on."""

NAP = 500  # microseconds between two looks; each step of a dialogue waits half of that
SECONDS_MOST = 120.0

_SOURCE = Path(__file__).with_suffix(".c")
_BUILT = OUT / "client"


class Driven(NamedTuple):
    """What a run of the client came to."""

    rate: float
    """Connections a second."""
    made: int
    """Connections in all: those before and after the measured ones included."""
    used: float
    """Seconds of the client's processor time for each of them."""


def load_client() -> Path:
    """The program, compiled if it is not there or older than its source.

    Raises OSError where there is no compiler, or no Linux.
    """
    if sys.platform != "linux":
        raise OSError("the client waits with epoll, and comes from many addresses of 127.0.0.0/8")
    OUT.mkdir(exist_ok=True)
    if not _BUILT.exists() or _BUILT.stat().st_mtime < _SOURCE.stat().st_mtime:
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        subprocess.run([*compiler, "-O2", "-o", str(_BUILT), str(_SOURCE)], check=True)
    return _BUILT


ADDRESSES = "127.64.0.0"
OTHER_ADDRESSES = "127.128.0.0"
"""The first of the 2^22 addresses that the connections come from."""


def command(
    port: int,
    number: int,
    in_flight: int,
    dialogue: Sequence[str] = QUIT,
    *,
    first: str = ADDRESSES,
    nap_us: int = NAP,
) -> list[str]:
    return [str(load_client()), str(port), str(number), str(in_flight), str(nap_us), first, *dialogue]


def drive(port: int, number: int, in_flight: int, dialogue: Sequence[str] = QUIT, *, first: str = ADDRESSES) -> Driven:
    """Measures `number` connections of `number + 2 * in_flight` that it makes, so many at a time. An empty dialogue is
    a server that ends the connection and says nothing.

    Raises RuntimeError with the client's words when a reply is not the expected one, or none comes.
    """
    wanted = command(port, number, in_flight, dialogue, first=first)
    done = subprocess.run(wanted, capture_output=True, text=True, timeout=SECONDS_MOST)
    if done.returncode:
        raise RuntimeError(f"the SMTP client: {done.stderr.strip()}")
    seconds, used = map(float, done.stdout.split())
    return Driven(number / seconds, number + 2 * in_flight, used / number)
