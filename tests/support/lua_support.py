"""What the tests of Lua policies share: every kind of Lua, and a short way from a hook's body to its answer."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.sieve_support import PATIENT_MS

from inbound_audit import InboundAudit, LuaPolicy, Session, Verdict


class Kind(NamedTuple):
    """Which of lupa's Luas, and how accept constructs are handed over."""

    lua: str
    ffi: bool


KINDS = {
    "luajit-ffi": Kind("luajit21", True),
    "luajit-portable": Kind("luajit21", False),
    "luajit20-ffi": Kind("luajit20", True),
    "lua51": Kind("lua51", False),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class Bench:
    """An audit with one SMTP listener, and policies written on the spot. `audit` are arguments of InboundAudit."""

    def __init__(self, directory: Path, kind: Kind, **audit: object) -> None:
        self.directory = directory
        self.kind = kind
        self.audit = InboundAudit(**audit)  # type: ignore[arg-type]
        self.listener = self.audit.listener()
        self.sessions: list[Session] = []
        self.policies: list[LuaPolicy] = []

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def policy(self, text: str, **options: object) -> LuaPolicy:
        """A policy whose whole script is `text`. Its hooks have time for a busy machine, unless it is given."""
        path = self.write("policy.lua", text)
        policy = LuaPolicy(path, **{"max_hook_ms": PATIENT_MS, **self.kind._asdict(), **options})  # type: ignore[arg-type]
        self.policies.append(policy)
        return policy

    def hook(self, body: str, hook: str = "validate_connect(ac, vctx)", **options: object) -> LuaPolicy:
        """A policy of one hook."""
        script = f"local mod = {{}}\nfunction mod:{hook}\n{body}\nend\nmsys.registerModule('m', mod)\n"
        return self.policy(script, **options)

    def session(self, remote: str = "192.0.2.7:25", local: str | None = None) -> Session:
        session = self.listener.session(remote, local)
        self.sessions.append(session)
        return session

    def connect(self, body: str, **options: object) -> Verdict:
        """What a hook of that body answers to a session from 192.0.2.7."""
        return self.hook(body, **options).validate_connect(self.session())

    def say(self, expression: str, setup: str = "", remote: str = "192.0.2.7:25", **options: object) -> str:
        """The value of a Lua expression inside of validate_connect, as Lua's tostring shows it."""
        policy = self.hook(f"{setup}\nvctx:set_code(250, tostring({expression}))", **options)
        verdict = policy.validate_connect(self.session(remote))
        assert policy.errors == 0, policy.last_error
        return verdict.text

    def fails(self, body: str, **options: object) -> str:
        """The error in which a hook of that body ends."""
        policy = self.hook(body, **options)
        policy.validate_connect(self.session())
        assert policy.errors == 1
        assert policy.last_error is not None
        return policy.last_error

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        for policy in self.policies:
            policy.close()
        self.audit.close()


MakeBench = Callable[[Kind], Bench]


def bench_of(directory: Path, kind: Kind, **audit: object) -> Iterator[Bench]:
    """For a fixture: a bench that cleans up."""
    bench = Bench(directory, kind, **audit)
    try:
        yield bench
    finally:
        bench.close()
