"""`inbound-audit serve`: its options. They start `server`, or `workers` for several processes."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from inbound_audit.cli import params
from inbound_audit.cli.budget import budget_options, taken
from inbound_audit.cli.config.source import config_option, settings_from
from inbound_audit.cli.settings import Settings
from inbound_audit.errors import MonitorError, PolicyError
from inbound_audit.series.definition import read_monitors

MIN_WORKER_TIMEOUT_S = 3

CHOICE = click.Choice(["accept", "refuse"])


@params.kind("NAME")
def shared_name(text: str) -> str:
    """A name under which processes share counts. Raises SharedStateError."""
    from inbound_audit.shared.places import check_name

    check_name(text)
    return text


@params.kind("NAME")
def banner_name(text: str) -> str:
    """A host name or an address literal such as ``[192.0.2.1]``. Raises ValueError."""
    label = r"\w(?:[\w-]{0,61}\w)?"
    if re.fullmatch(rf"{label}(?:\.{label})*|\[[\w.:]+\]", text, re.ASCII) is None:
        raise ValueError(f"{text!r}: write a host name such as mx.example.com")
    return text


@click.command(
    epilog="""\b
Examples:
  inbound-audit serve
  inbound-audit serve --listen :2525 --limit /32,/64=10 --limit /24,/48=100 --exempt 10.0.0.0/8
  inbound-audit serve --policy stock.lua --maildir ./mail --tls-cert chain.pem --tls-key key.pem
  inbound-audit serve --listen :25 --workers 4 --shared mail
  inbound-audit serve --listen :25 --limit /32,/64=10 --shed 50
  inbound-audit serve --config inbound-audit.toml --quiet
  inbound-audit serve --listen 10.0.0.5:25 --proxy-from 10.0.0.0/24 --dry-run --json
\b
Signals: TERM and INT close idle sessions and let open mail transactions end (a second one cuts them off);
  HUP loads the policy file, the certificate and the file of --config again. With --workers send them to the
  first process.
