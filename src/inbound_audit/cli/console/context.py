"""What a command works on: the audit from outside, and the processes that can be asked to change their counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from inbound_audit._ipcount import MONITOR_KINDS, SeriesStore
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.output import listing, plain
from inbound_audit.shared import OwnerInfo, View
from inbound_audit.shared.control import client


class SeriesInfo(NamedTuple):
    """A series or a monitor. `scope` is one of `MONITOR_KINDS` or ``"series"``; a monitor's name is as ``"300,6"``."""

    scope: str
    name: str
    type: str
    interval: int
    num_windows: int

    @property
    def label(self) -> str:
        """The word that names it in a command."""
        return self.name if self.scope == "series" else self.scope

    @property
    def title(self) -> str:
        """The words that name it in a command, with its parameters."""
        return f"{plain(self.label)} {self.interval},{self.num_windows}"

    @property
    def described(self) -> dict[str, object]:
        """For JSON and in requests."""
        return {"series": self.label, "interval": self.interval, "num_windows": self.num_windows}


class ConsoleContext:
    """An audit for as long as a console has it. `note` tells the user something beside the result."""

    def __init__(self, name: str, view: View, note: Callable[[str], None]) -> None:
        self.name = name
        self.view = view
        self.note = note

    # ---- what there is

    @property
    def owners(self) -> list[OwnerInfo]:
        """The processes that count, the oldest first."""
        living = [owner for owner in self.view.owners if owner.damaged is None]
        return sorted(living, key=lambda owner: (owner.started, owner.id))

    @property
    def all_series(self) -> list[SeriesInfo]:
        """The monitors by kind, then the series."""
        order = (*MONITOR_KINDS, "series")
        known = (SeriesInfo(*row) for row in SeriesStore(self.view).known)
        return sorted(known, key=lambda one: order.index(one.scope))

    def find(self, name: str, parameters: tuple[int, int] | None) -> SeriesInfo:
        """The series, or the monitor of that kind. Raises Failure when there is no such series, or several."""
        known = [one for one in self.all_series if one.label == name]
        found = [one for one in known if parameters in (None, (one.interval, one.num_windows))]
        if len(found) == 1:
            return found[0]
        wanted = plain(name) if parameters is None else f"{plain(name)} {parameters[0]},{parameters[1]}"
        if found:
            raise Failure(f"{wanted}: there are several: {titles(found)}; write the parameters, too")
        raise Failure(
            f"{wanted}: no process of {self.name!r} counts that (there is: {titles(known or self.all_series)})"
        )

    def is_of_cluster(self, one: SeriesInfo) -> bool:
        """Whether counts of the series are over the cluster."""
        return SeriesStore(self.view).is_of_cluster(one.scope, one.name, one.interval, one.num_windows)

    def count(self, one: SeriesInfo, cidr: str, start: int, end: int) -> int:
        """Raises Failure for windows that the series does not have."""
        if not start <= end < one.num_windows:
            last = one.num_windows - 1
            raise Failure(f"windows {start} to {end}: {one.title} has 0 to {last}, and START comes first")
        return SeriesStore(self.view).count(one.scope, one.name, one.interval, one.num_windows, cidr, start, end)

    def hosts(self, one: SeriesInfo, start: int, end: int) -> list[tuple[int, str]]:
        """The hosts in these windows with their counts. Raises Failure for a series of strings, whose keys are gone."""
        if one.type == "string":
            raise Failure(f"{one.title}: its keys are texts, not addresses, and can't be listed")
        return SeriesStore(self.view).rows(one.scope, one.name, one.interval, one.num_windows, start, end)

    # ---- the processes

    def request(
        self, owners: list[OwnerInfo], request: Mapping[str, object], timeout: float = client.TIMEOUT_S
    ) -> tuple[dict[str, client.Answer], list[str]]:
        """Sends a request to processes. Returns answers by owner id, and a sentence per process that failed."""
        answers, failures = client.request_owners(self.view.place, owners, request, timeout)
        return answers, list(map(plain, failures))

    def some_owners(self) -> list[OwnerInfo]:
        """The processes that count, at least one. Raises Failure."""
        owners = self.owners
        if not owners:
            raise Failure(f"no process is attached to {self.name!r}")
        return owners


def titles(series: list[SeriesInfo]) -> str:
    return listing(sorted(one.title for one in series)) or "nothing"
