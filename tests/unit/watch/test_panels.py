"""What the panels beside the table say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inbound_audit.feed.look import LimitRow
from inbound_audit.watch.panels import lines_of_limit

SOME = LimitRow("default /24,/56", "SMTP", "192.0.2.0/24", 50, 100, False)
LISTENER = LimitRow("listener total", "IMAP", None, 3, 3, True, listener="mx\x1b")


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        (SOME, ("████░░░░  50% /24,/56", " 192.0.2.0/24 50/100")),
        (replace(SOME, exact=False), ("████░░░░ ≥50% /24,/56", " 192.0.2.0/24 50/100")),
        (replace(SOME, prefix=None, count=0), ("░░░░░░░░   0% /24,/56", " 0/100")),
        (replace(SOME, most=0), ("████████ 100% /24,/56", " 192.0.2.0/24 50/0")),
        (LISTENER, ("████████ 100% IMAP listener total", " mx\\x1b 3/3 dry run")),
    ],
    ids=["exact", "at least", "nothing is counted", "nothing is let in", "of a listener"],
)
def test_a_limit_says_how_full_it_is_of_what_and_where(row: LimitRow, lines: tuple[str, str]) -> None:
    assert lines_of_limit(row) == lines
