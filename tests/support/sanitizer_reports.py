"""What sanitizers have written of the processes of tests, where `make sanitize` has it written."""

from __future__ import annotations

import os
import re
from pathlib import Path

LOG_PATH = re.search(r"log_path=([^:]+)", os.environ.get("ASAN_OPTIONS", ""))


def new_reports() -> str:
    """Those since the last call, of whichever process."""
    paths = sorted(Path(LOG_PATH[1]).parent.iterdir()) if LOG_PATH else []
    texts = [path.read_text(errors="replace") for path in paths]
    for path in paths:
        path.write_text("")  # processes append to some
    return "\n".join(filter(None, texts))
