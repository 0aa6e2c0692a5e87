"""Scripts that are refused when they are loaded, with line and column, and runs that fail at a place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.effort import effort
from tests.support.sieve_support import Bench, bench_of

from inbound_audit import SievePolicy
from inbound_audit.errors import PolicyError
from inbound_audit.sieve.parse import MAX_DEPTH
from inbound_audit.sieve.policy import MAX_BYTES


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


NUMERIC = ':comparator "i;ascii-numeric"'

BAD = {
    # The grammar.
    'ec_log "a': "1:8: a text that is not closed",
    "\n  /* a\n b": "2:3: a comment that is not closed",
    "ec_log text:\nno dot\n": "1:12: a multi-line text that is not closed",
    "ec_log text: x\n.\n;": "1:12: a multi-line text that is not closed",
    'ec_log "a"': "1:11: the script ends too early",
    "if true {\n  stop;\n": "2:8: the script ends too early",
    "stop;\n}": "2:1: unexpected '}'",
    "if true stop;": "1:9: true takes no test",
    "if (true) { stop; };": "1:20: unexpected ';'",
    '$a = "b"\n$c = "d";': "2:1: unexpected '$c'; expected ';'",
    "$a = ;": "1:6: unexpected ';'",
    "$a;": "1:3: unexpected ';'; expected '='",
    '$a["x"] = "y";': "1:3: unexpected '['; expected '='",
    '($a) "x";': "1:6: unexpected '\"x\"'; expected '='",
    '"x";': "1:1: unexpected '\"x\"'",
    'ec_log ["a" "b"];': "1:13: unexpected '\"b\"'; expected ',' or ']'",
    "ec_log [];": "1:9: unexpected ']'",
    'ec_log [["a"]];': "1:9: unexpected '['",
    "allof (true, );": "1:14: unexpected ')'; expected a name",
    "ec_tarpit 5x;": "1:11: a number that runs into a name",
    "ec_tarpit -5;": "1:11: seconds: '-5'",
    "$größe = 1;": "1:4: unexpected character 'ö'",
    "é": "1:1: unexpected character 'é'",
    "$ = 1;": "1:1: unexpected character '$'",
    "ec_log 'a';": '1:8: unexpected character "\'"',
    "$a = 9223372036854775808;": "1:6: a number beyond 9223372036854775807",
    "$a = 9007199254740992K;": "1:6: a number beyond",
    f"$a = {'9' * 5000};": "1:6: a number beyond",
    # Commands, functions and tests.
    'ec_foo "a";': "1:1: unknown command 'ec_foo'",
    'stop;\n  EC_LGO "a";': "2:3: unknown command 'ec_lgo'; did you mean 'ec_log'?",
    "$a = audit_servce \"SMTP\" \"/24\";": "1:6: unknown function 'audit_servce'; did you mean 'audit_service'?",
    "if ec_tset \"a\" \"b\" { stop; }": "1:4: unknown test 'ec_tset'; did you mean 'ec_test'?",
    "if audit_service \"SMTP\" \"/24\" { stop; }": "1:4: audit_service is not a test",
    'ec_test "a" "b";': "1:1: ec_test is a test; it stands after an if",
    '$a = ec_action 550 "x";': "1:6: ec_action has no value",
    '$a = hash_set $h "a" "b";': "1:6: hash_set has no value",
    "$a = true;": "1:6: unknown function 'true'",
    "$a = stop;": "1:6: unknown function 'stop'",
    'ec_log "a"\nstop;': "2:1: ec_log takes no test; is a ';' missing before 'stop'?",
    "stop { stop; }": "1:1: stop has no block; it ends with a ';'",
    'stop "a";': "1:6: stop takes nothing",
    "stop\nkeep;": "2:1: stop takes nothing; is a ';' missing?",
    # Branches.
    "else { stop; }": "1:1: else without an if",
    "elsif true { stop; }": "1:1: elsif without an if",
    "if true { stop; } else { stop; } elsif true { stop; }": "1:34: elsif without an if",
    "if true { stop; } ec_tarpit 1; else { stop; }": "1:32: else without an if",
    "if true;": "1:1: if without a block",
    "if { stop; }": "1:1: if takes one test",
    "if (true, false) { stop; }": "1:1: if takes one test; allof and anyof join several",
    'if "a" { stop; }': "1:4: if takes a test and a block",
    "if true { stop; } else true { stop; }": "1:24: else takes no test; elsif does",
    'if true { stop; } else "a" { stop; }': "1:24: else takes nothing and a block",
    # Tests.
    "if not { stop; }": "1:4: not takes one test",
    "if not (true, true) { stop; }": "1:9: not takes one test",
    "if allof { stop; }": "1:4: allof takes a list of tests",
    'if anyof "a" (true) { stop; }': "1:10: anyof takes no arguments",
    "if true true { stop; }": "1:9: true takes no test",
    "if false 1 { stop; }": "1:10: false takes no arguments",
    "if isset $a { stop; }": "1:4: isset takes 2 arguments (whole, key), and not 1",
    "if isset :is $a { stop; }": "1:10: isset knows no tag :is, and takes none",
    'if ec_test "a" { stop; }': "1:4: ec_test takes a value and a key",
    'if ec_test "a" "b" "c" { stop; }': "1:4: ec_test takes a value and a key",
    'if ec_test "a" "b" true { stop; }': "1:20: ec_test takes no test",
    'if ec_test :iz "a" "b" { stop; }': "1:12: ec_test knows no tag :iz",
    'if ec_test :contians "a" "b" { stop; }': "1:12: ec_test knows no tag :contians; did you mean 'contains'?",
    'if ec_test :is :contains "a" "b" { stop; }': "1:16: :contains beside :is",
    'if ec_test :comparator "i;octet" :comparator "i;octet" "a" "b" { stop; }': "1:34: a second :comparator",
    'if ec_test :comparator "i;unicode-casemap" "a" "b" { stop; }': "1:4: no comparator 'i;unicode-casemap'",
    'if ec_test :comparator $c "a" "b" { stop; }': "1:24: :comparator expects a constant text after it",
    'if ec_test "a" "b" :comparator { stop; }': "1:20: :comparator expects a constant text after it",
    'if ec_test :value "gtt" "a" "b" { stop; }': "1:4: no operator 'gtt'",
    'if ec_test :value "bitwise-and" "a" "b" { stop; }': "1:4: bitwise-and needs the comparator",
    'if ec_test :count :is "a" "b" { stop; }': "1:19: :count expects a constant text after it",
    f'if ec_test :contains {NUMERIC} "a" "b" {{ stop; }}': "1:4: :contains compares parts of a text",
    f'if ec_test :matches {NUMERIC} "a" "b" {{ stop; }}': "1:4: :matches compares parts of a text",
    'if ec_test :regex "a" "(" { stop; }': "1:23: pattern '(': missing )",
    'if ec_test :regex "a" ["a", "*"] { stop; }': "1:29: pattern '*': no argument for repetition operator",
    'if ec_test :regex "a" "${b}" { stop; }': "1:23: a pattern of :regex is constant",
    # Arguments.
    "audit_service;": "1:1: audit_service takes 2 arguments (service, address/mask), and not 0",
    'audit_service "SMTP" "/24" "x";': "1:1: audit_service takes 2 arguments (service, address/mask), and not 3",
    'audit_service :is "SMTP" "/24";': "1:15: audit_service knows no tag :is, and takes none",
    'audit_service "SMTP" "/129";': "1:22: address/mask: '/129'",
    'audit_connections_on_service "example.org";': "1:30: address/mask: 'example.org'",
    'audit_connections_on_listener "";': "1:31: address/mask: ''",
    'ec_action 550;': "1:1: ec_action takes 2 or 3 arguments (code, reason, counter), and not 1",
    'ec_action "no" "way";': "1:11: code: 'no' is not a number",
    'ec_action 199 "x";': "1:11: code: 199 is not an SMTP reply code from 200 to 599",
    'ec_disconnect 600 "x";': "1:15: code: 600 is not an SMTP reply code",
    "ec_disconnect 421;": "1:1: ec_disconnect takes 0 or 2 or 3 arguments (code, reason, counter), and not 1",
    'ec_tarpit "long";': "1:11: seconds: 'long': ",
    "ec_tarpit 86401;": "1:11: seconds: '86401' is more than 86400 seconds",
    'audit_series "s" "300" "32";': "1:18: interval,number: '300': is not a monitor",
    'audit_series "s" "300,0" "32";': "1:18: interval,number: '300,0': is not a monitor",
    'audit_series "s" "300,6" "x";': "1:26: mask: 'x': has a prefix length",
    'audit_series "s" "300,6" 24 "-1";': "1:29: start window: -1 is less than 0",
    'audit_series_add "s";': "1:1: audit_series_add takes 2 or 3 arguments (series, interval,number, amount) or a hash",
    'ec_ip_connections "first";': "1:19: time series index: 'first' is not a number",
    'hash_set "h" "key" "value";': "1:10: hash: 'h' is not a hash; hash_create makes one",
    # require.
    'require "fileinto";': "1:9: 'fileinto' is not available",
    'require ["variables", "ec_tset"];': "1:23: 'ec_tset' is not available; did you mean 'ec_test'?",
    'stop;\nrequire "variables";': "2:1: require stands before everything else",
    "require;": "1:1: require takes a text or a list of texts",
    'require "regex" "relational";': "1:1: require takes a text or a list of texts",
    'require "${x}";': "1:1: require takes a text or a list of texts",
    'require :is;': "1:1: require takes a text or a list of texts",
    'require "regex" { stop; }': "1:1: require takes a text or a list of texts",
    "\n\nif true {\n\trequire 1;\n}": "4:2: require stands before everything else",
}  # fmt: skip


@pytest.mark.parametrize("script", BAD, ids=range(len(BAD)))
def test_a_bad_script_is_refused_with_line_and_column(bench: Bench, script: str) -> None:
    assert bench.refuses(script).startswith(BAD[script])
    # Also where nothing can ever come to, and with the line ends of another system.
    before = b"\xef\xbb\xbfif false {\r\n} # a comment\r\n"
    line, rest = BAD[script].split(":", 1)
    if "require" not in script and not script.startswith("els"):
        assert bench.refuses(before + script.replace("\n", "\r\n").encode()).startswith(f"{int(line) + 2}:{rest}")


def test_what_comes_after_the_end_is_read_too(bench: Bench) -> None:
    assert bench.refuses('stop; ec_foo "a";').startswith("1:7: unknown command")
    assert bench.refuses('ec_action 550 "a"; if true { ec_foo "a"; }').startswith("1:30: unknown command")


def test_an_error_is_one_line(bench: Bench) -> None:
    for script in (*BAD, 'ec_log "\n" "\n";', '"\n\n"', 'if ec_test :regex "a" "\n(" { stop; }', 'require "\n";'):
        assert "\n" not in bench.refuses(script)


# ---- files


def test_files_that_are_none(bench: Bench) -> None:
    missing = bench.directory / "missing.sieve"
    with pytest.raises(PolicyError, match=r"missing\.sieve: No such file"):
        SievePolicy(missing)
    with pytest.raises(PolicyError, match="is not a regular file"):
        SievePolicy(bench.directory)
    pipe = bench.directory / "pipe.sieve"
    os.mkfifo(pipe)
    with pytest.raises(PolicyError, match="is not a regular file"):
        SievePolicy(str(pipe))
    with pytest.raises(PolicyError, match="neither 'accept' nor 'refuse'"):
        bench.policy("stop;", on_error="ignore")


def test_files_that_are_no_text(bench: Bench) -> None:
    assert bench.refuses(b'# \xc3\xb6\n# \xc3\xb6\xff"').startswith("2:4: is not UTF-8")
    assert bench.refuses(b"\xef\xbb\xbf\xff").startswith("1:1: is not UTF-8")
    assert bench.refuses(b"stop;\xc3").startswith("1:6: is not UTF-8")
    assert bench.refuses(b'ec_log "a\0b";').startswith("1:10: a NUL character")
    assert bench.refuses(b"\x1bLJ").startswith("1:1: unexpected character '\\x1b'")


@pytest.mark.parametrize(
    "script", ["", "\ufeff\n", "# ec_action 421 'closed';\n", "/* stop; */", 'require "variables";']
)
def test_a_script_without_a_statement_is_refused(bench: Bench, script: str) -> None:
    with pytest.raises(PolicyError, match=r"1:1: the script does nothing; .*ec_action, or keep"):
        bench.policy(script.encode())


def test_a_script_has_a_largest_size(bench: Bench) -> None:
    remark = b"# " + b"x" * 1000 + b"\n"
    assert bench.policy(remark * (MAX_BYTES // len(remark) - 1) + b"stop;")
    path = bench.write(b" " * (MAX_BYTES + 1))
    with pytest.raises(PolicyError, match="is larger than"):
        SievePolicy(path)


def test_tests_and_blocks_have_a_largest_depth(bench: Bench) -> None:
    def nots(number: int) -> str:
        return "if " + "not " * number + "true { stop; }"

    def blocks(number: int) -> str:
        return "if true {\n" * number + "}" * number

    assert bench.policy(nots(MAX_DEPTH - 2))
    assert bench.policy(blocks(MAX_DEPTH))
    assert "more than 64 deep" in bench.refuses(nots(MAX_DEPTH - 1))
    assert "more than 64 deep" in bench.refuses(blocks(MAX_DEPTH + 1))
    refused = bench.refuses(nots(effort(10_000, 50_000)))
    assert refused.split(" ", 1)[1] == "tests or blocks are nested more than 64 deep"
    assert "deep" in bench.refuses(blocks(effort(10_000, 30_000)))
    assert "unexpected" in bench.refuses("(" * effort(10_000, 50_000))
    assert "ends too early" in bench.refuses("if allof (" * effort(10_000, 30_000))
    depth = effort(5_000, 20_000)
    assert "deep" in bench.refuses("if " + "allof (" * depth + "true" + ")" * depth + " { }")


def test_a_long_script_is_compiled_and_run(bench: Bench) -> None:
    rules = effort(1_000, 5_000)
    script = '$n = "x";\n' + 'if ec_test "${n}" "y" { ec_log "never"; }\n' * rules
    script += 'if ec_test "${n}" "z" { stop; }\n' + 'elsif ec_test "${n}" "z" { stop; }\n' * rules
    assert bench.verdict(script + 'else { ec_action 250 "the end"; }').text == "the end"


# ---- runs that fail


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('\n  ec_action "${x}" "no";', "2:3: code: '' is not a number"),
        ('$x = "600"; ec_action $x "no";', "1:13: code: 600 is not an SMTP reply code from 200 to 599"),
        ('$x = "a day"; ec_tarpit $x;', "1:15: seconds: 'a day': "),
        ('$c = "/33x"; $n = audit_service "SMTP" $c;', "1:14: '/33x'"),
        ('$n = audit_service "SMPT" "/24";', "1:1: 'SMPT': no such service type; did you mean 'SMTP'?"),
        ('$n = audit_service "SMTP" "/64";', "1:1: '/64'"),
        ('hash_set $unset "a" "b";', "1:1: hash: '' is not a hash; hash_create makes one"),
        ('$h = hash_create; ec_log "${h}";', "1:19: a hash can't become a text"),
        ('$h = hash_create; ec_log $h;', "1:19: message: a hash can't become a text"),
        ('$h = hash_create; $l = ["a", $h];', "1:19: a hash can't become a text"),
        ('$h = hash_create; if ec_test $h "a" { stop; }', "1:19: a hash can't be compared"),
        ('$h = hash_create; if ec_test "a" $h { stop; }', "1:19: a hash can't be compared"),
        ('$a = "text"; $b = $a["x"];', "1:14: $a is neither a hash nor a list"),
        ('$a = ["b"]; $b = $a["x"];', "1:13: 'x' is not a number"),
        ('if false { stop; }\nelsif isset ["a"] "x" { stop; }', "2:1: 'x' is not a number"),
        ('if true { if true {\n ec_tarpit $x; } }', "2:2: seconds: '': "),
        ('$s = "x"; $n = audit_series $s;', "1:11: audit_series takes 2 or 3 or 4 or 5 arguments"),
        ('$m = "300;6"; $n = audit_series "s" $m;', "1:15: interval,number: '300;6': is not a monitor"),
    ],
)  # fmt: skip
def test_a_run_fails_at_a_place(bench: Bench, script: str, words: str) -> None:
    assert bench.fails(script).startswith(words)


def test_texts_and_lists_do_not_grow_without_bound(bench: Bench) -> None:
    doubled = '$a = "0123456789abcdef";\n' + '$a = "${a}${a}";\n' * 60
    assert bench.fails(doubled) == "14:1: a text of more than 65536 characters"
    grown = '$a = ["0123456789abcdef"];\n' + "$a = [$a, $a];\n" * 60
    assert bench.fails(grown) == "14:1: a list of more than 4096 members"
    lines = grown.splitlines()[:13]
    assert bench.fails("\n".join([*lines, 'ec_log "${a}";'])) == "14:1: a text of more than 65536 characters"
