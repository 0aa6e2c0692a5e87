"""Functions of numbers, texts, lists, hashes, context variables and address lists."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.sieve_support import PATIENT_MS, Bench, bench_of
from tests.support.waiting import eventually

from inbound_audit import SievePolicy
from inbound_audit.errors import PolicyError
from inbound_audit.sieve.calls import FUNCTIONS
from inbound_audit.sieve.values import text


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


@pytest.mark.parametrize(
    ("call", "result"),
    [
        # The examples of the reference's pages.
        ('ec_add "55.54" 0', "55.540000"),
        ('ec_sub 43 "55.54"', "-12.540000"),
        ("ec_div -86 43", "-2.000000"),
        ("ec_mod 87 43", "1"),
        ("ec_ceil 65.43", "66.000000"),
        ("ec_ceil -41.65", "-41.000000"),
        ("ec_ceil 43", "43.000000"),
        ("ec_floor 65.43", "65.000000"),
        ("ec_floor -41.65", "-42.000000"),
        ("ec_round 65.43", "66.000000"),
        ("ec_round -41.65", "-42.000000"),
        ("ec_round 43", "43.000000"),
        ("ec_trunc -41.65", "-41.000000"),
        ("ec_nearbyint 65.43", "65.000000"),
        ("ec_nearbyint -41.65", "-42.000000"),
        # And others.
        ("ec_add 1 2", "3.000000"),
        ('ec_mul "-1.5" 4', "-6.000000"),
        ("ec_div 1 3", "0.333333"),
        ("ec_mod -7 3", "-1"),
        ("ec_mod 7 -3", "1"),
        ("ec_mod 5.5 2", "1.500000"),
        ("ec_ceil -0.5", "0.000000"),
        ('ec_add ["4"] "0.25"', "4.250000"),
        ('split "." "192.0.2.7"', "192, 0, 2, 7"),
        ('ec_explode ", " "a, b,c"', "a, b,c"),
        ('split "." ""', ""),
        ('join "-" ["a", "b", 3]', "a-b-3"),
        ('join "" ["a", "b"]', "ab"),
        ('join "-" "alone"', "alone"),
        ('reverse "hello"', "olleh"),
        ('reverse ["a", "b", "c"]', "c, b, a"),
        ('reverse_delim "." "192.0.2.7"', "7.2.0.192"),
        ('ec_tolower "MAIL.Example.ORG-1"', "mail.example.org-1"),
        (r'ec_pcre_match "foo@bar.com.cn" "(.*)@(.*)\\.com"', "foo@bar.com, foo, bar"),
        ('ec_pcre_match "abc" "x"', ""),
        ('ec_pcre_match "b" "(a)?b"', "b, "),
    ],
)
def test_a_call_returns(bench: Bench, call: str, result: str) -> None:
    assert bench.say(call) == result


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_arithmetic_is_that_of_numbers(first: int, second: int) -> None:
    def called(name: str, *given: int | float) -> object:
        return FUNCTIONS[name].run(None, *given)

    assert called("ec_add", first, second) == first + second
    assert called("ec_sub", first, second) == first - second
    assert called("ec_mul", first, second) == float(first) * second
    if second:
        assert called("ec_div", first, second) == first / second
        assert called("ec_mod", first, second) == math.fmod(first, second)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("ec_div 1 0", "a division by zero"),
        ("ec_mod 1 0", "a division by zero"),
        ("ec_mod 1.5 0", "a division by zero"),
        ('ec_pcre_match "a" "${unset}("', "pattern '(': missing )"),
        ('ec_add "${unset}" 1', "'' is not a number"),
        ("ec_add $hash 1", "a hash is not a number"),
        ("hash_keys $unset", "is not a hash"),
    ],
)
def test_a_call_fails(bench: Bench, call: str, words: str) -> None:
    assert words in bench.fails(f"$hash = hash_create; $x = {call};")


def test_a_number_that_grows_without_end_is_an_error(bench: Bench) -> None:
    squares = "$x = ec_mul $x $x;" * 12
    assert "too large for a number" in bench.fails(f"$x = 1000000000;{squares}")


def test_a_list_that_grows_without_end_is_an_error(bench: Bench) -> None:
    doubled = '$x = "${x}${x}";' * 14
    assert "a list of more than" in bench.fails(f'$x = ",";{doubled}$y = split "," $x;')


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ec_add 1;", "ec_add takes 2 arguments (number, number), and not 1"),
        ("$x = ec_add 1 2 3;", "takes 2 arguments"),
        ('$x = ec_add "a" 1;', "'a' is not a number"),
        ('$x = ec_pcre_match "a" "(";', "pattern '(': missing )"),
        ('$x = split "" "a";', "a delimiter is"),
        ("$x = reverse;", "takes 1 argument"),
    ],
)
def test_a_wrong_call_is_refused_when_the_script_is_loaded(bench: Bench, script: str, words: str) -> None:
    assert words in bench.refuses(script)


def test_a_rate_decides(bench: Bench) -> None:
    """Connections per reception: what the functions of numbers are there for."""
    script = """
        $rate = ec_div 7 4;
        if ec_test :value "gt" :comparator "i;ascii-numeric" $rate "1.5" { ec_action 421 "rate ${rate}"; }
    """
    assert bench.verdict(script).text == "rate 1.750000"
    assert bench.holds('ec_test :value "gt" :comparator "i;ascii-numeric" $rate "1.8"', "$rate = ec_div 7 4;") is False


def test_a_whole_result_is_taken_where_a_whole_number_is_expected(bench: Bench) -> None:
    assert bench.verdict('$code = ec_add 420 1; ec_action $code "no";').code == 421
    assert "has a fraction" in bench.fails('$code = ec_div 843 2; ec_action $code "no";')


@pytest.mark.parametrize(
    ("number", "shown"),
    [("-5", "-5"), ("0.5", "0.500000"), ("-0.25", "-0.250000"), ("1.5K", "1536.000000"), ("-1K", "-1024")],
)
def test_numbers_below_zero_and_with_a_fraction(bench: Bench, number: str, shown: str) -> None:
    assert bench.say(number) == shown


def test_keys_and_values_of_a_hash(bench: Bench) -> None:
    setup = '$h = hash_create; hash_set $h "one" 1; hash_set $h "two" "b"; hash_set $h "one" "a";'
    assert bench.say("hash_keys $h", setup) == "one, two"
    assert bench.say("hash_values $h", setup) == "a, b"
    assert bench.say("hash_keys $h", "$h = hash_create;") == ""
    assert bench.holds('ec_test :count "eq" $keys 2', f"{setup} $keys = hash_keys $h;")


@pytest.mark.parametrize("scope", ["vctx_conn", "vctx_mess"])
def test_context_variables(bench: Bench, scope: str) -> None:
    setup = f'{scope}_set "rate" "12"; {scope}_set "name" "Mail"; {scope}_set "gone" "x"; {scope}_delete "gone";'
    numeric = ':comparator "i;ascii-numeric"'
    for test, holds in [
        ('"name" "Mail"', True),
        (':contains "name" ""', True),
        (':contains "gone" ""', False),
        (':contains "unset" ""', False),
        (':is :comparator "i;ascii-casemap" "name" "MAIL"', True),
        (f':value "gt" {numeric} "rate" "9"', True),
        (f':value "gt" {numeric} ["unset", "rate"] ["100", "9"]', True),
        (':count "eq" ["name", "unset", "rate"] "2"', True),
        (':regex "name" "^M"', True),
        (':matches "name" "m*"', False),
    ]:
        assert bench.holds(f"{scope} {test}", setup) == holds, test
    assert bench.say(f'{scope}_get "rate"', setup) == "12"
    assert bench.say(f'"%{{{scope}:name}}"', setup) == "Mail"
    other = {"vctx_conn": "vctx_mess", "vctx_mess": "vctx_conn"}[scope]
    assert bench.say(f'{other}_get "rate"', setup) == ""
    assert "takes names of context variables" in bench.refuses(f'if {scope} "name" {{ stop; }}')


# ---- address lists

LIST = """
:127.0.0.2:listed
192.0.2.0/24
198.51.100.7 :3:worse
"""


def defined(path: Path, **options: str) -> str:
    given = {"cidrname": "bad", "dstype": "rbldnsd", "query": f"{path}?want=a", **options}
    return "$c = hash_create;" + "".join(f'hash_set $c "{name}" "{value}";' for name, value in given.items())


def test_an_address_list_decides(bench: Bench) -> None:
    path = bench.write(LIST, "list")
    setup = defined(path) + "define_cidr $c;"
    assert bench.holds('check_cidr "bad"', setup)
    assert bench.holds('check_cidr "bad" "true"', setup)
    assert not bench.holds('check_cidr "bad" "false"', setup)
    assert not bench.holds('check_cidr "bad"', setup, "203.0.113.1")
    assert not bench.holds('check_cidr "bad"', setup, "2001:db8::1")
    assert bench.holds('check_cidr "bad" :ip "198.51.100.7"', setup, "203.0.113.1")
    assert bench.holds('check_cidr :ip "198.51.100.7" "bad"', setup, "203.0.113.1")
    assert bench.say('query_cidr "bad"', setup) == "true"
    assert bench.say('query_cidr "bad"', setup, "203.0.113.1") == "false"


def test_an_address_list_of_values(bench: Bench) -> None:
    path = bench.write(LIST, "list")
    setup = defined(path, type="value", default_value="none") + "define_cidr $c;"
    assert bench.say('query_cidr "bad"', setup) == "127.0.0.2"
    assert bench.say('query_cidr :ip "198.51.100.7" "bad"', setup) == "127.0.0.3"
    assert bench.say('query_cidr "bad"', setup, "203.0.113.1") == "none"
    assert not bench.holds('check_cidr "bad"', setup)
    worded = defined(path, type="value", query=f"{path}?want=txt") + "define_cidr $c;"
    assert bench.say('query_cidr "bad" :ip "198.51.100.7"', worded) == "worse"


def test_a_dollar_sign_in_the_text_of_a_list_is_the_address(bench: Bench) -> None:
    path = bench.write("192.0.2.0/24 :2:see http://bl.example/?ip=$\n", "list")
    setup = defined(path, type="value", query=f"{path}?want=txt")
    assert bench.say('query_cidr "bad"', setup + "define_cidr $c;") == "see http://bl.example/?ip=192.0.2.7"
    plain = setup + 'hash_set $c "interpolate" "false"; define_cidr $c;'
    assert bench.say('query_cidr "bad"', plain) == "see http://bl.example/?ip=$"


def test_a_list_is_read_once_and_again_when_it_is_reloaded(bench: Bench) -> None:
    path = bench.write(LIST, "list")
    script = defined(path, refresh="0") + 'define_cidr $c; if check_cidr "bad" { ec_action 550 "listed"; }'
    policy = bench.policy(script)
    reloading = bench.policy(script.replace("if ", 'reload_cidr "bad"; if '))
    with bench.listener.session("192.0.2.7") as ac:
        assert not policy.validate_connect(ac)
        assert not reloading.validate_connect(ac)
        path.write_text("203.0.113.0/24 :2:x\n")
        assert not policy.validate_connect(ac)
        eventually(lambda: reloading.validate_connect(ac))
        assert (policy.errors, reloading.errors) == (0, 0)


def test_a_list_that_constants_define_is_read_when_the_script_is_loaded(bench: Bench) -> None:
    path = bench.write(LIST, "list")
    policy = bench.policy(defined(path) + 'define_cidr $c; if check_cidr "bad" { ec_action 550 "listed"; }')
    path.unlink()
    with bench.listener.session("192.0.2.7") as ac:
        assert policy.validate_connect(ac).text == "listed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dstype": "dslayer"}, "expected 'rbldnsd', not 'dslayer'"),
        ({"query": "list"}, "?want=a or ?want=txt"),
        ({"query": "list?want=mx"}, "?want=a or ?want=txt"),
        ({"type": "bool"}, "expected 'boolean' or 'value'"),
        ({"defualt_value": "x"}, "did you mean 'default_value'?"),
        ({"query": "nowhere?want=a"}, "No such file"),
    ],
)
def test_a_wrong_definition_is_an_error(bench: Bench, options: dict[str, str], words: str) -> None:
    assert words in bench.fails(defined(bench.directory / "list", **options) + "define_cidr $c;")


def test_lists_lie_in_the_directories_of_the_policy(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    far = tmp_path_factory.mktemp("far")
    (far / "list").write_text(LIST)
    (bench.directory / "link").symlink_to(far)
    names = [f"{far}/list", f"file://{far}/list", "link/list", f"{os.path.relpath(far, bench.directory)}/list",
             "/etc/passwd", "/proc/self/environ", "/dev/zero", "."]  # fmt: skip
    for name in names:
        script = defined(Path(name), query=f"{name}?want=a") + 'define_cidr $c; if check_cidr "bad" { stop; }'
        if name != ".":
            assert "lies outside of the policy's directory and of those of search" in bench.fails(script)
        if "list" in name:
            policy = bench.policy(script.replace("stop", 'ec_action 550 "listed"'), search=[far])
            assert policy.validate_connect(bench.session()).text == "listed"
    assert "it is not a regular file" in bench.fails(script)


def test_a_policy_that_is_named_by_a_relative_path_finds_its_lists(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(LIST, "list")
    bench.write(
        defined(Path("list"), refresh="0")
        + 'define_cidr $c; reload_cidr "bad"; $x = query_cidr "bad"; ec_action 250 $x;'
    )
    monkeypatch.chdir(bench.directory)
    policy = SievePolicy("policy.sieve", max_hook_ms=PATIENT_MS)
    monkeypatch.chdir("/")
    assert (policy.validate_connect(bench.session()).text, policy.last_error) == ("true", None)


def test_a_list_that_was_not_defined_is_an_error(bench: Bench) -> None:
    assert "no address list 'bad'" in bench.fails('if check_cidr "bad" { stop; }')
    assert "data sources are not part of inbound_audit" in bench.fails('define_cidr "bad" "db" "SELECT 1";')
    assert "knows no tag :ipp" in bench.refuses('$x = query_cidr :ipp "192.0.2.7" "bad";')
    assert "one value after it" in bench.refuses('$x = query_cidr "bad" :ip;')


def test_a_text_of_a_hash_is_an_error() -> None:
    with pytest.raises(PolicyError, match="a hash can't become a text"):
        text({})
