"""Comparators, match types and patterns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.sieve_support import Bench, bench_of

from inbound_audit.sieve.compare import INFINITE, numeric


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
    (f':is {NUMERIC} "7.9" "7"', False),
    (f':is {NUMERIC} "7.90" 7.9', True),
    (f':is {NUMERIC} "7." "7"', True),
    (f':value "gt" {NUMERIC} "1.75" "1.5"', True),
    (f':value "lt" {NUMERIC} "-0.5" "0"', True),
    (f':is {NUMERIC} -5 "-5"', True),
    (':is 0.5 "0.500000"', True),
    (f':contains "{"x" * 70_000}y" "xy"', True),
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


@given(st.integers(-(10**30), 10**30), st.from_regex(r"\A(?:[^0-9.].*|[.](?:[^0-9].*)?)?\Z", fullmatch=True))
def test_a_number_is_what_a_text_begins_with(number: int, rest: str) -> None:
    assert numeric(f"{number}{rest}") == number
    assert numeric(number) == number


@given(st.from_regex(r"\A(?:[^0-9-].*|-(?:[^0-9].*)?)?\Z", fullmatch=True))
def test_what_begins_with_no_number_is_infinite(text: str) -> None:
    assert numeric(text) == INFINITE


def test_a_number_that_never_ends_is_infinite() -> None:
    assert numeric("9" * 10_000) == INFINITE
