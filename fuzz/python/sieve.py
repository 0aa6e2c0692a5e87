"""Policies in Sieve: any bytes are a policy or are refused with line and column; a policy that runs has a verdict."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from inbound_audit import InboundAudit, SievePolicy
from inbound_audit.errors import PolicyError

logging.getLogger("inbound_audit").setLevel(logging.CRITICAL)
audit = InboundAudit(capacity=1 << 20, monitors=["300,6"], monitor_bytes=1 << 20)
listener = audit.listener("SMTP")
directory = tempfile.TemporaryDirectory()
path = Path(directory.name) / "policy.sieve"


def run(data: bytes) -> None:
    path.write_bytes(data)
    try:
        policy = SievePolicy(path)
    except PolicyError as error:
        assert str(error).startswith(f"{path}:"), error
        return
    for remote in ("192.0.2.7", "2001:db8::7"):
        with listener.session(remote) as ac:
            verdict = policy.validate_connect(ac)
        assert verdict.code == 0 or 200 <= verdict.code <= 599, verdict
        assert 0 <= verdict.tarpit < float("inf"), verdict
        assert isinstance(verdict.text, str)
        if policy.errors:
            assert policy.last_error is not None
            assert policy.last_error.startswith("policy.sieve:"), policy.last_error
    policy.close()
