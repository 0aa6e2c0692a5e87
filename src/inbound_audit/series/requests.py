"""The requests that change the series of a process of a shared audit from outside, and how each is handled.

    add     series, interval, num_windows, key, count [, type]            adds to a series, defined if need be
    remove  series, key [, interval, num_windows]                         forgets a key here: ``defined``: there was one
    shed                                                                  ``networks`` that gates drop before accept:
                                                                          of each what `ShedNetwork` has
    why     address                                                       ``listeners``: what each guard would decide
                                                                          about a connection of that client now
    limits                                                                ``listeners``: by what each guard decides
    known   series                                                        ``marks``: which lines of which logs are
                                                                          counted here; ``defined``: what it is here
    load    series, interval, num_windows, rows, marks [, type]           adds lines of a log, each (microseconds, key,
                                                                          count), and notes that they are counted

A line may come from any process of our user: everything in it is checked before anything is done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from inbound_audit import _ipcount
from inbound_audit.errors import CapacityError, InboundAuditError
from inbound_audit.inquiries import answers_of, rules_of
from inbound_audit.series.table import SeriesSet
from inbound_audit.shedding import networks_of

logger = logging.getLogger("inbound_audit.shared")

_MAX_NUMBER = (1 << 63) - 1

Request = Mapping[str, Any]


class _Refused(InboundAuditError):
    """A line that is no request."""


def handle(audit: _ipcount.Audit, line: bytes) -> bytes:
    """Turns a request into its answer, both lines. Raises nothing."""
    try:
        request = _parsed(line)
        command = COMMANDS[request["do"]]
        answer = {"ok": True, **_carried_out(audit, command, request)}
    except InboundAuditError as error:
        answer = {"ok": False, "error": str(error)}
    except Exception as error:  # the client gets the error, and the program's log too
        logger.exception("a request could not be carried out")
        answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return json.dumps(answer).encode() + b"\n"


# ---- checks of a line


def _parsed(line: bytes) -> Request:
    try:
        request = json.loads(line.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _Refused("a request is one JSON object in a line") from None
    if not isinstance(request, dict):
        raise _Refused("a request is one JSON object in a line")
    name = request.get("do")
    order = COMMANDS.get(name) if isinstance(name, str) else None
    if order is None:
        raise _Refused(f'"do" is one of {", ".join(COMMANDS)}')
    fields = {**order.fields, **order.optional}
    for field in request:
        if field != "do" and field not in fields:
            raise _Refused(f"{name} has no {field!r}")
    for field, fits in fields.items():
        if field in request and not fits(request[field]):
            raise _Refused(f"{name}: invalid value for {field!r}")
        if field not in request and field in order.fields:
            raise _Refused(f"{name}: {field!r} is missing")
    return request


def _no_number(text: str) -> object:
    raise ValueError(text)


def _is_text(value: object) -> bool:
    # Lone surrogates cannot be encoded.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MAX_NUMBER <= value <= _MAX_NUMBER


def _is_count(value: object) -> bool:
    return _is_number(value) and value != 0


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == 3 and _is_number(row[0]) and _is_text(row[1]) and _is_count(row[2])
        for row in value
    )


def _are_marks(value: object) -> bool:
    return isinstance(value, dict) and all(
        len(log) == 16 and set(log) <= set("0123456789abcdef") and _is_number(sequence) and sequence > 0
        for log, sequence in value.items()
    )


# ---- what is done


def _add(series: SeriesSet, request: Request) -> dict[str, object]:
    _define(series, request)
    series.add(request["series"], request["key"], request["count"])
    return {}


def _remove(series: SeriesSet, request: Request) -> dict[str, object]:
    name = request["series"]
    found = series.defined(name) if name in series.names else None
    for field in ("interval", "num_windows"):
        if found is not None and getattr(found, field) != request.get(field, getattr(found, field)):
            found = None
    if found is not None:
        series.remove_here(name, request["key"])
    return {"defined": found is not None}


def _known(series: SeriesSet, request: Request) -> dict[str, object]:
    name = request["series"]
    marks = {f"{log:016x}": sequence for log, sequence in series.state_store().known(name).items()}
    defined = None
    if name in series.names:
        found = series.defined(name)
        defined = {"type": found.type, "interval": found.interval, "num_windows": found.num_windows}
    return {"marks": marks, "defined": defined}


def _load(series: SeriesSet, request: Request) -> dict[str, object]:
    """Adds lines of a change log. A row that can't be added is counted as failed, and the others are added; the mark is
    noted in any case, so that no row is ever counted twice."""
    name, store = request["series"], series.state_store()
    _define(series, request)
    with store.loading():
        answer = _load_rows(series, name, request["rows"])
        store.note_loaded(name, {int(log, 16): sequence for log, sequence in request["marks"].items()})
    return answer


def _load_rows(series: SeriesSet, name: str, rows: Sequence[Sequence[Any]]) -> dict[str, object]:
    added = out_of_view = failed = 0
    why = None
    for microseconds, key, count in rows:
        try:
            if series.add_at(name, key, count, microseconds):
                added += 1
            else:
                out_of_view += 1
        except (ValueError, CapacityError) as error:
            failed += 1
            why = why or str(error)
    return {"added": added, "out_of_view": out_of_view, "failed": failed, "why": why}


def _define(series: SeriesSet, request: Request) -> None:
    name = request["series"]
    known = series.defined(name).type if name in series.names else "ip"
    series.define(name, request.get("type", known), request["interval"], request["num_windows"])


def _shed(audit: _ipcount.Audit, request: Request) -> dict[str, object]:
    return {"networks": networks_of(audit)}


def _why(audit: _ipcount.Audit, request: Request) -> dict[str, object]:
    return {"listeners": answers_of(audit, request["address"])}


def _limits(audit: _ipcount.Audit, request: Request) -> dict[str, object]:
    return {"listeners": rules_of(audit)}


class Command(NamedTuple):
    """`asks` in place of `handle`: it is about no series."""

    handle: Callable[[SeriesSet, Request], dict[str, object]] | None
    fields: dict[str, Callable[[object], bool]]
    optional: dict[str, Callable[[object], bool]]
    asks: Callable[[_ipcount.Audit, Request], dict[str, object]] | None = None


def _carried_out(audit: Any, command: Command, request: Request) -> dict[str, object]:
    if command.asks is not None:
        return command.asks(audit, request)
    assert command.handle is not None
    return command.handle(audit.series, request)


_SERIES: dict[str, Callable[[object], bool]] = {"series": _is_text, "interval": _is_number, "num_windows": _is_number}
_KEY: dict[str, Callable[[object], bool]] = {"series": _is_text, "key": _is_text}
_SIZE: dict[str, Callable[[object], bool]] = {"interval": _is_number, "num_windows": _is_number}
_TYPE: dict[str, Callable[[object], bool]] = {"type": _is_text}

COMMANDS = {
    "add": Command(_add, {**_SERIES, "key": _is_text, "count": _is_count}, _TYPE),
    "remove": Command(_remove, _KEY, _SIZE),
    "known": Command(_known, {"series": _is_text}, {}),
    "shed": Command(None, {}, {}, _shed),
    "why": Command(None, {"address": _is_text}, {}, _why),
    "limits": Command(None, {}, {}, _limits),
    "load": Command(_load, {**_SERIES, "rows": _are_rows, "marks": _are_marks}, _TYPE),
}
