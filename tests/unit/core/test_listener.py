"""Counts of one listener. A second listener of the same service has sessions in every prefix that is counted."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gold import GoldCounter
from tests.support.strategies import addresses, length_for

from inbound_audit import InboundAudit
from inbound_audit.errors import CidrError


@pytest.fixture
def two():
    with InboundAudit() as audit:
        yield audit.listener("SMTP", "mx"), audit.listener("SMTP", "submission")


def test_a_prefix_of_a_listener(two):
    mx, submission = two
    with mx.session("192.0.2.7") as ac, submission.session("192.0.2.8"), submission.session("2001:db8::7"):
        assert mx.inbound_session_count("192.0.2.0/24") == 1
        assert mx.inbound_session_count("0.0.0.0/0") == 1
        assert mx.inbound_session_count("192.0.2.8") == 0
        assert mx.inbound_session_count("/24", ac) == 1
        assert mx.inbound_session_count("/24,/56", ac) == 1
        assert submission.inbound_session_count("/24", ac) == 1
        assert submission.inbound_session_count(None, ac) == 0
        assert ac.inbound_session_count("/24") == 2  # the service
        assert (mx.inbound_session_count(), submission.inbound_session_count()) == (1, 2)


def test_what_is_no_prefix(two):
    mx, _ = two
    for wrong in ("/24", "", "x", "192.0.2.0/33", "192.0.2.7\0", 7):
        with pytest.raises(CidrError):
            mx.inbound_session_count(wrong)
    with mx.session("192.0.2.7") as ac, pytest.raises(CidrError):
        mx.inbound_session_count("/64", ac)
    with pytest.raises(TypeError):
        mx.inbound_session_count("/24", "192.0.2.7")


@given(st.lists(st.tuples(st.booleans(), addresses), max_size=30), st.data())
def test_as_the_gold_model_says(opened, data):
    with InboundAudit() as audit:
        listeners = audit.listener("SMTP", "mx"), audit.listener("SMTP", "submission")
        golds = GoldCounter(), GoldCounter()
        kept = []
        for which, remote in opened:
            kept.append(listeners[which].session(remote))
            golds[which].add(remote)
        for ac in kept:
            address = ipaddress.ip_address(ac.remote_ip)
            length = data.draw(length_for(address))
            for listener, gold in zip(listeners, golds, strict=True):
                expected = gold.count(f"{address}/{length}")
                assert listener.inbound_session_count(f"{address}/{length}") == expected
                if length != 32 or address.version == 4:
                    assert listener.inbound_session_count(f"/{length}", ac) == expected
        for ac in kept:
            ac.close()
