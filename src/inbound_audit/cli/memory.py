"""Gives memory back to the system that sessions have left behind: the C library keeps it for itself otherwise."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

INTERVAL_S = 10.0


async def give_back(opened: Callable[[], int]) -> None:
    """Gives memory back after each interval in which there were sessions, until it is cancelled.

    `opened` returns the number of sessions so far. Without glibc, whose `malloc_trim` this is, only garbage is collected.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    done = opened()
    while True:
        await asyncio.sleep(INTERVAL_S)
        now = opened()
        if now != done:
            gc.collect()  # a session is a cycle of objects, with its buffers
            if trim is not None:
                trim(0)
        done = now
