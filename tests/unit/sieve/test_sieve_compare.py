"""Comparators, match types and patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.sieve_support import Bench, bench_of

from inbound_audit.errors import PolicyError
from inbound_audit.sieve.automaton import MOST_STEPS, MOST_SUBJECT, Automaton
from inbound_audit.sieve.compare import INFINITE, numeric
from inbound_audit.sieve.regex import MOST_GROUPS, glob, regex


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


NUMERIC = ':comparator "i;ascii-numeric"'
CASEMAP = ':comparator "i;ascii-casemap"'
OCTET = ':comparator "i;octet"'

COMPARISONS = [
    # :is, and what is meant without a match type.
    ('"abc" "abc"', True),
    ('"abc" "ABC"', False),
    (':is "abc" "abc"', True),
    (':is "abc" "abcd"', False),
    (':is "" ""', True),
    (f':is {OCTET} "abc" "ABC"', False),
    (f':is {CASEMAP} "abc" "ABC"', True),
    (f':is {CASEMAP} "größe" "GRöSSE"', False),
    (f':is {CASEMAP} "größe" "GRößE"', True),
    (f':is {CASEMAP} "größe" "GRÖßE"', False),
    (f':is {NUMERIC} "007" "7"', True),
    (f':is {NUMERIC} "7 apples" "7"', True),
    (f':is {NUMERIC} "7.9" "7"', True),
    (f':is {NUMERIC} "apples" "pears"', True),
    (f':is {NUMERIC} "" "pears"', True),
    (f':is {NUMERIC} " 7" "7"', False),
    (f':is {NUMERIC} "-7" "-07"', True),
    (f':is {NUMERIC} "٣" "3"', False),
    (':is 7 "7"', True),
    (f':is {NUMERIC} 7 "07"', True),
    (':is "1K" "1024"', False),
    (':is 1K "1024"', True),
    # Tags stand where they like.
    (f'{OCTET} :is "a" "a"', True),
    (f'"a" :is "A" {CASEMAP}', True),
    (f'"3" "10" {NUMERIC} :value "lt"', True),
    # :contains
    (':contains "abcd" "bc"', True),
    (':contains "abcd" "BC"', False),
    (f':contains {CASEMAP} "abcd" "BC"', True),
    (':contains "abcd" ""', True),
    (':contains "" ""', True),
    (':contains "bc" "abcd"', False),
    # :matches
    (':matches "abc" "a*"', True),
    (':matches "abc" "*"', True),
    (':matches "" "*"', True),
    (':matches "" ""', True),
    (':matches "abc" ""', False),
    (':matches "abc" "?b?"', True),
    (':matches "abc" "??"', False),
    (':matches "abc" "b"', False),
    (':matches "a.c" "a.c"', True),
    (':matches "abc" "a.c"', False),
    (':matches "ABC" "a*"', False),
    (f':matches {CASEMAP} "ABC" "a*"', True),
    (r':matches "a*c" "a\\*c"', True),
    (r':matches "abc" "a\\*c"', False),
    (r':matches "a?" "a\\?"', True),
    (r':matches "a\\" "a\\\\"', True),
    (r':matches "ab" "a\\b"', True),
    (r':matches "a\\" "a\\"', True),
    (':matches "two\nlines" "two*l?nes"', True),
    (':matches "größe" "gr??e"', True),
    (':matches "mail.example.org" "*.example.*"', True),
    # :regex
    (r':regex "192.0.2.7" "^192\\.0\\.2\\.[0-9]+$"', True),
    (r':regex "192.0.2.77x" "^192\\.0\\.2\\.[0-9]+$"', False),
    (':regex "abc" "b"', True),
    (':regex "ABC" "b"', False),
    (f':regex {CASEMAP} "ABC" "b"', True),
    (':regex "ABC" "(?i)b"', True),
    (r':regex "v=spf1   -all" "v=spf1\\s+-all"', True),
    (':regex "support@bank.org" "^support@bank[.](com|org|net)$"', True),
    (r':regex "on 2005-01-31" "\\b(\\d{4}|\\d{2})-\\d{2}-\\d{2}\\b"', True),
    # :value
    (':value "gt" "b" "a"', True),
    (':value "lt" "10" "9"', True),
    (':value "lt" "B" "a"', True),
    (f':value "lt" {CASEMAP} "B" "a"', False),
    (f':value "lt" {CASEMAP} "a" "_"', True),
    (f':value "gt" {NUMERIC} "10" "9"', True),
    (f':value "gt" {NUMERIC} "9" "9"', False),
    (f':value "ge" {NUMERIC} "9" "9"', True),
    (f':value "lt" {NUMERIC} "8" "9"', True),
    (f':value "le" {NUMERIC} "9" "9"', True),
    (f':value "eq" {NUMERIC} "09" "9"', True),
    (f':value "ne" {NUMERIC} "09" "9"', False),
    (f':value "NE" {NUMERIC} "9" "8"', True),
    (f':value "gt" {NUMERIC} "many" "99999999999999999999999999"', True),
    (f':value "gt" {NUMERIC} "many" "few"', False),
    (f':value "lt" {NUMERIC} "-3" "1000"', True),
    (f':value "gt" {NUMERIC} "-" "1000"', True),
    (f':value "gt" {NUMERIC} "100000000000000000000000001" "100000000000000000000000000"', True),
    (f':value "bitwise-and" {NUMERIC} "6" "2"', True),
    (f':value "bitwise-and" {NUMERIC} "5" "2"', False),
    (f':value "bitwise-and" {NUMERIC} "many" "2"', False),
    # Of lists one pair that matches will do.
    (':is ["a", "b"] "b"', True),
    (':is "b" ["a", "b"]', True),
    (':is ["a", "b"] ["c", "b"]', True),
    (':is ["a", "b"] ["c", "d"]', False),
    (f':value "gt" {NUMERIC} ["1", "5"] "4"', True),
    (f':value "gt" {NUMERIC} ["1", 5] 4', True),
    (':matches "abc" ["x*", "?b?"]', True),
    (':regex "abc" ["^x", "c$"]', True),
    # :count
    (':count "eq" ["a", "b", "c"] "3"', True),
    (':count "gt" ["a", "b", "c"] "10"', False),
    (f':count "gt" {OCTET} ["a", "b", "c"] "10"', True),
    (':count "eq" ["a", ""] 1', True),
    (':count "eq" "text" "1"', True),
    (':count "eq" "" "0"', True),
    (':count "eq" $unset "0"', True),
    (':count "eq" $hash "2"', True),
    (':count "eq" $list ["7", "3"]', True),
    # Variables on either side.
    (':is "${abc}" "abc"', True),
    (':is $abc "abc"', True),
    (':is "abc" $abc', True),
    (':is "abc" "${abc}"', True),
    (':is "x" $list', True),
    (':is $list "y"', True),
    (':is "${list}" "y"', False),
    (':is "${list}" "x, y, z"', True),
    (':is $hash["one"] "1"', True),
    (':is $list[1] "y"', True),
    (':is $unset ""', True),
    (':matches "abc" "${abc}*"', True),
    (':matches "axc" $pattern', True),
    (f':matches {CASEMAP} "AXC" $pattern', True),
    (f':value "gt" {NUMERIC} "${{ten}}" "9"', True),
    (f':value "gt" {NUMERIC} $ten 9', True),
    (f':value "gt" {NUMERIC} "9" "${{ten}}"', False),
    (f':value "gt" {NUMERIC} "1${{ten}}" "109"', True),
    (f':value "gt" {NUMERIC} "${{unset}}" "9"', True),
    (':is "%{i}" "192.0.2.7"', True),
    (':matches "%{i}" ["198.51.100.*", "192.0.2.*"]', True),
]


@pytest.mark.parametrize(("comparison", "holds"), COMPARISONS, ids=range(len(COMPARISONS)))
def test_comparisons(bench: Bench, comparison: str, holds: bool) -> None:
    setup = """
        $abc = "abc"; $ten = 10; $list = ["x", "y", "z"]; $pattern = "a?c";
        $hash = hash_create; hash_set $hash "one" "1"; hash_set $hash "two" "2";
    """
    assert bench.holds(f"ec_test {comparison}", setup) == holds
    assert bench.holds(f"not ec_test {comparison}", setup) != holds


@given(st.integers(-(10**30), 10**30), st.from_regex(r"\A(?:[^0-9].*)?\Z", fullmatch=True))
def test_a_number_is_what_a_text_begins_with(number: int, rest: str) -> None:
    assert numeric(f"{number}{rest}") == number
    assert numeric(number) == number


@given(st.from_regex(r"\A(?:[^0-9-].*|-(?:[^0-9].*)?)?\Z", fullmatch=True))
def test_what_begins_with_no_number_is_infinite(text: str) -> None:
    assert numeric(text) == INFINITE


def test_a_number_that_never_ends_is_infinite() -> None:
    assert numeric("9" * 10_000) == INFINITE


# ---- patterns


def patterns() -> st.SearchStrategy[str]:
    """Patterns that Python's `re` reads as Perl does: without its own ideas about ``\\Z``, and sets in a set."""
    items = st.sampled_from(
        ["a", "b", "A", "1", "_", " ", r"\.", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", "[a-c1]",
         r"[\d_]", r"[^\w]", "[]a]", "[a-]", r"\x61", r"\n", "^", "$", r"\b", r"\B", r"\A"]
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


# Of the empty text Python says before 3.14 that it has no \B, so there is always a character.
SUBJECTS = st.text("abABc1_ .\nä", min_size=1, max_size=12)


@given(patterns(), SUBJECTS, st.booleans())
def test_a_pattern_matches_what_it_matches_elsewhere(pattern: str, subject: str, ignore_case: bool) -> None:
    flags = re.ASCII | (re.IGNORECASE if ignore_case else 0)
    expected = re.search(pattern, subject, flags) is not None
    automaton = Automaton(regex(pattern, ignore_case))
    assert automaton.search(subject) == expected
    assert automaton.search(subject) == expected  # from what was kept


def written_as_regex(pattern: str) -> str:
    """A glob as a pattern for Python's `re`."""
    found = re.sub(r"\\(.)|(\*)|(\?)|(.)|\\", _one, pattern, flags=re.DOTALL)
    return rf"\A{found}\Z"


def _one(match: re.Match[str]) -> str:
    if match[2]:
        return "(?s:.*)"
    return "(?s:.)" if match[3] else re.escape(match[1] or match[4] or "\\")


@given(st.text("ab*?\\\n.", max_size=8), st.text("ab*?\\\n.", max_size=8), st.booleans())
def test_a_glob_matches_what_it_should(pattern: str, subject: str, ignore_case: bool) -> None:
    flags = re.IGNORECASE if ignore_case else 0
    expected = re.search(written_as_regex(pattern), subject, flags) is not None
    assert Automaton(glob(pattern, ignore_case)).search(subject) == expected


@pytest.mark.parametrize(
    ("pattern", "subject", "found"),
    [
        ("", "", True),
        (r"\B", "", True),
        ("^$", "", True),
        ("a$", "a\n", True),
        (r"a\Z", "a\n", True),
        (r"a\z", "a\n", False),
        ("a$", "a\n\n", False),
        ("[[:digit:]x]+$", "12x", True),
        ("^[[:^alpha:]]+$", "a1", False),
        ("[^[:space:]]", " \t", False),
        (r"[\b]", "\b", True),
        (r"[\]\\-]+$", "\\]-", True),
        ("a{,3}", "a{,3}", True),
        ("a{x}", "a{x}", True),
        ("x{", "x{", True),
        ("(?<name>a)(?P<other>b)(?'third'c)", "abc", True),
        ("(?:a|)b", "b", True),
        ("(|a)+b", "ab", True),
        ("()*x", "x", True),
        ("(?:){1000}x", "x", True),
        ("((?:(?:){1000}){1000}){1000}x", "x", True),
        ("[ä-ü]", "ö", True),
        ("(?i)ä", "Ä", False),
        ("(?i)[^a]", "A", False),
        ("(?i)[[:upper:]]", "a", True),
        (r"\x41\t", "A\t", True),
        ("a|b|c", "xxc", True),
        ("𝄞.", "𝄞x", True),
    ],
)
def test_patterns(pattern: str, subject: str, found: bool) -> None:
    assert Automaton(regex(pattern)).search(subject) == found


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "character 2: a group that is not closed"),
        ("(a", "character 3: a group that is not closed"),
        ("a)", "character 2: a ')' without a '('"),
        ("[a", "character 3: a set that is not closed"),
        ("[]", "character 3: a set that is not closed"),
        ("[b-a]", "a range that goes nowhere"),
        (r"[a-\d]", "a range that goes nowhere"),
        ("[[:letter:]]", "a class that is not known"),
        ("*", "character 1: nothing that could be repeated"),
        ("a|*", "character 3: nothing that could be repeated"),
        ("{2}", "character 1: nothing that could be repeated"),
        ("^*", "a place can't be repeated"),
        (r"\b+", "a place can't be repeated"),
        ("a**", "a quantifier behind a quantifier"),
        ("a{2}{3}", "a quantifier behind a quantifier"),
        ("a++", "possessive quantifiers are not available"),
        ("a{3,2}", "the wrong way round"),
        ("a{1001}", "more than 1000 repeats"),
        ("a{5,99999}", "more than 1000 repeats"),
        (r"(a)\1", "references back are not available"),
        (r"\k<name>", "references back are not available"),
        ("(?=a)", "groups that begin with (? look around, or are not available"),
        ("(?!a)", "look around"),
        ("(?<=a)b", "look around"),
        ("(?>a)", "look around"),
        ("(?P<a-b>x)", "look around"),
        ("a(?i)b", "look around"),
        ("a\\", "a backslash at the end"),
        ("[\\", "a backslash at the end"),
        (r"\x4", "\\x without two hexadecimal digits"),
        (r"\Q.\E", "\\Q is not available"),
        (r"\p{L}", "\\p is not available"),
        ("(" * (MOST_GROUPS + 1) + ")" * (MOST_GROUPS + 1), f"more than {MOST_GROUPS} deep"),
        ("(" * 100_000, f"more than {MOST_GROUPS} deep"),
        ("(a{1000}){1000}", f"more than {MOST_STEPS} steps"),
        ("x" * (MOST_STEPS + 1), f"more than {MOST_STEPS} steps"),
    ],
)
def test_patterns_that_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(words)):
        Automaton(regex(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(a|aa)+$",
        "(a*)*b",
        "(.*)*x",
        "a*a*a*a*a*a*b",
        "(.*a){20}b",
        "(a?){100}a{100}b",
        "(x+x+)+y",
    ],
)
def test_no_pattern_is_slow(pattern: str) -> None:
    """Each of these would take a matcher that goes back longer than the sun will shine."""
    automaton = Automaton(regex(pattern))
    for subject in ("a" * (MOST_SUBJECT - 1) + "!", "x" * MOST_SUBJECT, "ab" * (MOST_SUBJECT // 2)):
        automaton.search(subject)


def test_a_pattern_is_not_asked_about_a_text_without_end(bench: Bench) -> None:
    long = "x" * (MOST_SUBJECT + 1)
    assert bench.fails(f'if ec_test :regex "{long}" "y" {{ stop; }}') == (
        f"1:1: a text of more than {MOST_SUBJECT} characters is not matched"
    )
    assert "is not matched" in bench.fails(f'if ec_test :matches "{long}" "*" {{ stop; }}')
    assert bench.holds(f'ec_test :contains "{long}" "xxx"')


def test_what_is_kept_of_patterns_has_a_bound() -> None:
    automaton = Automaton(regex("(a|b)*a(a|b){12}c"))
    for number in range(600):
        assert not automaton.search("".join("ab"[number >> bit & 1] for bit in range(13)) * 2)
        assert automaton.search("a" * (1 + number % 3) + "b" * 12 + "c")
    assert len(automaton._kept) <= 200
