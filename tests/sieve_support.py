"""What the tests of Sieve policies share: policies written on the spot, and short ways from a script to its answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from inbound_audit import InboundAudit, Session, SievePolicy, Verdict
from inbound_audit.errors import PolicyError
from inbound_audit.sieve.windows import KINDS


class Bench:
    """An audit with one SMTP listener, and policies written on the spot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.audit = InboundAudit(capacity=1 << 22)
        self.listener = self.audit.listener()
        self.sessions: list[Session] = []

    def write(self, script: str | bytes, name: str = "policy.sieve") -> Path:
        path = self.directory / name
        path.write_bytes(script if isinstance(script, bytes) else script.encode("utf-8"))
        return path

    def policy(self, script: str | bytes, **options: object) -> SievePolicy:
        """A policy whose whole script is `script`."""
        return SievePolicy(self.write(script), **options)  # type: ignore[arg-type]

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

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.audit.close()


def bench_of(directory: Path) -> Iterator[Bench]:
    """For a fixture: a bench that cleans up."""
    bench = Bench(directory)
    try:
        yield bench
    finally:
        bench.close()


# An audit that counts over time, as far as scripts ask one, until there is such an audit: it notes what it is asked,
# and `ask` makes a session of it. With the real one these go, and the tests that use them ask it.
class Definition(NamedTuple):
    name: str
    type: str
    interval: int
    num_windows: int
    serialize: bool
    replicate: bool


@dataclass
class FakeSeries:
    known: dict[str, Definition] = field(default_factory=dict)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    answer: int = 7

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.known)

    def defined(self, name: str) -> Definition:
        return self.known[name]

    def define(self, name: str, type: str, interval: int, num_windows: int, *, serialize=False, replicate=False):  # type: ignore[no-untyped-def]
        self.known[name] = Definition(name, type, interval, num_windows, serialize, replicate)

    def add(self, name: str, key: str | None = None, count: int = 1, *, ac: object = None) -> None:
        assert ac is not None
        self.calls.append(("add", name, key, count))

    def count(self, name: str, key: str | None = None, startv: int = 0, endv: int = 0, *, ac: object = None) -> int:
        assert ac is not None
        self.calls.append(("count", name, key, startv, endv))
        return self.answer


@dataclass
class FakeAudit:
    series: FakeSeries = field(default_factory=FakeSeries)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    answer: float = 7.9

    def __getattr__(self, name: str) -> Any:
        if name not in KINDS:
            raise AttributeError(name)
        return lambda *arguments, ac: self._count(name, *arguments)

    def _count(self, *call: object) -> int:
        if call[1] not in (0, 1, "300,6", "1800,4"):
            raise ValueError(f"{call[1]!r}: no such monitor")  # as MonitorError is one
        self.calls.append(call)
        return int(self.answer)

    def sliding_average(self, kind: str, monitor: object, cidr: str, *, ac: object) -> float:
        self._count("average", monitor, kind, cidr)
        return self.answer


def ask(policy: SievePolicy, audit: FakeAudit) -> Verdict:
    """What a policy says of a session of such an audit."""
    ac: Any = SimpleNamespace(listener=SimpleNamespace(audit=audit), remote_ip="192.0.2.7")
    return policy.validate_connect(ac)
