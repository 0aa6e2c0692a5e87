"""The language of Sieve policies: texts, numbers, variables, hashes, tests, and where a script ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.sieve_support import Bench, bench_of

from inbound_audit.policy.verdict import ACCEPT, Verdict
from inbound_audit.sieve.compile import script
from inbound_audit.sieve.expressions import parts
from inbound_audit.sieve.parse import decode, parse
from inbound_audit.sieve.tree import Assignment, At, Number, ScriptError, Text


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(tmp_path)


# ---- texts

MEANT = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]))


def quoted(meant: str, escape: str = "") -> str:
    """How a text is written in quotes; a backslash may stand before any other character, too."""
    return '"' + "".join("\\" * (char in '"\\' or char in escape) + char for char in meant) + '"'


def stuffed(lines: list[str]) -> str:
    """How lines are written as a multi-line text."""
    return "text:\n" + "".join("." * line.startswith(".") + line + "\n" for line in lines) + ".\n"


def read(written: str) -> str:
    """The text that a script means by what is written there."""
    (assignment,) = parse(f"$a = {written};")
    assert isinstance(assignment, Assignment)
    assert isinstance(assignment.value, Text)
    return assignment.value.value


@given(MEANT, MEANT)
def test_a_quoted_text_is_read_as_it_was_meant(meant: str, escape: str) -> None:
    assert read(quoted(meant, escape)) == meant


@given(st.lists(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]))))
def test_a_multi_line_text_is_read_as_it_was_meant(lines: list[str]) -> None:
    assert read(stuffed(lines)) == "".join(line + "\n" for line in lines)


@given(MEANT)
def test_cutting_a_text_for_expansion_loses_nothing(text: str) -> None:
    assert "".join(part if isinstance(part, str) else part.written for part in parts(text)) == text


def place_of_error(text: str) -> At | None:
    """Where a script is wrong, None when nothing is."""
    try:
        script(parse(decode(text.encode())))
    except ScriptError as error:
        return error.at
    return None


def is_in(at: At | None, text: str) -> bool:
    lines = text.removeprefix("\ufeff").split("\n")
    return at is None or (1 <= at.line <= len(lines) and 1 <= at.column <= len(lines[at.line - 1]) + 1)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_script_is_read_or_refused_with_its_place(text: str) -> None:
    assert is_in(place_of_error(text), text)


TOKENS = st.sampled_from(
    ["if", "true", "not", "allof", "(", ")", "{", "}", ";", ",", "$a", "=", '"x"', "[", "]", "1", ":is", "stop",
     "ec_test", "ec_log", "$a[", "hash_create", "else", "elsif", "require", "\n", "#", "/*", "*/", "text:"]
)  # fmt: skip


@given(st.lists(TOKENS, max_size=30).map(" ".join))
def test_any_row_of_words_is_read_or_refused_with_its_place(text: str) -> None:
    assert is_in(place_of_error(text), text)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"a"', "a"),
        ('""', ""),
        (r'"a\"b\\c\n"', 'a"b\\cn'),
        ('"two\nlines"', "two\nlines"),
        ('"größe ☃ 𝄞"', "größe ☃ 𝄞"),
        ("text:\n.\n", ""),
        ("text: # a remark\n..a\n.b.\n\n.\n", ".a\nb.\n\n"),
        ("TEXT:\t\nx\n. \n", "x\n"),
        ('"a /* no comment */ # none"', "a /* no comment */ # none"),
    ],
)
def test_texts(written: str, meant: str) -> None:
    assert read(written) == meant


def test_line_ends_a_byte_order_mark_and_comments(bench: Bench) -> None:
    script = '# one\r\n/* two "\r\n three */ ec_action /* four */ 250 # five\r\ntext:\r\na\r\n..b\r\n.\r\n; # the end'
    for written in (script, "\ufeff" + script, script.replace("\r\n", "\n")):
        assert bench.verdict(written.encode()).text == "a\n.b"


def test_a_script_that_ends_at_once_lets_in(bench: Bench) -> None:
    for nothing in ("stop;", "# why\nkeep;", "\ufeffkeep;", "if true { }"):
        assert bench.verdict(nothing) is ACCEPT


@pytest.mark.parametrize(
    ("written", "number"),
    [("0", 0), ("007", 7), ("1K", 1024), ("2k", 2048), ("3M", 3 << 20), ("1g", 1 << 30), (str(2**63 - 1), 2**63 - 1)],
)  # fmt: skip
def test_numbers(written: str, number: int) -> None:
    (assignment,) = parse(f"$a = {written};")
    assert isinstance(assignment, Assignment)
    assert assignment.value == Number(At(1, 6), number)


def test_names_have_no_case(bench: Bench) -> None:
    script = """
        REQUIRE ["Variables"];
        $Greeting = "hello";
        IF AllOf(TRUE, Not FALSE, EC_Test :IS :Comparator "i;octet" "${GREETING}" "hello") { EC_ACTION 250 "yes"; }
        ELSE { ec_action 250 "no"; }
    """
    assert bench.verdict(script).text == "yes"


# ---- variables and expansion


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('"x${a}y"', "x1y"),
        ('"${a}${A}"', "11"),
        ('"${b}"', "two"),
        ('"${unset}"', ""),
        ("$unset", ""),
        ("$a", "1"),
        ('"${l}"', "one, two, 3"),
        ('"${a"', "${a"),
        ('"${ a}"', "${ a}"),
        ('"${1}"', "${1}"),
        ('"$a $ {a} $${a}"', "$a $ {a} $1"),
        (r'"\${a}"', "1"),
        ('"%{i}"', "192.0.2.7"),
        ('"%{spfv1:i}"', "192.0.2.7"),
        ('"<%{vctx_conn:key}>"', "<value>"),
        ('"<%{vctx_conn:KEY}>"', "<>"),
        ('"<%{vctx_conn:}%{vctx_mess:key}>"', "<>"),
        ('"%{unknown} %{ i} 100%"', "%{unknown} %{ i} 100%"),
        ("text:\n${a} %{i}\n.\n", "1 192.0.2.7"),
        ('["${a}", $b, $l, 4]', "1, two, one, two, 3, 4"),
        ("$l[0]", "one"),
        ("$l[3]", ""),
        ('$l["2"]', "3"),
        ("$l[$a]", "two"),
        ('$h["key"]', "value"),
        ('$h["${b}"]', "2"),
        ("$h[$b]", "2"),
        ('$h["none"]', ""),
        ('$unset["x"]', ""),
        ('hash_get $h "key"', "value"),
        ('hash_get $h "none"', ""),
        ('vctx_conn_get "key"', "value"),
        ('vctx_conn_get "none"', ""),
        ("1K", "1024"),
    ],
)
def test_values(bench: Bench, value: str, shown: str) -> None:
    setup = """
        $a = 1;
        $b = "two";
        $l = ["one", $b, 3];
        $h = hash_create;
        hash_set $h "key" "value";
        hash_set $h "${b}" 2;
        vctx_conn_set "key" "value";
    """
    assert bench.say(value, setup) == shown


def test_the_connecting_ip_of_either_family(bench: Bench) -> None:
    assert bench.say('"%{i}"', remote="2001:db8::7") == "2001:db8::7"
    assert bench.say('"%{i}"', remote="::ffff:192.0.2.7") == "192.0.2.7"


def test_several_variables_are_given_the_members_of_a_list(bench: Bench) -> None:
    shown = '"${a}/${b}/${c}"'
    assert bench.say(shown, '($a, $b, $c) = ["one", "two"];') == "one/two/"
    assert bench.say(shown, '($a, $b) = ["one", "two", "three"];') == "one/two/"
    assert bench.say(shown, '($a, $b) = "one";') == "one//"
    assert bench.say(shown, '($a) = ["one", "two"];') == "one//"
    assert bench.say(shown, '($a, $b, $c) = audit_service "SMTP" "/32";') == "1//"


def test_two_variables_may_name_one_hash(bench: Bench) -> None:
    setup = '$a = hash_create; $b = $a; hash_set $b "x" 1; hash_set $a "self" $a; $c = $a["self"]; hash_set $c "y" 2;'
    assert bench.say('"${x}"', f'{setup} $x = $a["y"];') == "2"


def test_a_run_leaves_nothing_behind(bench: Bench) -> None:
    policy = bench.policy("""
        if ec_test :is "${seen}" "" { $seen = "yes"; vctx_conn_set "seen" "yes"; }
        else { ec_action 550 "seen before"; }
        if not ec_test :is "%{vctx_conn:seen}" "yes" { ec_action 550 "not seen"; }
    """)
    ac = bench.session()
    assert [policy.validate_connect(ac) for _ in range(3)] == [ACCEPT] * 3


# ---- tests and branches


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ("true", True),
        ("false", False),
        ("not true", False),
        ("not not true", True),
        ("allof (true, true)", True),
        ("allof (true, false, true)", False),
        ("allof (true)", True),
        ("allof true", True),
        ("anyof (false, true)", True),
        ("anyof (false, false)", False),
        ("not anyof (false, not allof (true, true))", True),
        ('isset $l 1', True),
        ('isset $l "1"', True),
        ('isset $l 2', False),
        ('isset $h "key"', True),
        ('isset $h "none"', False),
        ('isset $unset 0', False),
        ('isset $unset "key"', False),
    ],
)  # fmt: skip
def test_tests(bench: Bench, test: str, holds: bool) -> None:
    setup = '$l = ["a", "b"]; $h = hash_create; hash_set $h "key" "";'
    assert bench.holds(test, setup) == holds


@pytest.mark.parametrize(("number", "branch"), [(1, "one"), (2, "two"), (3, "three"), (4, "more")])
def test_branches(bench: Bench, number: int, branch: str) -> None:
    script = f"""
        $n = {number};
        if ec_test "${{n}}" "1" {{ $branch = "one"; }}
        elsif ec_test "${{n}}" "2" {{ $branch = "two"; }}
        elsif ec_test "${{n}}" "3" {{ $branch = "three"; }}
        else {{ $branch = "more"; }}
        ec_action 250 "${{branch}}";
    """
    assert bench.verdict(script).text == branch


def test_tests_that_decide_nothing_are_not_asked(bench: Bench) -> None:
    wrong = 'ec_test :value "gt" $hash "1"'
    assert bench.holds(f"anyof (true, {wrong})", "$hash = hash_create;")
    assert not bench.holds(f"allof (false, {wrong})", "$hash = hash_create;")


# ---- replies, and where a script ends


@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        ('ec_action 550 "no";', Verdict(False, 550, "no")),
        ('ec_action "451" "later";', Verdict(False, 451, "later")),
        ('ec_action 250 "welcome";', Verdict(True, 250, "welcome")),
        ('ec_action 550 "";', Verdict(False, 550, "refused by policy")),
        ('ec_disconnect 421 "bye";', Verdict(False, 421, "bye", disconnect=True)),
        ('ec_disconnect 250 "bye";', Verdict(False, 250, "bye", disconnect=True)),
        ("ec_disconnect;", Verdict(False, 421, "refused by policy", disconnect=True)),
        ('ec_action 451 "later"; ec_disconnect;', Verdict(False, 451, "later", disconnect=True)),
        ('ec_disconnect; ec_action 550 "no";', Verdict(False, 550, "no", disconnect=True)),
        ('ec_disconnect; ec_action 250 "hm";', Verdict(True, 250, "hm", disconnect=True)),
        ('ec_tarpit 5; ec_tarpit "0.5"; ec_tarpit 7 "name"; ec_tarpit 2;', Verdict(tarpit=7.0)),
        ('ec_tarpit 0;', ACCEPT),
        ('ec_tarpit 1; ec_disconnect;', Verdict(False, 421, "refused by policy", 1.0, True)),
        ('ec_tarpit 1; stop; ec_tarpit 2;', Verdict(tarpit=1.0)),
        ('ec_action 550 "first"; ec_action 551 "second";', Verdict(False, 551, "second")),
        ('ec_action 550 "one\ntwo\r\n\tthree\x07\u2028four\n";', Verdict(False, 550, "one\ntwo\n three four")),
        ('ec_action 550 "größe ${unset}";', Verdict(False, 550, "größe ")),
    ],
)  # fmt: skip
def test_replies(bench: Bench, script: str, verdict: Verdict) -> None:
    assert bench.verdict(script) == verdict


@pytest.mark.parametrize(
    ("script", "text"),
    [
        # Nothing more is run after `stop` and `keep`.
        ('if true { ec_action 250 "a"; stop; ec_action 250 "b"; } ec_action 250 "c";', "a"),
        ('if true { ec_action 250 "a"; keep; ec_action 250 "b"; }', "a"),
        ('if true { if true { stop; } } ec_action 250 "c";', ""),
        # After a reply the rest of its rule, and no further rule.
        ('if true { ec_action 250 "a"; } ec_action 250 "b";', "a"),
        ('if true { ec_action 250 "a"; } if true { ec_action 250 "b"; }', "a"),
        ('if true { ec_action 250 "a"; $x = "x"; if true { ec_action 250 "b"; } ec_action 250 "c"; }', "a"),
        ('if true { ec_disconnect 250 "a"; } ec_action 250 "b";', "a"),
        ('ec_action 250 "a"; if true { ec_action 250 "b"; }', "a"),
        ('if true { if true { ec_action 250 "a"; } ec_action 250 "b"; }', "a"),
        ('if false { ec_action 250 "a"; } else { ec_action 250 "b"; } ec_action 250 "c";', "b"),
        ('if false { ec_action 250 "a"; } ec_action 250 "b";', "b"),
        # What sets no reply is not the end.
        ('if true { ec_tarpit 1; } ec_action 250 "b";', "b"),
        ('if true { ec_disconnect; } ec_action 250 "b";', "b"),
    ],
)
def test_where_a_script_ends(bench: Bench, script: str, text: str) -> None:
    assert bench.verdict(script).text == text


def test_require_knows_commands_tests_and_extensions(bench: Bench) -> None:
    bench.verdict(
        'require "variables"; require ["relational", "regex", "comparator-i;octet", "comparator-i;ascii-casemap"];'
        'require ["comparator-i;ascii-numeric", "ec_action", "EC_TEST", "audit_service", "hash_create", "stop"]; keep;'
    )
