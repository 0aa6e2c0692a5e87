"""What differs between two looks at the same source, in the form that they have as JSON."""

from __future__ import annotations

from typing import Any

MOMENT = ("time", "total")
"""What each change says."""

TABLES = (
    "listeners", "monitors", "series", "limits", "refusals", "processes", "nodes", "decisions", "history", "notes",
)  # fmt: skip
"""What a change says as a whole, if it differs."""


def change_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The members of an event `change`, its number left out. Which row is where follows from the prefixes. O(rows)."""
    old = {row[0]: row for row in before["rows"]}
    rows = [row for row in after["rows"] if old.pop(row[0], None) != row]
    moment = {name: after[name] for name in MOMENT}
    tables = {name: after[name] for name in TABLES if after[name] != before[name]}
    return {**moment, "removed": list(old), "rows": rows, **tables}
