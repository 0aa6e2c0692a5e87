"""What `show`, `top`, `map`, `watch`, `web` and others have in common: the view of a shared audit, its options, its
failures and its user."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

import click
from click.core import ParameterSource

from inbound_audit.cli.completion import audits
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.logs import say
from inbound_audit.cli.output import listing
from inbound_audit.errors import SharedStateError, UnknownServiceType, plain
from inbound_audit.nodes import THIS_HOST, NodeInfo
from inbound_audit.services import DEFAULT_SERVICE_TYPE
from inbound_audit.shedding import ShedNetwork

if TYPE_CHECKING:
    from inbound_audit.feed import Look
    from inbound_audit.shared import View

OF_NODES = (DEFAULT_SERVICE_TYPE, "inbound_cidr")
"""The service types of the sessions that a node says to the others."""

AS_JSON = "Print one JSON object instead."

service_option = click.option(
    "--service",
    default=DEFAULT_SERVICE_TYPE,
    show_default=True,
    metavar="TYPE",
    help="Sessions of this service type; inbound_cidr means those of SMTP.",
)


user_option = click.option(
    "--user", metavar="USER", help="The audit of this user (a name or number). Root has to name any user but root."
)


name_argument = click.argument("name", shell_complete=audits)
"""The name of a shared audit."""


node_option = click.option(
    "--node", metavar="NODE", help="Count the sessions of this node of the cluster, as this host has them."
)


@contextlib.contextmanager
def open_view(name: str, user: str | None = None, pid: int | None = None, node: str | None = None) -> Iterator[View]:
    """A view of the audit with that name. Raises Failure if it can't be opened, here and in the block."""
    from inbound_audit.shared import View

    with failures(name), view_of_node(name, node, user) if node else View(name, pid=pid, user=user) as view:
        if user is not None:
            say(f"{name!r}: the audit of {user}")
        yield view


def view_of_node(name: str, node: str, user: str | None) -> View:
    """The view of what one node counts, as sessions of SMTP. Raises Failure, SharedStateError."""
    from inbound_audit.shared import View

    with View(name, user=user) as whole:
        wanted = known_node(whole.nodes, node)
    return View(name, user=user, node=wanted)


def known_node(nodes: Iterable[NodeInfo], node: str) -> str | None:
    """The node as a view has it: None for this host. Raises Failure if there is no such node."""
    found = {one.name: one.state for one in nodes}
    if node not in found:
        raise Failure(f"{node!r}: no such node (there is: {listing(list(found)) or 'no node, since no agent runs'})")
    return None if found[node] == THIS_HOST else node


def check_what_is_counted(listener: str | None, monitor: str | None, series: str | None) -> None:
    """Raises click.UsageError for options of which one would say nothing: a window has no service and no listener."""
    if monitor is not None and series is not None:
        raise click.UsageError("--monitor excludes --series: write one of them")
    if listener is not None and listener != listener.encode(errors="replace").decode():
        raise click.UsageError(f"--listener {listener!r}: write a name in UTF-8")
    windows = "--monitor" if monitor is not None else "--series" if series is not None else None
    service = click.get_current_context().get_parameter_source("service")
    given = {"--listener": listener is not None, "--service": service is not ParameterSource.DEFAULT}
    excluded = " and ".join(option for option, is_given in given.items() if is_given)
    if windows and excluded:
        raise click.UsageError(
            f"{windows} excludes {excluded}: windows are of all listeners of all services together, so write "
            f"{windows} alone"
        )


def check_listener(look: Look) -> None:
    """Raises Failure if no process has the listener that was asked for: there would be nothing to see, for ever."""
    service, listener = look.source.service, look.source.listener
    if listener is None:
        return
    service = DEFAULT_SERVICE_TYPE if service in OF_NODES else service
    known = [row.listener for row in look.listeners if row.service == service]
    if listener not in known:
        names = listing([plain(name) for name in known])
        raise Failure(f"--listener: no listener of {service} is named {listener!r} (there is: {names})")


@contextlib.contextmanager
def no_warning_of_damage() -> Iterator[None]:
    """For commands that show which files are damaged: opening a view warns of them, too."""
    shared = logging.getLogger("inbound_audit.shared")
    before = shared.level
    shared.setLevel(logging.ERROR)
    try:
        yield
    finally:
        shared.setLevel(before)


@contextlib.contextmanager
def failures(name: str) -> Iterator[None]:
    """Raises Failure for an audit that can't be opened, and for a service type that no process has."""
    try:
        yield
    except UnknownServiceType as error:
        raise Failure(f"--service: {error}") from None
    except SharedStateError as error:
        raise Failure(f"{error}{_known_names(name)}") from None


def give_up_root(user: str | None) -> None:
    """Root becomes the user whose audits it reads. Raises Failure."""
    from inbound_audit.shared.places import number_of_user

    try:
        uid = 0 if user is None or os.geteuid() != 0 else number_of_user(user)
    except SharedStateError as error:
        raise Failure(f"--user: {error}") from None
    if uid:
        from inbound_audit.cli import privileges

        privileges.become_reader(uid)


def shed_networks(view: View) -> dict[str, list[ShedNetwork]]:
    """What the gates of each process drop before accept, by owner id. A process that does not answer is left out."""
    from inbound_audit.shared.control import client

    owners = [owner for owner in view.owners if owner.damaged is None and owner.listeners]
    answers, _ = client.request_owners(view.place, owners, {"do": "shed"}, client.BRIEF_TIMEOUT_S)
    found = {one: cast("list[tuple[str, float, float]]", answer["networks"]) for one, answer in answers.items()}
    return {one: [ShedNetwork(*row) for row in networks] for one, networks in found.items()}


def no_process(name: str) -> str:
    return f"no process is attached to {name!r}"


def say_if_no_process(name: str, view: View) -> None:
    """On standard error: without this line, no rows could mean no sessions."""
    if not view.owners:
        say(no_process(name))


def _known_names(name: str) -> str:
    """Where no directory has that name: the names of the audits that there are."""
    from inbound_audit.shared.places import known_audits

    with contextlib.suppress(SharedStateError, OSError):
        known = known_audits()
        if known and name not in known:
            return f" (there is: {listing(known)})"
    return ""
