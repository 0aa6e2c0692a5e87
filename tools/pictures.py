"""The pictures of README.md and docs/, of a simulated day: never made by hand (`make pictures`).

    python tools/pictures.py [DIRECTORY]

Needs all extras, Playwright, and Chromium. It plays half a day (tools/simulated_day.py) in a directory of its own, and
draws its busiest hour:

    map.svg      `inbound-audit map`
    web.png      the page of `inbound-audit web`, in a browser
    watch.svg    `inbound-audit watch`, a terminal of 120 x 40
"""

import asyncio
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "day"
COMMAND = [sys.executable, "-m", "inbound_audit"]
DAY = [sys.executable, str(ROOT / "tools" / "simulated_day.py"), NAME, "--until", "13", "--seconds", "120", "--hold"]
DESKTOP = {"width": 1280, "height": 880}
TERMINAL = (120, 40)
MAX_COLOURS = 128
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextlib.contextmanager
def running(arguments: list[str], line: str) -> Iterator[str]:
    """A program that runs until the block ends; the block gets the first line that matches."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = next((each for each in process.stdout if re.search(line, each)), None)
            if found is None:
                raise SystemExit(f"{' '.join(arguments)}: ended before it wrote {line!r}")
            yield found
        finally:
            process.terminate()


def draw_map(path: Path) -> None:
    subprocess.run([*COMMAND, "map", NAME, "-o", str(path)], check=True)


def draw_web(path: Path) -> None:
    from PIL import Image
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    serving = [*COMMAND, "web", NAME, "--listen", "127.0.0.1:0"]
    with running(serving, "^serving ") as line, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = chromium.new_page(viewport=DESKTOP, color_scheme="light")
        page.goto(line.split()[1])
        page.get_by_text("198.51.100.0/24").first.wait_for()
        page.wait_for_timeout(3000)  # changes from look to look
        taken = Image.open(io.BytesIO(page.screenshot()))
        chromium.close()
    taken.convert("RGB").quantize(MAX_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_watch(path: Path) -> None:
    from inbound_audit.feed import Feed
    from inbound_audit.watch.app import WatchApp

    async def take() -> str:
        with Feed(NAME) as feed:
            app = WatchApp(feed)
            async with app.run_test(size=TERMINAL) as pilot:
                await pilot.pause(3)
                return app.export_screenshot(title=f"inbound-audit watch {NAME}")

    drawn = asyncio.run(take())
    # Its fonts would come from elsewhere; without them it has the reader's.
    path.write_text(re.sub(r"@font-face\s*{[^}]*}", "", drawn), "utf-8")


PICTURES = {"map.svg": draw_map, "web.png": draw_web, "watch.svg": draw_watch}


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    directory.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        os.environ["INBOUND_AUDIT_SHM"] = place
        with running(DAY, "^held"):
            for name, draw in PICTURES.items():
                draw(directory / name)
                print(f"{directory / name}: {(directory / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
