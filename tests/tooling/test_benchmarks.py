"""The benchmarks measure what they say: peers count right, workloads are what they claim, the report tells the truth.

No time is looked at here.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import flood, flood_peers
from benchmarks.bars import load_bars, parse_bars
from benchmarks.client import MESSAGE, drive, load_client
from benchmarks.mail import connections_a_second, serving, working
from benchmarks.measure import Race, summary, timed
from benchmarks.peers import CHOSEN, COUNTERS, WIDTH, Peer
from benchmarks.report import main, missed_keys, reasons, render
from benchmarks.rotating import BLOCK, INTERVAL, SHAPES, WINDOWS, blocks, of_series, truth, wrong
from benchmarks.workloads import WORKLOADS
from tests.support.gold import GoldCounter

from inbound_audit import InboundAudit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HOSTS = {4: "mail", 6: "grades6"}


def made(kind: type[Peer], version: int) -> Peer:
    try:
        return kind(version)
    except ImportError:
        pytest.skip(f"{kind.name} is not installed")


def life(peer: Peer, version: int) -> GoldCounter:
    """Opens and closes sessions in the peer and in the gold model, which is answered; ends with some open."""
    draw, gold, sessions = random.Random(version), GoldCounter(), []
    hosts = WORKLOADS[HOSTS[version]].texts(60)
    for _ in range(300):
        if sessions and draw.random() < 0.45:
            address = sessions.pop(draw.randrange(len(sessions)))
            peer.remove(address)
            gold.remove(address)
        else:
            sessions.append(draw.choice(hosts))
            peer.add(sessions[-1])
            gold.add(sessions[-1])
    return gold


def agrees(peer: Peer, gold: GoldCounter, length: int) -> bool:
    """Whether both count the same below every host's prefix, and below an empty one."""
    asked = [f"{host}/{length}" for host in gold.hosts] + [f"{'9.9.9.9' if WIDTH[4] >= length else '9::9'}/{length}"]
    return all(peer.count(cidr) == gold.count(cidr) for cidr in asked if (":" in cidr) == (":" in asked[0]))


# ---- peers


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", COUNTERS, ids=lambda kind: kind.name)
def test_a_peer_counts_as_the_gold_model_does(kind: type[Peer], version: int) -> None:
    peer = made(kind, version)
    gold = life(peer, version)
    assert len(gold) > 5
    for length in CHOSEN[version]:
        assert agrees(peer, gold, length)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", COUNTERS, ids=lambda kind: kind.name)
def test_peers_count_the_prefixes_that_the_report_says(kind: type[Peer], version: int) -> None:
    peer = made(kind, version)
    gold = life(peer, version)
    others = [length for length in range(1, WIDTH[version]) if length not in CHOSEN[version]]
    try:
        right = all(agrees(peer, gold, length) for length in others)
    except KeyError:
        right = False
    assert right == kind.any_prefix


def test_names_of_peers_are_their_own() -> None:
    assert len({kind.name for kind in COUNTERS}) == len(COUNTERS)


# ---- workloads


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_distinct_and_the_same_each_time(name: str) -> None:
    workload = WORKLOADS[name]
    texts = workload.texts(3_000)
    assert len(set(texts)) == 3_000
    assert texts == workload.texts(3_000)
    assert {ipaddress.ip_address(text).version for text in texts} == {workload.version}
    assert all(0 < length <= WIDTH[workload.version] for length in workload.lengths)


def test_mail_comes_from_few_networks() -> None:
    hosts = WORKLOADS["mail"].packed(10_000)
    nets = Counter(map(bytes, hosts[:, :3]))
    assert len(nets) < 1_000
    assert max(nets.values()) > 5 * len(hosts) / len(nets)


def test_nodes_of_the_worst_workload_are_just_past_a_grade() -> None:
    hosts = WORKLOADS["grades"].packed(130 * 20)
    nets = np.unique(hosts[:, :3], axis=0)
    assert set(Counter(map(bytes, hosts[:, :3])).values()) == {2}
    assert set(Counter(map(bytes, nets[:, :2])).values()) == {65}


