"""Where a script is wrong: errors with line and column."""

from __future__ import annotations

from typing import NamedTuple

from inbound_audit.errors import PolicyError


class At(NamedTuple):
    """A place in a script; both count from 1, columns in characters."""

    line: int
    column: int


class ScriptError(PolicyError):
    """A script is wrong, or fails, at a place; the message begins with ``line:column:``."""

    def __init__(self, at: At, message: str) -> None:
        self.at = at
        super().__init__(f"{at.line}:{at.column}: {message}")


def failed_at(at: At, error: Exception) -> ScriptError:
    """What went wrong while the statement at a place ran."""
    if isinstance(error, MemoryError):
        return ScriptError(at, "not enough memory")
    # The text of our own errors and of ValueError is enough; of others the class is the most important part.
    kind = "" if isinstance(error, (PolicyError, ValueError)) else f"{type(error).__name__}: "
    return ScriptError(at, f"{kind}{error}")
