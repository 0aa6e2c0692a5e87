"""`make sanitize` finds the report of each process, also of one that may open no file when it has something to say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.forking import UNDER_ASAN

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not UNDER_ASAN, reason="there is no sanitizer"),
]

OVERRUN = """
import ctypes, os, sys
from inbound_audit.cli import landlock

def overrun():
    take = ctypes.CDLL(None).malloc
    take.restype = ctypes.c_void_p
    ctypes.memset(take(16), 1, 64)

if os.fork() == 0:
    landlock.restrict([], [])
    overrun()
assert os.wait()[1] != 0
overrun()
"""


def test_the_reports_of_a_child_and_of_a_confined_one_are_found(tmp_path: Path) -> None:
    options = re.sub("log_path=[^:]+", f"log_path={tmp_path}/report", os.environ["ASAN_OPTIONS"])
    environment = {**os.environ, "ASAN_OPTIONS": options}
    done = subprocess.run([sys.executable, "-c", OVERRUN], env=environment, stderr=subprocess.DEVNULL, check=False)
    assert done.returncode != 0
    said = "".join(path.read_text() for path in tmp_path.iterdir())
    assert said.count("ERROR: AddressSanitizer: heap-buffer-overflow") == 2, said
