"""`make test-changed`: which test files a changed file names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("changed_tests", ROOT / "tools" / "changed_tests.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("src/inbound_audit/_core/fold.pxd", "tests/unit/series/test_folding.py"),
        ("src/inbound_audit/policy/limits.py", "tests/unit/policy/test_limits.py"),
        ("src/inbound_audit/_core/without_tests.pxd", "tests/unit"),
        ("tests/unit/core/test_trie.py", "tests/unit/core/test_trie.py"),
        ("tests/support/gold.py", "tests/unit"),
        ("docs/windows.md", "tests/tooling/test_docs.py"),
    ],
)
def test_the_tests_of_a_file(path, test):
    found = tool.tests_of(Path(path))
    assert test in found
    assert all((ROOT / name).exists() for name in found)


def test_what_nothing_tests():
    assert tool.tests_of(Path("LICENSE")) == []
