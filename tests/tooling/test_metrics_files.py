"""Prometheus's own tool reads the alert rules, and what `inbound-audit metrics` prints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

import inbound_audit.metrics
from inbound_audit import InboundAudit
from inbound_audit.metrics.figures import SharedAudit
from inbound_audit.metrics.prometheus import registry_of

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")

ALERTS = Path(inbound_audit.metrics.__file__).with_name("alerts.yml")


def promtool(*arguments: str, given: bytes = b"") -> str:
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return (done.stdout + done.stderr).decode()


def test_promtool_takes_the_alert_rules() -> None:
    rules = ALERTS.read_text().count("- alert:")
    assert f"{rules} rules found" in promtool("check", "rules", str(ALERTS))


def test_promtool_has_nothing_against_the_names(place: Path) -> None:
    with InboundAudit(shared="mail", capacity=1 << 20, monitors=["60,5"]) as audit, audit.listener().session("::1"):
        shared = SharedAudit("mail", top=3)
        text = generate_latest(registry_of([shared]))
        shared.close()
    assert promtool("check", "metrics", given=text) == ""