\b
Exit status: 0 stopped by a signal, 1 could not start, 2 usage."""
)
@params.option(
    "--listen",
    params.endpoint,
    "Listen here; repeatable. [::1]:25 is IPv6, :25 is every address of both families, port 0 is a free "
    "port.  [default: 127.0.0.1:2525 and [::1]:2525]",
    multiple=True,
)
@params.option("--policy", "FILE.lua", "A policy in Lua; FILE.sieve and FILE.siv are Sieve.")
@params.option(
    "--policy-dir",
    "DIR",
    "A policy reads modules and address lists from here, too, and from no other directory but its own; repeatable.",
    multiple=True,
)
@params.option(
    "--max-hook-ms",
    params.whole_number(1),
    "The processor time in milliseconds that a hook of a policy in Lua or Sieve may take; beyond it the hook "
    "fails, and --on-error decides.",
    default=50,
    show_default=True,
)
@params.option(
    "--limit",
    params.limit,
    "At most N sessions from a prefix of this length; repeatable. /24,/56=N has a length per family, total=N is "
    "for all sessions, NAME:/LENGTH=N and NAME:total=N for a --network. In place of N, 300/5m is at most 300 "
    "connections in 5 minutes, '20 rejections/1h' and '100 receptions/1h' at most so many refusals and accepted "
    "messages.  [default: /32,/64=10 /24,/48=100 /0=20000]",
    multiple=True,
)
@params.option(
    "--network",
    params.named_network,
    "A network with limits of its own, whose sessions use up none of the others; repeatable.",
    multiple=True,
)
@params.option("--exempt", params.network, "Do not limit this network; repeatable.", multiple=True)
@click.option("--dry-run", is_flag=True, help="Refuse no session; count those that the policy would refuse.")
@params.option("--maildir", "DIR", "Keep messages here. Without it messages are accepted and discarded.")
@params.option("--tls-cert", "PEM", "Offer STARTTLS with this certificate chain.")
@params.option("--tls-key", "PEM", "The key, if it is not in the same file.")
@params.option(
    "--proxy-from",
    params.network,
    "Connections from here begin with a PROXY header, which is believed; repeatable.",
    multiple=True,
)
@params.option(
    "--hostname", banner_name, "The name in the banner.  [default: this machine's own name, which is not looked up]"
)
@budget_options
@params.option(
    "--message-memory",
    params.size,
    "Bytes that the messages of all sessions have together, per worker; beyond it 451 4.3.1.",
    default="256M",
)
@params.option(
    "--when-full", CHOICE, "What happens to sessions for which there is no room to count them.", default="accept"
)
@params.option("--on-error", CHOICE, "What happens to sessions on which the policy fails.", default="accept")
@params.option("--grace", params.duration, "How long open mail transactions may last after a stop.", default="30s")
@params.option(
    "--prefixlen", params.prefix_lengths, "The prefix lengths of the busiest prefix in the report.", default="24,56"
)
@params.option(
    "--capacity", params.size, "Address space to reserve for counts; memory is used as hosts connect.", default="1G"
)
@params.option(
    "--workers", params.whole_number(1, 256), "Serve in N processes that count together; needs --shared.", default=1
)
@params.option(
    "--worker-timeout", params.duration, "Kill and replace a worker whose loop has not run for so long.", default="10s"
)
@params.option("--shared", shared_name, "Count together with every process of this machine that uses the same name.")
@params.option("--user", "USER", "Become this user, with all of its groups, after listening; for root.")
@params.option(
    "--group",
    "GROUP",
    "With --shared: members of this Unix group may read the counts. With --user: run in it, not in the user's own.",
)
@params.option("--chroot", "DIR", "With --user: see only what lies below this directory. Other paths are within it.")
@click.option(
    "--landlock/--no-landlock",
    default=True,
    help="Let the kernel refuse programs, connections to others, and all files but those of Python, the directories of "
    "the policy and the certificate, and the directories for state, shared counts and messages.",
)
@click.option(
    "--gate/--no-gate",
    default=None,
    help="Accept, count and refuse by limits in native code, before Python sees a connection.  [default: --gate where "
    "the system has one: Linux]",
)
@params.option(
    "--shed",
    params.whole_number(1),
    "The kernel drops connections of an address (IPv6: a /64) that the limits refuse more than N times a second, for a "
    "while and before they are accepted. Each worker counts for itself. Linux.",
)
@params.option(
    "--monitor",
    params.monitor,
    "Record connections, receptions and rejections by address in NUMBER windows of INTERVAL; repeatable. "
    "5m,6 is the last half hour in steps of five minutes.",
    multiple=True,
)
@params.option(
    "--monitor-bytes",
    params.size,
    "The most memory for the windows of all monitors, per worker; beyond it, hosts are folded into prefixes.",
    default="256M",
)
@params.option(
    "--state",
    "DIR",
    "Where series that policies persist or log are kept.  [default: $INBOUND_AUDIT_STATE, or a directory of the user]",
)
@config_option
@params.option(
    "--decision-log",
    "FILE",
    "Write a line of JSON for each client that is refused or made to wait. A file that was renamed is made anew. "
    "syslog and journald, or syslog:PATH and journald:PATH, are sent the lines in place of a file.",
)
@click.option("--log-accepted", is_flag=True, help="With --decision-log: also for each connection that is let in.")
@params.option(
    "--log-rate",
    params.whole_number(1),
    "The most lines of --decision-log per second and worker; beyond it they are left out, and counted there.",
    default=1000,
)
@click.option("--json", is_flag=True, help="Report in JSON, one object per line.")
@click.option("--quiet", "-q", is_flag=True, help="Do not report each second.")
@click.option("--verbose", "-v", is_flag=True, help="Log refusals, at most one line per 10 seconds.")
def serve(**options: Any) -> None:
    """Serve SMTP, and let a policy decide which sessions may stay.

    Counts the open sessions by prefix and asks the policy before the banner. Mail to any recipient is accepted, and
    kept or discarded; nothing is ever relayed. Reports one line per second in which something happens.
    """
    settings = settings_from(options, settings_of)
    if settings.workers > 1:
        from inbound_audit.cli.workers import run
    else:
        from inbound_audit.cli.server import run
    run(settings)


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings that the values of options make. Raises click.UsageError."""
    options = dict(options)
    settings = Settings(limits=params.grouped_limits(options.pop("limit")), budget=taken(options), **options)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if settings.policy is not None and (settings.limits is not None or settings.exempt or settings.network):
        raise click.UsageError("--policy excludes --limit, --exempt and --network: write the limits in the policy")
    try:
        read_monitors(settings.monitor, None, settings.monitor_bytes)
    except MonitorError as error:
        raise click.UsageError(f"--monitor: {error}") from None
    if settings.policy is None:
        _check_limits(settings)
    if settings.tls_key is not None and settings.tls_cert is None:
        raise click.UsageError("--tls-key needs --tls-cert")
    if settings.workers > 1 and settings.shared is None:
        raise click.UsageError(
            f"--workers {settings.workers} needs --shared NAME, or each worker would count for itself"
        )
    if settings.message_memory < settings.budget.max_message_bytes:
        raise click.UsageError("--message-memory is less than --max-size, so no message would be accepted")
    if settings.worker_timeout < MIN_WORKER_TIMEOUT_S:
        raise click.UsageError(
            f"--worker-timeout is less than {MIN_WORKER_TIMEOUT_S} s, and workers answer each second"
        )
    _check_gate(settings)
    if settings.group is not None and settings.shared is None and settings.user is None:
        raise click.UsageError("--group needs --shared or --user")
    if settings.log_accepted and settings.decision_log is None:
        raise click.UsageError("--log-accepted needs --decision-log FILE")
    if settings.chroot is not None and settings.user is None:
        raise click.UsageError("--chroot needs --user: root can leave a changed root again")


def _check_gate(settings: Settings) -> None:
    if settings.shed is not None and settings.gate is False:
        raise click.UsageError("--shed excludes --no-gate: a gate finds what is to be dropped")
    if settings.shed is not None and settings.policy is not None:
        raise click.UsageError("--shed excludes --policy: only what --limit refuses is dropped")
    asked = "--gate" if settings.gate else "--shed" if settings.shed is not None else None
    if asked is not None and sys.platform != "linux":
        raise click.UsageError(f"{asked} needs Linux: leave it out")


def _check_limits(settings: Settings) -> None:
    """Checks the limits together: each network of a limit must be given, and each network needs a limit."""
    from inbound_audit.cli.policies import limits_of

    params.check_networks(settings.network, settings.limits)
    try:
        needed = limits_of(settings).monitors_for(settings.monitor)
        read_monitors(needed, None, settings.monitor_bytes, settings.monitor)
    except (PolicyError, MonitorError) as error:
        raise click.UsageError(f"--limit: {error}") from None
