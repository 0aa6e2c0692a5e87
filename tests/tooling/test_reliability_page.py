"""docs/reliability.md names the test that shows each promise: there is such a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def test_each_test_that_the_page_names_exists() -> None:
    page = PAGE.read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    promises = page.partition("## What is promised")[2].partition("**Not promised")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert all("::" in row for row in rows)
    for path, function in named:
        tree = ast.parse((ROOT / path).read_text())
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (path, function)
