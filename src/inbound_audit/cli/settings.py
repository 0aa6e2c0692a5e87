"""What `inbound-audit serve` was told, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from inbound_audit.cli.sockets import Endpoint

Choice = Literal["accept", "refuse"]


@dataclass(frozen=True)
class Settings:
    """The options of `serve`. `limits` is what `Limits.from_options` takes, `grace` is in seconds."""

    listen: tuple[Endpoint, ...]
    policy: str | None
    limits: Mapping[str, int] | None
    exempt: tuple[str, ...]
    dry_run: bool
    maildir: str | None
    tls_cert: str | None
    tls_key: str | None
    proxy_from: tuple[str, ...]
    hostname: str | None
    when_full: Choice
    on_error: Choice
    grace: float
    prefixlen: tuple[int, int]
    capacity: int
    workers: int
    shared: str | None
    group: str | None
    monitor: tuple[str, ...]
    monitor_bytes: int
    state: str | None
    json: bool
    quiet: bool
    verbose: bool
    network: tuple[tuple[str, tuple[str, ...]], ...] = ()
