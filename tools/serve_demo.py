"""An SMTP listener with the stock policy, and a page that shows it (`make serve`). Ctrl-C ends both.

Counts are shared on Linux alone: elsewhere there is no page.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

COMMAND = [sys.executable, "-m", "inbound_audit"]
POLICY = ["--policy", "examples/policies/stock.lua"]
SHARED = ["--shared", "local", "--monitor", "60,60", "--decision-log", "build/decisions.log"]


def run(listener: Sequence[str] = (), page: Sequence[str] = ()) -> int:
    """Serves until a signal comes; the arguments are further ones of the commands. Returns the listener's status."""
    Path("build").mkdir(exist_ok=True)
    shared = SHARED if sys.platform == "linux" else []
    serve: subprocess.Popen[bytes] | None = None
    is_ending = False

    def end(number: int, _: object) -> None:
        nonlocal is_ending
        is_ending = True
        if serve is not None and number == signal.SIGTERM:  # Ctrl-C reaches the commands as well
            serve.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    serve = subprocess.Popen([*COMMAND, "serve", *POLICY, *shared, *listener])
    if is_ending:  # since before it could be reached
        serve.terminate()
    if not shared:
        return serve.wait()
    with subprocess.Popen([*COMMAND, "web", "local", "--wait", *page]) as web:

        def report() -> None:
            if web.wait() != 0 and serve.poll() is None:
                print("the listener goes on without the page", file=sys.stderr, flush=True)

        threading.Thread(target=report, daemon=True).start()
        status = serve.wait()
        web.terminate()
    return status


if __name__ == "__main__":
    sys.exit(run())
