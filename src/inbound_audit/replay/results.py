"""What came of a replay: figures, distributions, and the smallest limits for a share of refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo

from inbound_audit import PrefixCounter
from inbound_audit._ipcount import parse_address, parse_pair
from inbound_audit.picture import Picture, picture_of_counter
from inbound_audit.replay.reading import LogReader
from inbound_audit.replay.run import Replay

QUANTILES = (0.5, 0.9, 0.99, 0.999)

NETWORK_LENGTHS = (24, 64)
"""Of the networks that are counted: what an IPv4 network and the link of an IPv6 customer mostly have."""


@dataclass(frozen=True)
class PrefixRow:
    prefix: str
    count: int


@dataclass(frozen=True)
class LimitRow:
    """What one limit refused, or a policy by one text, and where from."""

    limit: str
    refused: int
    prefixes: list[PrefixRow]


@dataclass(frozen=True)
class HourRow:
    """`hour` is when it begins, RFC 3339."""

    hour: str
    connections: int
    refused: int


@dataclass(frozen=True)
class LengthRow:
    """How many sessions were open from the prefix when a connection came, itself included.

    `quantiles` are counts that so many of the connections found at most. `histogram` has the number of connections
    that found a count up to 1, 2, 4, 8, ... and more than the row before.
    """

    length: str
    quantiles: dict[str, int]
    largest: int
    histogram: list[tuple[int, int]]


@dataclass(frozen=True)
class Suggestion:
    """The smallest limit of a length that would have refused no more than the share, if no refusal changed what was
    counted later. `would_refuse` is how many connections that are."""

    limit: str
    would_refuse: int


@dataclass(frozen=True)
class Check:
    """What all suggested limits together refused when they were replayed."""

    refused: int
    limits: dict[str, int]


@dataclass(frozen=True)
class Result:
    files: list[dict[str, object]]
    lines: int
    bad: int
    connections: int
    receptions: int
    rejections: int
    first: str | None
    last: str | None
    hosts: int
    hosts_left_out: int
    networks: dict[str, int]
    refused: int
    limits: list[LimitRow]
    prefixes: list[PrefixRow]
    hours: list[HourRow]
    lengths: list[LengthRow]
    unmatched: int
    unfinished: int
    overdue: int
    replaced: int
    cut: int
    late: int
    back: int
    policy: str | None
    policy_errors: int
    suggest: float | None = None
    suggestions: list[Suggestion] | None = None
    check: Check | None = None


def result_of(
    replay: Replay, readers: Iterable[LogReader], *, top: int, zone: tzinfo | None, policy: str | None, errors: int = 0
) -> Result:
    """O(clients)."""
    files = list(readers)
    return Result(
        files=[{"file": each.name, "format": each.form.name, "lines": each.lines, "bad": each.bad} for each in files],
        lines=sum(each.lines for each in files),
        bad=sum(each.bad for each in files) + replay.bad,
        connections=replay.connections,
        receptions=replay.receptions,
        rejections=replay.rejections,
        first=None if replay.first is None else _text(replay.first, zone),
        last=None if replay.first is None else _text(replay.now, zone),
        hosts=len(replay.clients),
        hosts_left_out=replay.clients_left_out,
        networks=_networks(replay.clients),
        refused=replay.refused,
        limits=[
            LimitRow(name, each.number, _top(each.clients, top, name))
            for name, each in sorted(replay.refusals.items(), key=lambda item: -item[1].number)
        ],
        prefixes=_top(replay.clients, top, ""),
        hours=[HourRow(_text(3600.0 * hour, zone), *numbers) for hour, numbers in sorted(replay.hours.items())],
        lengths=[_length_row(length, counts) for length, counts in replay.counts.items()],
        unmatched=replay.unmatched,
        unfinished=replay.unfinished,
        overdue=replay.overdue,
        replaced=replay.replaced,
        cut=replay.cut,
        late=sum(each.late for each in files),
        back=replay.back,
        policy=policy,
        policy_errors=errors,
    )


def clients_of(replay: Replay) -> tuple[Picture, list[int]]:
    """A picture of all connections, and how many of each of its rows were refused. O(rows x limits)."""
    picture = picture_of_counter(replay.clients)
    refusals = [each.clients for each in replay.refusals.values()]
    return picture, [sum(clients.count(row.prefix) for clients in refusals) for row in picture.rows]


def suggestions(replay: Replay, share: float) -> list[Suggestion]:
    """One a length and one a length and rate, of those with which anything was counted."""
    most = int(share * replay.connections + 1e-9)
    found = []
    for length, counts in replay.counts.items():
        limit, above = _smallest(counts, most)
        if counts:
            found.append(Suggestion(f"{length}={limit}", above))
    for (length, rate), counts in replay.counts_over_time.items():
        limit, above = _smallest(counts, most)
        if any(counts):
            found.append(Suggestion(f"{length}={rate._replace(maximum=limit)}", above))
    return found


def _smallest(counts: Mapping[int, int], most: int) -> tuple[int, int]:
    """The smallest limit, at least 1, that no more than `most` connections passed, and how many did."""
    above = 0
    for count in sorted(counts, reverse=True):
        if count <= 1 or above + counts[count] > most:
            return max(1, count), above
        above += counts[count]
    return 1, above


def _length_row(length: str, counts: Mapping[int, int]) -> LengthRow:
    total = sum(counts.values())
    quantiles: dict[str, int] = {}
    histogram: list[tuple[int, int]] = []
    seen, upto = 0, 1
    for count in sorted(counts):
        while count > upto:
            upto *= 2
        if not histogram or histogram[-1][0] != upto:
            histogram.append((upto, 0))
        histogram[-1] = upto, histogram[-1][1] + counts[count]
        seen += counts[count]
        for share in QUANTILES:
            if seen >= share * total:
                quantiles.setdefault(f"{100 * share:g}%", count)
    return LengthRow(length, quantiles, max(counts, default=0), histogram)


def _top(clients: PrefixCounter, top: int, limit: str) -> list[PrefixRow]:
    """The largest prefixes, of the limit's own lengths if its name has some beyond 0."""
    words = limit.split()
    lengths = NETWORK_LENGTHS
    if len(words) > 1 and words[1].startswith("/"):
        four, six = parse_pair(words[1])
        lengths = four or lengths[0], six or lengths[1]
    return [PrefixRow(prefix, count) for count, prefix in clients.top(top, prefixlen=lengths)]


def _networks(clients: PrefixCounter) -> dict[str, int]:
    """How many networks of `NETWORK_LENGTHS` have clients. O(clients)."""
    numbers, last = [0, 0], ""
    for address in clients:
        six = ":" in address
        network = parse_address(address)[1][:8].hex() if six else address[: address.rindex(".")]
        numbers[six] += network != last
        last = network
    return {f"/{length}": number for length, number in zip(NETWORK_LENGTHS, numbers, strict=True)}


def _text(seconds: float, zone: tzinfo | None) -> str:
    at = datetime.fromtimestamp(int(seconds), zone)
    return (at if zone else at.astimezone()).isoformat()
