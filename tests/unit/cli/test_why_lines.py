"""`why` and the decision log: what is no line of it is left out, and what is one can be shown."""

from __future__ import annotations

import json

import pytest

from inbound_audit.cli.why import _about

LINE = {"time": "now", "client": "192.0.2.7", "done": "refused", "prefix": "192.0.2.0/24", "count": 2, "most": 1}


def about(**more: object) -> list[dict[str, object]]:
    return list(_about([json.dumps({**LINE, **more}).encode() + b"\n"], "192.0.2.7"))


def test_lines_about_the_client_and_about_prefixes_around_it() -> None:
    assert about() == about(client="192.0.2.7") == [LINE]
    assert len(about(client="192.0.2.9")) == 1
    assert about(client="192.0.2.9", prefix="192.0.2.9/32") == []


@pytest.mark.parametrize("member", [float("nan"), float("inf"), [], {"a": 1}], ids=str)
def test_a_line_has_texts_and_numbers(member: object) -> None:
    """The others are no JSON, or nested more deeply than can be written again."""
    assert about(count=member) == []


def test_a_prefix_is_a_text() -> None:
    assert about(client="192.0.2.9", prefix=0xC0000207) == []


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b"7", b"\xff", b"[" * 100_000], ids=len)
def test_what_is_no_line(line: bytes) -> None:
    assert list(_about([line], "192.0.2.7")) == []
