"""What ends a command with exit status 1: the command line made sense, the world did not go along."""

from __future__ import annotations

import contextlib
import io
import os
import sys

import click


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
