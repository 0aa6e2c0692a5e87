"""Inputs that people have reported as failing, here or in programs of the same kind: each has its test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

UNIT, SYSTEM, TOOLING = "tests/unit", "tests/system", "tests/tooling"

SHOWN_BY = {
    "a program closes all descriptors, opens files of its own, and counts on": [
        f"{SYSTEM}/test_descriptors.py::test_a_shared_audit_counts_on_in_its_file",
        f"{SYSTEM}/test_descriptors.py::test_a_lost_descriptor_does_not_close_its_successor",
    ],
    "a daemon forks twice and closes all descriptors": [
        f"{SYSTEM}/test_descriptors.py::test_a_daemon_that_forks_twice_and_closes_all"
    ],
    "a program is started without its standard streams": [
        f"{SYSTEM}/test_descriptors.py::test_started_without_standard_streams",
        f"{SYSTEM}/test_descriptors.py::test_a_number_below_the_first_one_is_moved",
    ],
    "a fork that calls no hook of Python's": [
        f"{SYSTEM}/test_unseen_forks.py::test_a_child_counts_for_itself",
        f"{SYSTEM}/test_unseen_forks.py::test_the_counts_of_a_killed_parent_go",
    ],
    "memory may not be executable": [f"{SYSTEM}/test_lua_machine.py::test_a_policy_runs_where_nothing_can_be_compiled"],
    "a policy needs a monitor that is not there": [
        f"{UNIT}/lua/test_lua_monitors.py::test_a_server_is_refused_without_the_monitor",
        f"{UNIT}/policy/test_base.py::test_needed_monitors_are_checked",
    ],
    "IPv6 addresses in a list of rbldnsd": [f"{SYSTEM}/test_rbldnsd_program.py::test_every_form_of_a_line"],
    "a dollar sign in the text of a list": [f"{UNIT}/address_lists/test_rbldnsd.py::test_placeholders"],
    "one wrong line of a list": [
        f"{UNIT}/address_lists/test_rbldnsd.py::test_a_wrong_line_is_skipped_and_named",
        f"{UNIT}/address_lists/test_lists.py::test_a_wrong_line_is_skipped_with_a_warning",
    ],
    "a peer sends all and half-closes": [
        f"{SYSTEM}/test_cli_serve.py::test_what_a_half_closed_peer_has_sent_is_stored_and_answered",
        f"{UNIT}/listeners/test_smtp_endings.py::test_a_message_that_is_being_stored_is_recorded",
    ],
    "the resolver does not answer": [
        f"{SYSTEM}/test_cli_serve.py::test_a_resolver_that_does_not_answer_delays_nothing"
    ],
    "a peer of TLS is silent": [
        f"{UNIT}/listeners/test_smtp_endings.py::test_a_silent_peer_is_closed_at_the_time_out_of_a_controller"
    ],
    "AUTH is offered where it can't succeed": [
        f"{UNIT}/listeners/test_smtp_endings.py::test_auth_is_offered_where_it_can_be_used",
        f"{UNIT}/listeners/test_smtp_endings.py::test_the_auth_parameter_of_mail_is_accepted",
    ],
    "50,000 recipients": [
        f"{UNIT}/listeners/test_smtp_endings.py::test_the_default_is_a_thousand_recipients",
        f"{UNIT}/listeners/test_smtp_endings.py::test_recipients_beyond_the_limit_are_no_errors_of_the_peer",
    ],
    "many refused connections of one address": [
        f"{UNIT}/listeners/test_smtp_endings.py::test_a_refusal_formats_nothing_for_a_log_that_is_not_written"
    ],
    "a byte order mark before the first line": [
        f"{UNIT}/cli/test_address_input.py::test_a_byte_order_mark_is_taken_off",
        f"{SYSTEM}/test_console_load.py::test_a_byte_order_mark_is_no_part_of_the_first_line",
        f"{UNIT}/address_lists/test_lists.py::test_a_wrong_line_is_skipped_with_a_warning",
    ],
    "addresses with ports, in logs, compressed": [
        f"{UNIT}/cli/test_address_input.py::test_a_line_of_a_log",
        f"{UNIT}/cli/test_address_input.py::test_compressed_input",
        f"{UNIT}/cli/test_address_input.py::test_a_field",
        f"{UNIT}/cli/test_address_input.py::test_a_regular_expression",
    ],
    "an example of a help text": [f"{SYSTEM}/test_cli_examples.py::test_an_example"],
    "a service of systemd without a home": [
        f"{SYSTEM}/test_cli_examples.py::test_systemd_takes_the_units",
        f"{SYSTEM}/test_persist.py::test_where_state_is_kept",
        f"{SYSTEM}/test_shared.py::test_systemd_says_where_the_directory_is",
    ],
    "little address space": [f"{SYSTEM}/test_process_limits.py::test_little_address_space_is_enough_for_the_default"],
    "names of the package, and a library that is missing": [
        f"{UNIT}/policy/test_base.py::test_the_package_shows_its_names",
        f"{UNIT}/listeners/test_aiosmtpd_members.py::test_without_aiosmtpd_the_import_names_the_extra",
    ],
    "the size of the wheel": [f"{TOOLING}/test_packaging.py::test_the_wheel_is_small"],
    "a session is kept until the interpreter ends": [
        f"{SYSTEM}/test_process_limits.py::test_what_is_kept_until_the_interpreter_ends_is_silent"
    ],
    "wrong options, and wrong commands of the console": [
        f"{SYSTEM}/test_cli_mistakes.py::test_a_mistake_is_one_line_that_names_it",
        f"{SYSTEM}/test_console.py::test_what_fails_says_why",
        f"{SYSTEM}/test_console.py::test_delete_ip",
    ],
    "mail is discarded": [
        f"{SYSTEM}/test_cli_serve.py::test_without_a_maildir_mail_is_discarded",
        f"{SYSTEM}/test_cli_serve.py::test_the_report_counts_messages",
    ],
    "make is silent while it installs": [f"{TOOLING}/test_reported_inputs.py::test_make_says_what_a_long_step_does"],
    "a live table: its end, ties, hidden rows": [
        f"{SYSTEM}/test_cli_look.py::test_a_key_ends_a_live_table",
        f"{SYSTEM}/test_cli_look.py::test_a_live_table_is_no_longer_than_the_terminal",
    ],
    "a tree for people": [
        f"{SYSTEM}/test_cli_look.py::test_the_tree_is_indented_for_people",
        f"{SYSTEM}/test_cli_look.py::test_the_tree_of_all_processes_is_printed_as_the_reference_prints_it",
        f"{SYSTEM}/test_cli_look.py::test_no_process_counts",
    ],
    "help and dates of the console": [
        f"{SYSTEM}/test_console.py::test_help",
        f"{UNIT}/cli/test_console_grammar.py::test_dates_that_count_from_today",
    ],
    "an option that another program has": [
        f"{SYSTEM}/test_cli_mistakes.py::test_a_mistake_is_one_line_that_names_it",
        f"{SYSTEM}/test_cli.py::test_help_is_a_command",
    ],
    "audits that have ended, or could not begin": [
        f"{SYSTEM}/test_places.py::test_an_audit_that_could_not_begin_or_has_ended_is_not_listed"
    ],
    "warnings among JSON lines": [
        f"{SYSTEM}/test_cli_serve.py::test_with_json_all_lines_are_json",
        f"{UNIT}/cli/test_logs.py::test_json_lines_all",
    ],
}


@pytest.mark.parametrize("name", sorted({name for names in SHOWN_BY.values() for name in names}))
def test_there_is_such_a_test(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_make_says_what_a_long_step_does() -> None:
    """Each target that installs or builds begins with a line about it."""
    recipes = (ROOT / "Makefile").read_text().split("\n\n")
    long_ones = [recipe for recipe in recipes if "$(PIP)" in recipe and "\n\t" in recipe and "touch $@" in recipe]
    assert len(long_ones) > 3
    for recipe in long_ones:
        assert "\n\t$(SAY)" in recipe.partition("$(PIP)")[0], recipe
