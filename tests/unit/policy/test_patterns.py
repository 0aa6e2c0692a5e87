"""Patterns of scripts, against Python's own, and with what would take a matcher that goes back for ever."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit.errors import PolicyError
from inbound_audit.policy.patterns import glob, regex


def patterns() -> st.SearchStrategy[str]:
    """Patterns that RE2 and Python's `re` read alike."""
    items = st.sampled_from(
        ["a", "b", "A", "1", "_", " ", r"\.", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", "[a-c1]",
         r"[\d_]", r"[^\w]", "[]a]", "[a-]", r"\x61", r"\n", "^", r"\b", r"\A"]
    )  # fmt: skip
    quantifiers = st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "{2,}", "{0}", "*?", "+?", "??"])
    return st.recursive(
        items,
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map("".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda options: f"({'|'.join(options)})"),
            st.builds("(?:{}){}".format, inner, quantifiers),
        ),
        max_leaves=8,
    )


@given(patterns(), st.text("abABc1_ .\n", max_size=12), st.booleans())
def test_a_pattern_matches_what_it_matches_elsewhere(pattern: str, subject: str, ignore_case: bool) -> None:
    flags = re.ASCII | (re.IGNORECASE if ignore_case else 0)
    expected = re.search(pattern, subject, flags) is not None
    assert (regex(pattern, ignore_case).search(subject) is not None) == expected


def written_as_regex(pattern: str) -> str:
    """A glob as a pattern for Python's `re`."""
    found = re.sub(r"\\(.)|(\*)|(\?)|(.)|\\", _one, pattern, flags=re.DOTALL)
    return rf"\A{found}\Z"


def _one(match: re.Match[str]) -> str:
    if match[2]:
        return "(?s:.*)"
    return "(?s:.)" if match[3] else re.escape(match[1] or match[4] or "\\")


@given(st.text("ab*?\\\n.ä(", max_size=8), st.text("ab*?\\\n.ä(", max_size=8), st.booleans())
def test_a_glob_matches_what_it_should(pattern: str, subject: str, ignore_case: bool) -> None:
    flags = re.IGNORECASE if ignore_case else 0
    expected = re.search(written_as_regex(pattern), subject, flags) is not None
    assert (glob(pattern, ignore_case).search(subject) is not None) == expected


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "missing )"),
        ("[a", "missing ]"),
        ("*", "no argument for repetition operator"),
        ("a{1001}", "invalid repetition size"),
        (r"(a)\1", "invalid escape sequence"),
        ("(?=a)", "invalid perl operator"),
        ("(?>a)", "invalid perl operator"),
        ("[[:letter:]]", "invalid character class"),
        ("((a{100}){100}){100}", "invalid repetition size"),
        ("(" * 8000, "missing )"),
        ("(" * 100_000, "has more than 8192 characters"),
    ],
)
def test_patterns_that_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(words)):
        regex(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$b",
        "(a|a)*$b",
        "(a|aa)+$b",
        "(a*)*b",
        "(.*)*x$",
        "a*a*a*a*a*a*b",
        "(.*a){20}b",
        "(a?){100}a{100}b",
        "(x+x+)+y",
    ],
)
def test_no_pattern_goes_back(pattern: str) -> None:
    """Each of these would take a matcher that goes back longer than the sun will shine."""
    for subject in ("a" * 65535 + "!", "x" * 65536 + "!"):
        assert regex(pattern).search(subject) is None
