"""Gives memory back to the system that sessions and policies have left behind: the C library keeps it otherwise."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

INTERVAL_S = 10.0
_M_ARENA_MAX = -8  # of malloc.h


async def give_back(work: Callable[[], object]) -> None:
    """Gives memory back after each interval in which work was done, until it is cancelled.

    `work` returns what changes with each session and each reload. Without glibc and its `malloc_trim`, only garbage is
    collected.
    """
    library = ctypes.CDLL(None)
    trim = getattr(library, "malloc_trim", None)
    if trim is not None:
        # One arena for all threads: `malloc_trim` keeps the free end of each further one, up to 64 MiB.
        library.mallopt(_M_ARENA_MAX, 1)
    done = work()
    while True:
        await asyncio.sleep(INTERVAL_S)
        now = work()
        if now != done:
            gc.collect()  # a session is a cycle of objects, with its buffers; a policy is one, with its Lua state
            if trim is not None:
                trim(0)
        done = now
