"""The lists of services and trees."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def owner() -> inner.Owner:
    return inner.Owner()


def test_services_have_numbers_in_the_order_in_which_they_were_added(owner: inner.Owner) -> None:
    assert owner.find_service(b"SMTP") == inner.SMTP
    assert owner.find_service(b"inbound_cidr") == inner.INBOUND_CIDR
    assert owner.add_service(b"IMAP") == 2
    assert owner.find_service(b"IMAP") == 2


@pytest.mark.parametrize("name", [b"", b"SMT", b"SMTPS", b"smtp"])
def test_a_service_is_found_by_its_exact_name(owner: inner.Owner, name: bytes) -> None:
    assert owner.find_service(name) == inner.NO_SERVICE


def test_there_is_room_for_a_number_of_services(owner: inner.Owner) -> None:
    numbers = [owner.add_service(b"S%d" % i) for i in range(inner.MAX_SERVICES)]
    assert numbers[-3:] == [inner.MAX_SERVICES - 1, inner.FULL, inner.FULL]
    assert owner.find_service(b"S%d" % (inner.MAX_SERVICES - 3)) == inner.MAX_SERVICES - 1


def test_inbound_cidr_is_a_view_of_smtp(owner: inner.Owner) -> None:
    owner.add_tree(inner.SMTP)
    # The list of the view goes on with SMTP's, through its anchor.
    assert owner.listed(inner.INBOUND_CIDR) == owner.listed(inner.SMTP) + 1 == 2


@pytest.mark.parametrize("gone", range(3))
def test_a_reader_on_a_tree_that_left_its_list_goes_on(owner: inner.Owner, gone: int) -> None:
    trees = [owner.add_tree() for _ in range(3)]
    after = owner.next_of(trees[gone])
    owner.unlink(trees[gone])
    owner.unlink(trees[gone])  # again: nothing happens
    assert owner.listed() == 2
    assert owner.next_of(trees[gone]) == after
