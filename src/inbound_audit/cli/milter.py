"""`inbound-audit milter`: its options, most of which are those of `serve`, which start `milter_server`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from inbound_audit.cli import params
from inbound_audit.cli.config.source import settings_from
from inbound_audit.cli.serve import serve, settings_of
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.sockets import Endpoint, UnixEndpoint, bind

_SERVES_ITSELF = {
    "listen", "maildir", "tls_cert", "tls_key", "proxy_from", "hostname", "message_memory", "workers", "worker_timeout",
    "gate", "shed",
}  # fmt: skip
"""Options of `serve` for what the mail server does here, besides those of a `SessionBudget`."""

DEFAULT_LISTEN = UnixEndpoint.parse("inet:127.0.0.1:8893")

endpoint = params.Kind("SOCKET", UnixEndpoint.parse)


def of_serve(command: Callable[..., Any], serves_itself: set[str] = _SERVES_ITSELF) -> Callable[..., Any]:
    """A decorator that adds the options which `serve` has too, but for those that are of a mail server."""
    from inbound_audit.listeners.budget import SessionBudget

    left_out = serves_itself | set(SessionBudget.__dataclass_fields__)
    shared = [option for option in serve.params if option.name not in left_out]
    # click collects the options of decorators from the last to the first.
    command.__click_params__ = [*reversed(shared), *getattr(command, "__click_params__", [])]  # type: ignore[attr-defined]
    return command


def listening_options(default: UnixEndpoint | Endpoint) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds where to listen and what to count as, and the options which `serve` has too."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = (
            params.option(
                "--listen",
                endpoint,
                "The mail server connects here: unix:PATH or inet:ADDRESS:PORT; repeatable.  "
                f"[default: inet:{default}]",
                multiple=True,
            ),
            params.option(
                "--socket-mode",
                params.file_mode,
                "Who may connect to a Unix socket, as the bits of a file: its owner and group.",
                default="660",
            ),
            params.option("--service", "NAME", "The service type that is counted.", default="SMTP"),
            params.option("--listener", "NAME", "The name of the listener that counts.", default="default"),
            of_serve,
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


def settings_for(options: dict[str, Any]) -> Settings:
    """The settings of a command with `listening_options`. Raises click.UsageError."""
    mode = options.pop("socket_mode")
    listen = options["listen"]
    options["listen"] = tuple(one._replace(mode=mode) if isinstance(one, UnixEndpoint) else one for one in listen)
    # What serve has beyond these options is as it is without them.
    return settings_of({**serve.make_context("serve", []).params, **options})


@click.command(
    epilog="""\b
Examples:
  inbound-audit milter
  inbound-audit milter --listen unix:/run/inbound-audit/milter --limit /32,/64=10 --limit /24,/48=100
  inbound-audit milter --policy stock.lua --shared mail --user mail
\b
Signals: TERM and INT close idle connections and let open mail transactions end (a second one cuts them off);
  HUP loads the policy file and the file of --config again.
\b
Exit status: 0 stopped by a signal, 1 could not start, 2 usage."""
)
@listening_options(DEFAULT_LISTEN)
def milter(**options: Any) -> None:
    """Count the clients of Postfix or Sendmail, and let a policy decide which may stay.

    A mail server connects here for each of its clients, which is counted until that connection ends. The policy is
    asked at connect, EHLO, MAIL, RCPT and at the end of each message. Reports as serve does.
    """
    from inbound_audit.cli import service
    from inbound_audit.cli.milter_server import MilterServer

    service.run(settings_from(options, settings_for), MilterServer, partial(bind, default=(DEFAULT_LISTEN,), unix=True))
