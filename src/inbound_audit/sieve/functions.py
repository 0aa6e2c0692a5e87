"""What a function of the language is: its parameters, and what runs when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from inbound_audit.errors import InboundAuditError, PolicyError, did_you_mean
from inbound_audit.sieve.values import Hash, Value

Reader: TypeAlias = Callable[[Value], Any]
"""Makes of a value what a function works with. Raises PolicyError."""


class Parameter(NamedTuple):
    """`check` also reads constant arguments, so that an error is raised when the script is loaded."""

    name: str
    read: Reader
    check: Callable[[Any], None] | None = None


@dataclass(frozen=True)
class Function:
    """A function or an action.

    `run` is called with the run and the arguments; if `placed`, with the place of the call between them. `by_hash` is
    what runs instead when the only argument is a hash.
    """

    run: Callable[..., Value | None]
    parameters: tuple[Parameter, ...] = ()
    takes: tuple[int, ...] = (0,)
    """Numbers of arguments that make sense."""
    has_value: bool = False
    """It has a value, which may be assigned."""
    placed: bool = False
    ends: bool = False
    """With arguments it is terminal: the script ends with the rule that it stands in."""
    by_hash: Callable[..., Value | None] | None = None
    tags: Mapping[str, Parameter] = field(default_factory=dict)
    """Tags that it knows, each followed by a value; `run` takes them by name."""


def options(given: Hash, known: Mapping[str, Reader]) -> dict[str, Any]:
    """The options in a hash, each read by its own reader. Raises PolicyError for an unknown one, too."""
    found = {}
    for name, value in given.items():
        if name not in known:
            raise PolicyError(f"no option {name!r} (there are {', '.join(known)}){did_you_mean(name, known)}")
        try:
            found[name] = known[name](value)
        except InboundAuditError as error:
            raise PolicyError(f"option {name!r}: {error}") from None
    return found
