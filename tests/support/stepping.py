"""A process that is stopped after each of its instructions, as by a scheduler that takes its processor away there.

Linux on x86-64. On aarch64 a step ends the reservation of an exclusive load, so a lock would never be taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterator

from tests.support.forking import UNDER_ASAN
from tests.support.sharing import Worker

SINGLESTEP, DETACH, SEIZE = 9, 17, 0x4206
EXITKILL = 0x100000  # the process ends with the tests
WALL = 0x40000000

_call = ctypes.CDLL(None, use_errno=True).ptrace
_call.argtypes = [ctypes.c_long] * 4
_call.restype = ctypes.c_long

UNSTEPPABLE = (
    "a sanitizer multiplies the instructions"
    if UNDER_ASAN
    else ""
    if sys.platform == "linux" and platform.machine() == "x86_64"
    else "the instructions of this machine are not stepped over"
)
"""Why no process can be stepped here; empty if one can."""


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _call(request, pid, 0, data) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace({request}): {os.strerror(ctypes.get_errno())}")


def _await_stop(pid: int) -> int:
    """The signal for which it has stopped."""
    status = os.waitpid(pid, WALL)[1]
    assert os.WIFSTOPPED(status), f"the worker has ended: {status:#x}"
    return os.WSTOPSIG(status)


def steps(worker: Worker, code: str) -> Iterator[None]:
    """Runs code in a worker, and yields after each instruction of the thread that runs it; its other threads go on.

    Raises PermissionError where the system lets no process trace another one.
    """
    _ptrace(SEIZE, worker.pid, EXITKILL)
    try:
        worker.start(f"from signal import SIGSTOP, raise_signal\nraise_signal(SIGSTOP)\n{code}\nraise_signal(SIGSTOP)")
        number = _await_stop(worker.pid)
        assert number == signal.SIGSTOP, number
        while True:
            _ptrace(SINGLESTEP, worker.pid)
            number = _await_stop(worker.pid)
            if number == signal.SIGSTOP:
                break
            assert number == signal.SIGTRAP, number
            yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            _ptrace(DETACH, worker.pid)
    worker.result()
