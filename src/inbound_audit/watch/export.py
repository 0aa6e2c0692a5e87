"""What is seen, as a file: the whole look as JSON, or the rows as CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from datetime import datetime

from inbound_audit import output_file
from inbound_audit.feed import Look
from inbound_audit.watch.tree import Row

TITLES = ("prefix", "count", "share", "change", "refused")


def default_name(look: Look) -> str:
    """``mail-20261128T160102.json``: by the time of this machine."""
    return f"{look.audit}-{datetime.fromtimestamp(look.time):%Y%m%dT%H%M%S}.json"


def write(path: str, look: Look, rows: Iterable[Row], *, replace: bool = False) -> None:
    """Writes a look as JSON, or these rows of it, if the name ends in ``.csv``.

    Raises FileExistsError unless `replace`, OSError, and ValueError for another ending; a file that was there is as it
    was then. O(rows).
    """
    if path.endswith(".csv"):
        text = io.StringIO()
        made = csv.writer(text, lineterminator="\n")
        made.writerow(TITLES)
        made.writerows((row.prefix, row.count, f"{row.share:.6f}", row.change, row.refused) for row in rows)
        content = text.getvalue()
    elif path.endswith(".json"):
        content = json.dumps(look.as_json(), indent=1) + "\n"
    else:
        raise ValueError(f"{path!r}: write a name that ends in .json or .csv")
    output_file.write(os.path.expanduser(path), content.encode(), replace=replace)
