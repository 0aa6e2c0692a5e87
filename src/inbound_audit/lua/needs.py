"""The monitors that a script counts with, as far as its text shows them."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike

from inbound_audit._ipcount import MONITOR_KINDS, parse_monitor
from inbound_audit.errors import MonitorError
from inbound_audit.lua.dialect import tokenize
from inbound_audit.lua.sources import Sources

_ASKING = "define_monitor"

FUNCTIONS = {"connection", _ASKING, *MONITOR_KINDS}
"""Of `msys.audit`; `connection` is a name for `connections` that published scripts use."""


def monitors_of(source: str) -> Iterator[str]:
    """Each string such as ``"300,6"`` in a script that calls one of those functions. O(length)."""
    tokens = [token for token in tokenize(source) if token.kind in ("name", "string")]
    texts = [token.text[1:-1] if token.kind == "string" else token.text for token in tokens]
    if "audit" not in texts or FUNCTIONS.isdisjoint(texts):
        return
    for token, text in zip(tokens, texts, strict=True):
        if token.kind == "string" and "," in text:
            try:
                parse_monitor(text)
            except MonitorError:
                continue
            yield text


def needed_monitors(path: str | PathLike[str]) -> tuple[str, ...]:
    """The monitors of a script that calls ``msys.audit.define_monitor``, for the program that makes its audit.

    The script is not run. Raises PolicyError if it can't be read. O(length).
    """
    source = Sources(path).main().text.decode("latin-1")
    return tuple(dict.fromkeys(monitors_of(source))) if _ASKING in source else ()
