"""`ac:decision()`: what an override says about the connecting IP, and why."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("action", "said"), [(None, "nil nil"), ("deny", "deny a reason"), ("allow", "allow a reason")], ids=str
)
def test_a_script_learns_of_an_override(bench, action: str | None, said: str) -> None:
    if action is not None:
        getattr(bench.audit, action)("192.0.2.0/24", why="a reason")
    assert bench.say('tostring(action) .. " " .. tostring(why)', "local action, why = ac:decision()") == said
