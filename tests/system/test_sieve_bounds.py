# ruff: noqa: E501  # each row of the table is one script
"""No script in Sieve holds a listener up: the worst input that is known for each test, action and function.

Each script runs in a process of its own with a generous limit of time; what it may use of the processor is little more
than the bound of a hook.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.forking import UNDER_ASAN

pytest.importorskip("lark")
pytest.importorskip("re2")

from inbound_audit.sieve.calls import FUNCTIONS
from inbound_audit.sieve.conditions import TESTS

PATIENCE_S = 300
HOOK_MS = 50
SLACK_S = 20.0
"""Of the processor, beside the bound: generous, for a slow machine. What has no bound takes minutes."""
MEMORY_KIB = 256 << 10

PROGRAM = """
import json, resource, sys, time, logging
logging.disable()
from inbound_audit import InboundAudit, SievePolicy
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for path in sys.argv[2:]:
    policy = SievePolicy(path, on_error="refuse", max_hook_ms=int(sys.argv[1]))
    with InboundAudit(capacity=1 << 22, monitors=["300,1024"], monitor_bytes=1 << 26) as audit:
        with audit.listener().session("192.0.2.7") as ac:
            before, began = peak(), time.process_time()
            policy.validate_connect(ac)
            used = time.process_time() - began
    print(json.dumps({"used": used, "kib": peak() - before, "error": policy.last_error}))
