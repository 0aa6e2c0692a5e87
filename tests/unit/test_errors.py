"""The words of errors, and what they can be caught as."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inbound_audit import InboundAudit, Limits, LuaPolicy, PrefixCounter, _ipcount, errors, load_policy
from inbound_audit.errors import InboundAuditError, UnknownServiceType
from inbound_audit.listeners import Guard

KNOWN = ("SMTP", "ECStream", "Control")


def test_all_are_of_one_family():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) == 11
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


def native_calls() -> Iterator[tuple[str, Callable[..., object]]]:
    """The functions of the extension, and the methods of its classes, bound to an object."""
    for name, function in vars(_ipcount).items():
        if isinstance(function, types.BuiltinFunctionType) and function.__module__ == _ipcount.__name__:
            yield name, function
    audit = InboundAudit()
    listener = audit.listener()
    series, tables = _ipcount.SeriesStore(audit), Limits({"/32": 1})
    owners: tuple[Any, ...] = (audit, listener, listener.session("192.0.2.7"), audit.series, series, tables)
    for owner in (*owners, PrefixCounter(), _ipcount.NetworkMap([]), _ipcount.OwnFile(audit)):
        for kind in type(owner).__mro__:
            for name, method in vars(kind).items():
                if kind.__module__ == _ipcount.__name__ and isinstance(method, types.MethodDescriptorType):
                    yield f"{kind.__name__}.{name}", method.__get__(owner)


NATIVE = {
    f"{name}({keyword})": (call, keyword)
    for name, call in native_calls()
    for keyword, parameter in inspect.signature(call).parameters.items()
    if parameter.kind is not parameter.VAR_POSITIONAL
}


def test_native_calls_with_keywords_are_found():
    assert len(NATIVE) > 100
    assert {"Listener.session(remote)", "PrefixCounter.top(prefixlen)", "Audit.top(n)", "parse_pair(bare)"} <= {*NATIVE}


@pytest.mark.parametrize(("call", "keyword"), NATIVE.values(), ids=NATIVE)
def test_an_unknown_keyword_of_a_native_call_names_the_nearest(call, keyword):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{keyword}x'; did you mean '{keyword}'\?$"):
        call(**{f"{keyword}x": 1})


@pytest.mark.parametrize(
    ("call", "reported"),
    [
        (lambda: PrefixCounter(capcity=1 << 20), "'capcity'; did you mean 'capacity'?"),
        (lambda: PrefixCounter().top(10, prefix=(32, 128)), "'prefix'; did you mean 'prefixlen'?"),
        (lambda: PrefixCounter().top(10, color=1), "'color'"),
        (lambda: PrefixCounter().add("192.0.2.7", **{"\ud800": 1}), "'\ud800'"),
    ],
)
def test_an_unknown_keyword_of_a_native_call(call, reported):
    with pytest.raises(TypeError, match=re.escape(f"unexpected keyword argument {reported}") + "$"):
        call()