def test_a_sum_over_half_a_node_takes_all_of_its_slots() -> None:
    hosts = WORKLOADS["half"].packed(64 * 20)
    assert (hosts[:, 2] < 64).all()
    assert set(Counter(map(bytes, hosts[:, :2])).values()) == {64}


def test_a_scan_stays_in_its_network() -> None:
    assert {bytes(row) for row in WORKLOADS["scan6"].packed(500)[:, :4]} == {bytes.fromhex("20010db8")}


def test_a_workload_that_is_used_up_says_so() -> None:
    with pytest.raises(ValueError, match="'half' has only 4194304 of"):
        WORKLOADS["half"].packed(2**22 + 1)


# ---- rotating addresses


def test_an_attacker_never_uses_an_address_twice() -> None:
    made = [address for block in blocks(3 * BLOCK) for address in block]
    assert len(made) == 3 * BLOCK == len(set(made))
    assert made == [address for block in blocks(3 * BLOCK) for address in block]
    for (fixed, bits), at in zip(SHAPES.values(), (0, BLOCK, 2 * BLOCK), strict=True):
        numbers = [int.from_bytes(address, "big") for address in made[at : at + BLOCK]]
        assert {number >> bits for number in numbers} == {fixed}
        assert len({number >> bits - 9 for number in numbers}) == 512


def test_every_prefix_is_compared_with_the_truth() -> None:
    sums = truth(3 * BLOCK)
    assert {sum(counts.values()) for counts in sums.values()} == {3 * BLOCK}
    assert sums[48][0x2001_0DB8_0001] == sums[48][0x2001_0DB8_0002] == sums[32][0x2001_0DB9] == BLOCK
    took = of_series(3 * BLOCK)
    assert took["wrong"] == []
    assert took["prefixes"] == sum(map(len, sums.values()))
    with InboundAudit(clock=lambda: 0.0) as audit:  # one that counts nothing is found
        audit.series.define("s", "ip", INTERVAL, WINDOWS)
        assert len(wrong(audit, sums)) == took["prefixes"]


# ---- bars


def test_every_bar_is_measured_somewhere() -> None:
    sources = "".join(path.read_text() for path in BENCHMARKS.glob("bench_*.py"))
    assert [key for key in load_bars() if f'"{key}"' not in sources] == []


def test_a_bar_is_read_and_printed_in_the_same_words() -> None:
    bar = parse_bars("| k | what it is | at least 0.97 x bare aiosmtpd |\n")["k"]
    assert (bar.what, str(bar)) == ("what it is", "at least 0.97 x bare aiosmtpd")
    assert bar.holds(0.97)
    assert not bar.holds(0.969)
    bar = parse_bars("| k | what | at most 3 x floor |")["k"]
    assert bar.holds(3.0)
    assert not bar.holds(3.01)


@pytest.mark.parametrize(
    "line", ["| k | what | about 3 x floor |", "| k | what | at most many |", "| k | at most 3 x |"]
)
def test_a_row_without_a_bar_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="no bar"):
        parse_bars(line)


def test_a_key_is_used_once() -> None:
    with pytest.raises(ValueError, match="a second bar 'k'"):
        parse_bars("| k | one | at most 1 x |\n| k | two | at most 2 x |")


# ---- measuring


def test_a_batch_runs_its_statement_for_each() -> None:
    seen: list[int] = []
    batch = timed("seen.append(x * factor)", [1, 2, 3], seen=seen, factor=10)
    assert batch() >= 0
    assert seen == [10, 20, 30]


