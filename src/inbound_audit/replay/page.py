"""A result as one page of HTML: it loads nothing, runs nothing, and every text of a log or policy is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from inbound_audit.replay.results import HourRow, Result

MAX_BARS = 400
"""Of a plot by the hour; beyond it several hours are one bar."""
WIDTH, HEIGHT, BOTTOM = 960, 180, 20
LETTER = 8
"""The width of a letter of a plot."""
NO_BREAK = "\xa0"
MOST_FROM = "most from"
"""The column that has sentences, not numbers."""

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>inbound-audit replay</title>
<style>
:root{color-scheme:light dark;--all:#2a9d8f;--refused:#d1495b}
*{box-sizing:border-box}h2{margin-top:1.6em}code{overflow-wrap:anywhere}
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #8884}
td:first-child,th:first-child,td.text,th.text{text-align:left}td{vertical-align:top;white-space:nowrap}
td.text{white-space:normal;min-width:12em}.wide{overflow-x:auto}
svg{display:block;width:100%;min-width:640px;height:auto}svg text{font-size:13px;fill:currentColor}
.all{fill:var(--all);color:var(--all)}.refused{fill:var(--refused);color:var(--refused)}
</style></head><body>
"""


def page(result: Result) -> str:
    """O(rows)."""
    return "".join(_pieces(result))


def _pieces(result: Result) -> Iterator[str]:
    yield _HEAD + "<h1>Replay</h1>\n"
    yield from _about(result)
    if result.hours:
        yield '<h2>By the hour</h2>\n<p><span class="all">&#9632;</span> connections, of which refused: '
        yield '<span class="refused">&#9632;</span></p>\n'
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
    yield _table(("prefix", "connections"), ((each.prefix, f"{each.count:,}") for each in result.prefixes))
    for length in result.lengths:
        if not length.histogram:
            continue
        yield f"<h2>Open sessions of {escape(length.length)} that a connection found, itself included</h2>\n"
        yield _bars([(f"up to {upto:,}", number, 0) for upto, number in length.histogram])
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
    marks = [' class="text"' if name == MOST_FROM else "" for name in names]
    head = "".join(f"<th{mark}>{escape(name)}</th>" for name, mark in zip(names, marks, strict=True))
    cells = ((f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True)) for row in rows)
    body = "".join("<tr>" + "".join(row) + "</tr>\n" for row in cells)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>\n'


def _hours(hours: Sequence[HourRow]) -> str:
    step = -(-len(hours) // MAX_BARS)
    groups = [hours[at : at + step] for at in range(0, len(hours), step)]
    return _bars(
        [(group[0].hour, sum(h.connections for h in group), sum(h.refused for h in group)) for group in groups]
    )


def _bars(rows: Sequence[tuple[str, int, int]]) -> str:
    """A bar a row: its label, its height, and how much of it is refused. A label that would reach into the next one, or
    over the edge, is left out."""
    most = max(number for _, number, _ in rows) or 1
    wide = WIDTH / len(rows)
    scale = (HEIGHT - 2 * BOTTOM) / most
    pieces = []
    every = math.ceil((max(len(label[:16]) for label, _, _ in rows) + 1) * LETTER / wide)
    for at, (label, number, refused) in enumerate(rows):
        x = at * wide
        for name, height in (("all", number * scale), ("refused", refused * scale)):
            if height:
                box = f'x="{x:.2f}" y="{HEIGHT - BOTTOM - height:.2f}" width="{0.9 * wide:.2f}" height="{height:.2f}"'
                title = f"{escape(label)}: {number:,}" + (f", {refused:,} refused" if refused else "")
                pieces.append(f'<rect class="{name}" {box}><title>{title}</title></rect>')
        if at % every == 0 and (not at or x + len(label[:16]) * LETTER <= WIDTH):
            pieces.append(f'<text x="{x:.2f}" y="{HEIGHT - 5}">{escape(label[:16])}</text>')
    top = f'<text x="0" y="12">{most:,}</text>'
    plot = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="bars, {most:,} at most">'
    return f'<div class="wide">{plot}{top}{"".join(pieces)}</svg></div>\n'
