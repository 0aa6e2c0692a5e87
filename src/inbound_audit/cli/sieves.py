"""A policy in Sieve as `serve` loads it. In a room of its own: it brings lark, which nothing else has a use for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inbound_audit.cli.failure import Failure
from inbound_audit.cli.settings import Choice
from inbound_audit.errors import PolicyError

if TYPE_CHECKING:
    from inbound_audit import SievePolicy


def load(path: str, on_error: Choice) -> SievePolicy:
    """Raises Failure, which names the file, when it is missing, unreadable or wrong, or lark is not installed."""
    try:
        from inbound_audit.sieve.policy import SievePolicy

        return SievePolicy(path, on_error=on_error)
    except (ImportError, PolicyError) as error:
        raise Failure(f"--policy: {error}") from None
