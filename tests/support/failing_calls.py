"""Calls to the system that fail: a function of `os` once, and what is written to a disk that is full."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Failing:
    """The n-th call of a function of `os` for what lies in a directory fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: Path, name: str, number: int) -> None:
        self._real: Callable[..., Any] = getattr(os, name)
        self._place = str(place)
        self.error = number
        self.fails_at = self.calls = 0
        monkeypatch.setattr(os, name, self._call)

    def _call(self, path: Any, *arguments: Any, **keywords: Any) -> Any:
        if not isinstance(path, int) and os.fspath(path).startswith(self._place):
            self.calls += 1
            if self.calls == self.fails_at:
                raise OSError(self.error, os.strerror(self.error), os.fspath(path))
        return self._real(path, *arguments, **keywords)


@contextlib.contextmanager
def full_disk(room: int = 10) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes: the call that would write more fails (EFBIG)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
