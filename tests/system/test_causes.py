"""What the system refuses is named, with what to do about it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.places import mounts_are_possible, run_inside

from inbound_audit.errors import cause_of

pytestmark = [pytest.mark.system, pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")]

BEGIN = """
import resource, sys
import inbound_audit.series.requests, inbound_audit.shared.membership
from inbound_audit import InboundAudit
from inbound_audit.errors import CapacityError, SharedStateError

def limit(what, number):
    resource.setrlimit(what, (number, resource.getrlimit(what)[1]))

def fails(kind, words, job):
    try:
        job()
    except kind as error:
        assert words in str(error) and "system that holds" not in str(error), error
    else:
        raise AssertionError("it did not fail")

def fill(audit, n=1_000_000):
    listener = audit.listener()
    return [listener.session(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(n)]
"""


def run(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_may_not_grow(place: object) -> None:
    run("""
limit(resource.RLIMIT_FSIZE, 1 << 20)
audit = InboundAudit(shared="x", capacity=1 << 24)
fails(CapacityError, "File too large (this process may not write files that large: ulimit -f", lambda: fill(audit))
fails(CapacityError, "ulimit -f", lambda: audit.listener("Control"))
fails(CapacityError, "ulimit -f", lambda: audit.series.define("f", "ip", 60, 2, max_bytes=1 << 20))
limit(resource.RLIMIT_FSIZE, 1000)
fails(CapacityError, "ulimit -f", lambda: InboundAudit(shared="y"))
""")


JOBS_THAT_OPEN = {
    "audit": "InboundAudit(shared=name).close()",
    "group": "InboundAudit(shared=name, group=str(os.getgid())).close()",
    "session": "made = InboundAudit(shared=name); made.listener('S').session('10.0.0.1'); made.close()",
    "series": "made = InboundAudit(shared=name); made.series.define('f', 'ip', 60, 2); made.close()",
    "kept": "made = InboundAudit(state=name); made.series.define('f', 'ip', 60, 2, persist=True); made.close()",
    "log": "made = InboundAudit(state=name); made.series.define('f', 'ip', 60, 2, serialize=True); made.close()",
    "top": "made = InboundAudit(shared=name); made.top(1); made.close()",
}


@pytest.mark.parametrize("job", JOBS_THAT_OPEN)
def test_no_descriptor_is_left(place: object, tmp_path: Path, job: str) -> None:
    """After each number of descriptors that could still be opened. With enough of them the job succeeds."""
    run(f"""
import os
os.chdir({str(tmp_path)!r})

def work(name):
    {JOBS_THAT_OPEN[job]}

work("first")  # what it imports is there from now on
last = os.dup(0)
while (number := os.dup(0)) != last + 1:  # until no number below the last one is free
    last = max(last, number)
failed = 0
for left in range(60):
    limit(resource.RLIMIT_NOFILE, number + 1 + left)
    try:
        work(f"left{{left}}")
    except (CapacityError, SharedStateError) as error:
        assert "ulimit -n" in str(error), (left, error)
        failed += 1
    else:
        break
assert 0 < failed < 60, failed
limit(resource.RLIMIT_NOFILE, number + 100)
work("last")
""")


@pytest.mark.skipif(not mounts_are_possible(), reason="needs root, and mounts of its own (unshare)")
@pytest.mark.parametrize(
    ("options", "words"),
    [("size=256k", "No space left on device (the file system is full"), ("ro", "Read-only file system (the file")],
)
def test_a_file_system_that_refuses(options: str, words: str) -> None:
    run_inside(f"""
        from inbound_audit.errors import InboundAuditError
        os.mkdir("/run/small")
        subprocess.run(["mount", "-t", "tmpfs", "-o", {options!r}, "tmpfs", "/run/small"], check=True)
        os.environ["INBOUND_AUDIT_SHM"] = "/run/small"
        try:
            audit = InboundAudit(shared="x")
            listener = audit.listener()
            kept = [listener.session(f"10.{{i >> 8}}.{{i & 255}}.1") for i in range(60000)]
        except InboundAuditError as error:
            assert {words!r} in str(error), error
        else:
            raise AssertionError("it did not fail")
        """)


NAMES = "EFBIG ENOSPC EDQUOT EMFILE ENFILE ENOMEM EACCES EPERM EROFS ENOLCK EOPNOTSUPP EIO"


@pytest.mark.parametrize("number", [getattr(errno, name) for name in NAMES.split()])
def test_each_cause_has_advice(number: int) -> None:
    assert cause_of(number).endswith(")")
    assert cause_of(OSError(number, "x")) == cause_of(number)


def test_a_cause_without_advice() -> None:
    assert cause_of(errno.ENOENT) == "No such file or directory"
    assert cause_of(OSError("text alone")) == "text alone"
