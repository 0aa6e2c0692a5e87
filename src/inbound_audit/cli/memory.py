"""Gives memory back to the system that sessions have left behind: the C library keeps it for itself otherwise."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

INTERVAL_S = 10.0


async def give_back(sessions: Callable[[], object]) -> None:
    """Gives memory back after each interval in which sessions began or ended, until it is cancelled.

    `sessions` returns what changes with each of them. Without glibc and its `malloc_trim`, only garbage is collected.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    done = sessions()
    while True:
        await asyncio.sleep(INTERVAL_S)
        now = sessions()
        if now != done:
            gc.collect()  # a session is a cycle of objects, with its buffers
            if trim is not None:
                trim(0)
        done = now
