"""The page of `replay --html` in a browser: it is drawn, and nothing in it is refused or wanted from elsewhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.browser import BROWSER, OPTIONS, needs_browser
from tests.support.waiting import PATIENCE

from inbound_audit.cli import run

LOG = """\
Feb  6 12:00:00 mx1 postfix/smtpd[1]: connect from a.example[192.0.2.7]
Feb  6 12:00:01 mx1 postfix/smtpd[2]: connect from a.example[192.0.2.7]
Feb  6 13:00:00 mx1 postfix/smtpd[3]: connect from b.example[2001:db8::7]
"""


@needs_browser
def test_a_browser_draws_the_page_and_complains_of_nothing(tmp_path: Path) -> None:
    log, page, picture = (tmp_path / name for name in ("mail.log", "page.html", "page.png"))
    log.write_text(LOG)
    arguments = ("--year", "2026", "--limit", "/32=1", "--suggest", "1%", "--html", str(page))
    assert run(["replay", str(log), *arguments]) == 0
    places = (f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", "--window-size=500,900")
    done = subprocess.run(
        [str(BROWSER), *OPTIONS, "--enable-logging=stderr", *places, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "CONSOLE" not in done.stderr
