"""Prints the test files of the rooms that differ from main: `_core/fold.pxd` names tests/**/test_*fold*.py.

A changed test file is its own; a changed file of support, and a room without tests of its name, name the unit tier.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def changed(base: str) -> list[Path]:
    """Files that differ from where this branch left `base`, in commits or in the work tree."""
    fork = subprocess.run(["git", "merge-base", base, "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    start = fork.stdout.strip() or "HEAD"
    names = subprocess.run(
        ["git", "diff", "--name-only", "--diff-filter=d", start], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in names.stdout.splitlines()]


def tests_of(path: Path) -> list[str]:
    """The test files for one changed file, relative to the repository."""
    if path.parts[0] == "tests":
        return [str(path)] if path.name.startswith("test_") else ["tests/unit"]
    if path.suffix == ".md":
        return ["tests/tooling/test_docs.py", "tests/tooling/test_readme.py"]
    if path.parts[0] != "src":
        return []
    found = sorted((ROOT / "tests").glob(f"**/test_*{path.stem.strip('_')}*.py"))
    return [str(test.relative_to(ROOT)) for test in found] or ["tests/unit"]


if __name__ == "__main__":
    print(*sorted({test for path in changed(sys.argv[1] if len(sys.argv) > 1 else "main") for test in tests_of(path)}))
