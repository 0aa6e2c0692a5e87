"""A descriptor that reports changes of a directory."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import inner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "new").touch(),
        lambda place: (place / "old").unlink(),
        lambda place: (place / "old").rename(place / "other"),
        lambda place: os.utime(place / "old"),
        lambda place: (place / "old").write_text("x"),
    ],
    ids=["create", "delete", "rename", "touch", "write"],
)
def test_a_change_makes_the_descriptor_readable(tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "old").touch()
    fd = inner.watch_directory(os.fsencode(tmp_path))
    try:
        assert select.select([fd], [], [], 0)[0] == []
        change(tmp_path)
        assert select.select([fd], [], [], 60)[0] == [fd]
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "missing", "link"):
        assert inner.watch_directory(os.fsencode(tmp_path / name)) == -1


def test_one_descriptor_watches_many_directories(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    fd = inner.watch_directory(os.fsencode(tmp_path / "one"))
    try:
        number = inner.add_watch(fd, os.fsencode(tmp_path / "two"))
        assert number not in (-1, 1)
        (tmp_path / "two" / "new").touch()
        assert int.from_bytes(os.read(fd, 4096)[:4], sys.byteorder) == number
        assert inner.remove_watch(fd, number) == 0
        os.read(fd, 4096)  # says that the watch has ended
        (tmp_path / "two" / "new").unlink()
        assert select.select([fd], [], [], 0)[0] == []
        assert inner.remove_watch(fd, number) == -1
        assert inner.add_watch(fd, os.fsencode(tmp_path / "three")) == -1
    finally:
        os.close(fd)
