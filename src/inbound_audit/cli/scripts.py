"""A Lua policy as `serve` loads it. In a room of its own: it brings lupa, which `serve --limit` has no use for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inbound_audit.cli.failure import Failure
from inbound_audit.cli.settings import Choice
from inbound_audit.errors import PolicyError
from inbound_audit.lua.policy import LuaPolicy

if TYPE_CHECKING:
    from inbound_audit import InboundAudit


class Script(LuaPolicy):
    """Closed when the last session that may ask it is gone, however long that lasts after a reload."""

    loaded = False

    def __del__(self) -> None:
        if self.loaded:
            self.close()


def load(path: str, on_error: Choice, audit: InboundAudit | None) -> Script:
    """Raises Failure, which names the file, when it is missing, unreadable or does not compile, or `audit` has one of
    its series otherwise.
    """
    try:
        script = Script(path, on_error=on_error, audit=audit)
    except PolicyError as error:
        raise Failure(f"--policy: {error}") from None
    script.loaded = True
    return script
