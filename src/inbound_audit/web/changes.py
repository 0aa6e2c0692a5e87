"""What differs between two looks at the same source, in the form that they have as JSON."""

from __future__ import annotations

from typing import Any

MOMENT = ("time", "total")
"""What each change says."""

TABLES = (
    "listeners", "monitors", "series", "limits", "refusals", "processes", "nodes", "decisions", "history", "notes",
)  # fmt: skip
"""What a change says as a whole, if it differs."""

AGED = ("processes", "nodes")
"""Tables whose rows have an `age_s`, which differs in each look: that alone is no change. Who has the look before knows
it: of a process, and of a node that is lost, it has grown as the time has; any other node is heard all the time."""


def change_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The members of an event `change`, its number left out. Which row is where follows from the prefixes.

    O(rows + processes + nodes)."""
    old = {row[0]: row for row in before["rows"]}
    rows = [row for row in after["rows"] if old.pop(row[0], None) != row]
    moment = {name: after[name] for name in MOMENT}
    tables = {name: after[name] for name in TABLES if _compared(name, after) != _compared(name, before)}
    return {**moment, "removed": list(old), "rows": rows, **tables}


def _compared(name: str, look: dict[str, Any]) -> Any:
    if name not in AGED:
        return look[name]
    return [{**row, "age_s": None} for row in look[name]]