def test_subjects_take_turns_and_a_ratio_is_of_one_round() -> None:
    order: list[str] = []
    speeds = {"a": iter([99.0, 1.0, 10.0, 4.0]), "b": iter([1.0, 2.0, 40.0, 4.0])}

    def subject(name: str) -> float:
        order.append(name)
        return next(speeds[name])

    race = Race({"a": lambda: subject("a"), "b": lambda: subject("b")}, lambda: order.append("-"))
    race.warm_up()
    for _ in range(3):
        race.prepare()
        race.round()
    assert "".join(order) == "-ab-ab-ba-ab"
    assert race.ratio("b", "a").value == 2.0
    assert race.medians() == {"a": 4.0, "b": 4.0}
    assert race.fastest() == {"a": 1.0, "b": 2.0}


def test_quartiles() -> None:
    assert summary([5.0]) == summary([5.0, 5.0])
    middle = summary([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (middle.low, middle.value, middle.high) == (2.0, 3.0, 4.0)
    with pytest.raises(ValueError, match="nothing"):
        summary([])


def test_the_mail_client_and_the_two_servers_understand_one_another() -> None:
    pytest.importorskip("aiosmtpd")
    with serving() as server:
        assert connections_a_second(server.bare, 5) > 0
        assert connections_a_second(server.guarded, 7) > 0
        assert server.processor_time() > 0
        assert server.stop() == {"accepted": 7, "refused": 0}


@pytest.fixture(scope="module")
def native_client() -> None:
    pytest.importorskip("aiosmtpd")
    try:
        load_client()
    except OSError as error:
        pytest.skip(f"no native client: {error}")


@pytest.mark.tooling
def test_the_native_client_makes_the_connections_that_it_says(native_client: None) -> None:
    with serving() as server:
        driven = drive(server.guarded, 10, 3)
        assert driven.made == 16
        assert driven.rate > 0
        assert 0 < driven.used < 1
        assert drive(server.guarded, 5, 1, MESSAGE).made == 7
        assert server.stop() == {"accepted": 23, "refused": 0}


@pytest.mark.tooling
def test_the_native_client_takes_no_other_reply_and_no_early_end(native_client: None) -> None:
    with serving() as server:
        with pytest.raises(RuntimeError, match="awaiting 250: 220 bench "):
            drive(server.bare, 1, 1, ("250",))
        with pytest.raises(RuntimeError, match="awaiting 250: 500 "):
            drive(server.bare, 1, 1, ("220", "NONSENSE", "250"))
        with pytest.raises(RuntimeError, match=r"awaiting 250: |after 221: "):
            drive(server.bare, 1, 1, ("220", "QUIT", "221", "NOOP", "250"))


@pytest.mark.tooling
@pytest.mark.parametrize("number", [1, 2])
def test_workers_count_all_that_the_native_client_brings(native_client: None, number: int) -> None:
    with working(number) as server:
        assert len(server) == number
        made = drive(server.port, 20, 4, MESSAGE).made
        assert server.processor_time() > 0
        counted = server.stop()
    assert (counted["accepted"], counted["refused"], counted["open"]) == (made, 0, 0)


# ---- the report


def bar_entry(key: str, value: float) -> dict[str, Any]:
    return {"kind": "bar", "key": key, "value": value, "low": value - 0.1, "high": value, "details": {"floor": 18.25},
            "unit": "ns a call"}  # fmt: skip


RACED = {f"{who}: {what}": 100.0 for who in ("ours", "peer") for what in ("open and close", "count")}
CANNED = {
    "machine_info": {
        "node": "a-host-name", "machine": "x86_64", "system": "Linux", "python_implementation": "CPython",
        "python_version": "3.11.7", "cpu": {"brand_raw": "A Processor", "count": 2},
    },
    "benchmarks": [
        {"extra_info": info}
        for info in (
            bar_entry("count-1k", 2.05),
            bar_entry("smtp", 0.5),
            {"kind": "peer", "workload": "random", "size": 1000, "peer": "py-radix", "ns": RACED,
             "ratio": {"open and close": 46.3, "count": 6.8}},
            {"kind": "peer", "workload": "random", "size": 1000, "peer": "ipaddress", "left_out": "40 s to fill"},
            {"kind": "memory", "peer": "py-radix", "workload": "random", "size": 1000, "bytes": 1584.0},
            {"kind": "trie", "workload": "random", "size": 1000, "add": 44.3, "count": {"/24": 11.5}, "memory": 24.0},
            {"kind": "walks", "workload": "random", "size": 1000, "milliseconds": {"top(10)": 0.5}},
            {},
        )
    ],
}  # fmt: skip


def test_the_page_says_what_was_met_and_missed_and_not_measured() -> None:
    page = render(CANNED, load_bars())
    assert "| 2.05 (1.95 to 2.05) | at most 3.5 x floor | met |" in page
    assert "| 0.50 (0.40 to 0.50) | at least 0.97 x bare aiosmtpd | **missed** |" in page
    assert re.search(r"random `ac` out of 100,000 open \| - \| at most 5 x floor \| not measured \|", page)
    assert "## Missed bars" in page
    assert "**SMTP connections a second with `Limits` on**: 0.50" in page


def test_the_page_has_every_table_and_no_host_name() -> None:
    page = render(CANNED, load_bars())
    for expected in (
        "| py-radix | 100 (46.3 x) | 100 (6.80 x) |",
        "| ipaddress | left out: 40 s to fill | - |",
        "| py-radix | 1,584 |",
        "| random | 1,000 | 44.3 | /24 11.5 | 24 |",
        "| random | 1,000 | 0.50 |",
        "A Processor, 2 of them, x86_64",
    ):
        assert expected in page
    assert "a-host-name" not in page
    assert "<!--" not in page


def test_a_page_without_a_missed_bar_has_no_such_section() -> None:
    kept = [one for one in CANNED["benchmarks"] if one["extra_info"].get("key") != "smtp"]
    page = render({**CANNED, "benchmarks": kept}, load_bars())
    assert "Missed bars" not in page


def test_reasons_are_found_by_the_key_of_their_bar() -> None:
    assert reasons("preface\n\n## smtp\n\nthe loop\n\n## count-1k\nmisses\n") == {
        "smtp": "the loop",
        "count-1k": "misses",
    }
    written = BENCHMARKS / "missed.md"
    assert set(reasons(written.read_text())) <= set(load_bars())


def test_a_missed_bar_is_printed_and_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, page = tmp_path / "results.json", tmp_path / "performance.md"
    results.write_text(json.dumps(CANNED))
    assert main([str(results), str(page)]) == 0
    reported = capsys.readouterr().out
    assert re.search(r"MISSED +0\.50 +at least 0\.97 x bare aiosmtpd  \(smtp\)", reported)
    assert "NOT MEASURED" in reported
    assert page.read_text().startswith("# Performance\n")


def test_the_figures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(CANNED))
    assert main(["--json", str(results)]) == 0
    reported = json.loads(capsys.readouterr().out)
    verdicts = {bar["key"]: bar["verdict"] for bar in reported["bars"]}
    assert (verdicts["count-1k"], verdicts["smtp"], verdicts["limits"]) == ("met", "missed", "not measured")
    assert missed_keys(load_bars(), {"smtp": {"value": 0.5}}) == ["smtp"]
    assert reported["memory"][0]["bytes"] == 1584.0


def test_each_server_of_a_flood_refuses_every_connection():
    """The client ends with an error at any other answer than 421, or than the end of the stream."""
    try:
        load_client()
    except OSError as error:
        pytest.skip(str(error))
    found = flood.measure(1, 200)
    peers = {name for name in found if name.startswith(("nginx", "HAProxy"))}
    ours = {"C program", "C program, silent", "gate", "gate, silent", "gate, 2 threads", "asyncio"}
    assert set(found) == ours | peers
    assert peers or any("missing" in version for version in flood_peers.versions().values())
    assert all(cost > 0 for costs in found.values() for cost in costs)
