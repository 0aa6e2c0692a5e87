"""What a command works at: the audit from outside, and the processes that can be asked to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from inbound_audit.cli.console.output import plain
from inbound_audit.cli.failure import Failure
from inbound_audit.errors import SharedStateError
from inbound_audit.shared import OwnerInfo, View
from inbound_audit.shared.control import client

KINDS = ("connections", "receptions", "rejections")


class Windows(NamedTuple):
    """A series or a monitor. `scope` is one of `KINDS` or ``"series"``; a monitor's name is as ``"300,6"``."""

    scope: str
    name: str
    type: str
    interval: int
    num_windows: int

    @property
    def title(self) -> str:
        """As it is written in a command."""
        return f"{plain(self.name) if self.scope == 'series' else self.scope} {self.interval},{self.num_windows}"


class Desk:
    """An audit for as long as a console has it. `note` tells the user something beside the answer."""

    def __init__(self, name: str, view: View, note: Callable[[str], None]) -> None:
        self.name = name
        self.view = view
        self.note = note

    # ---- what there is

    @property
    def owners(self) -> list[OwnerInfo]:
        """The processes that count, the one that began first in front."""
        living = [owner for owner in self.view.owners if owner.damaged is None]
        return sorted(living, key=lambda owner: (owner.started, owner.id))

    @property
    def windows(self) -> list[Windows]:
        """All series and monitors."""
        return [Windows(*row) for row in self.view._windows]

    def find(self, series: str, parameters: tuple[int, int] | None) -> Windows:
        """The series or the kind with that name. Raises Failure when there is none, or several."""
        known = [one for one in self.windows if series == (one.name if one.scope == "series" else one.scope)]
        found = [one for one in known if parameters in (None, (one.interval, one.num_windows))]
        if len(found) == 1:
            return found[0]
        wanted = series if parameters is None else f"{series} {parameters[0]},{parameters[1]}"
        if found:
            raise Failure(f"{wanted}: there are several: {_titles(found)}; give the parameters")
        raise Failure(f"{wanted}: nobody counts that in {self.name!r} (there is: {_titles(known or self.windows)})")

    def count(self, one: Windows, cidr: str, start: int, end: int) -> int:
        """Raises Failure for windows that it does not have."""
        check_windows(one, start, end)
        return self.view._window_count(one.scope, one.name, one.interval, one.num_windows, cidr, start, end)

    # ---- the processes

    def ask(
        self, owners: list[OwnerInfo], request: Mapping[str, object], timeout: float = client.TIMEOUT_S
    ) -> tuple[dict[str, client.Answer], list[str]]:
        """Asks processes: the answers of those that did it by their ids, and a sentence for each of the others."""
        found = client.request_all(self.view.place, [owner.id for owner in owners], request, timeout)
        answers: dict[str, client.Answer] = {}
        wrong = []
        for owner in owners:
            answer = found[owner.id]
            why = client.why_not(answer)
            if why is not None:
                wrong.append(f"process {owner.pid} {plain(why)}")
            elif not isinstance(answer, SharedStateError):
                answers[owner.id] = answer
        return answers, wrong

    def somebody(self) -> list[OwnerInfo]:
        """The processes, of which there must be one. Raises Failure."""
        owners = self.owners
        if not owners:
            raise Failure(f"nobody counts in {self.name!r} now")
        return owners


def check_windows(one: Windows, start: int, end: int) -> None:
    if not start <= end < one.num_windows:
        raise Failure(f"windows {start} to {end}: {one.title} has 0 to {one.num_windows - 1}, and START comes first")


def _titles(windows: list[Windows]) -> str:
    titles = sorted(one.title for one in windows)
    return f"{', '.join(titles[:10])}{', ...' if len(titles) > 10 else ''}" if titles else "nothing"
