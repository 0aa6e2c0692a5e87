"""Each code of the core has a sentence."""

from __future__ import annotations

from tests.support import inner


def test_each_code_has_a_sentence() -> None:
    sentences = [inner.reason(code) for code in inner.CODES]
    assert "unknown error" not in sentences
    # Both codes that Python handles before a user sees them share one.
    assert len(set(sentences)) == len(sentences) - 1


def test_a_number_that_is_no_code() -> None:
    assert inner.reason(min(inner.CODES) - 1) == inner.reason(1) == "unknown error"
