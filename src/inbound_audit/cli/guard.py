"""`inbound-audit guard`: its options, most of which are those of `serve`, which start `guard_server`."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import Any

import click

from inbound_audit.cli import params
from inbound_audit.cli.config.source import settings_from
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.milter import of_serve, settings_for
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.sockets import Endpoint, UnixEndpoint, bind
from inbound_audit.listeners.forward import BackEnd, resolve, unix_back_end
from inbound_audit.listeners.gate_reply import GateRefusal

DEFAULT_LISTEN = Endpoint("127.0.0.1", 2525)

_OF_SERVE = {
    "listen", "maildir", "tls_cert", "tls_key", "proxy_from", "hostname", "message_memory", "workers", "worker_timeout",
    "gate", "grace",
}  # fmt: skip
"""Options of `serve` that are of a mail server, or are other ones here."""

_REFUSALS = {"SMTP": "smtp", "HTTP": "http"}
"""What a refused client is sent by service type; those of any other are closed without a text."""

endpoint = params.Kind("SOCKET", UnixEndpoint.parse)


@click.command(
    epilog="""\b
Examples:
  inbound-audit guard --listen :25 --to 127.0.0.1:2525 --limit /32,/64=10 --limit /24,/48=100
  inbound-audit guard --listen :993 --to 127.0.0.1:1993 --service IMAP --tls-passthrough --send-proxy v2
  inbound-audit guard --listen :80 --to 10.0.0.5:8080 --to 10.0.0.6:8080 --service HTTP --limit /32,/64=50
\b
Signals: TERM and INT stop accepting and let connections end (a second one cuts them off); HUP loads the policy
  file and the file of --config again. No connection is lost by that.
\b
Exit status: 0 stopped by a signal, 1 could not start, 2 usage."""
)
@params.option(
    "--listen",
    endpoint,
    f"Clients connect here: ADDRESS:PORT or unix:PATH; repeatable.  [default: {DEFAULT_LISTEN}]",
    multiple=True,
)
@params.option(
    "--to",
    endpoint,
    "The server: ADDRESS:PORT or unix:PATH; repeatable. The first one that can be reached gets the connections.",
    multiple=True,
    required=True,
)
@params.option(
    "--socket-mode", params.file_mode, "Who may connect to a Unix socket, as the bits of a file.", default="660"
)
@params.option(
    "--send-proxy",
    click.Choice(["v1", "v2"]),
    "Begin each connection to the server with a PROXY header of this version, which has the client's address.",
)
@params.option(
    "--proxy-from",
    params.network,
    "Connections from here begin with a PROXY header, which is believed; repeatable.",
    multiple=True,
)
@params.option(
    "--refusal",
    click.Choice(["smtp", "http", "none"]),
    "What a refused client is sent, and one for which there is no server: a 421 line, a response of HTTP, or "
    "nothing: it is closed.  [default: smtp for the service SMTP, http for HTTP, else none]",
)
@click.option(
    "--tls-passthrough",
    is_flag=True,
    help="Clients speak TLS from the first byte, to the server: a refused one is closed without a text.",
)
@params.option("--connect-timeout", params.duration, "How long a server has to take a connection.", default="5s")
@params.option("--idle", params.duration, "Close a connection on which no byte moves for so long.", default="15m")
@params.option("--check-every", params.duration, "Try a server that is down once in this time.", default="1s")
@params.option(
    "--threads", params.whole_number(1, 64), "Move bytes in N threads.  [default: one per processor, 4 at most]"
)
@params.option("--grace", params.duration, "How long open connections may last after a stop.", default="30s")
@params.option("--service", "NAME", "The service type that is counted.", default="SMTP")
@params.option("--listener", "NAME", "The name of the listener that counts.", default="default")
@functools.partial(of_serve, serves_itself=_OF_SERVE)
def guard(**options: Any) -> None:
    """Count the clients of any TCP server, refuse those over a limit, and forward the others.

    Stands in front of the server: limits are asked and bytes are moved in native code, without Python; a policy in Lua
    or Sieve is asked once per connection. Reports as serve does.
    """
    from inbound_audit.cli import service
    from inbound_audit.cli.guard_server import GuardServer

    listens = functools.partial(bind, default=(DEFAULT_LISTEN,), unix=True)
    service.run(settings_from(options, settings_of_guard), GuardServer, listens)


def settings_of_guard(options: dict[str, Any]) -> Settings:
    """Raises Failure and click.UsageError."""
    from inbound_audit.cli.guard_server import Forwarding

    passes_tls, refusal = options.pop("tls_passthrough"), options.pop("refusal")
    if passes_tls and refusal not in (None, "none"):
        raise click.UsageError(f"--tls-passthrough excludes --refusal {refusal}: a client of TLS can't read a text")
    for name in ("connect_timeout", "idle", "check_every"):
        if not options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')}: write a time above 0, such as 5s")
    forwarding = Forwarding(
        back_ends=_back_ends(options["to"]),
        refusal=None if passes_tls else _refusal(refusal, options["service"]),
        send_proxy=options.pop("send_proxy"),
        connect_s=options.pop("connect_timeout"),
        idle_s=options.pop("idle"),
        check_s=options.pop("check_every"),
        threads=options.pop("threads") or min(len(os.sched_getaffinity(0)), 4),
    )
    return replace(settings_for(options), forwarding=forwarding)


def _refusal(asked: str | None, service_type: str) -> GateRefusal:
    chosen = asked or _REFUSALS.get(service_type, "none")
    return None if chosen == "none" else chosen


def _back_ends(to: tuple[Endpoint | UnixEndpoint, ...]) -> list[BackEnd]:
    """Names are looked up once. Raises Failure and click.UsageError."""
    found: list[BackEnd] = []
    for one in to:
        if isinstance(one, UnixEndpoint):
            found.append(unix_back_end(one.path))
            continue
        if one.host is None or not one.port:
            raise click.UsageError(f"--to {one}: write the server's ADDRESS:PORT, such as 127.0.0.1:2525")
        try:
            found += resolve(one.host, one.port)
        except OSError as error:
            raise Failure(f"--to {one}: {reason(error)}") from None
    return found
