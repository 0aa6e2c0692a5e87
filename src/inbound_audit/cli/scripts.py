"""A Lua policy as `serve` loads it. In a room of its own: it brings lupa, which `serve --limit` has no use for."""

from __future__ import annotations

from inbound_audit.cli.failure import Failure
from inbound_audit.cli.settings import Choice
from inbound_audit.errors import PolicyError
from inbound_audit.lua.policy import LuaPolicy


class Script(LuaPolicy):
    """Closed when the last session that may ask it is gone, however long that lasts after a reload."""

    loaded = False

    def __del__(self) -> None:
        if self.loaded:
            self.close()


def load(path: str, on_error: Choice) -> Script:
    """Raises Failure, which names the file, when it is missing, unreadable or does not compile."""
    try:
        script = Script(path, on_error=on_error)
    except PolicyError as error:
        raise Failure(f"--policy: {error}") from None
    script.loaded = True
    return script
