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
        kind, metavar, default = _kind(each)
        add = click.option(
            each.metadata["option"],
            each.name,
            type=kind,
            default=default,
            show_default=True,
            metavar=metavar,
            help=f"{each.metadata['what']}; then {each.metadata['beyond']}.",
        )
        command = add(command)
    return command


def taken(options: dict[str, Any]) -> SessionBudget:
    """Removes the values of these options from the others. Raises click.UsageError for one that is not allowed."""
    try:
        return SessionBudget.taken_from(options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _kind(each: Any) -> tuple[Any, str, str]:
    """The type of an option, how its value is named, and its default as text."""
    if each.name.endswith("_s"):
        return params.duration, "DURATION", f"{each.default:g}s"
    if each.name.endswith("_bytes"):
        kibibytes, rest = divmod(each.default, 1024)
        return params.size, "SIZE", str(each.default) if rest else f"{kibibytes}K"
    return click.IntRange(1), "N", str(each.default)
