"""One agent per audit and host: the others wait, and one takes over at any end of the first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.sharing import Workers

from inbound_audit.cluster.agent_lock import NAME, AgentLock
from inbound_audit.errors import SharedStateError
from inbound_audit.shared.directory import SharedDirectory

pytestmark = pytest.mark.system

TAKE = """
from inbound_audit.cluster.agent_lock import AgentLock
from inbound_audit.shared.directory import SharedDirectory
lock = AgentLock(SharedDirectory("mail"))
"""


@pytest.fixture
def directory(place: Path) -> Iterator[SharedDirectory]:
    made = SharedDirectory("mail")
    yield made
    made.close()


def test_one_of_two_has_the_lock(directory: SharedDirectory) -> None:
    first, second = AgentLock(directory), AgentLock(directory)
    assert first.take()
    assert not second.take()
    assert first.take()
    first.release()
    first.release()
    assert directory.names() == []
    assert second.take()
    assert not first.take()
    second.release()


def test_the_lock_is_free_after_a_kill(directory: SharedDirectory, hire: Workers) -> None:
    worker = hire()
    worker.do(TAKE)
    assert worker.do("lock.take()") is True
    mine = AgentLock(directory)
    assert not mine.take()
    worker.kill()
    worker.await_end()
    assert mine.take()
    mine.release()


def test_a_lock_whose_file_was_removed_is_lost(directory: SharedDirectory) -> None:
    """Else a later agent would lock a new file, and two would be at work."""
    first, second = AgentLock(directory), AgentLock(directory)
    assert first.take()
    directory.remove(NAME)
    assert second.take()
    assert not first.take()
    first.release()  # which leaves the other one's file alone
    assert second.take()
    second.release()
    assert directory.names() == []


def test_a_lock_that_was_lost_is_taken_again_where_it_is_free(directory: SharedDirectory) -> None:
    lock = AgentLock(directory)
    assert lock.take()
    directory.remove(NAME)
    assert lock.take()
    assert directory.names() == [NAME]
    lock.release()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("elsewhere", path)])
def test_what_is_no_file_is_refused(directory: SharedDirectory, make: object) -> None:
    make(os.path.join(directory.path, NAME))  # type: ignore[operator]
    with pytest.raises(SharedStateError, match=NAME):
        AgentLock(directory).take()
