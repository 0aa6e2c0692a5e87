"""The commands that change counts. They ask the processes: only a process itself writes what it counts."""

from __future__ import annotations

from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.cli.console.context import ConsoleContext, SeriesInfo, titles
from inbound_audit.cli.console.result import Result
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.output import plain
from inbound_audit.errors import InboundAuditError, did_you_mean
from inbound_audit.shared import OwnerInfo

PROBE_TIMEOUT_S = 2.0
"""Seconds for the processes to say which has a series. One that is stopped then is left out."""


def add(context: ConsoleContext, series: str, parameters: tuple[int, int], ip: str, increment: int) -> Result:
    return _change(context, "add", series, parameters, ip, increment)


def subtract(context: ConsoleContext, series: str, parameters: tuple[int, int], ip: str, increment: int) -> Result:
    return _change(context, "subtract", series, parameters, ip, -increment)


def _change(
    context: ConsoleContext, command: str, series: str, parameters: tuple[int, int], ip: str, by: int
) -> Result:
    one = _series(context, series, parameters)
    known = [other.name for other in context.all_series if other.scope == "series"]
    if one.name not in known and (hint := did_you_mean(one.name, known)):
        context.note(f"{one.title}: a new series is defined{hint}")
    owner = _owner_for(context, one)
    # The process that has a series knows which addresses it counts; a new one counts all.
    type = {"type": one.type} if one.type == "string" else {}
    _, failures = context.request([owner], {"do": "add", **one.described, **type, "key": ip, "count": by})
    if failures:
        raise Failure(failures[0])
    context.view.refresh()  # the window may be the first of the series
    about = {"command": command, "series": one.name, "key": ip, "by": by, "pid": owner.pid}
    columns = ("interval", "num_windows", "window", "count")
    rows = [(one.interval, one.num_windows, 0, _count_of(context, one, ip))]
    # ``failures 300/0: 5``: the form of `show ip`
    return Result(about, columns, rows, lambda row, paint: f"{plain(one.name)} {row[0]}/{row[2]}: {paint(str(row[3]))}")


def _count_of(context: ConsoleContext, one: SeriesInfo, key: str, window: int = 0) -> int:
    try:
        return context.count(one, key, window, window)
    except InboundAuditError as error:
        raise Failure(f"{plain(key)} can't be counted: {error}") from None


def delete_ip(context: ConsoleContext, ip: str, series: str, parameters: tuple[int, int]) -> Result:
    one = _series(context, series, parameters)
    owners, known = context.some_owners(), one in context.all_series
    before = [_count_of(context, one, ip, window) for window in range(one.num_windows if known else 0)]
    answers, failures = context.request(owners, {"do": "remove", **one.described, "key": ip})
    if failures:
        raise Failure(f"{plain(ip)} was not removed everywhere: {'; '.join(failures)}")
    having = [owner for owner in owners if owner.id in answers and answers[owner.id].get("defined")]
    if not having:
        there = titles(context.all_series)
        raise Failure(f"{one.title}: no process of {context.name!r} counts that (there is: {there})")
    if not any(before):
        raise Failure(f"{plain(ip)}: nothing is counted for it in {one.title}")
    about = {"command": "delete_ip", "series": one.name, "key": ip, "count": sum(before)}
    rows = [(owner.pid, one.interval, one.num_windows) for owner in having]
    columns = ("pid", "interval", "num_windows")
    return Result(about, columns, rows, lambda row, paint: f"removed from {one.title} of process {row[0]}")


def _series(context: ConsoleContext, series: str, parameters: tuple[int, int]) -> SeriesInfo:
    """The series with that name, or a new one: what is added to it defines it. Raises Failure."""
    if series in MONITOR_KINDS:
        raise Failure(f"{series} are counted by sessions alone; only series can be changed")
    known = [one for one in context.all_series if one.scope == "series" and one.name == series]
    for one in known:
        if (one.interval, one.num_windows) == parameters:
            return one
    if known:
        raise Failure(f"{plain(series)} is defined as {known[0].title}, not {parameters[0]},{parameters[1]}")
    return SeriesInfo("series", series, "ip", *parameters)


def _owner_for(context: ConsoleContext, one: SeriesInfo) -> OwnerInfo:
    """The process that has the series; else any that responds. Raises Failure."""
    owners = context.some_owners()
    answers, failures = context.request(owners, {"do": "known", "series": one.name}, PROBE_TIMEOUT_S)
    answering = [owner for owner in owners if owner.id in answers]
    if not answering:
        raise Failure("; ".join(failures))
    return next((owner for owner in answering if answers[owner.id].get("defined")), answering[0])
