"""Values as TOML has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from inbound_audit.cli.config.positions import Path


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(name)} = {written(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def quoted(text: str) -> str:
    """The escapes of JSON are those of TOML, which has DEL as one, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def document(common: dict[str, Any], **tables: dict[str, Any]) -> str:
    lines = [f"{quoted(name)} = {written(value)}" for name, value in common.items()]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{quoted(key)} = {written(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def paths_of(value: Any, path: Path = ()) -> Iterator[Path]:
    """Of all keys of a table, and of all values of its lists."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(each, (*path, key))
