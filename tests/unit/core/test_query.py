"""The arguments of `inbound_session_count`."""

from __future__ import annotations

import pytest
from tests.support import inner


@pytest.fixture
def owner() -> inner.Owner:
    owner = inner.Owner()
    control = owner.add_service(b"Control")
    for service, listener in ((0, 1), (0, 2), (control, 3)):
        owner.add_tree(service, listener)
    for tree, count in enumerate((1, 10, 100)):
        owner.add(tree, "192.0.2.7", count)
        owner.add(tree, "192.0.2.8", count)
        owner.add(tree, "2001:db8::7", count)
    return owner


@pytest.mark.parametrize(
    ("cidr", "service", "count"),
    [
        (None, None, 1),  # this listener, exactly the connecting IP
        (None, b"SMTP", 11),
        (None, b"Control", 100),
        (b"/24", None, 22),
        (b"/32", None, 11),
        (b"/24,/56", b"Control", 200),
        (b"192.0.2.8", None, 11),
        (b"2001:db8::/32", None, 11),
        (b"/24", b"inbound_cidr", 22),
    ],
)
def test_a_session_counts(owner: inner.Owner, cidr: bytes | None, service: bytes | None, count: int) -> None:
    assert owner.query_sessions(0, "192.0.2.7", cidr, service) == count


def test_a_session_of_ipv6(owner: inner.Owner) -> None:
    assert owner.query_sessions(0, "2001:db8::7", b"/24,/56", None) == 11
    assert owner.query_sessions(0, "2001:db8::7", None, None) == 1


def test_a_listener_counts_its_own_sessions_below_any_prefix(owner: inner.Owner) -> None:
    assert owner.query_listener(0, b"192.0.2.0/24") == 2
    assert owner.query_listener(1, b"/24", "192.0.2.7") == 20
    assert owner.query_listener(0, b"/24") == inner.NO_PEER


def test_an_audit_has_no_connecting_ip(owner: inner.Owner) -> None:
    assert owner.query_absolute(b"192.0.2.0/24", b"Control") == 200
    assert owner.query_absolute(b"/24", b"SMTP") == inner.NO_PEER


def test_an_unknown_service_is_a_code(owner: inner.Owner) -> None:
    assert owner.query_sessions(0, "192.0.2.7", None, b"control") == inner.NO_SERVICE
    assert owner.query_absolute(b"192.0.2.7", b"POP3") == inner.NO_SERVICE
