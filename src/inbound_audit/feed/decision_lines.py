"""Decision logs that processes name, and their lines: what is opened, and what is believed.

A process of an audit may name any file and write anything, and who looks may be root.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TypeGuard

from inbound_audit.descriptor import open_regular

Line = dict[str, Any]


@contextlib.contextmanager
def opened(path: str, user: int) -> Iterator[BinaryIO]:
    """A log that a process of `user` names: nothing but a regular file of that user is opened. Raises OSError,
    ValueError."""
    if not os.path.isabs(path):
        raise ValueError("it is not an absolute path")
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a device may set it going
        raise ValueError("it is not a regular file")
    with open_regular(path, os.O_RDONLY) as found, open(found.number, "rb", closefd=False) as file:
        if os.fstat(found.number).st_uid != user:
            raise ValueError("it belongs to another user than the process that names it (why --log FILE reads it)")
        yield file


def decisions(lines: Iterable[bytes]) -> Iterator[Line]:
    """The lines about clients that were not simply let in. What is no line of a decision log is left out."""
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if _is_line(row) and row.get("done") != "accepted":
                yield row


def _is_line(row: object) -> TypeGuard[Line]:
    """Whether it has nothing but texts and finite numbers: all else may be too deep, or no JSON, when it is written."""
    return isinstance(row, dict) and all(
        math.isfinite(value) if isinstance(value, float) else isinstance(value, (str, int, type(None)))
        for value in row.values()
    )
