"""A change of two looks, applied to the first one, is the second one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.support.pages import Copy

from inbound_audit.web.changes import TABLES, change_between

ROWS = st.dictionaries(
    st.sampled_from(["192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "198.51.100.7/32", "2001:db8::/32", "::/0"]),
    st.tuples(st.integers(0, 3), st.none() | st.integers(-1, 1), st.integers(0, 1)),
)
ORDER = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "198.51.100.7/32", "::/0", "2001:db8::/32"]


@st.composite
def looks(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(ROWS)
    tables = {
        name: draw(st.sampled_from([[], [{"a": 1}], [{"a": 2}]])) for name in draw(st.sets(st.sampled_from(TABLES)))
    }
    return {
        **{name: [] for name in TABLES},
        **tables,
        "audit": "mail",
        "time": draw(st.floats(0, 9)),
        "total": draw(st.integers(0, 9)),
        "rows": [[prefix, *rows[prefix]] for prefix in ORDER if prefix in rows],
    }


@given(looks(), looks())
def test_a_change_leads_from_one_look_to_the_next(before: dict[str, Any], after: dict[str, Any]) -> None:
    copy = Copy()
    copy.take(("look", {**before, "id": 7}))
    change = change_between(before, after)
    copy.take(("change", {**change, "id": 8, "from": 7}))
    assert copy.look == {**after, "id": 8}
    assert len(change["rows"]) + len(change["removed"]) <= len(before["rows"]) + len(after["rows"])


def test_an_age_alone_is_no_change() -> None:
    look = {name: [] for name in TABLES} | {"time": 5.0, "total": 1, "rows": []}
    first = look | {"processes": [{"pid": 7, "age_s": 1.0, "sessions": 1}], "nodes": [{"name": "mx2", "age_s": 0.2}]}
    second = look | {"processes": [{"pid": 7, "age_s": 2.0, "sessions": 1}], "nodes": [{"name": "mx2", "age_s": 0.1}]}
    assert change_between(first, second) == {"time": 5.0, "total": 1, "removed": [], "rows": []}
    third = second | {"processes": [{"pid": 7, "age_s": 3.0, "sessions": 2}]}
    assert change_between(second, third)["processes"] == third["processes"]


@given(looks())
def test_what_is_the_same_is_left_out(look: dict[str, Any]) -> None:
    assert change_between(look, look) == {"time": look["time"], "total": look["total"], "removed": [], "rows": []}
