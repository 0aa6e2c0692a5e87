"""What ends a command with exit status 1: the command line made sense, the world did not go along."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import Final, TextIO

import click

_PIECE: Final = select.PIPE_BUF // 4
"""Characters that a pipe takes at once if it takes any (poll(2))."""


class Failure(click.ClickException):
    """Something failed at run time. The message is one line and says what to do."""

    exit_code = 1


def reason(error: OSError) -> str:
    """The system's words for an error, without number and path: ``address already in use``."""
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    return text[:1].lower() + text[1:]


def abandon_output() -> None:
    """Standard output cannot be written: what is still buffered for it must not fail once more when Python exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(io.UnsupportedOperation):  # another object may stand in its place
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def write_line(stream: TextIO | None, line: str) -> bool:
    """Writes a line, unless that would wait for what reads the stream. Returns whether it was written.

    A long line whose reader stops in the middle of it is cut off. Raises OSError.
    """
    if stream is None:  # closed when Python started
        return True
    line += "\n"
    for begin in range(0, len(line), _PIECE):
        if _would_wait(stream):
            return False
        stream.write(line[begin : begin + _PIECE])
        stream.flush()
    return True


def _would_wait(stream: TextIO) -> bool:
    try:
        return not select.select([], [stream], [], 0)[1]
    except ValueError:  # no file of the system stands behind it
        return False
