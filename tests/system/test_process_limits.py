"""A program that ends with open sessions says nothing; one with little address space counts."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from tests.support.forking import UNDER_ASAN

KEPT = {
    "session": "sys.kept = audit.listener().session('192.0.2.1')",
    "cycle": "kept = [audit.listener().session('192.0.2.1')]; kept.append(kept); sys.kept = kept",
    "audit": "sys.kept = audit",
    "admission": "from inbound_audit.listeners import Guard; sys.kept = Guard(audit.listener()).admit(('::1', 1))",
    "counter": "from inbound_audit import PrefixCounter; sys.kept = PrefixCounter(); sys.kept.add('192.0.2.1')",
    "series": "audit.series.define('s', 'ip', 60, 2); sys.kept = audit.series; sys.kept.add('s', '192.0.2.1')",
}


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    begin = "import sys\nfrom inbound_audit import InboundAudit, PrefixCounter\n"
    command = [sys.executable, "-c", begin + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("options", ["", "shared='exit'"])
@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_what_is_kept_until_the_interpreter_ends_is_silent(place: object, kept: str, options: str) -> None:
    done = run(f"audit = InboundAudit({options})\n{kept}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.memory
@pytest.mark.skipif(UNDER_ASAN, reason="a sanitizer reserves address space of its own")
@pytest.mark.parametrize("size", [200 << 20, 300 << 20, 600 << 20, 2 << 30])
def test_little_address_space_is_enough_for_the_default(place: object, size: int) -> None:
    """`ulimit -v`, or a container: the default reservation is made smaller."""
    code = (
        "audit = InboundAudit()\n"
        "kept = [audit.listener(name).session('192.0.2.1') for name in ('SMTP', 'IMAP')]\n"
        "counter = PrefixCounter()\n"
        "counter.add('192.0.2.1')\n"
        "print(audit.total(), counter.total)\n"
        "try:\n"
        "    InboundAudit(capacity=4 << 30).listener()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
        "[session.close() for session in kept]\n"
    )
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))}
    done = run(code, **limits)
    assert (done.stdout, done.stderr) == ("1 1\nCapacityError\n", "")
