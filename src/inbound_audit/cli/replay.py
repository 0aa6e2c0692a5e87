"""`inbound-audit replay`: logs in, what limits or a policy would have refused out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import tzinfo
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import click

from inbound_audit import InboundAudit, output_file
from inbound_audit._ipcount import MONITOR_KINDS, parse_pair
from inbound_audit.cli import params
from inbound_audit.cli.config.source import completed, config_option
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.log_files import LogFile, LogOptions, events_of
from inbound_audit.cli.logs import say
from inbound_audit.cli.milter import of_serve
from inbound_audit.cli.output import Output, progress
from inbound_audit.cli.policies import monitors_of
from inbound_audit.cli.replay_tables import tables
from inbound_audit.cli.serve import serve
from inbound_audit.errors import InboundAuditError, PolicyError
from inbound_audit.picture import Picture
from inbound_audit.policy.base import ConnectPolicy
from inbound_audit.policy.limits import Limits
from inbound_audit.policy.load import load_policy
from inbound_audit.policy.rates import Rate, read_most
from inbound_audit.policy.verdict import Verdict
from inbound_audit.replay.columns import COLUMNS
from inbound_audit.replay.reading import NAMES, LogReader
from inbound_audit.replay.results import Check, Result, clients_of, result_of, suggestions
from inbound_audit.replay.run import DAY_S, Replay

_DECIDES = {"limit", "network", "exempt", "policy", "policy_dir", "max_hook_ms", "on_error"}
"""Options that are those of `serve`."""

LENGTHS = ("/32,/64", "/24,/48")
"""Of the limits that are suggested, and whose counts are shown."""

RATES = [Rate(0, kind, seconds) for kind in MONITOR_KINDS for seconds in (60, 300, 3600)]
"""Of the limits over time that are suggested: a burst, some attempts, and a slow guesser."""


@params.kind("SHARE")
def share(text: str) -> float:
    """``0.1%`` as 0.001. Raises ValueError."""
    number = text.removesuffix("%")
    try:
        found = float(number) / 100 if text.endswith("%") and number.replace(".", "", 1).isdigit() else -1.0
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ValueError(f"{text!r}: write a share of the connections from 0% to 100%, such as 0.1%")
    return found


@params.kind("/LENGTH")
def length(text: str) -> str:
    """``/24,/48``, as it was. Raises CidrError."""
    parse_pair(text)
    return text


@params.kind("COLUMN=NAME")
def column(text: str) -> tuple[str, str]:
    """``address=src`` as the pair. Raises ValueError."""
    name, equals, value = text.partition("=")
    if name not in COLUMNS or not equals or not value:
        raise ValueError(f"{text!r}: write one of {', '.join(COLUMNS)}, and its name in the file, such as address=src")
    return name, value


@params.kind("ZONE")
def time_zone(text: str) -> tzinfo:
    """Raises ValueError."""
    try:
        return ZoneInfo(text)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{text!r}: write a time zone of this system, such as UTC or Europe/Berlin") from None


@dataclass(frozen=True)
class Asked:
    """What is asked for each connection: limits, a policy, or nothing."""

    limits: Limits | None = None
    policy: str | None = None
    directories: tuple[str, ...] = ()
    max_hook_ms: int = 50
    on_error: Any = "accept"
    service: str = "SMTP"
    exempt: tuple[str, ...] = ()

    def replay(self, lengths: tuple[str, ...], longest: float, rates: Iterable[Rate] = ()) -> Replay:
        """Raises Failure."""
        monitors = () if self.policy is None else monitors_of(self.policy)
        try:
            return Replay(
                self._make, self._namer(), lengths=lengths, rates=rates, exempt=self.exempt, longest=longest,
                service_type=self.service, monitors=monitors,
            )  # fmt: skip
        except (ImportError, PolicyError) as error:
            raise Failure(f"--policy: {error}") from None
        except InboundAuditError as error:
            raise Failure(str(error)) from None

    def _make(self, audit: InboundAudit) -> ConnectPolicy | None:
        if self.policy is None:
            return self.limits
        return load_policy(
            self.policy, on_error=self.on_error, audit=audit, search=self.directories, max_hook_ms=self.max_hook_ms
        )

    def _namer(self) -> Callable[[Verdict], str]:
        """What a refusal was by: the limit, or the reply of the policy."""
        limits = self.limits
        if limits is None:
            return lambda verdict: f"{verdict.code} {verdict.text}"
        before = limits.refused

        def name(_: Verdict) -> str:
            nonlocal before
            now = limits.refused
            found = next(each for each, number in now.items() if number != before[each])
            before = now
            return found

        return name

    def describe(self) -> str | None:
        return self.policy if self.limits is None else self.limits.describe()


@click.command(
    epilog="""\b
