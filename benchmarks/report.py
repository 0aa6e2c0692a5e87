"""Writes docs/performance.md from what was measured.

    python -m benchmarks.report [--json | --lines] [RESULTS [PAGE]]

`--json` prints the figures instead of writing the page, `--lines` the bars that were measured and what they are made
of. A bar that is missed is said aloud and is no error: the page says it too, and `benchmarks/missed.md` says where the
time goes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, load_bars
from benchmarks.machine import describe
from benchmarks.scale import RESULTS

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"

Entry = Mapping[str, Any]


def entries_of(results: Mapping[str, Any], kind: str) -> list[Entry]:
    """The `extra_info` of all benchmarks of that kind, in the order they ran."""
    return [info for one in results["benchmarks"] if (info := one["extra_info"]).get("kind") == kind]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def number(value: float) -> str:
    """Three digits or so: 0.95, 2.07, 35.6, 1,234."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


# ---- bars


def verdict(bar: Bar, measured: Mapping[str, Entry]) -> str:
    if bar.key not in measured:
        return "not measured"
    return "met" if bar.holds(measured[bar.key]["value"]) else "**missed**"


def bars_table(bars: Mapping[str, Bar], measured: Mapping[str, Entry]) -> str:
    rows = []
    for bar in bars.values():
        entry = measured.get(bar.key)
        figure = "-"
        if entry is not None:
            figure = number(entry["value"])
            if entry["low"] != entry["high"]:
                figure += f" ({number(entry['low'])} to {number(entry['high'])})"
        rows.append((bar.what, figure, bar, verdict(bar, measured)))
    return table(("what", "measured (quartiles)", "bar", ""), rows)


def missed_keys(bars: Mapping[str, Bar], measured: Mapping[str, Entry]) -> list[str]:
    return [bar.key for bar in bars.values() if bar.key in measured and not bar.holds(measured[bar.key]["value"])]


def reasons(text: str) -> dict[str, str]:
    """The sections of missed.md: what stands below each `## key`."""
    parts = re.split(r"^## ([\w-]+)$", text, flags=re.MULTILINE)
    return {key: body.strip() for key, body in zip(parts[1::2], parts[2::2], strict=True)}


def missed_section(bars: Mapping[str, Bar], measured: Mapping[str, Entry]) -> str:
    missed = missed_keys(bars, measured)
    if not missed:
        return ""
    path = HERE / "missed.md"
    known = reasons(path.read_text(encoding="utf-8")) if path.exists() else {}
    lines = ["## Missed bars"]
    for key in missed:
        figure = f"{number(measured[key]['value'])} where {bars[key]} is asked for."
        lines.append(
            f"**{bars[key].what}**: {figure} {known.get(key, 'Where the time goes has not been looked into yet.')}"
        )
    return "\n\n".join(lines)


def details_table(bars: Mapping[str, Bar], measured: Mapping[str, Entry]) -> str:
    rows = []
    for key in bars:
        if key in measured:
            figures = "; ".join(f"{name} {number(value)}" for name, value in measured[key]["details"].items())
            rows.append((key, figures, measured[key]["unit"]))
    return table(("bar", "figures", "unit"), rows)


# ---- peers


def peers_table() -> str:
    from benchmarks.peers import COUNTERS

    rows = [(peer.name, peer.how, "yes" if peer.any_prefix else "no: only the chosen lengths") for peer in COUNTERS]
    return table(("peer", "how", "any prefix at run time"), rows)


def race_cells(entry: Entry | None) -> tuple[str, str]:
    if entry is None:
        return "-", "-"
    if "left_out" in entry:
        return f"left out: {entry['left_out']}", "-"
    return tuple(  # type: ignore[return-value]
        f"{number(entry['ns'][f'peer: {what}'])} ({number(entry['ratio'][what])} x)"
        for what in ("open and close", "count")
    )


def ours_cells(entries: list[Entry]) -> tuple[str, str]:
    """Ours took part in every race; shown is its fastest median, as the peers' ratios speak for themselves."""
    raced = [entry["ns"] for entry in entries if "ns" in entry]
    return tuple(  # type: ignore[return-value]
        number(min(ns[f"ours: {what}"] for ns in raced)) if raced else "-" for what in ("open and close", "count")
    )


