"""`inbound-audit deny`, `allow`, `lift`, `decisions`: the overrides of a shared audit, from outside."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from inbound_audit.cli import params, view_options
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.logs import say
from inbound_audit.cli.output import Output, plain
from inbound_audit.errors import CapacityError, PolicyError, cause_of

if TYPE_CHECKING:
    from inbound_audit.overrides.entry import Decision
    from inbound_audit.shared.directory import SharedDirectory

_STATUS = "Exit status: 0 done, 1 there is no such audit, or it can't be {}, 2 usage."


@params.kind("PREFIX")
def exact(text: str) -> str:
    """An address or prefix without host bits. Raises CidrError."""
    from inbound_audit.overrides.entry import exact_prefix, prefix_of

    return prefix_of(exact_prefix(text))


@params.kind("TIME")
def moment(text: str) -> float:
    """A time such as 2026-11-28T18:00 (of this machine's zone, unless it names one) that is to come. Raises
    ValueError."""
    try:
        found = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r}: write a time such as 2026-11-28T18:00, or --for 1h") from None
    if found <= time.time():
        raise ValueError(f"{text!r}: is over; write a time to come, or --for 1h")
    return found


@params.kind("DURATION")
def time_ahead(text: str) -> float:
    """A duration above 0. Raises ValueError."""
    seconds = float(params.duration.read(text))
    if seconds <= 0:
        raise ValueError(f"{text!r}: write a time above 0, such as 30m, 1h or 7d")
    return seconds


def _changing(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments that `deny` and `allow` have in common."""
    for decorate in (
        click.option("--yes", is_flag=True, help="Also for a prefix that holds this machine's own addresses, or all."),
        view_options.user_option,
        click.option("--why", default="", metavar="TEXT", help="The reason, which `decisions` shows and scripts get."),
        click.option("--until", type=moment, help="When it ends: a time.  [default: when it is lifted]"),
        click.option("--for", "for_s", type=time_ahead, help="How long it holds, such as 30m, 1h or 7d."),
        click.argument("prefix", type=exact),
        view_options.name_argument,
    ):
        function = decorate(function)
    return function


@click.command(
    epilog=f"""\b
Examples:
  inbound-audit deny mail 192.0.2.0/24 --for 1h --why "a flood of rejections"
  inbound-audit deny mail 2001:db8::/48
\b
{_STATUS.format("changed")}"""
)
@_changing
def deny(
    name: str, prefix: str, for_s: float | None, until: float | None, why: str, user: str | None, yes: bool
) -> None:
    """Refuse all connections from a prefix, whatever the limits say.

    NAME is what the processes share under. All of them follow within a second, and those that start later. Of several
    overrides the longest match decides. Sessions that are open stay open.
    """
    from inbound_audit.overrides.entry import holds_own_addresses

    if not yes and holds_own_addresses(prefix):
        raise click.UsageError(f"{prefix} holds this machine's own addresses; write --yes to deny them, too")
    _override("deny", name, prefix, for_s, until, why, user)


@click.command(
    epilog=f"""\b
Examples:
  inbound-audit allow mail 192.0.2.7 --why "our monitoring"
  inbound-audit allow mail 192.0.2.0/25 --until 2099-12-31T18:00
\b
{_STATUS.format("changed")}"""
)
@_changing
def allow(
    name: str, prefix: str, for_s: float | None, until: float | None, why: str, user: str | None, yes: bool
) -> None:
    """Let in all connections from a prefix, whatever the limits say. They are counted.

    NAME is what the processes share under. All of them follow within a second, and those that start later. Of several
    overrides the longest match decides.
    """
    if not yes and prefix.endswith("/0"):
        raise click.UsageError(f"{prefix} is every address; write --yes to let them all in")
    _override("allow", name, prefix, for_s, until, why, user)


@click.command(
    epilog=f"""\b
Examples:
  inbound-audit lift mail 192.0.2.0/24
\b
{_STATUS.format("changed, or the prefix has no override")}"""
)
@view_options.name_argument
@click.argument("prefix", type=exact)
@view_options.user_option
def lift(name: str, prefix: str, user: str | None) -> None:
    """End the override of exactly that prefix: the limits decide again, or an override around it."""
    with _opened(name, user) as place:
        if not _change(place, "lift", prefix, None, ""):
            raise Failure(f"{prefix}: has no override of its own (inbound-audit decisions {name})")
    click.echo(f"{plain(name)}: {prefix} is lifted")


@click.command(
    epilog=f"""\b
Examples:
  inbound-audit decisions mail
  inbound-audit decisions mail --json | jq '.decisions[] | select(.action == "deny") | .prefix'
\b
{_STATUS.format("opened")}"""
)
@view_options.name_argument
@view_options.user_option
@click.option("--json", "as_json", is_flag=True, help=view_options.AS_JSON)
def decisions(name: str, user: str | None, as_json: bool) -> None:
    """List the overrides of a shared audit that hold: which prefix, until when, why, and who has made them.

    "limit" has made those of a limit that says `then deny`.
    """
    from inbound_audit.overrides import files

    now = time.time()
    with _opened(name, user) as place:
        found = files.read_all(place, now).decisions(now)
    if as_json:
        click.echo(json.dumps({"audit": name, "decisions": [decision._asdict() for decision in found]}))
    elif not found:
        say(f"{name}: there is no override")
    else:
        Output().write(f"{_row(decision, now)}\n" for decision in found)


def _override(
    action: str, name: str, prefix: str, for_s: float | None, until: float | None, why: str, user: str | None
) -> None:
    if for_s is not None and until is not None:
        raise click.UsageError("--for and --until say the same; write one of them")
    for_s = until - time.time() if until is not None else for_s
    with _opened(name, user) as place:
        _change(place, action, prefix, for_s, why)
    said = {"deny": "denied", "allow": "allowed"}[action]
    end = "until it is lifted" if for_s is None else f"until {_time(time.time() + for_s)}"
    click.echo(f"{plain(name)}: {prefix} is {said} {end}")


@contextlib.contextmanager
def _opened(name: str, user: str | None) -> Iterator[SharedDirectory]:
    """The directory of an audit, whether a process is attached or not. Raises Failure, here and in the block."""
    from inbound_audit.shared.directory import SharedDirectory

    with view_options.failures(name), contextlib.closing(SharedDirectory(name, read_only=True, user=user)) as place:
        try:
            yield place
        except CapacityError as error:
            raise Failure(f"{name!r}: {error}") from None
        except PolicyError as error:
            raise click.UsageError(f"--{error}") from None
        except OSError as error:
            raise Failure(f"{place.path}: {cause_of(error)}") from None


def _change(place: SharedDirectory, action: str, prefix: str, for_s: float | None, why: str) -> bool:
    from inbound_audit.overrides import files
    from inbound_audit.overrides.audit import changes_for, this_user, wish_of

    now = time.time()
    return files.change(place, partial(changes_for, [wish_of(action, prefix, for_s, why)], this_user(), now), now)


def _row(decision: Decision, now: float) -> str:
    from inbound_audit.overrides.entry import made_by

    end = "no end" if decision.until is None else f"until {_time(decision.until)}"
    words = f"{decision.action:5}  {decision.prefix:24}  {end:25}  {plain(made_by(decision.by, decision.node))}"
    return f"{words}: {plain(decision.why)}" if decision.why else words


def _time(seconds: float) -> str:
    """By the zone of this machine."""
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "the end of time"
