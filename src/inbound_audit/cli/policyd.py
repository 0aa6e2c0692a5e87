"""`inbound-audit policyd`: its options, which are those of `milter`, and the server that it runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from inbound_audit.cli.config.source import settings_from
from inbound_audit.cli.milter import listening_options, settings_for
from inbound_audit.cli.sockets import UnixEndpoint, bind

DEFAULT_LISTEN = UnixEndpoint.parse("inet:127.0.0.1:8894")


@click.command(
    epilog="""\b
Examples:
  inbound-audit policyd --shared mail --limit /32,/64=10
  inbound-audit policyd --listen unix:/run/inbound-audit/policy --shared mail --policy stock.lua
\b
Signals: TERM and INT stop it; HUP loads the policy file and the file of --config again.
\b
Exit status: 0 stopped by a signal, 1 could not start, 2 usage."""
)
@click.option("--record", is_flag=True, help="Record refusals as rejections in the windows of all monitors.")
@listening_options(DEFAULT_LISTEN)
def policyd(**options: Any) -> None:
    """Answer Postfix's check_policy_service from the counts that a milter or others write.

    It counts nothing itself: start it with --shared and the name under which the others count. A policy in Lua reads
    the attributes of a request as context variables.
    """
    from inbound_audit.cli import service
    from inbound_audit.cli.milter_server import PolicyService

    listens = partial(bind, default=(DEFAULT_LISTEN,), unix=True)
    service.run(settings_from(options, settings_for), PolicyService, listens)
