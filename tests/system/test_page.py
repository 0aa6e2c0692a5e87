"""The page of `inbound-audit web` in Chromium: what it shows of a real audit, and what a person does with it."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.browser import Visit, browser, needs_browser
from tests.support.pages import WebServer
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.drawing.hilbert import box_of
from inbound_audit.listeners import Guard
from inbound_audit.listeners.decision_log import DecisionLog
from inbound_audit.listeners.log_sinks import LogFile

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

__all__ = ["browser"]

pytestmark = [
    needs_browser,
    pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone"),
]

SCREENSHOTS = Path("build/screenshots")
HOSTILE = "<img src=x onerror=alert(1)>"
ATTACK, PARTNER, SITE = "203.0.113.0/24", "198.51.100.7/32", "2001:db8:1:2::/64"
MOST, REFUSED = 50, 7
YEARS = "31536000,2"
"""A monitor whose window does not turn while tests run."""


class World:
    """An audit whose sessions are of this process, one /24 of which is over its limit, and a server for it."""

    def __init__(self, root: Path) -> None:
        self.audit = InboundAudit(shared="mail", capacity=1 << 24, monitors=["60,5", YEARS])
        self.mx = self.audit.listener("SMTP", "mx")
        self.log = DecisionLog(LogFile(str(root / "decisions.log")))
        self.guard = Guard(self.mx, Limits({"/24,/48": MOST}), decisions=self.log)
        self.admitted = [self.guard.admit((f"203.0.113.{4 * n}", 25)) for n in range(MOST + REFUSED)]
        draw = random.Random(1)
        self.sessions = [self.mx.session(PARTNER.partition("/")[0]) for _ in range(20)]
        self.sessions += [self.mx.session(f"2001:db8:1:2::{n:x}") for n in range(1, 15)]
        self.sessions += [self.mx.session(draw.randbytes(4)) for _ in range(40)]
        self.sessions += [self.audit.listener("SMTP", HOSTILE).session("192.0.2.9")]
        self.sessions += [self.audit.listener("IMAP").session("192.0.2.10") for _ in range(3)]
        self.audit.deny("192.0.2.128/25", why=HOSTILE)
        self.log.flush()
        self.server = WebServer("--interval", "0.1s", "--allow-changes")
        self.reading = f"http://127.0.0.1:{self.server.port}/"
        self.changing = f"{self.reading}#token={self.server.token}"

    def close(self) -> None:
        with self.server:
            self.server.stop()
        for one in [*self.admitted, *self.sessions]:
            one.close()
        self.log.close()
        self.audit.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tempfile.mkdtemp(prefix="sharing-", dir="/dev/shm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INBOUND_AUDIT_SHM", root)
        made = World(tmp_path_factory.mktemp("page"))
        yield made
        made.close()
    shutil.rmtree(root)


def says(element: Locator, text: str) -> None:
    from playwright.sync_api import expect

    expect(element).to_contain_text(text)


def reads(element: Locator, text: str) -> None:
    """As `says`, of all that it says."""
    from playwright.sync_api import expect

    expect(element).to_have_text(text)


def is_hidden(element: Locator) -> None:
    from playwright.sync_api import expect

    expect(element).to_be_hidden()


def has(element: Locator, name: str, value: str) -> None:
    from playwright.sync_api import expect

    expect(element).to_have_attribute(name, value)


def row(page: Page, prefix: str) -> Locator:
    return page.locator("#tree-body .row:visible").filter(has=page.get_by_text(prefix, exact=True))


def middle(page: Page, prefix: str, seen: str = "0.0.0.0/0") -> dict[str, Any]:
    """Where a prefix lies on the canvas of the map."""
    size = page.locator("#map").bounding_box()
    assert size is not None
    outer, inner = (box_of(int(net.network_address), net.prefixlen) for net in (ip_network(seen), ip_network(prefix)))
    scale = size["width"] / outer.width
    return {
        "x": (inner.x + inner.width / 2 - outer.x) * scale,
        "y": (inner.y + inner.height / 2 - outer.y) * scale,
    }


def test_the_page_shows_the_busiest_prefix_and_who_is_refused_in_it_and_why(
    browser: Browser, world: World, record_property: Any
) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        says(page.locator("#audit"), "mail")
        says(page.locator("#state"), "live")
        first = page.locator("#busiest4-list tbody tr").first
        says(first, ATTACK)
        says(page.locator("#busiest6-list tbody tr").first, SITE)
        first.get_by_role("button").click()
        says(page.locator("#selected-name"), ATTACK)
        says(page.locator("#limits-list"), ATTACK)
        says(page.locator("#selected-limits"), f"{MOST} in each /24")
        says(page.locator("#selected-why"), f"{REFUSED} by default /24,/48 (at most {MOST})")
        says(page.locator("#selected-refusals"), f" of {MOST} in {ATTACK}, at SMTP mx")
        says(page.locator("#live"), ATTACK)
        has(row(page, ATTACK), "aria-selected", "true")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        record_property("first paint, ms", paint)
        print(f"first paint: {paint:.0f} ms")


def test_the_map_has_the_orientation_of_the_drawings(browser: Browser, world: World) -> None:
    draw = random.Random(2)
    prefixes = [(draw.getrandbits(32), draw.randrange(33)) for _ in range(400)]
    prefixes = [(address & ~((1 << (32 - length)) - 1), length) for address, length in prefixes]
    places = [(draw.randrange(1 << 16), draw.randrange(1 << 16)) for _ in range(200)]
    texts = [str(ip_network(prefix)) for prefix in prefixes]
    wide = [str(ip_network((draw.getrandbits(128) & draw.getrandbits(128) & ~0xFFFF, 112))) for _ in range(100)]
    script = """async ([texts, places, wide]) => {
        const {box, address} = await import('/static/curve.js');
        const {parse} = await import('/static/prefixes.js');
        return [texts.map((text) => box(parse(text))).map(({x, y, w, h}) => [x, y, w, h]),
                places.map(([x, y]) => address(x, y)), [...texts, ...wide].map((text) => parse(text).text)];
    }"""
    with Visit(browser, world.reading) as visit:
        boxes, addresses, written = visit.page.evaluate(script, [texts, places, wide])
    assert boxes == [list(box_of(*prefix)) for prefix in prefixes]
    assert [box_of(address, 32)[:2] for address in addresses] == places
    assert written == [*texts, *wide]


def test_the_map_names_what_is_under_the_pointer_and_zooms(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        says(page.locator("#busiest4-list"), ATTACK)
        at = page.locator("#map")
        at.hover(position=middle(page, ATTACK))
        says(page.locator("#map-says"), f"{ATTACK}: {MOST + REFUSED}")
        at.dblclick(position=middle(page, ATTACK))
        says(page.locator("#map-crumbs [aria-current]"), "192.0.0.0/2")
        at.hover(position=middle(page, ATTACK, "192.0.0.0/2"))
        page.mouse.wheel(0, -100)
        says(page.locator("#map-crumbs [aria-current]"), "192.0.0.0/4")
        says(page.locator("#map-says"), "")
        page.locator("#map-crumbs").get_by_role("button", name="192.0.0.0/2").click()
        says(page.locator("#map-crumbs [aria-current]"), "192.0.0.0/2")
        at.focus()
        for key in ("-", "+", "+", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        says(page.locator("#map-crumbs [aria-current]"), "/4")
        says(page.locator("#live"), "/")
        page.keyboard.press("Escape")
        says(page.locator("#map-crumbs [aria-current]"), "0.0.0.0/0")
        page.locator("#filter").fill(ATTACK)
        row(page, ATTACK).click()
        page.locator("#zoom-to").click()
        says(page.locator("#map-crumbs [aria-current]"), "203.0.112.0/20")


def test_two_fingers_zoom_the_map(browser: Browser, world: World) -> None:
    def touch(kind: str, *apart: int) -> None:
        """Two fingers so many pixels apart, side by side; or none."""
        x, y = (size[axis] + place[axis] for axis in ("x", "y"))
        points = [{"x": x + side * pixels / 2, "y": y, "id": n} for pixels in apart for n, side in enumerate((-1, 1))]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    with Visit(browser, world.reading) as visit:
        page = visit.page
        says(page.locator("#busiest4-list"), ATTACK)
        place, size = middle(page, "192.0.0.0/2"), page.locator("#map").bounding_box()
        assert size is not None
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
        shown = page.locator("#map-crumbs [aria-current]")
        touch("touchStart", 80)
        touch("touchMove", 160)
        says(shown, "192.0.0.0/2")
        touch("touchMove", 80)
        says(shown, "0.0.0.0/0")
        touch("touchEnd")


def test_what_has_grown_and_what_has_shrunk_have_colours_of_their_own(browser: Browser, world: World) -> None:
    script = """async (rows) => {
        const {IPv4Map} = await import('/static/map.js');
        const {Model} = await import('/static/model.js');
        const {box} = await import('/static/curve.js');
        const model = new Model();
        model.take({id: 0, total: 9000, rows}, true);  // so much that no name is written
        const canvas = document.createElement('canvas');
        canvas.style.aspectRatio = 1;
        document.body.append(canvas);
        const map = new IPv4Map(canvas, model, {});
        map.measure = 'change';
        map.surface.resize();
        const {data} = map.surface.context.getImageData(0, 0, canvas.width, canvas.width);
        return model.rows.map((row) => {
            const [x, y] = ['x', 'y'].map((axis) => Math.floor((box(row)[axis] + 512) * canvas.width / 65536));
            const at = 4 * (y * canvas.width + x);
            return [...data.slice(at, at + 3)];
        });
    }"""
    with Visit(browser, world.reading) as visit:
        page = visit.page
        says(page.locator("#state"), "live")
        page.locator("#measure").select_option("change")
        has(page.locator("html"), "data-measure", "change")
        assert "by=change" in page.url
        rows = [("20.0.0.0/12", 30, 30, 0), ("90.0.0.0/12", 30, 0, 0), ("150.0.0.0/12", 30, -30, 0)]
        more, same, fewer = page.evaluate(script, rows)
    reddish = [red - blue for red, _, blue in (more, same, fewer)]
    assert reddish[0] > 60 > abs(reddish[1])
    assert reddish[2] < -60


def test_nothing_moves_for_those_who_want_less_of_it(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        says(row(page, "0.0.0.0/0"), "%")
        moving = """[...document.querySelectorAll('*')].map((node) => getComputedStyle(node))
            .filter((style) => parseFloat(style.transitionDuration) || parseFloat(style.animationDuration)).length"""
        assert page.evaluate(moving) > 0
        page.emulate_media(reduced_motion="reduce")
        assert page.evaluate(moving) == 0


def test_the_tree_of_ipv6_names_and_zooms(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        says(page.locator("#busiest6-list"), SITE)
        page.locator("#icicle").hover(position={"x": 20, "y": 10})
        says(page.locator("#icicle-says"), ": 14")
        page.locator("#icicle").click(position={"x": 20, "y": 10})
        outer = page.locator("#selected-name").inner_text()
        page.locator("#icicle").dblclick(position={"x": 20, "y": 34})
        inner = page.locator("#icicle-crumbs [aria-current]").inner_text()
        assert inner != outer
        assert ip_network(inner).subnet_of(ip_network(outer))  # type: ignore[arg-type]
        page.locator("#icicle").focus()
        page.keyboard.press("-")
        says(page.locator("#icicle-crumbs [aria-current]"), outer)
        page.mouse.move(0, 0)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        says(page.locator("#selected-name"), inner)


def test_the_table_filters_sorts_opens_and_selects(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        tree = page.locator("#tree")
        says(row(page, "0.0.0.0/0"), "%")
        page.keyboard.press("/")
        page.keyboard.type("203.0.113.0/25")
        first = page.locator("#tree-body .row:visible .name").first
        says(first, "128.0.0.0/")
        page.locator("#filter").fill("198.51.100")
        says(first, PARTNER)
        has(tree, "aria-rowcount", "2")
        page.locator("#filter").fill("")
        tree.get_by_role("button", name="Prefix").click()
        has(tree.locator("[data-order=prefix]"), "aria-sort", "ascending")
        tree.get_by_role("button", name="Refused").click()
        tree.get_by_role("button", name="Refused").click()
        has(tree.locator("[data-order=refused]"), "aria-sort", "ascending")
        tree.focus()
        page.keyboard.press("Home")
        top = page.locator(f"#{tree.get_attribute('aria-activedescendant')}")
        has(top, "aria-expanded", "true")
        page.keyboard.press("ArrowLeft")
        has(top, "aria-expanded", "false")
        page.keyboard.press("ArrowRight")
        has(top, "aria-expanded", "true")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        says(page.locator("#selected-name"), "/")
        assert ip_network(page.locator("#selected-name").inner_text()).prefixlen > 0


def test_what_is_typed_before_the_modules_come_counts(browser: Browser, world: World) -> None:
    held: list[Any] = []
    with Visit(browser, world.reading) as visit:
        page = visit.page
        page.route("**/static/main.js", lambda route: held.append(route))
        with page.expect_request("**/static/main.js"):
            page.reload()
        page.locator("#filter").fill("198.51.100")
        page.locator("#whatif-limits").fill("/24=9")
        held[0].continue_()
        has(page.locator("#tree"), "aria-rowcount", "2")
        says(page.locator("#whatif-says"), "SMTP: /24=9")
        assert page.locator("#filter").input_value() == "198.51.100"


def test_a_link_shows_the_same_and_holds_no_token(browser: Browser, world: World) -> None:
    with Visit(browser, f"{world.changing}&select={ATTACK}&at=192.0.0.0/4&filter=203&order=-count&by=refused") as visit:
        page = visit.page
        says(page.locator("#selected-name"), ATTACK)
        link = page.url
        assert "token" not in link
        page.reload()
        says(page.locator("#selected-why"), f"{REFUSED} by")
        assert page.url == link
        assert page.locator("#deny").is_enabled()
    with Visit(browser, link) as visit:
        page = visit.page
        says(page.locator("#selected-name"), ATTACK)
        says(page.locator("#map-crumbs [aria-current]"), "192.0.0.0/4")
        assert page.locator("#filter").input_value() == "203"
        assert page.locator("#measure").input_value() == "refused"
        has(page.locator("[data-order=count]"), "aria-sort", "ascending")
        assert page.locator("#deny").is_disabled()
        assert page.locator("#selected-read-only").is_visible()


def test_another_source_is_counted(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        says(page.locator("#what"), "IMAP")
        page.locator("#what").select_option("service=IMAP")
        says(page.locator("#busiest4-list"), "192.0.2.0/24")
        reads(page.locator("#total"), "3")  # a look is drawn part by part
        assert "service=IMAP" in page.url
        page.locator("#what").select_option(f"monitor={YEARS}&kind=connections".replace(",", "%2C"))
        says(page.locator("#busiest4-list"), str(MOST + REFUSED))
        page.locator("#when").focus()
        page.keyboard.press("ArrowLeft")
        says(page.locator("#when-says"), "365 d ago")
        assert "startv=1" in page.url


def test_what_is_seen_is_exported(browser: Browser, world: World, tmp_path: Path) -> None:
    with Visit(browser, f"{world.reading}#filter={ATTACK}") as visit:
        page = visit.page
        says(row(page, ATTACK), str(MOST + REFUSED))
        files = []
        for name in ("Export CSV", "Export JSON"):
            with page.expect_download() as waiting:
                page.get_by_role("button", name=name).click()
            files.append(tmp_path / waiting.value.suggested_filename)
            waiting.value.save_as(files[-1])
    lines = files[0].read_text().splitlines()
    assert lines[0] == "prefix,count,change,refused"
    assert f"{ATTACK},{MOST + REFUSED},0,{REFUSED}" in lines
    look = json.loads(files[1].read_text())
    assert look["audit"] == "mail"
    assert [ATTACK, MOST + REFUSED, 0, REFUSED] in look["rows"]


def test_the_login_of_a_proxy_goes_with_each_request(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        page.context.add_cookies([{"name": "login", "value": "1", "url": world.reading}])
        with page.expect_request("**/api/events*") as waiting:
            page.reload()
        assert waiting.value.all_headers().get("cookie") == "login=1"


def test_what_is_not_split_is_among_the_busiest_and_a_limit_of_none_is_full(browser: Browser, world: World) -> None:
    script = """async (rows) => {
        const {Model} = await import('/static/model.js');
        const panels = await import('/static/panels.js');
        const model = new Model();
        model.take({id: 0, total: 30, rows: rows.map(([prefix, count]) => [prefix, count, 0, 0])}, true);
        panels.limits({limits: [{limit: 'half', count: 1, most: 2, exact: false}, {limit: 'none', count: 0, most: 0}]});
        return [...[[false, 24], [true, 64]].map((family) => model.busiest(...family, 6)),
                ...[...document.querySelector('#limits-list tbody').rows].map((row) => row.textContent)];
    }"""
    rows = [
        ("0.0.0.0/0", 20), ("10.0.0.0/8", 6), ("192.0.2.0/24", 5), ("192.0.2.7/32", 5),
        ("198.51.100.1/32", 4), ("198.51.100.2/32", 3), ("2001:db8::/32", 10), ("2001:db8::/40", 9),
        ("2001:db8:8000::/48", 1),
    ]  # fmt: skip
    with Visit(browser, world.reading) as visit:
        says(visit.page.locator("#limits-list"), "/24")
        four, six, first, second = visit.page.evaluate(script, rows)
    assert [(one["prefix"], one["count"]) for one in four] == [
        ("198.51.100.0/24", 7), ("10.0.0.0/8", 6), ("192.0.2.0/24", 5),
    ]  # fmt: skip
    assert [(one["prefix"], one["count"]) for one in six] == [("2001:db8::/40", 9), ("2001:db8:8000::/48", 1)]
    assert first == "none0 of 0"
    assert second == "half≥ 1 of 2"


def test_ages_grow_without_an_event(browser: Browser, world: World) -> None:
    script = """async () => {
        const {Model} = await import('/static/model.js');
        const model = new Model();
        const nodes = ['heard', 'lost'].map((state) => ({state, age_s: 0.5}));
        model.take({id: 0, time: 10, total: 0, rows: [], processes: [{age_s: 7}], nodes}, true);
        model.take({id: 1, from: 0, time: 13, total: 0, rows: [], removed: []}, false);
        model.take({id: 2, from: 1, time: 14, total: 0, rows: [], removed: [], processes: [{age_s: 1}]}, false);
        return [...model.look.processes, ...model.look.nodes].map((row) => row.age_s);
    }"""
    with Visit(browser, world.reading) as visit:
        assert visit.page.evaluate(script) == [1, 0.5, 4.5]


def test_a_confirmation_is_for_the_prefix_that_it_was_asked_for(browser: Browser, world: World) -> None:
    with Visit(browser, world.changing) as visit:
        visit.expected = ("409",)
        page = visit.page
        page.locator("#deny-other").click()
        page.locator("#change-prefix").fill("127.0.0.0/8")
        page.locator("#change-go").click()
        says(page.locator("#change-go"), "Do it all the same")
        page.locator("#change-prefix").fill("198.18.0.0/24")
        reads(page.locator("#change-go"), "Deny")


def test_hostile_texts_are_texts(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
        says(page.locator("#decisions-list"), HOSTILE)
        says(page.locator("#what"), HOSTILE)
        assert page.locator("img").count() == 0


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("light", 1380, False), ("dark", 1380, True), ("phone", 390, False)]
)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    browser: Browser, world: World, name: str, width: int, dark: bool
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    with Visit(browser, f"{world.changing}&select={ATTACK}", width=width, dark=dark) as visit:
        page = visit.page
        says(page.locator("#selected-refusals"), ATTACK)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"page-{name}.png", full_page=name == "phone")
        found = axe.run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_limit_that_is_typed_in_shows_who_would_be_refused(browser: Browser, world: World) -> None:
    with Visit(browser, world.reading) as visit:
        page = visit.page
        visit.expected = ("400",)
        page.locator("#whatif-limits").fill("/24=30 /24=10/365d")
        says(page.locator("#whatif-says"), f"SMTP: /24=30: {MOST + REFUSED - 30} would be refused now")
        says(page.locator("#whatif-list"), f"{MOST + REFUSED} of 30")
        says(page.locator("#whatif-windows"), f"in {ATTACK}")
        assert "limits=" in page.url
        page.locator("#whatif-limits").fill("/24=many")
        says(page.locator("#whatif-says"), "many")
        is_hidden(page.locator("#whatif-list"))


def test_a_limit_is_asked_of_the_service_that_is_counted(browser: Browser, world: World) -> None:
    with Visit(browser, f"{world.reading}#limits=/24%3D1") as visit:
        page = visit.page
        says(page.locator("#whatif-says"), "SMTP: ")
        page.locator("#what").select_option("service=IMAP")
        says(page.locator("#whatif-says"), "IMAP: /24=1: 2 would be refused now")


def test_a_prefix_is_denied_and_lifted(browser: Browser, world: World) -> None:
    def denied() -> list[str]:
        return [decision.prefix for decision in world.audit.decisions() if decision.why == "scans"]

    with Visit(browser, f"{world.changing}&select={PARTNER}") as visit:
        page = visit.page
        page.locator("#deny").click()
        page.locator("#change-time").select_option("600")
        page.locator("#change-why").fill("scans")
        page.locator("#change-go").click()
        says(page.locator("#decisions-list"), "scans")
        eventually(lambda: denied() == [PARTNER], "the decision here, too")  # another process reads it for the page
        says(page.locator("#selected-decision"), f"{PARTNER}: deny")
        page.get_by_role("button", name=f"Lift deny of {PARTNER}").click()
        page.locator("#change-go").click()
        eventually(lambda: denied() == [], "the end of the decision")
        says(page.locator("#live"), "Done: lift")


def test_what_would_deny_everyone_is_asked_twice(browser: Browser, world: World) -> None:
    with Visit(browser, world.changing) as visit:
        page = visit.page
        visit.expected = ("409", "400")
        page.locator("#deny-other").click()
        page.locator("#change-prefix").fill("192.0.2")
        says(page.locator("#change-error"), "This is no prefix")
        page.locator("#change-prefix").fill("192.0.2.1/24")
        page.locator("#change-go").click()
        says(page.locator("#change-error"), "192.0.2.0/24")
        page.locator("#change-prefix").fill("0.0.0.0/0")
        page.locator("#change-go").click()
        says(page.locator("#change-error"), "every address")
        says(page.locator("#change-go"), "all the same")
        page.locator("#change-cancel").click()
        assert [decision.prefix for decision in world.audit.decisions()] == ["192.0.2.128/25"]


def test_a_token_is_asked_for(browser: Browser, world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-a-test-1234\n")
    token.chmod(0o600)
    with WebServer("--token-file", str(token)) as server, Visit(browser, f"http://127.0.0.1:{server.port}/") as visit:
        page = visit.page
        visit.expected = ("401",)
        page.locator("#token").fill(token.read_text().strip())
        page.locator("#token-form").get_by_role("button").click()
        says(page.locator("#state"), "live")
        says(page.locator("#busiest4-list"), ATTACK)
        assert "token" not in page.url


@pytest.mark.usefixtures("place")
def test_the_page_goes_on_after_the_end_of_the_audit_and_of_the_server(browser: Browser) -> None:
    fast = ("--interval", "0.1s", "--wait")
    with contextlib.ExitStack() as ends, WebServer(*fast) as server:
        with InboundAudit(shared="mail", capacity=1 << 20) as audit, audit.listener().session("192.0.2.7"):
            visit = ends.enter_context(Visit(browser, f"http://127.0.0.1:{server.port}/"))
            visit.expected = ("Failed to load resource", "ERR_")
            page = visit.page
            says(page.locator("#busiest4-list"), "192.0.2.0/24")
        says(page.locator("#banner-says"), "can't be read")
        says(page.locator("#state"), "not live")
        with InboundAudit(shared="mail", capacity=1 << 20) as audit, audit.listener().session("198.51.100.7"):
            says(page.locator("#busiest4-list"), "198.51.100.0/24")
            is_hidden(page.locator("#banner"))
            server.stop()
            says(page.locator("#banner-says"), "Trying again")
            with WebServer(*fast, listen=f"127.0.0.1:{server.port}"):
                says(page.locator("#live"), "live again")
                is_hidden(page.locator("#banner"))
                ends.close()
