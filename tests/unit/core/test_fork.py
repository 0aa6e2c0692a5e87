"""`fork`: open files that stay locked by a mapping; forks themselves are tested in `tests/system/test_forks.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from inbound_audit import _ipcount
from inbound_audit.shared import owner_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="OFD locks are Linux's")


def is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return owner_file.has_owner(fd)
    finally:
        os.close(fd)


def test_a_lock_outlives_its_descriptor_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    assert owner_file.lock(fd)
    held = _ipcount.HeldFile(fd)
    os.close(fd)
    assert is_locked(path)
    held.release()
    held.release()
    assert not is_locked(path)


def test_a_lock_goes_with_what_held_it(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    owner_file.lock(fd)
    held = _ipcount.HeldFile(fd)
    os.close(fd)
    del held
    assert not is_locked(path)


def test_what_can_not_be_mapped_is_an_error() -> None:
    read, write = os.pipe()
    with pytest.raises(OSError, match="No such device"):
        _ipcount.HeldFile(read)
    os.close(read)
    os.close(write)


def test_no_fork_is_handled_where_none_was() -> None:
    assert not _ipcount.fork_is_pending()
    _ipcount.handle_fork()
    assert not _ipcount.fork_is_pending()
