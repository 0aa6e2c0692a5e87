"""The figures of shared audits, and what Prometheus and OpenTelemetry get of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.waiting import PATIENCE, eventually

import inbound_audit
import inbound_audit.metrics
from inbound_audit import InboundAudit, Session
from inbound_audit._ipcount import NODE_STATES, SERVED, NodeTrees, OwnFile
from inbound_audit.cli import run
from inbound_audit.cli.metrics import metrics
from inbound_audit.cli.report import Figures
from inbound_audit.metrics.figures import ABOUT, Figure, SharedAudit
from inbound_audit.metrics.opentelemetry import UNITS, observe
from inbound_audit.metrics.prometheus import (
    MAX_SCRAPES,
    PREFIX,
    Collector,
    MetricsServer,
    _Handler,
    application,
    registry_of,
)
from inbound_audit.shared import View

FILES = Path(inbound_audit.metrics.__file__).parent


@pytest.fixture
def audit(place: Path) -> Iterator[InboundAudit]:
    with InboundAudit(shared="mail", capacity=1 << 22, monitors=["60,5", "300,1"]) as audit:
        yield audit


@pytest.fixture
def shared(audit: InboundAudit) -> Iterator[SharedAudit]:
    with contextlib.closing(SharedAudit("mail")) as shared:
        yield shared


@pytest.fixture
def kept() -> Iterator[contextlib.ExitStack]:
    """Sessions that are open until the end of the test."""
    with contextlib.ExitStack() as kept:
        yield kept


def begin(kept: contextlib.ExitStack, audit: InboundAudit, address: str, *listener: str) -> Session:
    return kept.enter_context(audit.listener(*listener).session(address))


def values(shared: SharedAudit, name: str) -> dict[tuple[str, ...], float]:
    """By the labels other than `audit`."""
    return {tuple(f.labels.values())[1:]: f.value for f in shared.figures() if f.name == name}


# ---- figures


def test_sessions_are_counted_by_service_and_listener(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit
) -> None:
    first = begin(kept, audit, "192.0.2.7", "SMTP", "mx")
    begin(kept, audit, "2001:db8::7", "SMTP", "mx")
    begin(kept, audit, "192.0.2.7", "Control", "mx")
    assert values(shared, "sessions") == {("SMTP", "mx"): 2, ("Control", "mx"): 1}
    first.close()
    assert values(shared, "sessions") == {("SMTP", "mx"): 1, ("Control", "mx"): 1}


def test_a_listener_of_two_processes_is_one_figure(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit
) -> None:
    with InboundAudit(shared="mail", capacity=1 << 20) as other:
        begin(kept, audit, "192.0.2.7", "SMTP", "mx")
        with other.listener("SMTP", "mx").session("192.0.2.7"):
            assert values(shared, "sessions") == {("SMTP", "mx"): 2}
            assert values(shared, "processes") == {(): 2}
    assert values(shared, "processes") == {(): 1}
    assert values(shared, "sessions") == {("SMTP", "mx"): 1}


def test_the_windows_of_each_monitor_are_figures(audit: InboundAudit, shared: SharedAudit) -> None:
    with audit.listener().session("192.0.2.7") as four, audit.listener().session("2001:db8::7") as six:
        four.record_reception(3)
        six.record_rejection()
    assert values(shared, "events") == {
        (kind, monitor): value
        for kind, value in (("connections", 2), ("receptions", 3), ("rejections", 1))
        for monitor in ("60,5", "300,1")
    }


def test_what_processes_have_done_is_a_sum_over_those_that_live(audit: InboundAudit, shared: SharedAudit) -> None:
    OwnFile(audit).state_served(range(1, 9))
    with InboundAudit(shared="mail", capacity=1 << 20) as other:
        OwnFile(other).state_served([10 * number for number in range(1, 9)])
        assert values(shared, "served") == {(name,): 11 * number for number, name in enumerate(SERVED, 1)}
    assert values(shared, "served") == {(name,): number for number, name in enumerate(SERVED, 1)}


@pytest.mark.parametrize("numbers", [[], [0] * 7, [0] * 9, [-1] * 8, [1 << 64] * 8])
def test_other_numbers_are_refused_and_none_is_stated(
    audit: InboundAudit, shared: SharedAudit, numbers: list[int]
) -> None:
    with pytest.raises((ValueError, OverflowError)):
        OwnFile(audit).state_served(numbers)
    assert set(values(shared, "served").values()) == {0}


def test_an_audit_that_is_not_shared_states_nothing() -> None:
    with InboundAudit() as own:
        OwnFile(own).state_served(range(8))


def test_the_names_are_those_of_the_report() -> None:
    assert Figures._fields[1:] == SERVED


def test_prefixes_are_figures_on_request_alone(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit
) -> None:
    for number in range(15):
        begin(kept, audit, f"192.0.{math.isqrt(number)}.{number}")
    assert values(shared, "prefix_sessions") == {}
    with contextlib.closing(SharedAudit("mail", top=2, prefixlen=(24, 56))) as busiest:
        assert values(busiest, "prefix_sessions") == {("192.0.3.0/24",): 6, ("192.0.2.0/24",): 5}


def test_nodes_are_figures_where_an_agent_runs(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit
) -> None:
    begin(kept, audit, "192.0.2.7")
    assert values(shared, "nodes") == values(shared, "cluster_sessions") == {}
    trees = NodeTrees(audit)
    trees.add("mx1").set_word(NODE_STATES["this host"])
    for name, state in (("mx2", "heard"), ("mx3", "lost")):
        tree = trees.add(name)
        tree.set_word(NODE_STATES[state], 1)
        tree.set_many(tree.records()[0])
    states = values(shared, "nodes")
    assert (states["heard",], states["lost",], states["duplicate",]) == (2, 1, 0)
    assert values(shared, "cluster_sessions") == {(): 1}


def test_a_damaged_file_is_a_figure(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit, place: Path
) -> None:
    begin(kept, audit, "192.0.2.7")
    directory = next(place.iterdir())
    with contextlib.closing(InboundAudit(shared="mail", capacity=1 << 20)) as other:
        other.listener()
        file = next(path for path in directory.glob("*.owner") if path.stem != _id_of(audit))
        with open(file, "r+b") as damaged:
            damaged.write(bytes(64))
        assert values(shared, "damaged_processes") == {(): 1}
        assert values(shared, "sessions") == {("SMTP", "default"): 1}


def _id_of(audit: InboundAudit) -> str:
    """Of the process that has a session."""
    with View("mail") as view:
        return next(owner.id for owner in view.owners if any(one.total for one in owner.listeners))


def test_an_audit_that_comes_and_goes_is_up_and_down(place: Path) -> None:
    with contextlib.closing(SharedAudit("mail")) as shared:
        for _ in range(2):
            assert shared.figures() == [Figure("up", {"audit": "mail"}, 0)]
            assert "mail" in shared.why_down
            with InboundAudit(shared="mail", capacity=1 << 20) as audit, audit.listener().session("192.0.2.7"):
                assert values(shared, "up") == {(): 1}
                assert values(shared, "sessions") == {("SMTP", "default"): 1}
                assert shared.why_down == ""


def test_a_name_that_can_be_no_audit_is_down(place: Path) -> None:
    shared = SharedAudit("../mail")
    assert [figure.value for figure in shared.figures()] == [0]
    assert "../mail" in shared.why_down


def test_each_figure_has_its_help_and_unit_and_the_same_labels(kept: contextlib.ExitStack, audit: InboundAudit) -> None:
    begin(kept, audit, "192.0.2.7")
    NodeTrees(audit).add("mx2").set_word(NODE_STATES["heard"], 1)
    with contextlib.closing(SharedAudit("mail", top=3)) as shared:
        labels: dict[str, set[tuple[str, ...]]] = {}
        for name, of, value in shared.figures():
            labels.setdefault(name, set()).add(tuple(of))
            assert math.isfinite(value)
    assert set(labels) == set(ABOUT) == set(UNITS)
    assert all(len(one) == 1 and next(iter(one))[0] == "audit" for one in labels.values())


def test_two_figures_never_have_the_same_labels(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit
) -> None:
    for service, name in itertools.product(("SMTP", "Control"), "ab"):
        begin(kept, audit, "::1", service, name)
    found = [(figure.name, *figure.labels.items()) for figure in shared.figures()]
    assert len(set(found)) == len(found)


# ---- Prometheus


BUILD = {f"{PREFIX}build_info[('version', '{inbound_audit.__version__}')]": 1.0}


def samples(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("name", ["mx", "a b", 'quote"', "back\\slash", "line\nfeed", "ümläut", "x" * 63])
def test_the_text_is_what_the_parser_reads(kept: contextlib.ExitStack, audit: InboundAudit, name: str) -> None:
    try:
        begin(kept, audit, "192.0.2.7", "SMTP", name)
    except ValueError:
        pytest.skip("no listener may have such a name")
    with contextlib.closing(SharedAudit("mail")) as shared:
        found = samples(generate_latest(registry_of([shared])).decode())
        assert found == BUILD | {
            f"{PREFIX}{figure.name}{sorted(figure.labels.items())}": figure.value for figure in shared.figures()
        }
        assert found[f"{PREFIX}sessions{sorted({'audit': 'mail', 'listener': name, 'service': 'SMTP'}.items())}"] == 1


def test_several_audits_are_told_apart_by_a_label(audit: InboundAudit, shared: SharedAudit) -> None:
    with InboundAudit(shared="web", capacity=1 << 20), contextlib.closing(SharedAudit("web")) as web:
        found = samples(generate_latest(registry_of([shared, web])).decode())
    assert found[f"{PREFIX}up[('audit', 'mail')]"] == found[f"{PREFIX}up[('audit', 'web')]"] == 1


def test_a_collector_reads_nothing_when_it_is_registered(place: Path) -> None:
    shared = SharedAudit("mail")
    CollectorRegistry().register(Collector([shared]))
    assert shared.why_down == ""


@contextlib.contextmanager
def served(*audits: SharedAudit) -> Iterator[str]:
    with MetricsServer(socket.create_server(("127.0.0.1", 0)), application(audits)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def page(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_pages(kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit) -> None:
    begin(kept, audit, "192.0.2.7")
    with served(shared) as url:
        status, text = page(f"{url}/metrics")
        assert status == 200
        assert samples(text)[f"{PREFIX}up[('audit', 'mail')]"] == 1
        assert page(f"{url}/healthz") == (200, "ok\n")
        assert page(f"{url}/other") == (404, "the pages are /metrics and /healthz\n")
        audit.close()
        status, text = page(f"{url}/healthz")
        assert (status, "mail" in text) == (503, True)
        status, text = page(f"{url}/metrics")
        assert (status, samples(text)) == (200, BUILD | {f"{PREFIX}up[('audit', 'mail')]": 0})


def test_silent_peers_and_garbage_hold_up_no_scrape(audit: InboundAudit, shared: SharedAudit) -> None:
    with served(shared) as url, contextlib.ExitStack() as held:
        port = int(url.rpartition(":")[2])
        for said in (b"", b"GET /metrics", b"\0\xff\r\n\r\n", b"GET " + b"x" * 100_000):
            peer = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(ConnectionError):
                peer.sendall(said)
        assert page(f"{url}/metrics")[0] == 200


def test_beyond_so_many_peers_one_more_is_closed(
    audit: InboundAudit, shared: SharedAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Handler, "timeout", PATIENCE)
    with served(shared) as url:
        port = int(url.rpartition(":")[2])
        with contextlib.ExitStack() as held:
            peers = [
                held.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(MAX_SCRAPES)
            ]
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as one_more:
                assert one_more.recv(1) == b""
            del peers
        eventually(lambda: _answers(f"{url}/metrics"), "room after they have left")


def _answers(url: str) -> bool:
    try:
        return page(url)[0] == 200
    except (OSError, urllib.error.URLError):
        return False


def test_the_health_page_reads_no_counts(
    audit: InboundAudit, shared: SharedAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedAudit, "figures", None)
    monkeypatch.setattr(SharedAudit, "_read", None)
    with served(shared) as url:
        assert page(f"{url}/healthz") == (200, "ok\n")
    audit.close()
    assert not shared.is_up()
    assert "mail" in shared.why_down


# ---- OpenTelemetry


def test_opentelemetry_gets_the_same_figures(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit
) -> None:
    begin(kept, audit, "192.0.2.7", "SMTP", "mx")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observe(provider.get_meter("test"), [shared])
    collected = reader.get_metrics_data()
    assert collected is not None
    found = {
        (metric.name, tuple(sorted((point.attributes or {}).items()))): point.value  # type: ignore[union-attr]
        for metric in collected.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    }
    expected = {
        (f"inbound_audit.{figure.name.replace('_', '.')}", tuple(sorted(figure.labels.items()))): figure.value
        for figure in shared.figures()
    }
    assert found == expected
    provider.shutdown()


def test_a_collection_reads_each_audit_once(
    kept: contextlib.ExitStack, audit: InboundAudit, shared: SharedAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    figures = shared.figures
    monkeypatch.setattr(shared, "figures", lambda: reads.append(1) or figures())
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    provider = MeterProvider(readers, shutdown_on_exit=False)
    observe(provider.get_meter("test"), [shared])
    for number, reader in enumerate([readers[0], readers[0], readers[1], readers[0]], 1):
        begin(kept, audit, "192.0.2.7")
        collected = reader.get_metrics_data()
        assert collected is not None
        points = {
            metric.name: metric.data.data_points for metric in collected.resource_metrics[0].scope_metrics[0].metrics
        }
        assert [point.value for point in points["inbound_audit.sessions"]] == [number]  # type: ignore[union-attr]
        assert len(reads) == number
    provider.shutdown()


# ---- the command


def test_the_command_prints_and_writes_what_prometheus_reads(
    kept: contextlib.ExitStack, audit: InboundAudit, tmp_path: Path
) -> None:
    begin(kept, audit, "192.0.2.7")
    printed = CliRunner().invoke(metrics, ["mail", "--top", "1"]).stdout
    assert samples(printed)[f"{PREFIX}prefix_sessions[('audit', 'mail'), ('prefix', '192.0.2.0/24')]"] == 1
    file = tmp_path / "audit.prom"
    assert CliRunner().invoke(metrics, ["mail", "--top", "1", "--textfile", str(file)]).exit_code == 0
    assert file.read_text() == printed
    assert list(tmp_path.iterdir()) == [file]
    rows = json.loads(CliRunner().invoke(metrics, ["mail", "--top", "1", "--json"]).stdout)
    assert len(rows) == len(samples(printed).keys() - BUILD.keys())


def test_the_command_fails_for_an_audit_that_is_not_there(
    audit: InboundAudit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["metrics", "mail", "web"]) == 1
    printed = capsys.readouterr()
    found = samples(printed.out)
    assert (found[f"{PREFIX}up[('audit', 'mail')]"], found[f"{PREFIX}up[('audit', 'web')]"]) == (1, 0)
    assert "web" in printed.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "NAME"),
        (["mail", "--json", "--textfile", "x"], "write one of them"),
        (["mail", "--listen", "9746"], "--listen :9746"),
        (["mail", "--top", "0"], "from 1 to 1000"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["metrics", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(audit: InboundAudit, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["metrics", "mail", "--textfile", "/nowhere/audit.prom"]) == 1
    assert "/nowhere/audit.prom: no such file or directory" in capsys.readouterr().err


# ---- the files


@pytest.mark.parametrize("file", ["dashboard.json", "alerts.yml"])
def test_the_files_name_figures_and_labels_that_there_are(file: str) -> None:
    text = (FILES / file).read_text()
    named = set(re.findall(rf"{PREFIX}(\w+)", text))
    assert named
    assert named <= set(ABOUT)


def test_the_dashboard_has_a_query_for_each_figure() -> None:
    dashboard = json.loads((FILES / "dashboard.json").read_text())
    panels = dashboard["panels"]
    queries = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    assert set(re.findall(rf"{PREFIX}(\w+)", queries)) == set(ABOUT)
    assert len({panel["id"] for panel in panels}) == len(panels)
