"""The words of errors, and what they can be caught as."""

from __future__ import annotations

import copy
import pickle

import pytest

from inbound_audit import InboundAudit, Limits, LuaPolicy, errors, load_policy
from inbound_audit.errors import InboundAuditError, UnknownServiceType
from inbound_audit.listeners import Guard

KNOWN = ("SMTP", "ECStream", "Control")


def test_all_are_of_one_family():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) == 10
    assert all(issubclass(e, InboundAuditError) for e in found)
    assert {e.__name__ for e in found if issubclass(e, ValueError)} == {
        "AddressError",
        "CidrError",
        "MonitorError",
        "SeriesError",
        "UnknownServiceType",
    }


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("smtp", "'smtp': no such service type; did you mean 'SMTP'? (known: SMTP, ECStream, Control)"),
        ("Contrl", "'Contrl': no such service type; did you mean 'Control'? (known: SMTP, ECStream, Control)"),
        ("zzz", "'zzz': no such service type (known: SMTP, ECStream, Control)"),
        (7, "7: no such service type (known: SMTP, ECStream, Control)"),
    ],
)
def test_an_unknown_service_type_suggests_the_nearest(name, reported):
    error = UnknownServiceType(name, KNOWN)
    assert str(error) == reported
    assert (error.name, error.known) == (name, KNOWN)


def test_it_can_be_copied_and_pickled():
    error = UnknownServiceType("smtp", KNOWN)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(twin) == str(error)


@pytest.mark.parametrize(
    ("call", "keyword", "near"),
    [
        (lambda **k: InboundAudit(**k), "monitor", "monitors"),
        (lambda **k: InboundAudit(**k), "capacty", "capacity"),
        (lambda **k: InboundAudit().series.define("s", "ip", 60, 5, **k), "persit", "persist"),
        (lambda **k: LuaPolicy("nothere.lua", **k), "max_step", "max_steps"),
        (lambda **k: load_policy("nothere.lua", **k), "serch", "search"),
        (lambda **k: load_policy("nothere.sieve", **k), "onerror", "on_error"),
        (lambda **k: Guard(None, **k), "when_ful", "when_full"),
        (lambda **k: Limits(**k), "exmpt", "exempt"),
    ],
)
def test_an_unknown_keyword_names_the_nearest(call, keyword, near):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{keyword}'; did you mean '{near}'\?"):
        call(**{keyword: 1})
