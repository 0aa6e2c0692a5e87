"""What the tests of Sieve policies share: policies written on the spot, and short ways from a script to its answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inbound_audit import InboundAudit, Session, SievePolicy, Verdict
from inbound_audit.errors import PolicyError

PATIENT_MS = 600_000
"""`max_hook_ms` of tests in which no hook takes too long."""


class Bench:
    """An audit with one SMTP listener, and policies written on the spot."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.audit = InboundAudit(capacity=1 << 22, **options)
        self.listener = self.audit.listener()
        self.sessions: list[Session] = []

    def write(self, script: str | bytes, name: str = "policy.sieve") -> Path:
        path = self.directory / name
        path.write_bytes(script if isinstance(script, bytes) else script.encode("utf-8"))
        return path

    def policy(self, script: str | bytes, **options: object) -> SievePolicy:
        """A policy whose whole script is `script`. Its hooks have time for a busy machine, unless it is given."""
        return SievePolicy(self.write(script), **{"max_hook_ms": PATIENT_MS, **options})  # type: ignore[arg-type]

    def session(self, remote: str = "192.0.2.7") -> Session:
        session = self.listener.session(remote)
        self.sessions.append(session)
        return session

    def verdict(self, script: str | bytes, remote: str = "192.0.2.7") -> Verdict:
        """What a script says of a session; it must not fail."""
        policy = self.policy(script)
        with self.listener.session(remote) as ac:
            verdict = policy.validate_connect(ac)
        assert policy.errors == 0, policy.last_error
        return verdict

    def say(self, value: str, setup: str = "", remote: str = "192.0.2.7") -> str:
        """A value of the language as a text shows it; its expression is assigned after `setup` has run."""
        return self.verdict(f'{setup}\n$value = {value};\nec_action 250 "=${{value}}";', remote).text[1:]

    def holds(self, test: str, setup: str = "", remote: str = "192.0.2.7") -> bool:
        """Whether a test holds."""
        script = f'{setup}\nif {test} {{ ec_action 250 "yes"; }} else {{ ec_action 250 "no"; }}'
        return {"yes": True, "no": False}[self.verdict(script, remote).text]

    def fails(self, script: str, remote: str = "192.0.2.7") -> str:
        """The error in which a run of the script ends."""
        policy = self.policy(script)
        with self.listener.session(remote) as ac:
            assert policy.validate_connect(ac)
        assert policy.errors == 1
        assert policy.last_error is not None
        return policy.last_error.removeprefix("policy.sieve:")

    def refuses(self, script: str | bytes) -> str:
        """The error with which a script is refused when it is loaded, from its line on."""
        path = self.write(script)
        with pytest.raises(PolicyError) as refused:
            SievePolicy(path)
        return str(refused.value).removeprefix(f"{path}:")

    def happen(self, kind: str, host: str, times: int) -> None:
        """So many connections, receptions or rejections of a host, now; the last two take one connection."""
        if kind == "connections":
            for _ in range(times):
                self.listener.session(host).close()
        else:
            with self.listener.session(host) as session:
                {"receptions": session.record_reception, "rejections": session.record_rejection}[kind](times)

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.audit.close()


def bench_of(directory: Path, **options: Any) -> Iterator[Bench]:
    """For a fixture: a bench that cleans up, and `options` of its audit."""
    bench = Bench(directory, **options)
    try:
        yield bench
    finally:
        bench.close()
