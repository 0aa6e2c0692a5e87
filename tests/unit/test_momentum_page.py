"""The table of differences in docs/momentum.md: each row has a test that shows it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from inbound_audit import InboundAudit

ROOT = Path(__file__).parents[2]
SERIES = "tests/unit/series/test_differences.py"

# How a row begins, and what shows it.
SHOWN_BY = {
    "a policy decides from accept to outbound delivery": [
        "tests/unit/lua/test_lua_hooks.py::test_hooks_of_the_reference_are_named_as_such",
        "tests/unit/listeners/test_listeners_smtp.py::test_every_stage_is_asked",
    ],
    "modules such as `msys.db`": [
        "tests/unit/lua/test_lua_names.py::test_modules_that_are_not_available_may_be_required"
    ],
    "an address list from a data source": ["tests/unit/lua/test_lua_msys.py::test_address_lists_that_are_wrong"],
    "a hook that fails": [
        "tests/unit/lua/test_lua_policy.py::test_a_hook_that_fails_lets_in_and_is_logged",
        "tests/unit/lua/test_lua_policy.py::test_a_hook_that_fails_refuses_if_so_set",
    ],
    "a result of a hook that is not one": [
        "tests/unit/lua/test_lua_hooks.py::test_an_answer_that_is_none_of_the_known_ones_is_an_error"
    ],
    "a misspelt hook or key": [
        "tests/unit/lua/test_lua_hooks.py::test_a_misspelt_hook_beside_a_right_one_is_warned_of",
        "tests/unit/lua/test_lua_names.py::test_options_that_are_wrong",
    ],
    "`cidr` and `cidr_ipv6` series": [f"{SERIES}::both_families"],
    "`endv` is 0": [f"{SERIES}::default_endv"],
    "the connection monitor counts SMTP": ["tests/unit/test_momentum_page.py::test_a_monitor_counts_every_service"],
    'a series with `replicate = "cluster"`': [f"{SERIES}::replicate_on_one_host"],
    "an IPv6 client is limited per address": ["tests/unit/policy/test_limits.py::test_the_stock_policy"],
    "an open session is counted until": ["tests/system/test_faults.py::test_a_killed_process_is_counted_no_more"],
    "`:regex` in Sieve is PCRE": [
        "tests/unit/policy/test_patterns.py::test_patterns_that_are_refused",
        "tests/unit/policy/test_patterns.py::test_no_pattern_goes_back",
    ],
    "the query shell prints nothing": [
        "tests/unit/cli/test_console_grammar.py::test_a_wrong_line_says_what_was_expected"
    ],
    "the query shell reads files": ["tests/system/test_console.py::test_show_count"],
    "`NODE` in `cluster shared show": ["tests/system/test_console.py::test_cluster_shared_show"],
    "past events of a node that left": [f"{SERIES}::events_of_a_node_that_left"],
    '`Replicate "metrics"`': [
        "tests/system/test_cluster_windows.py::test_a_monitor_that_the_agent_was_not_given_is_counted_here_alone"
    ],
}


def test_a_monitor_counts_every_service() -> None:
    with InboundAudit(monitors=["300,6"], capacity=1 << 20) as audit:
        for service in ("SMTP", "Control"):
            audit.listener(service).session("192.0.2.7").close()
        with audit.listener("SMTP").session("192.0.2.7") as ac:
            assert sum(audit.connections("300,6", None, window, ac=ac) for window in range(2)) == 3


def test_each_row_has_a_test_and_each_test_a_row() -> None:
    text = (ROOT / "docs" / "momentum.md").read_text().split("## What differs, and why\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| (?!in the reference|---)(.+?) \| .+ \| .+ \|$", text, re.MULTILINE)
    assert [next((key for key in SHOWN_BY if row.startswith(key)), row) for row in rows] == list(SHOWN_BY)


@pytest.mark.parametrize("name", [name for names in SHOWN_BY.values() for name in names])
def test_there_is_such_a_test(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
