"""Values of a script, compiled: constants, and what each run works out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from inbound_audit.errors import PolicyError
from inbound_audit.sieve import tree
from inbound_audit.sieve.run import Run
from inbound_audit.sieve.values import MAX_MEMBERS, UNSET, Scalar, Value, number, text

Expression: TypeAlias = Callable[[Run], Value]

_EXPANDED = re.compile(r"\$\{(?P<variable>[A-Za-z_][A-Za-z0-9_]*)\}|%\{(?P<macro>[^{}\n]+)\}")


class Expansion(NamedTuple):
    """``${name}``, or of a macro ``%{name}``; `written` is the whole."""

    written: str
    name: str
    macro: bool


def parts(text: str) -> list[str | Expansion]:
    """A text cut into constant parts and expansions. What only looks like an expansion is constant."""
    found: list[str | Expansion] = []
    start = 0
    for match in _EXPANDED.finditer(text):
        found.append(text[start : match.start()])
        macro = match["macro"]
        found.append(Expansion(match[0], match["variable"].lower() if macro is None else macro, macro is not None))
        start = match.end()
    found.append(text[start:])
    return [part for part in found if part]


def constant(node: tree.Value | tree.Tag | None) -> Value | None:
    """The value of what is the same in every run, else None."""
    if isinstance(node, tree.Number):
        return node.value
    if isinstance(node, tree.Text):
        return None if any(map(_expansion, parts(node.value))) else node.value
    if isinstance(node, tree.Items):
        members = [constant(member) for member in node.members]
        return None if None in members else members  # type: ignore[return-value]
    return None


def expression(node: tree.Value) -> Expression:
    """Works out a value."""
    known = constant(node)
    if known is not None:
        # A list is never changed, so that all runs may share it.
        return lambda run: known
    if isinstance(node, tree.Variable):
        return _variable(node.name)
    if isinstance(node, tree.Element):
        return _element(node)
    if isinstance(node, tree.Items):
        return _items(node)
    assert isinstance(node, tree.Text)
    return _template(node.value)


def _variable(name: str) -> Expression:
    return lambda run: run.variables.get(name, UNSET)


def _element(node: tree.Element) -> Expression:
    key = expression(node.key)

    def element(run: Run) -> Value:
        whole = run.variables.get(node.name, UNSET)
        if isinstance(whole, dict):
            return whole.get(text(key(run)), UNSET)
        if isinstance(whole, list):
            at = number(key(run))
            return whole[at] if 0 <= at < len(whole) else UNSET
        if whole == UNSET:
            return UNSET
        raise PolicyError(f"${node.name} is neither a hash nor a list")

    return element


def _items(node: tree.Items) -> Expression:
    members = [expression(member) for member in node.members]

    def items(run: Run) -> Value:
        found: list[Scalar] = []
        for member in members:
            value = member(run)
            if isinstance(value, list):
                found += value
            else:
                found.append(value if isinstance(value, (int, float)) else text(value))
            if len(found) > MAX_MEMBERS:
                raise PolicyError(f"a list of more than {MAX_MEMBERS} members")
        return found

    return items


def _template(written: str) -> Expression:
    """A text with expansions. One that is a single variable keeps a number a number: as a text it would look alike."""
    found = parts(written)
    if len(found) == 1 and isinstance(found[0], Expansion) and not found[0].macro:
        name = found[0].name

        def single(run: Run) -> Value:
            value = run.variables.get(name, UNSET)
            return value if isinstance(value, (int, float)) else text(value)

        return single
    pieces = [part if isinstance(part, str) else _expansion(part) or part.written for part in found]

    def template(run: Run) -> Value:
        return run.joined("", (text(piece(run)) if callable(piece) else piece for piece in pieces))

    return template


def _expansion(part: str | Expansion) -> Expression | None:
    """The expression for a part of a text; None for a constant part, which an unknown macro is too."""
    if isinstance(part, str):
        return None
    if not part.macro:
        return _variable(part.name)
    if part.name in ("i", "spfv1:i"):
        return lambda run: run.ac.remote_ip
    scope, colon, key = part.name.partition(":")
    if scope in ("vctx_conn", "vctx_mess") and colon:
        return lambda run: run.context[scope].get(key, UNSET)
    return None