"""

# The longest text, number, list and hash that a script can make: 65536 characters and 4096 members.
GROWN = (
    '$t = "a";'
    + '$t = "${t}${t}";' * 16
    + '$n = "9";'
    + '$n = "${n}${n}";' * 16
    + '$c = ",";'
    + '$c = "${c}${c}";' * 11
)
LISTS = (
    GROWN
    + '$l = split "," "'
    + "," * 4095
    + '"; $m = $t;'
    + "$m = [$m, $m];" * 12
    + "$nums = $n;"
    + "$nums = [$nums, $nums];" * 12
)
HASHES = LISTS + "$h = hash_create;" + "".join(f'hash_set $h "{i}" $m;' for i in range(2000))
MANY = 3000  # so often is each call made
NUMERIC = ':comparator "i;ascii-numeric"'
FOLDED = ':comparator "i;ascii-casemap"'


def several(call: str, times: int = MANY) -> str:
    return call * times


def comparisons(name: str, subject: str, key: str) -> list[str]:
    made = [f'{match} {subject} {key}' for match in
            (":is", ":contains", ":matches", f":is {NUMERIC}", f":is {FOLDED}", f":contains {FOLDED}", f":matches {FOLDED}",
             f':value "ge" {NUMERIC}', f':value "ge" {FOLDED}', ':count "gt"')]  # fmt: skip
    return [f"if {name} {one} {{ stop; }}" for one in made] + [
        f'if {name} :regex {subject} "{pattern}" {{ stop; }}'
        for pattern in ("(a+)+$", "(a|aa){900}b", "(.*)(.*)(.*)(.*)(.*)x", "a?" * 400 + "a" * 400, "[^b]{1000}b")
    ]


REPLY = "450"
WORST: dict[str, list[str]] = {
    "true": [several("if true { $x = $t; }")],
    "false": [several("if false { stop; }")],
    "not": [several("if " + "not " * 60 + "true { $x = 1; }", 1000)],
    "allof": [several("if allof (" + ", ".join(["ec_test :contains $m $l"] * 50) + ") { stop; }", 50)],
    "anyof": ["if anyof (" + ", ".join(["ec_test :is $m $l"] * 2000) + ") { stop; }",
              "if anyof (" + ", ".join(['anyof (' + ", ".join(['ec_test :contains $t "b"'] * 15) + ")"] * 200) + ") { stop; }"],
    "isset": [several("if isset $l $n { stop; }"), several("if isset $h $t { stop; }")],
    "ec_test": [*comparisons("ec_test", "$m", "$m"), *comparisons("ec_test", "$nums", "$nums"), *comparisons("ec_test", "$t", "$l"),
                *comparisons("ec_test", "$n", "$n")],
    "vctx_conn": ['vctx_conn_set "a" $t; $names = "a";' + "$names = [$names, $names];" * 12 + one
                  for one in comparisons("vctx_conn", "$names", "$m")],
    "vctx_mess": ['vctx_mess_set "a" $t; $names = "a";' + "$names = [$names, $names];" * 12 + one
                  for one in comparisons("vctx_mess", "$names", "$m")],
    "check_cidr": [several('if check_cidr :ip $t "list" { stop; }'), several('if check_cidr "list" { stop; }')],
    "split": [several('$x = split "," $c;'), several('$x = split $t $t;')],
    "join": [several("$x = join $t $m;", 1), several("$x = join $t $l;", 1), several('$x = join "," $l;')],
    "reverse": [several("$x = reverse $t;"), several("$x = reverse $m;")],
    "reverse_delim": [several('$x = reverse_delim "a" $t;'), several('$x = reverse_delim "," $c;')],
    "ec_tolower": [several("$x = ec_tolower $t;")],
    "ec_pcre_match": [several(f'$x = ec_pcre_match $t "{pattern}";', 500) for pattern in
                      ("(a+)+$", "(a|aa){900}b", "(.*)(.*)(.*)(.*)(.*)x", "a?" * 400 + "a" * 400, "((a*)*)*b")] + [
                      several("$x = ec_pcre_match $t $t;"), "$p = \"(a|b)*\";" + '$p = "${p}${p}";' * 9 + several("$x = ec_pcre_match $t $p;")],
    "hash_create": [several("$x = hash_create;")],
    "hash_set": ["".join(f'hash_set $h "k{i}" $m;' for i in range(5000)), several("hash_set $h $t $h;")],
    "hash_get": [several("$x = hash_get $h $t;")],
    "hash_keys": [several("$x = hash_keys $h;")],
    "hash_values": [several("$x = hash_values $h;"), "$g = hash_create;" + "".join(f'hash_set $g "{i}" $l;' for i in range(4000)) + "$x = hash_values $g;"],
    "define_cidr": ["".join(f'$d{i} = hash_create; hash_set $d{i} "cidrname" "${{t}}{i}"; hash_set $d{i} "dstype" "rbldnsd";'
                            f'hash_set $d{i} "query" "/dev/zero?want=a"; define_cidr $d{i};' for i in range(200)),
                    "".join(f'$d{i} = hash_create; hash_set $d{i} "cidrname" "l{i}"; hash_set $d{i} "dstype" "rbldnsd";'
                            f'hash_set $d{i} "query" "big?want=a"; define_cidr $d{i};' for i in range(20))],
    "query_cidr": [several('$x = query_cidr :ip $t "list";'), several('$x = query_cidr "list";')],
    "reload_cidr": [several('reload_cidr "list";')],
    "audit_series": [several('$x = audit_series "s" "300,1024" "24" 0 1023;')],
    "audit_series_add": ["".join(f'audit_series_add "s{i}" "300,1024";' for i in range(3000)), several("audit_series_add $t $t $n;")],
    "ec_log": [several("ec_log $t;")],
    "ec_action": [several("ec_action 450 $t $t;")],
    "ec_disconnect": [several("ec_disconnect 450 $t $t;")],
    "ec_tarpit": [several("ec_tarpit $n $t;"), several("ec_tarpit $t;")],
}  # fmt: skip
for _name, _function in FUNCTIONS.items():
    if _name.startswith("ec_ip_"):
        WORST[_name] = [
            '$o = hash_create; hash_set $o "monitor" "300,1024"; hash_set $o "period_end" 1023;' + several(f"$x = {_name} $o;"),
            several(f'$x = {_name} 0 "0";'),
        ]  # fmt: skip
    elif _name not in WORST and _function.takes == (2,) and _name.startswith("ec_"):
        WORST[_name] = [
            several(f"$x = {_name} $n $n;"),
            several(f"$x = {_name} 9e9 3;".replace("9e9", "999999999999999999")),
        ]
    elif _name not in WORST and _function.takes == (1,) and _name.startswith("ec_"):
        WORST[_name] = [several(f"$x = {_name} $n;"), several(f'$x = {_name} "999999999999999999.999999999";')]
    elif _name.startswith("audit_"):
        WORST.setdefault(_name, [several(f"$x = {_name} " + ("$t " * (_function.takes[0])) + ";")])
    elif _name.startswith("vctx_"):
        WORST[_name] = [several(f"{_name} " + "$t " * _function.takes[0] + ";"),
                        "".join(f'{_name} "${{t}}{i}"{" $t" * (_function.takes[0] - 1)};' for i in range(3000))]  # fmt: skip
WORST["ec_explode"] = [script.replace("split", "ec_explode") for script in WORST["split"]]
# What is none of them: variables, texts, lists, and the structure of a script.
WORST["$"] = [
    several('$x = "' + "${t}" * 2000 + '";', 100),
    several('$x = "${m}${l}";'),
    several("$x = [" + ", ".join(["$m"] * 2000) + "];", 100),
    "".join(f'$v{i} = "${{t}}";$w{i} = "{i}${{t}}";' for i in range(20_000)),
    several('($a, $b, $d) = $m; $x = $m["9999"]; $y = $h["${t}"];'),
    "if false { stop; }" + 'elsif ec_test :contains $t "b" { stop; }' * 5000,
    "if true { " * 60 + "$x = 1;" + several('$x = "${t}";', 5000) + " }" * 60,
]


def test_every_test_action_and_function_has_a_worst_script() -> None:
    assert {*FUNCTIONS, *TESTS} - {*WORST} == set()


@pytest.mark.parametrize("name", sorted(WORST))
def test_no_script_holds_a_listener_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "list").write_text("10.0.0.0/8 :2:x\n")
    (tmp_path / "big").write_text("".join(f"10.{n >> 8 & 255}.{n & 255}.0/24 :2:text {n}\n" for n in range(5_000)))
    define = '$z = hash_create; hash_set $z "cidrname" "list"; hash_set $z "dstype" "rbldnsd"; hash_set $z "query" "list?want=a"; define_cidr $z;'
    paths = []
    for number, script in enumerate(WORST[name]):
        paths.append(tmp_path / f"{number}.sieve")
        paths[-1].write_text(define + (HASHES if "$h" in script else LISTS) + script)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(HOOK_MS), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for script, line in zip(WORST[name], done.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        assert answer["used"] < HOOK_MS / 1000 + SLACK_S, f"{script[:200]}: {answer}"
        if not UNDER_ASAN:  # a sanitizer takes memory itself
            assert answer["kib"] < MEMORY_KIB, f"{script[:200]}: {answer}"
