"""`inbound-audit web`: a page for browsers on one shared audit, live."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

import click

from inbound_audit.cli import params, sockets, view_options
from inbound_audit.cli.config.source import config_option
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.guard import endpoint
from inbound_audit.cli.service_manager import ServiceManager
from inbound_audit.cli.sockets import Endpoint, UnixEndpoint
from inbound_audit.descriptor import open_regular

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from inbound_audit.web.hub import Hub

DEFAULT_LISTEN = Endpoint("127.0.0.1", 8080)

_NEEDS_TOKEN = (
    "--listen {}: other machines reach it; write --token-file FILE for those who may read, or --listen unix:PATH "
    "behind a proxy that knows who asks"
)


@params.kind("NAME")
def host_name(text: str) -> str:
    from inbound_audit.web.access import read_name

    return read_name(text)


@click.command(
    epilog="""\b
Examples:
  inbound-audit web mail
  inbound-audit web mail --allow-changes
  inbound-audit web mail --listen unix:/run/inbound-audit/web --host audit.example.net
\b
Exit status: 0 stopped by a signal, 1 the audit can't be read or it can't listen, 2 usage."""
)
@view_options.name_argument
@params.option(
    "--listen",
    endpoint,
    "Browsers, or a proxy, connect here: ADDRESS:PORT or unix:PATH; repeatable. Other addresses than this machine's "
    f"own need a token.  [default: {DEFAULT_LISTEN}]",
    multiple=True,
)
@params.option(
    "--token-file", "FILE", "Who sends the token in this file may read. Made with a new one if it is missing."
)
@params.option("--change-token-file", "FILE", "Who sends the token in this file may read, deny, allow and lift.")
@click.option("--allow-changes", is_flag=True, help="Make a token for changes that holds for this run, and print it.")
@params.option(
    "--host", host_name, "A further name by which browsers reach it, without a port; repeatable.", multiple=True
)
@params.option(
    "--interval", params.look_interval, "Between two looks, while a browser looks: 0.1s to 60s.", default="1s"
)
@params.option("--rows", params.whole_number(2, 10_000), "The prefixes in a picture.", default=1000)
@view_options.user_option
@click.option("--wait", is_flag=True, help="Start, too, while there is no such audit, and wait for it.")
@config_option
def web(
    name: str,
    listen: tuple[Endpoint | UnixEndpoint, ...],
    token_file: str | None,
    change_token_file: str | None,
    allow_changes: bool,
    host: tuple[str, ...],
    interval: float,
    rows: int,
    user: str | None,
    wait: bool,
) -> None:
    """Serve a page that shows a shared audit, live: a map, a table, limits, refusals, processes and nodes.

    NAME is what the processes share under. It reads from outside, and no process waits for it; without a browser that
    looks it does nothing. Nothing can be changed without --change-token-file or --allow-changes.
    """
    if allow_changes and change_token_file is not None:
        raise click.UsageError("--allow-changes and --change-token-file: write one of them")
    from inbound_audit.feed import Feed
    from inbound_audit.web.access import Access
    from inbound_audit.web.application import application
    from inbound_audit.web.hub import Hub

    reading = None if token_file is None else _token_in(token_file, "--token-file")
    changing = secrets.token_urlsafe(32) if allow_changes else None
    if change_token_file is not None:
        changing = _token_in(change_token_file, "--change-token-file")
    with contextlib.ExitStack() as held:
        manager = held.enter_context(contextlib.closing(ServiceManager()))
        listening = [held.enter_context(bound) for bound in sockets.bind(listen, (DEFAULT_LISTEN,), unix=True)]
        far = next((sockets.name_of(bound) for bound in listening if not _is_local(bound)), None)
        if far is not None and reading is None and changing is None:
            raise click.UsageError(_NEEDS_TOKEN.format(far))
        access = Access(reading, changing, open=reading is None and far is None, hosts=frozenset(host))
        view_options.give_up_root(user)
        open_feed = functools.partial(Feed, name, user=user, interval_s=interval)
        hub = held.enter_context(contextlib.closing(Hub(open_feed, interval)))
        if not wait:
            with view_options.failures(name):
                hub.feed()
        fragment = f"#token={changing}" if allow_changes else ""
        import asyncio  # here and below: it takes a tenth of a second, which no other command has to pay

        asyncio.run(_serve(listening, hub, application(hub, access, rows), manager, fragment))


async def _serve(
    listening: Sequence[socket.socket], hub: Hub, app: ASGIApp, manager: ServiceManager, fragment: str
) -> None:
    """Serves until INT or TERM comes. Raises Failure if it serves no more."""
    import asyncio

    from inbound_audit.web.server import Server

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    for bound in listening:
        where = sockets.name_of(bound)
        click.echo(f"serving {where}" if bound.family == socket.AF_UNIX else f"serving http://{where}/{fragment}")
    if fragment and all(bound.family == socket.AF_UNIX for bound in listening):
        click.echo(f"for changes, add this to the address of the page: {fragment}")
    server = Server(app)
    serving = asyncio.create_task(server.serve(list(listening)))
    manager.notify("READY=1")
    while not stopped.is_set() and not serving.done():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopped.wait(), manager.beat_s or 1.0)
        manager.notify("WATCHDOG=1")
    manager.notify("STOPPING=1")
    hub.end()
    server.should_exit = True
    await serving
    if not stopped.is_set():
        raise Failure("the server has ended")


def _token_in(path: str, option: str) -> str:
    """The token in a file that not every user can read; a file that is missing is made. Raises Failure."""
    from inbound_audit.web.access import read_token

    try:
        with contextlib.suppress(FileExistsError):
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(made, "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        with open_regular(path, os.O_RDONLY) as found:
            if os.fstat(found.number).st_mode & 0o007:
                raise Failure(f"{option} {path}: every user can read the token; chmod 600 {path}")
            return read_token(os.read(found.number, 4096).decode("ascii", "replace"))
    except OSError as error:
        raise Failure(f"{option} {path}: {reason(error)}") from None
    except ValueError as error:
        raise Failure(f"{option} {path}: {error}") from None


def _is_local(bound: socket.socket) -> bool:
    return bound.family == socket.AF_UNIX or ip_address(bound.getsockname()[0]).is_loopback
