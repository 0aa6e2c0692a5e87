"""The decision log of a command that serves, as its options say."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from inbound_audit.cli.failure import Failure, reason
from inbound_audit.listeners.decision_log import DecisionLog
from inbound_audit.listeners.log_sinks import (
    JOURNAL,
    SYSLOG,
    LogFile,
    LogSocket,
    Sink,
    journal_message,
    syslog_message,
)
from inbound_audit.nodes import THIS_HOST, nodes_of

if TYPE_CHECKING:
    from inbound_audit import InboundAudit
    from inbound_audit.cli.settings import Settings


def decision_log(settings: Settings, audit: InboundAudit) -> DecisionLog | None:
    """None if none is wanted. Raises Failure."""
    if settings.decision_log is None:
        return None
    try:
        sink = _sink(settings.decision_log)
    except OSError as error:
        raise _failure(settings.decision_log, error) from None
    return DecisionLog(
        sink, accepted=settings.log_accepted, rate=settings.log_rate, node=lambda: _name_of_this_host(audit)
    )


def file_of(target: str) -> str | None:
    """The file of `--decision-log`; None for a log service."""
    return None if target.partition(":")[0] in _SERVICES else target


def _sink(target: str) -> Sink:
    """Raises OSError."""
    name, _, path = target.partition(":")
    if file_of(target) is not None:
        return LogFile(target)
    usual, render = _SERVICES[name]
    return LogSocket(path or usual, render)


def reopen(log: DecisionLog) -> None:
    """Raises Failure."""
    try:
        log.reopen()
    except OSError as error:
        raise _failure(log.sink.path, error) from None


_SERVICES = {"syslog": (SYSLOG, syslog_message), "journald": (JOURNAL, journal_message)}


def _failure(path: str, error: OSError) -> Failure:
    return Failure(f"--decision-log {path}: {reason(error)}")


def _name_of_this_host(audit: InboundAudit) -> str:
    """Its name in the cluster; without an agent, its host name."""
    return next((node.name for node in nodes_of(audit) if node.state == THIS_HOST), socket.gethostname())
