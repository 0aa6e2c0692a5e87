"""The options of `serve` that bound a session: one per field of `SessionBudget`, which has their words and defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from inbound_audit.cli import params
from inbound_audit.listeners.budget import SessionBudget


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds the options; `taken` collects their values."""
    for each in reversed(fields(SessionBudget)):
        kind, default = _kind(each)
        about = f"{each.metadata['what']}; then {each.metadata['beyond']}."
        command = params.option(each.metadata["option"], kind, about, parameter=each.name, default=default)(command)
    return command


def taken(options: dict[str, Any]) -> SessionBudget:
    """Removes the values of these options from the others. Raises click.UsageError for one that is not allowed."""
    try:
        return SessionBudget.taken_from(options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _kind(each: Any) -> tuple[params.Kind, str]:
    """The type of an option, and its default as text."""
    if each.name.endswith("_s"):
        return params.duration, f"{each.default:g}s"
    if each.name.endswith("_bytes"):
        kibibytes, rest = divmod(each.default, 1024)
        return params.size, str(each.default) if rest else f"{kibibytes}K"
    return params.whole_number(1), str(each.default)
