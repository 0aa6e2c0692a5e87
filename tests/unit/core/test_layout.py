"""The bytes of a tree: sizes, the label and its checksum, the bound of readers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import inner


@given(st.integers(inner.MIN_CAPACITY, 1 << 33))
def test_a_range_has_the_capacity_and_the_slack(capacity: int) -> None:
    size = inner.range_of(capacity)
    assert size % inner.GRAIN == 0
    assert size >= min(capacity, 1 << 33) // 16 * 16 + inner.LARGEST_UNITS * inner.UNIT or capacity > (1 << 33) - 65536


@pytest.mark.parametrize(("service", "listener"), [(b"SMTP", b"mx"), (b"", b""), (b"s" * 63, b"l" * 64)])
def test_the_checksum_of_a_label(service: bytes, listener: bytes) -> None:
    stored, computed = inner.Arena().label(service, listener)
    assert stored == computed


def test_labels_that_differ_have_different_checksums() -> None:
    labels = [(b"SMTP", b"mx", 0), (b"SMTP", b"mx", 1), (b"SMT", b"Pmx", 0), (b"SMTPm", b"x", 0), (b"mx", b"SMTP", 0)]
    assert len({inner.Arena().label(*label)[0] for label in labels}) == len(labels)


@pytest.mark.parametrize("at", range(2))
def test_a_damaged_name_does_not_fit_its_checksum(at: int) -> None:
    arena = inner.Arena()
    arena.label(b"SMTP", b"mx")
    assert not arena.spoil_label(at)


def test_a_reader_believes_the_shared_bound_only_up_to_the_mapping() -> None:
    arena = inner.Arena()
    arena.reach = 300
    assert arena.reach == 300
    arena.reach = 0xFFFFFFFF
    assert arena.reach == arena.limit


def test_the_tables_of_sizes_fit_each_other() -> None:
    sizes = [inner.UNITS[size_class] for size_class in inner.BY_SIZE]
    assert sizes == sorted(inner.UNITS)
    assert max(sizes) == inner.LARGEST_UNITS
    assert inner.UNITS[0] == 1
