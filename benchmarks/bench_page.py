"""The page in Chromium: how long one frame takes while looks come, and until something is seen first."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.browser import Visit, browser, needs_browser
from tests.support.pages import WebServer

from benchmarks.measure import summary
from benchmarks.scale import QUICK
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

pytestmark = [needs_browser, pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")]

HOSTS, ROWS, CHANGED = 20_000, 1000, 300
LOOKS, LOADS = (100, 3) if QUICK else (600, 11)

# Rows of a look change as they do from one to the next: figures of many, and some rows go and come.
CHANGE = """async ([looks, rows, changed]) => {
    const {receive, frame} = await import('/static/main.js');
    const look = await (await fetch(`/api/look?rows=${rows}`)).json();
    let id = 1e6;
    receive('look', {...look, id, may_change: true, interval: 0.1});
    for (let part = 0; part < 3; part++) frame();
    const kept = look.rows.slice(0, -20);
    const some = look.rows.slice(-20);
    const longest = [];
    for (let n = 0; n < looks; n++) {
        const news = Array.from({length: changed}, (_, i) => kept[(n * 31 + i * 7) % kept.length]);
        for (const row of news) row[1] += n % 3;
        const text = JSON.stringify({id: id + 1, from: id++, time: look.time + n / 10, total: look.total + n,
            removed: n % 2 ? some.map(([prefix]) => prefix) : [], rows: n % 2 ? news : [...news, ...some]});
        const times = [performance.now()];
        receive('change', JSON.parse(text));
        for (let part = 0; part < 3; part++) {
            frame();
            times.push(performance.now());
        }
        longest.push(Math.max(...times.slice(1).map((at, part) => at - times[part])));
        await new Promise(requestAnimationFrame);
    }
    return longest;
}"""


PAINT = """() => new Promise((done) => {
    const observer = new PerformanceObserver((list) => {
        for (const {startTime} of list.getEntriesByName('first-contentful-paint')) done(startTime);
    });
    observer.observe({type: 'paint', buffered: true});
})"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as root, pytest.MonkeyPatch.context() as patch:
        patch.setenv("INBOUND_AUDIT_SHM", root)
        with InboundAudit(shared="mail", capacity=1 << 26, monitors=["60,60"]) as audit:
            listener = audit.listener()
            sessions = [listener.session(text) for text in WORKLOADS["random"].texts(HOSTS)]
            with WebServer("--interval", "60s", "--rows", str(ROWS)) as server:  # the looks are those of the benchmark
                yield f"http://127.0.0.1:{server.port}/"
            for session in sessions:
                session.close()


def test_a_frame(browser: Browser, address: str, once: Callable[..., Any], report: Callable[..., None]) -> None:
    with Visit(browser, address) as visit:
        longest = once(lambda: visit.page.evaluate(CHANGE, [LOOKS, ROWS, CHANGED]))
    report("page-frame", summary(longest), {"rows": ROWS, "changed": CHANGED, "looks": LOOKS}, "in a look")


def test_first_paint(browser: Browser, address: str, once: Callable[..., Any], report: Callable[..., None]) -> None:
    """Each time in a context of its own, so nothing is kept from the time before."""

    def paint() -> float:
        with Visit(browser, address) as visit:
            at: float = visit.page.evaluate(PAINT)
            return at

    paints = once(lambda: [paint() for _ in range(LOADS)])
    report("page-paint", summary(paints), {"loads": LOADS}, "times")
