"""What `show`, `top` and `ps` have in common: the look at an audit from outside, how its failures and text are told."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from inbound_audit.cli.failure import Failure
from inbound_audit.errors import SharedStateError, UnknownServiceType
from inbound_audit.services import DEFAULT_SERVICE_TYPE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from inbound_audit.shared import View

AS_JSON = "Print one JSON object instead."

service_option = click.option(
    "--service",
    default=DEFAULT_SERVICE_TYPE,
    show_default=True,
    metavar="TYPE",
    help="Sessions of this service type; inbound_cidr means those of SMTP.",
)


@contextlib.contextmanager
def looking(name: str, pid: int | None = None) -> Iterator[View]:
    """A view of the audit with that name. What can't be seen, here and in the block, raises Failure."""
    from inbound_audit.shared import View

    with failures_told(name), View(name, pid=pid) as view:
        yield view


@contextlib.contextmanager
def failures_told(name: str) -> Iterator[None]:
    """Raises Failure for what the package raises of an audit that can't be seen, or of a service that nobody has."""
    try:
        yield
    except UnknownServiceType as error:
        raise Failure(f"--service: {error}") from None
    except SharedStateError as error:
        raise Failure(f"{error}{_what_there_is(name)}") from None


def say_if_nobody_counts(name: str, view: View) -> None:
    """On standard error: rows that are missing could mean that there are no sessions, too."""
    if not view.owners:
        click.echo(f"nobody counts in {name!r} now", err=True)


def tell(console: Console, text: Text) -> None:
    """Writes a text to standard output as it is, however wide; in colour if the console has any. Raises OSError."""
    # rich would end the program when nobody reads any more, and fail on a letter that the encoding does not have.
    with console.capture() as captured:
        console.print(text, soft_wrap=True)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(captured.get().encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _what_there_is(name: str) -> str:
    """Where no directory has that name: the names that there are."""
    from inbound_audit.shared import directory_of

    with contextlib.suppress(SharedStateError, OSError):
        root, directory = os.path.split(directory_of(name))
        before = directory.removesuffix(name)
        there = [entry.removeprefix(before) for entry in os.listdir(root) if entry.startswith(before)]
        known = sorted(filter(_is_a_name, there))
        if known and name not in known:
            return f" (there is: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''})"
    return ""


def _is_a_name(text: str) -> bool:
    from inbound_audit.shared import directory_of

    try:
        directory_of(text)
    except SharedStateError:
        return False
    return True
