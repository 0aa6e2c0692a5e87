"""Listeners: where the counts meet real connections, one adapter a file.

`guard` is the door that all of them share. `aio` wraps asyncio servers, `smtp` is aiosmtpd, `threads` is socketserver;
each is imported by its own name, so that nothing is imported that a program does not use.
"""

from __future__ import annotations

from inbound_audit.listeners.guard import Admission, Guard
from inbound_audit.policy.base import Policy

__all__ = ["Admission", "Guard", "Policy"]
