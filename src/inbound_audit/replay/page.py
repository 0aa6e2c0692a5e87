"""A result as one page of HTML: it loads nothing, runs nothing, and every text of a log or policy is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from inbound_audit.drawing.bars import WIDTH, bars
from inbound_audit.drawing.figure import figure
from inbound_audit.drawing.shapes import Drawing
from inbound_audit.drawing.svg import STYLE, inline
from inbound_audit.picture import Picture
from inbound_audit.replay.results import HourRow, Result

MAX_BARS = 400
"""Of a plot by the hour; beyond it several hours are one bar."""
NO_BREAK = "\xa0"
MOST_FROM = "most from"
"""The column that has sentences, not numbers."""

_HEAD = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>inbound-audit replay</title>
<style>
:root{{color-scheme:light dark}}
*{{box-sizing:border-box}}h2{{margin-top:1.6em}}code{{overflow-wrap:anywhere}}
body{{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse;margin:1em 0}}td,th{{padding:.15em .8em;text-align:right;border-bottom:1px solid #8884}}
td:first-child,th:first-child,td.words,th.words{{text-align:left}}td{{vertical-align:top;white-space:nowrap}}
td.words{{white-space:normal;min-width:12em}}.wide{{overflow-x:auto}}
svg{{display:block;width:100%;min-width:640px;height:auto}}.mark{{color:var(--c)}}
{STYLE}</style></head><body>
"""


def page(result: Result, clients: Picture, refused: Sequence[int]) -> str:
    """`clients` is a picture of all connections, and `refused` how many of each of its rows were refused. O(rows)."""
    return "".join(_pieces(result, figure(clients, "", refused=refused, what="connections", width=WIDTH)))


def _pieces(result: Result, clients: Drawing) -> Iterator[str]:
    yield _HEAD + "<h1>Replay</h1>\n"
    yield from _about(result)
    if result.hours:
        yield '<h2>By the hour</h2>\n<p><span class="all mark">&#9632;</span> connections, of which refused: '
        yield '<span class="refused mark">&#9632;</span></p>\n'
        yield _hours(result.hours)
    if result.limits:
        yield "<h2>Refused</h2>\n"
        yield _table(
            ("limit", "refused", MOST_FROM),
            (
                (
                    each.limit,
                    f"{each.refused:,}",
                    ", ".join(f"{row.prefix}{NO_BREAK}{row.count:,}" for row in each.prefixes),
                )
                for each in result.limits
            ),
        )
    yield "<h2>Most connections from</h2>\n"
    yield _plot(clients)
    yield _table(("prefix", "connections"), ((each.prefix, f"{each.count:,}") for each in result.prefixes))
    for length in result.lengths:
        if not length.histogram:
            continue
        yield f"<h2>Open sessions of {escape(length.length)} that a connection found, itself included</h2>\n"
        yield _plot(bars([(f"up to {upto:,}", number, 0) for upto, number in length.histogram]))
        yield _table((*length.quantiles, "largest"), [(*map(str, length.quantiles.values()), str(length.largest))])
    if result.suggestions is not None:
        yield f"<h2>Limits that refuse at most {100 * (result.suggest or 0):g}%</h2>\n"
        rows = ((each.limit, f"{each.would_refuse:,}") for each in result.suggestions)
        yield _table(("limit", "would refuse"), rows)
        yield "<p>Each limit alone, as if no refusal changed what is counted later.</p>\n"
        if result.check is not None:
            yield f"<p>Replayed with all of them: {result.check.refused:,} refused.</p>\n"
    yield "</body></html>\n"


def _about(result: Result) -> Iterator[str]:
    names = ("file", "format", "lines", "bad")
    yield _table(names, (tuple(str(each[name]) for name in names) for each in result.files))
    if result.receptions or result.rejections:
        yield f"<p>{result.receptions:,} messages received, {result.rejections:,} rejections.</p>\n"
    networks = ", ".join(f"{number:,} {length}" for length, number in result.networks.items())
    when = f" from {result.first} to {result.last}" if result.first else ""
    yield f"<p>{result.connections:,} connections{escape(when)}, {result.hosts:,} clients ({escape(networks)}).</p>\n"
    if result.policy is not None:
        yield f"<p>{result.refused:,} would have been refused by <code>{escape(result.policy)}</code>.</p>\n"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = [' class="words"' if name == MOST_FROM else "" for name in names]
    head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(names, marks, strict=True))
    cells = ((f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True)) for row in rows)
    body = "".join("<tr>" + "".join(row) + "</tr>\n" for row in cells)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>\n'


def _hours(hours: Sequence[HourRow]) -> str:
    step = -(-len(hours) // MAX_BARS)
    groups = [hours[at : at + step] for at in range(0, len(hours), step)]
    rows = [(group[0].hour, sum(h.connections for h in group), sum(h.refused for h in group)) for group in groups]
    return _plot(bars(rows))


def _plot(drawing: Drawing) -> str:
    return f'<div class="wide">{inline(drawing)}</div>\n'
