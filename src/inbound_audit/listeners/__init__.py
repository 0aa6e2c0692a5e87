"""Listeners: adapters that count the connections of a server framework, one per file.

    guard     counts a connection and asks the policy; every adapter uses it
    pending   the gate of asyncio servers: a connection until it is accepted or refused
    aio       asyncio servers
    smtp      aiosmtpd; smtp_session, smtp_policy and proxy: its parts
    threads   socketserver

Import an adapter by its own name; a program then loads only the frameworks that it uses.
"""

from __future__ import annotations

from inbound_audit.listeners.guard import Admission, Guard
from inbound_audit.policy.base import Policy

__all__ = ["Admission", "Guard", "Policy"]