Examples:
  inbound-audit replay mail.log
  inbound-audit replay mail.log.2.gz mail.log.1 mail.log --limit /32,/64=20 --limit /24,/48=300/5m
  inbound-audit replay mail.log --suggest 0.1% --html report.html
  inbound-audit replay mail.log --policy stock.lua --json
  inbound-audit replay mail.log --config inbound-audit.toml
  inbound-audit replay access.log --duration 5s --limit /24,/56=50
  inbound-audit replay sessions.csv --column address=src --column time=begun
  journalctl -u postfix -o short-iso | inbound-audit replay - --format postfix
\b
Exit status: 0 done, 1 a line could not be read (the others are replayed) or the input could not be read, 2 usage."""
)
@click.argument("logs", nargs=-1, metavar="LOG...")
@params.option(
    "--format", click.Choice(NAMES), "The format of all logs; otherwise each one's is found.", parameter="form"
)
@params.option(
    "--column", column, "The name of a column of CSV or JSON, such as address=src; repeatable.", multiple=True
)
@params.option(
    "--duration",
    params.duration,
    "How long a session lasts whose end is not in the log.  [default: until its end, and a day at most]",
)
@params.option(
    "--year", params.whole_number(1970, 2200), "The year of each log's first line, for time stamps without one."
)
@params.option("--zone", time_zone, "The time zone of time stamps without one.  [default: this machine's]")
@partial(of_serve, serves_itself={str(option.name) for option in serve.params} - _DECIDES)
@params.option("--service", "TYPE", "The service type of the sessions.", default="SMTP")
@params.option(
    "--suggest",
    share,
    "Find the smallest limits that refuse at most this share, such as 0.1%. There is no limit by default then.",
)
@params.option(
    "--length", length, "Show and suggest for this length; repeatable.  [default: /32,/64 and /24,/48]", multiple=True
)
@params.option("--top", params.whole_number(1, 1000), "Show N prefixes of each limit.", default=5)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@params.option("--html", "FILE", "Write one page with plots, too.")
@click.option("--skip-bad", is_flag=True, help="A line that can't be read is not a failure.")
@config_option
def replay(**options: Any) -> int:
    """Tell what limits or a policy would have refused of the connections of logs.

    LOG is a log of Postfix, Exim, Dovecot, nginx or HAProxy, CSV with a line of names, or JSON with an object a line;
    packed (gzip, bzip2, xz, zstd) or not, "-" for standard input. Several logs are read in the order of their time.
    Each connection is opened, asked for and closed by the clock of the log, and counted as it is live.
    """
    options = completed(options)
    asked = asked_by(options)
    files = _files(options["logs"], options)
    result, readers, complaints, clients = _run(files, asked, options)
    if options["suggest"] is not None and all(each.rereadable for each in files):
        result = replace(result, check=_check(files, asked, options, result))
    if options["html"] is not None:
        _write_page(options["html"], result, *clients)
    output = Output()
    output.write([json.dumps(asdict(result)) + "\n"] if options["as_json"] else tables(result, output))
    _report_bad_lines(readers, complaints, result.bad)
    return 1 if result.bad and not options["skip_bad"] else 0


def asked_by(options: dict[str, Any]) -> Asked:
    """What the options ask. Raises click.UsageError."""
    table = params.grouped_limits(options["limit"])
    policy, networks, exempt = options["policy"], options["network"], options["exempt"]
    directories, most_ms, on_error = options["policy_dir"], options["max_hook_ms"], options["on_error"]
    common = Asked(None, policy, directories, most_ms, on_error, options["service"], exempt)
    if policy is not None:
        if table is not None or networks or exempt:
            raise click.UsageError("--policy excludes --limit, --exempt and --network: write the limits in the policy")
        return common
    if table is None and not networks and options["suggest"] is not None:
        return common
    params.check_networks(networks, table)
    try:
        return replace(common, limits=Limits.from_options(table, dict(networks), exempt=exempt))
    except PolicyError as error:
        raise click.UsageError(f"--limit: {error}") from None


def _files(logs: tuple[str, ...], options: dict[str, Any]) -> list[LogFile]:
    if not logs:
        raise click.UsageError("Missing argument 'LOG...': write the logs, or logs = [...] in the file of --config")
    if "-" in logs and len(logs) > 1:
        raise click.UsageError("- is standard input: write it alone, or files")
    how = LogOptions(options["form"], dict(options["column"]), options["duration"], options["year"], options["zone"])
    files = [LogFile(each, how) for each in logs]
    kinds = [most.kind for _, most in _maxima(options) if isinstance(most, Rate)]
    unknown = next((kind for kind in kinds if kind != MONITOR_KINDS[0]), None)
    if unknown is not None and not any(each.tells_messages for each in files):
        raise Failure(f"no log has {unknown}: write limits of connections, such as --limit /24,/48=300/5m")
    return files


def _run(
    files: list[LogFile], asked: Asked, options: dict[str, Any]
) -> tuple[Result, list[LogReader], list[str], tuple[Picture, list[int]]]:
    lengths = dict.fromkeys(options["length"] or (*LENGTHS, *_lengths_of(options)))
    rates = RATES if options["suggest"] is not None else ()
    with asked.replay(tuple(lengths), _longest(options), rates) as run, _bar("replaying", files) as step:
        readers, events = events_of(files, step)
        run.run(events)
        errors = getattr(run.policy, "errors", 0)
        result = result_of(
            run, readers, top=options["top"], zone=options["zone"], policy=asked.describe(), errors=errors
        )
        wanted = options["suggest"]
        if wanted is not None:
            result = replace(result, suggest=wanted, suggestions=suggestions(run, wanted))
        return result, readers, run.complaints, clients_of(run)


def _lengths_of(options: dict[str, Any]) -> list[str]:
    """The lengths of the limits on open sessions."""
    keys = [key.rpartition(":")[2] for key, most in _maxima(options) if isinstance(most, int)]
    return [key for key in keys if key != "total"]


def _maxima(options: dict[str, Any]) -> list[tuple[str, int | Rate]]:
    """What each limit allows, by its key."""
    return [(key, read_most(most).most if isinstance(most, str) else most) for key, most in options["limit"]]


def _longest(options: dict[str, Any]) -> float:
    return DAY_S if options["duration"] is None else float(options["duration"])


def _bar(label: str, files: list[LogFile]) -> Any:
    sizes = [each.size for each in files if each.size is not None]
    return progress(label, total=sum(sizes) if len(sizes) == len(files) else None)


def _check(files: list[LogFile], asked: Asked, options: dict[str, Any], result: Result) -> Check:
    """Replays the logs once more with the limits that are suggested."""
    table = params.grouped_limits(tuple(params.limit.read(each.limit) for each in result.suggestions or ()))
    if table is None:
        return Check(0, {})
    limited = Asked(Limits.from_options(table, {}, exempt=asked.exempt), service=asked.service, exempt=asked.exempt)
    with limited.replay((), _longest(options)) as run, _bar("checking", files) as step:
        run.run(events_of(files, step)[1])
        return Check(run.refused, {name: each.number for name, each in run.refusals.items()})


def _write_page(path: str, result: Result, clients: Picture, refused: list[int]) -> None:
    from inbound_audit.replay.page import page

    try:
        output_file.write(path, page(result, clients, refused).encode())
    except OSError as error:
        raise Failure(f"cannot write {click.format_filename(path)}: {reason(error)}") from None


def _report_bad_lines(readers: list[LogReader], complaints: list[str], bad: int) -> None:
    shown = [*(each for reader in readers for each in reader.complaints), *complaints]
    for complaint in shown:
        say(complaint)
    if bad > len(shown):
        say(f"and {bad - len(shown)} more lines that can't be read")
