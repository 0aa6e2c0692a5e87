"""The windows of one node: their records, and what a copy of them becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gold_nodes import GoldTree, Host, encode
from tests.support.gold_series import Events, GoldSeriesTrees

from inbound_audit.cluster.node_trees import all_records
from inbound_audit.cluster.window_records import (
    MAX_HEAD_BYTES,
    MAX_INTERVAL_S,
    MAX_NAME_BYTES,
    MAX_SLOTS,
    MAX_TIME_S,
    SCOPES,
    UNFOLDED,
    Levels,
    SeriesKey,
    Window,
    WindowRecords,
    pack,
    unpack,
    weight_of,
)
from inbound_audit.cluster.windows import NO_HOSTS, WORD, WindowTrees
from inbound_audit.errors import CapacityError

names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=MAX_NAME_BYTES // 4)
keys = st.builds(SeriesKey, st.sampled_from(SCOPES), names, st.integers(1, MAX_INTERVAL_S), st.integers(1, MAX_SLOTS))
windows = keys.flatmap(
    lambda key: st.builds(
        Window,
        st.just(key),
        st.integers(-MAX_TIME_S // key.interval, MAX_TIME_S // key.interval),
        st.integers(0, 1),
    )
)
levels = st.tuples(st.integers(0, 32), st.integers(0, 128))
hosts = st.tuples(st.sampled_from((4, 6)), st.integers(0, 40).map(lambda number: number << 20 | 1))
counts = st.dictionaries(hosts, st.integers(1, 2**32 - 1), min_size=1, max_size=12)
states = st.dictionaries(windows, st.tuples(levels, counts), max_size=6)
State = dict[Window, tuple[Levels, dict[Host, int]]]

KEY = SeriesKey("series", "failures", 60, 4)
ONE, TWO = Window(KEY, 7, 0), Window(KEY, 8, 0)


def held(max_windows: int = 100, max_hosts: int = 10_000) -> WindowTrees:
    trees = GoldSeriesTrees(Events(), lambda: 0.0)
    return WindowTrees(lambda window: trees.said(), trees.check_records, max_windows, max_hosts)


def said(state: State) -> bytes:
    return b"".join(pack(WindowRecords(window, *row)) for window, row in sorted(packed(state).items()))


def packed(state: State) -> dict[Window, tuple[Levels, bytes]]:
    return {window: (levels, encode(counts)) for window, (levels, counts) in state.items()}


def state_of(trees: WindowTrees) -> State:
    """What is held, after a check of the sums."""
    found = {window: (one.levels, one.tree.counts) for window, one in trees.windows.items()}  # type: ignore[attr-defined]
    assert trees.hosts == sum(len(counts) for _, counts in found.values())
    assert trees.total == sum(sum(counts.values()) for _, counts in found.values())
    parts = [one.tree.digest * weight_of(window, one.levels) for window, one in trees.windows.items()]
    assert trees.digest == sum(parts) % WORD
    assert all(counts for _, counts in found.values())
    return found


@given(states, states)
def test_changes_and_snapshots_lead_to_the_same_state(before: State, after: State) -> None:
    """By records of what differs, and by a snapshot of all."""
    changed, replaced = held(), held()
    for one in (changed, replaced):
        one.set_many(said(before))
        assert state_of(one) == before
    changes = {window: (levels, encode(counts)) for window, (levels, counts) in after.items()}
    for window, (folded, counts) in before.items():
        if window not in after:
            changes[window] = (UNFOLDED, b"")
        else:
            gone = {host: 0 for host in counts if host not in after[window][1]}
            changes[window] = (after[window][0], encode({**gone, **after[window][1]}))
        assert folded
    changed.set_many(b"".join(pack(WindowRecords(window, *row)) for window, row in sorted(changes.items())))
    replaced.replace([said(after)])
    assert state_of(changed) == state_of(replaced) == after
    assert changed.digest == replaced.digest
    replaced.empty()
    assert state_of(replaced) == {}
    assert replaced.digest == 0


@given(states, states, st.integers(MAX_HEAD_BYTES + 64, 400))
def test_a_snapshot_in_parts_replaces_what_was_there(before: State, after: State, size: int) -> None:
    origin, copy = held(), held()
    copy.set_many(said(before))
    origin.set_many(said(after))
    parts = all_records(origin, size)
    assert all(len(part) <= size for part in parts)
    copy.replace(parts)
    assert state_of(copy) == after
    assert (copy.hosts, copy.total, copy.digest) == (origin.hosts, origin.total, origin.digest)


@given(states)
def test_records_have_one_form(state: State) -> None:
    data = said(state)
    read = unpack(data)
    assert b"".join(map(pack, read)) == data
    assert {one.window: (one.levels, one.records) for one in read} == packed(state)


@given(st.data(), states.filter(bool))
def test_damaged_records_change_nothing_or_are_records(data: st.DataObject, state: State) -> None:
    """Whatever is read has that form again."""
    good = said(state)
    at = data.draw(st.integers(0, len(good) - 1))
    cut = (
        good[:at] if data.draw(st.booleans()) else good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    )
    copy = held()
    copy.set_many(said({ONE: (UNFOLDED, {(4, 1): 1})}))
    before = copy.digest
    try:
        read = unpack(cut)
        copy.set_many(cut)
    except ValueError:
        assert copy.digest == before
        state_of(copy)
    else:
        assert b"".join(map(pack, read)) == cut
        state_of(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 5),
        (1, 2),
        (2, 33),
        (3, 129),
        (4, b"\0\0\0\0"),
        (4, b"\1\0\0\x40"),
        (8, b"\0\0"),
        (8, b"\1\4"),
        (10, 0),
        (10, 65),
    ],
)
def test_fields_have_bounds(field: int, value: int | bytes) -> None:
    good = bytearray(pack(WindowRecords(ONE, UNFOLDED, NO_HOSTS)) + bytes(80))
    value = bytes([value]) if isinstance(value, int) else value
    good[field : field + len(value)] = value
    with pytest.raises(ValueError, match=r"window|series"):
        unpack(bytes(good))


@pytest.mark.parametrize(
    "records",
    [
        pack(WindowRecords(TWO, UNFOLDED, NO_HOSTS)) + pack(WindowRecords(ONE, UNFOLDED, NO_HOSTS)),
        2 * pack(WindowRecords(ONE, UNFOLDED, NO_HOSTS)),
        pack(WindowRecords(ONE, UNFOLDED, encode({(4, 1): 1}))) + pack(WindowRecords(TWO, UNFOLDED, b"\xff")),
        pack(WindowRecords(ONE, UNFOLDED, encode({(4, 1): 1})))[:-1],
    ],
)
def test_malformed_records_change_nothing(records: bytes) -> None:
    copy = held()
    copy.set_many(said({TWO: (UNFOLDED, {(4, 9): 2})}))
    for change in (copy.set_many, lambda records: copy.replace([records])):
        with pytest.raises(ValueError, match=r".+"):
            change(records)
        assert state_of(copy) == {TWO: (UNFOLDED, {(4, 9): 2})}


def test_parts_that_do_not_continue_are_refused() -> None:
    copy = held()
    one, two = (said({window: (UNFOLDED, {(4, 1): 1})}) for window in (ONE, TWO))
    folded = said({ONE: ((24, 128), {(4, 2): 1})})
    for parts in ([two, one], [one, one], [one, folded], [pack(WindowRecords(ONE, UNFOLDED, b""))]):
        with pytest.raises(ValueError, match="part"):
            copy.replace(parts)
        assert state_of(copy) == {}


def test_levels_are_part_of_the_digest() -> None:
    """So that a copy that has missed a change of them differs."""
    copy = held()
    copy.set_many(said({ONE: (UNFOLDED, {(4, 1): 1})}))
    digest = copy.digest
    copy.set_many(pack(WindowRecords(ONE, (24, 48), NO_HOSTS)))
    assert copy.digest != digest
    assert state_of(copy) == {ONE: ((24, 48), {(4, 1): 1})}
    assert copy.folded == 1


@pytest.mark.parametrize("replaces", [False, True])
def test_bounds_of_windows_and_hosts(replaces: bool) -> None:
    copy = held(max_windows=2, max_hosts=3)
    change = (lambda records: copy.replace([records])) if replaces else copy.set_many
    change(said({ONE: (UNFOLDED, {(4, 1): 1}), TWO: (UNFOLDED, {(4, 1): 1, (4, 2): 1})}))
    with pytest.raises(CapacityError):
        change(said({window: (UNFOLDED, {(4, 1): 1}) for window in (ONE, TWO, Window(KEY, 9, 0))}))
    assert len(state_of(copy)) == 2
    with pytest.raises(CapacityError):
        change(said({TWO: (UNFOLDED, {(4, at): 1 for at in range(5)})}))
    copy.empty()
    assert state_of(copy) == {}


def test_a_copy_moves_to_other_trees() -> None:
    made: list[Window] = []

    def make(window: Window) -> GoldTree:
        made.append(window)
        return GoldTree()

    trees = GoldSeriesTrees(Events(), lambda: 0.0)
    copy = WindowTrees(make, trees.check_records, 100, 100)
    other = Window(KEY._replace(name="other"), 7, 0)
    state: State = {ONE: (UNFOLDED, {(4, 1): 1}), other: (UNFOLDED, {(6, 1): 5})}
    copy.set_many(said(state))
    copy.remake(KEY)
    assert made == [ONE, other, ONE]
    copy.remake()
    assert sorted(made[3:]) == sorted([ONE, other])
    assert state_of(copy) == state


def test_a_weight_is_fixed() -> None:
    """Nodes of all machines and versions work it out alike."""
    said = "030020803c0000000400080700000000000000000000006661696c75726573"
    assert pack(WindowRecords(ONE, UNFOLDED, b"")).hex() == said
    assert weight_of(ONE, UNFOLDED) == 0x79688524FDEB5E2D
    assert len({weight_of(window, level) for window in (ONE, TWO) for level in (UNFOLDED, (24, 128), (32, 64))}) == 6


@pytest.mark.parametrize("number", [-(2**62), -(2**63), 2**63 - 1, MAX_TIME_S // 60 + 2])
def test_a_number_that_no_clock_gives_is_refused(number: int) -> None:
    trees = held()
    with pytest.raises(ValueError, match="no clock gives that time"):
        trees.set_many(pack(WindowRecords(Window(KEY, number, 0), UNFOLDED, encode({(4, 7): 1}))))
    assert trees.windows == {}