def races(entries: list[Entry]) -> str:
    """A table a workload: peers down, sizes across."""
    parts = []
    for workload in dict.fromkeys(entry["workload"] for entry in entries):
        here = [entry for entry in entries if entry["workload"] == workload]
        sizes = list(dict.fromkeys(entry["size"] for entry in here))
        head = ["peer", *(f"{size:,}: {what}" for size in sizes for what in ("open and close", "count"))]
        by = {(entry["peer"], entry["size"]): entry for entry in here}
        rows = [["**inbound_audit**"]]
        for size in sizes:
            rows[0] += ours_cells([entry for entry in here if entry["size"] == size])
        for peer in dict.fromkeys(entry["peer"] for entry in here):
            rows.append([peer, *(cell for size in sizes for cell in race_cells(by.get((peer, size))))])
        parts.append(f"Workload {workload}, nanoseconds:\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def pivot(entries: list[Entry], down: str, across: str, cell: Callable[[Entry], object], corner: str) -> str:
    """A table of entries by two of their fields."""
    columns = list(dict.fromkeys(entry[across] for entry in entries))
    by = {(entry[down], entry[across]): cell(entry) for entry in entries}
    rows = [
        [row, *(by.get((row, column), "-") for column in columns)] for row in dict.fromkeys(e[down] for e in entries)
    ]
    return table((corner, *map(str, columns)), rows)


# ---- the trie alone


def trie_table(entries: list[Entry]) -> str:
    rows = []
    for entry in entries:
        counts = "; ".join(f"{name} {number(ns)}" for name, ns in entry["count"].items())
        rows.append((entry["workload"], f"{entry['size']:,}", number(entry["add"]), counts, number(entry["memory"])))
    return table(("workload", "hosts", "add", "count", "bytes per host"), rows)


def walks_table(entries: list[Entry]) -> str:
    walks = list(entries[0]["milliseconds"]) if entries else []
    rows = [
        (entry["workload"], f"{entry['size']:,}", *(number(entry["milliseconds"][walk]) for walk in walks))
        for entry in entries
    ]
    return table(("workload", "hosts", *walks), rows)


def workloads_table() -> str:
    from benchmarks.workloads import WORKLOADS

    return table(("workload", "what"), [(workload.name, workload.what) for workload in WORKLOADS.values()])


# ---- a flood


def flood_section(entry: Entry | None) -> str:
    """What each server of a flood pays for a refusal, and how the peers were configured."""
    from benchmarks.flood_peers import HAPROXY, NGINX

    if entry is None:
        return "Not measured."
    rows = [(name, number(cost), number(ratio)) for name, (cost, ratio) in entry["servers"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    configured = "\n\n".join(f"```text\n{text.replace('{{', '{').replace('}}', '}')}```" for text in (NGINX, HAPROXY))
    servers = table(("server", "µs of processor a refused connection", "of the C program"), rows)
    return f"{servers}\n\n{versions}, with these configurations:\n\n{configured}"


# ---- the page


def measured_bars(results: Mapping[str, Any]) -> dict[str, Entry]:
    return {entry["key"]: entry for entry in entries_of(results, "bar")}


def render(results: Mapping[str, Any], bars: Mapping[str, Bar]) -> str:
    """The page: `pages.md` with each comment replaced by what was measured."""
    measured = measured_bars(results)
    memory = entries_of(results, "memory")
    parts = {
        "bars": bars_table(bars, measured),
        "missed": missed_section(bars, measured),
        "details": details_table(bars, measured),
        "peers": peers_table(),
        "races": races(entries_of(results, "peer")),
        "memory": pivot(memory, "peer", "workload", lambda entry: number(entry["bytes"]), "bytes per host"),
        "trie": trie_table(entries_of(results, "trie")),
        "workloads": workloads_table(),
        "walks": walks_table(entries_of(results, "walks")),
        "flood": flood_section(measured.get("flood-floor")),
        "machine": "\n".join(f"* {line}" for line in describe(results["machine_info"])),
    }
    page = (HERE / "pages.md").read_text(encoding="utf-8")
    page = re.sub(r"<!-- (\w+) -->", lambda mark: parts[mark[1]], page)
    return re.sub(r"\n{3,}", "\n\n", page)


def as_json(results: Mapping[str, Any], bars: Mapping[str, Bar]) -> str:
    """The bars with what was measured, and every other figure as it was noted."""
    measured = measured_bars(results)
    held = [
        {"key": bar.key, "what": bar.what, "bar": str(bar), "verdict": verdict(bar, measured).strip("*"),
         **{name: measured.get(bar.key, {}).get(name) for name in ("value", "low", "high", "details", "unit")}}
        for bar in bars.values()
    ]  # fmt: skip
    kinds = ("peer", "memory", "trie", "walks")
    others = {kind: entries_of(results, kind) for kind in kinds}
    return json.dumps({"bars": held, **others, "machine": describe(results["machine_info"])}, indent=1)


def tell(bars: Mapping[str, Bar], measured: Mapping[str, Entry]) -> None:
    """One line a bar on standard output."""
    for bar in bars.values():
        word = {"met": "met", "**missed**": "MISSED", "not measured": "NOT MEASURED"}[verdict(bar, measured)]
        figure = number(measured[bar.key]["value"]) if bar.key in measured else "-"
        print(f"{word:>12}  {figure:>6}  {bar}  ({bar.key})")


def main(arguments: list[str]) -> int:
    wants_json = "--json" in arguments
    paths = [Path(argument) for argument in arguments if not argument.startswith("--")]
    results = json.loads((paths[0] if paths else RESULTS).read_text(encoding="utf-8"))
    bars = load_bars()
    if wants_json:
        print(as_json(results, bars))
        return 0
    if "--lines" in arguments:
        measured = measured_bars(results)
        tell({key: bar for key, bar in bars.items() if key in measured}, measured)
        print(details_table(bars, measured))
        return 0
    page = paths[1] if len(paths) > 1 else PAGE
    page.write_text(render(results, bars), encoding="utf-8")
    tell(bars, measured_bars(results))
    print(f"written to {page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
