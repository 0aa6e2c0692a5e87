"""The monitors that a script counts with, as far as its constants show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.sieve import tree
from inbound_audit.sieve.expressions import constant
from inbound_audit.sieve.values import Value, number, text

_COUNTS = {f"ec_ip_{kind}{suffix}" for kind in MONITOR_KINDS for suffix in ("", "_cluster")}


class Needs(NamedTuple):
    monitors: tuple[str, ...]
    """Named in hashes, in the order of the script."""
    number: int
    """How many monitors there must be for the highest position that the script counts with."""


def needs_of(statements: Sequence[tree.Statement]) -> Needs:
    """O(script)."""
    calls = list(_calls(statements))
    named: dict[str, None] = {}
    positions = [0]
    hashes: set[str] = set()
    for call in calls:
        first = call.arguments[0] if call.arguments else None
        if call.name in _COUNTS and isinstance(first, tree.Variable):
            hashes.add(first.name)
        elif call.name in _COUNTS and (position := _constant(first)) is not None:
            positions.append(number(position) + 1)
    for call in calls:
        if call.name == "hash_set" and len(call.arguments) == 3:
            of, key, value = call.arguments
            if isinstance(of, tree.Variable) and of.name in hashes and _constant(key) == "monitor":
                found = _constant(value)
                if found is not None:
                    named[text(found)] = None
    return Needs(tuple(named), max(positions))


def _constant(node: tree.Value | tree.Tag | None) -> Value | None:
    return None if node is None or isinstance(node, tree.Tag) else constant(node)


def _calls(statements: Iterable[tree.Statement]) -> Iterator[tree.Call]:
    for statement in statements:
        if isinstance(statement, tree.Assignment):
            if isinstance(statement.value, tree.Call):
                yield statement.value
        else:
            yield statement.call
            if statement.block is not None:
                yield from _calls(statement.block.statements)
