"""The memory of a policy that was replaced goes back, although Python does not see how much it is."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from tests.support.lua_support import Kind, every_kind

from inbound_audit import LuaPolicy
from inbound_audit.lua import world

LARGE = """
local kept = {}
for i = 1, 100000 do kept[i] = { i } end
local mod = {}
function mod:validate_connect(s, ac, vctx) if kept then return msys.core.VALIDATE_CONT end end
msys.registerModule("large", mod)
"""


@every_kind
def test_policies_that_replace_one_another_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    (tmp_path / "large.lua").write_text(LARGE)
    gc.collect()
    before = len(world._worlds)
    monkeypatch.setattr(world, "COLLECT_BYTES", 16 << 20)
    monkeypatch.setattr(world, "_collect_at", 16 << 20)
    gc.disable()  # it would run by chance
    try:
        policy = LuaPolicy(tmp_path / "large.lua", **kind._asdict())
        each = policy._world.memory
        assert each > 4 << 20
        for _ in range(24):
            policy = LuaPolicy(tmp_path / "large.lua", **kind._asdict())
            assert len(world._worlds) - before <= (32 << 20) // each + 3
    finally:
        gc.enable()
