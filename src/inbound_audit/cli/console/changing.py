"""The commands that change counts. They ask the processes: nobody else writes into what a process counts."""

from __future__ import annotations

from collections.abc import Callable

from inbound_audit.cli.console.desk import KINDS, Desk, Windows
from inbound_audit.cli.console.output import Answer, Row, plain
from inbound_audit.cli.failure import Failure
from inbound_audit.errors import InboundAuditError
from inbound_audit.shared import OwnerInfo

NOTICE = 0.5
"""Seconds for the processes to say who has a series: one that is stopped then, another is asked to add."""


def add(desk: Desk, series: str, parameters: tuple[int, int], ip: str, increment: int) -> Answer:
    return _change(desk, "add", series, parameters, ip, increment)


def subtract(desk: Desk, series: str, parameters: tuple[int, int], ip: str, increment: int) -> Answer:
    return _change(desk, "subtract", series, parameters, ip, -increment)


def _change(desk: Desk, command: str, series: str, parameters: tuple[int, int], ip: str, by: int) -> Answer:
    one = _series(desk, series, parameters)
    owner = _who_adds(desk, one)
    request = {"do": "add", **_described(one), "key": ip, "count": by}
    _, wrong = desk.ask([owner], request)
    if wrong:
        raise Failure(wrong[0])
    desk.view.refresh()  # it may be the series' first window
    about = {"command": command, "series": one.name, "key": ip, "by": by, "pid": owner.pid}
    columns = ("interval", "num_windows", "window", "count")
    rows = [(one.interval, one.num_windows, 0, _count_of(desk, one, ip))]
    return Answer(about, columns, rows, lambda row, paint: _changed_text(one, row, paint))


def _changed_text(one: Windows, row: Row, paint: Callable[[str], str]) -> str:
    """``failures 300/0: 5``: in the form of `show ip`, what the current window has now."""
    return f"{plain(one.name)} {row[0]}/{row[2]}: {paint(str(row[3]))}"


def _count_of(desk: Desk, one: Windows, key: str) -> int:
    try:
        return desk.count(one, key, 0, 0)
    except InboundAuditError as error:  # the process took it, so it is an address
        raise Failure(f"it was added, but can't be counted: {error}") from None


def delete_ip(desk: Desk, ip: str, series: str, parameters: tuple[int, int]) -> Answer:
    one = _series(desk, series, parameters)
    request = {"do": "remove", "series": one.name, "key": ip, "interval": one.interval, "num_windows": one.num_windows}
    answers, wrong = desk.ask(desk.somebody(), request)
    if wrong:
        raise Failure(f"{plain(ip)} was not removed everywhere: {'; '.join(wrong)}")
    had = [owner for owner in desk.owners if owner.id in answers and answers[owner.id].get("defined")]
    if not had:
        raise Failure(f"{one.title}: nobody counts that in {desk.name!r}")
    about = {"command": "delete_ip", "series": one.name, "key": ip}
    rows = [(owner.pid, one.interval, one.num_windows) for owner in had]
    columns = ("pid", "interval", "num_windows")
    return Answer(about, columns, rows, lambda row, paint: f"removed from {one.title} of process {row[0]}")


# ---- whom to ask


def _series(desk: Desk, series: str, parameters: tuple[int, int]) -> Windows:
    """The series with that name, or one that is not there yet: what is added to it defines it."""
    if series in KINDS:
        raise Failure(f"{series} are counted by sessions alone; only series can be changed")
    known = [one for one in desk.windows if one.scope == "series" and one.name == series]
    for one in known:
        if (one.interval, one.num_windows) == parameters:
            return one
    if known:
        raise Failure(f"{known[0].title}: that is what {series} is, not {parameters[0]},{parameters[1]}")
    return Windows("series", series, "ip", *parameters)


def _who_adds(desk: Desk, one: Windows) -> OwnerInfo:
    """The process that has the series; else any that answers. Raises Failure."""
    owners = desk.somebody()
    answers, wrong = desk.ask(owners, {"do": "known", "series": one.name}, NOTICE)
    answering = [owner for owner in owners if owner.id in answers]
    if not answering:
        raise Failure("; ".join(wrong))
    return next((owner for owner in answering if answers[owner.id].get("defined")), answering[0])


def _described(one: Windows) -> dict[str, object]:
    """A process that has the series knows which addresses it counts; in a new series both families count."""
    described = {"series": one.name, "interval": one.interval, "num_windows": one.num_windows}
    return {**described, "type": "string"} if one.type == "string" else described
