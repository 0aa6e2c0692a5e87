"""A session in its listener's tree: counted from `add_session` to `remove_session`, once."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_a_session_is_counted_until_it_is_removed_and_removed_once(host: str) -> None:
    owner = inner.Owner()
    tree = owner.add_tree()
    assert inner.session_steps(owner, tree, host, "+--") == [
        (inner.OK, True, 1),
        (None, False, 0),
        (None, False, 0),
    ]


def test_nothing_is_counted_in_a_tree_that_has_ended() -> None:
    owner = inner.Owner()
    assert inner.session_steps(owner, owner.add_tree(), "192.0.2.7", "x+-") == [
        (None, False, 0),
        (inner.CLOSED, False, 0),
        (None, False, 0),
    ]


def test_a_session_of_an_earlier_epoch_removes_nothing() -> None:
    """The audit was closed while the session was open: what is counted now is not the session's."""
    owner = inner.Owner()
    assert inner.session_steps(owner, owner.add_tree(), "192.0.2.7", "+x-")[-1] == (None, False, 1)
