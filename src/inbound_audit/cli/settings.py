"""The options of `inbound-audit serve`, checked and typed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from inbound_audit.cli.sockets import Endpoint, UnixEndpoint
from inbound_audit.listeners.budget import SessionBudget
from inbound_audit.policy.base import Choice
from inbound_audit.policy.limits import LimitTable

if TYPE_CHECKING:
    from inbound_audit.cli.config.source import Source
    from inbound_audit.cli.guard_server import Forwarding


@dataclass(frozen=True)
class Settings:
    """The options of `serve` by name.

    `limits` is for `Limits.from_options`; `grace` is in seconds, `message_memory` in bytes. `gate` is None if a gate is
    to accept wherever there can be one.
    """

    listen: tuple[Endpoint, ...]
    policy: str | None
    limits: LimitTable | None
    exempt: tuple[str, ...]
    dry_run: bool
    maildir: str | None
    tls_cert: str | None
    tls_key: str | None
    proxy_from: tuple[str, ...]
    hostname: str | None
    budget: SessionBudget
    message_memory: int
    when_full: Choice
    on_error: Choice
    grace: float
    prefixlen: tuple[int, int]
    capacity: int
    workers: int
    worker_timeout: float
    shared: str | None
    user: str | None
    group: str | None
    chroot: str | None
    landlock: bool
    monitor: tuple[str, ...]
    monitor_bytes: int
    state: str | None
    json: bool
    quiet: bool
    verbose: bool
    network: tuple[tuple[str, tuple[str, ...]], ...] = ()
    policy_dir: tuple[str, ...] = ()
    max_hook_ms: int = 50
    gate: bool | None = None
    shed: int | None = None
    service: str = "SMTP"
    listener: str = "default"
    to: tuple[Endpoint | UnixEndpoint, ...] = ()
    record: bool = False
    decision_log: str | None = None
    log_accepted: bool = False
    log_rate: int = 1000
    forwarding: Forwarding | None = None
    """Of a guard."""
    source: Source[Settings] | None = field(default=None, compare=False)
    """The configuration file, if there is one."""


RELOADED = frozenset({
    "policy", "limits", "exempt", "network", "policy_dir", "max_hook_ms", "dry_run", "on_error", "when_full", "monitor",
    "budget", "message_memory", "hostname", "tls_cert", "tls_key", "record", "grace", "prefixlen", "quiet", "verbose",
    "worker_timeout",
})  # fmt: skip
"""What a reload changes. All else holds from the start to the end of a process."""

_OPTIONS_OF_RELOADED = RELOADED | {"limit"} | {each.name for each in fields(SessionBudget)}


def reloaded(running: Settings) -> tuple[Settings, list[str]]:
    """The settings after a reload of their configuration file, and the keys that have changed since the start and need
    a restart. Without a file: the same ones. Raises Failure.

    Monitors are added; one that is there stays, with what it has counted.
    """
    source = running.source
    if source is None:
        return running, []
    now, differing = source.read_beside()
    kept = [name.replace("_", "-") for name in differing if name not in _OPTIONS_OF_RELOADED]
    kept += ["monitor"] * (not set(running.monitor) <= set(now.monitor))
    changed = {name: getattr(now, name) for name in RELOADED}
    changed["monitor"] = tuple(dict.fromkeys((*running.monitor, *now.monitor)))
    return replace(running, **changed), [f"{source.name}.{key}" for key in kept]
