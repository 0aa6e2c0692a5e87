"""A bench per kind of Lua. In the quick profile the other kinds than LuaJIT with FFI run a tenth of their tests."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.lua_support import KINDS, Bench, bench_of

FIRST, *OTHERS = KINDS
QUICK = os.environ.get("HYPOTHESIS_PROFILE", "quick") == "quick"


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path, request.param)


@pytest.fixture
def bench_of_first_kind(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path, KINDS[FIRST])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests that are left out depend on their names alone. A test that is asked for by its name runs."""
    if not QUICK or any("::" in argument for argument in config.args):
        return
    other_kind = re.compile(rf"[\[-]({'|'.join(map(re.escape, OTHERS))})[\]-]")
    here = Path(__file__).parent
    left_out = {
        item
        for item in items
        if other_kind.search(item.name) and zlib.crc32(item.nodeid.encode()) % 10 and here in item.path.parents
    }
    if left_out:
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]
