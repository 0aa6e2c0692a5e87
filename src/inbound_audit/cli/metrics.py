"""`inbound-audit metrics`: the figures of shared audits, for Prometheus and whatever reads its format."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from inbound_audit.cli import params, sockets, view_options
from inbound_audit.cli.completion import audits
from inbound_audit.cli.config.source import config_option
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.service_manager import ServiceManager
from inbound_audit.cli.sockets import Endpoint

if TYPE_CHECKING:
    from inbound_audit.metrics.figures import SharedAudit


@click.command(
    epilog="""\b
Examples:
  inbound-audit metrics mail
  inbound-audit metrics mail --listen 127.0.0.1:9746
  inbound-audit metrics mail --textfile /var/lib/prometheus/node-exporter/inbound-audit.prom
  inbound-audit metrics mail --json | jq '.[] | select(.name == "sessions")'
\b
Exit status: 0 done, or stopped by a signal, 1 an audit can't be read or it can't listen or write, 2 usage."""
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=audits)
@params.option(
    "--listen", params.endpoint, "Serve /metrics and /healthz here, until a signal; repeatable.", multiple=True
)
@params.option("--textfile", "FILE", "Write this file once instead, for the textfile collector of the node exporter.")
@params.option("--top", params.whole_number(1, 1000), "Also the N prefixes with the most open sessions of SMTP.")
@params.option("--prefixlen", params.prefix_lengths, "The lengths of the prefixes of --top.", default="24,56")
@view_options.user_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
def metrics(
    names: tuple[str, ...],
    listen: tuple[Endpoint, ...],
    textfile: str | None,
    top: int | None,
    prefixlen: tuple[int, int],
    user: str | None,
    as_json: bool,
) -> None:
    """Print the figures of shared audits in the format of Prometheus, or serve them.

    NAME is what the processes of an audit share under. Each prefix of --top is a time series of its own wherever the
    figures are kept: leave it out unless you need it.

    It only reads, and no process waits for it. With --listen root becomes the user of --user as soon as it listens.
    """
    serves = bool(listen) or sockets.are_handed_over()
    if (serves + (textfile is not None) + as_json) > 1:
        raise click.UsageError("--listen, --textfile and --json: write one of them")
    from inbound_audit.metrics.figures import SharedAudit

    with contextlib.ExitStack() as held:
        audits = [SharedAudit(name, user=user, top=top or 0, prefixlen=prefixlen) for name in dict.fromkeys(names)]
        for audit in audits:
            held.callback(audit.close)
        if serves:
            _serve(audits, listen, user)
        else:
            _write(audits, textfile, as_json)


def _write(audits: Sequence[SharedAudit], textfile: str | None, as_json: bool) -> None:
    """Writes what can be read. Raises Failure if some audit can't be."""
    if as_json:
        click.echo(json.dumps([figure._asdict() for audit in audits for figure in audit.figures()]))
    else:
        from prometheus_client import generate_latest, write_to_textfile

        from inbound_audit.metrics.prometheus import registry_of

        registry = registry_of(audits)
        if textfile is None:
            click.echo(generate_latest(registry).decode(), nl=False)
        else:
            try:
                write_to_textfile(textfile, registry)
            except OSError as error:
                raise Failure(f"cannot write {click.format_filename(textfile)}: {reason(error)}") from None
    if why := "; ".join(audit.why_down for audit in audits if audit.why_down):
        raise Failure(why)


def _serve(audits: Sequence[SharedAudit], listen: Sequence[Endpoint], user: str | None) -> None:
    """Serves until INT or TERM comes. Raises Failure if it can't listen, or serves no more."""
    from inbound_audit.metrics.prometheus import MetricsServer, application

    app = application(audits)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with contextlib.ExitStack() as held:
        manager = held.enter_context(contextlib.closing(ServiceManager()))
        listening = [held.enter_context(bound) for bound in sockets.bind(listen)]
        view_options.give_up_root(user)
        threads = []
        for bound in listening:
            server = held.enter_context(MetricsServer(bound, app))
            threads.append(threading.Thread(target=server.serve_forever, daemon=True))
            threads[-1].start()
            held.callback(server.shutdown)
            click.echo(f"serving http://{sockets.name_of(bound)}/metrics")
        manager.notify("READY=1")
        while not stopped.wait(manager.beat_s or 1.0):
            if not all(thread.is_alive() for thread in threads):
                raise Failure("the server of the metrics has ended")
            manager.notify("WATCHDOG=1")
        manager.notify("STOPPING=1")
