"""Files that a user asks for: whole, or as they were."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from tests.support.failing_calls import full_disk

from inbound_audit.output_file import write

OLD, NEW = b"what was there", b"x" * 20_000


@pytest.mark.parametrize("replace", [True, False])
def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "other").touch()
    write(tmp_path / "file", NEW, replace=replace)
    assert (tmp_path / "file").read_bytes() == NEW
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(OLD)
    file.chmod(0o640)
    link.symlink_to("file")
    write(link, NEW)
    assert file.read_bytes() == NEW
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_nothing_is_replaced_without_being_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "link").symlink_to("nothing")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            write(tmp_path / name, NEW, replace=False)
    assert (tmp_path / "file").read_bytes() == OLD
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_on_a_full_disk_the_old_file_stays_and_no_piece_of_a_new_one_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for name, replace in (("file", True), ("new", True), ("new", False)):
        with pytest.raises(OSError, match="too large"), full_disk(4096):
            write(tmp_path / name, NEW, replace=replace)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == OLD


def test_a_pipe_is_written_to_and_a_directory_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=write, args=(tmp_path / "pipe", NEW))
    writing.start()
    assert (tmp_path / "pipe").read_bytes() == NEW
    writing.join()
    with pytest.raises(IsADirectoryError):
        write(tmp_path, NEW)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255), OLD)
    write(tmp_path / ("n" * 255), NEW)
    assert (tmp_path / ("n" * 255)).read_bytes() == NEW
