"""The monitors that a script counts with, and the windows that it asks for, as far as its constants show them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.errors import InboundAuditError
from inbound_audit.sieve import tree
from inbound_audit.sieve.calls import FUNCTIONS
from inbound_audit.sieve.expressions import constant
from inbound_audit.sieve.tree import ScriptError
from inbound_audit.sieve.values import Hash, Value, number, text

_COUNTS = {f"ec_ip_{kind}{suffix}" for kind in MONITOR_KINDS for suffix in ("", "_cluster")}
_WINDOWS = ("monitor", "period_start", "period_end")


class Needs(NamedTuple):
    monitors: tuple[str, ...]
    """Named in hashes, in the order of the script."""
    number: int
    """How many monitors there must be for the highest position that the script counts with."""
    lists: tuple[Hash, ...]
    """The options of address lists that are defined by constants alone."""


def needs_of(statements: Sequence[tree.Statement]) -> Needs:
    """Raises ScriptError for a hash that asks for windows that its monitor does not have. O(script)."""
    calls: list[tree.Call] = []
    names: Counter[str] = Counter()  # how often each variable is set, or given another name
    options: dict[str, dict[str, list[Value | None]]] = defaultdict(lambda: defaultdict(list))
    for statement in _flat(statements):
        value = statement.value if isinstance(statement, tree.Assignment) else statement.call
        names.update(statement.names if isinstance(statement, tree.Assignment) else ())
        if isinstance(value, tree.Call):
            calls.append(value)
        if isinstance(value, tree.Call) and value.name == "hash_set" and len(value.arguments) == 3:
            of, key, member = value.arguments
            options[getattr(of, "name", "")][str(constant(key))].append(constant(member))
            names[getattr(member, "name", "")] += 1
        elif isinstance(value, tree.Variable):
            names[value.name] += 1
    monitors: dict[str, None] = {}
    positions = [0]
    lists: list[Hash] = []
    for call in calls:
        first = call.arguments[0] if call.arguments else None
        if isinstance(first, tree.Variable):
            if call.name in _COUNTS:
                named = options[first.name].get("monitor", ())
                monitors |= dict.fromkeys(text(value) for value in named if value is not None)
            if names[first.name] == 1:
                _check_windows(call, options[first.name])
            once = [(name, values[0]) for name, values in options[first.name].items() if len(values) == 1]
            given = {name: value for name, value in once if value is not None}
            if call.name == "define_cidr" and len(given) == len(options[first.name]):
                lists.append(given)
        elif call.name in _COUNTS and (position := constant(first)) is not None:
            positions.append(number(position) + 1)
    return Needs(tuple(monitors), max(positions), tuple(lists))


def _check_windows(call: tree.Call, options: dict[str, list[Value | None]]) -> None:
    """Checks the windows of a hash that has one name, as far as it has each option from one place, as a constant."""
    function = FUNCTIONS[call.name].by_hash if call.name in FUNCTIONS else None
    if function is None or str(None) in options:  # a key that is not constant may be any
        return
    known = {name: options[name][0] for name in _WINDOWS if len(options.get(name, ())) == 1}
    try:
        function.check({name: function.read_option(name, value) for name, value in known.items() if value is not None})
    except InboundAuditError as error:
        raise ScriptError(call.at, str(error)) from None


def _flat(statements: Iterable[tree.Statement]) -> Iterator[tree.Statement]:
    for statement in statements:
        yield statement
        yield from _flat(getattr(statement, "block", None) or ())
