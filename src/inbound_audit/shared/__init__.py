"""Shared mode: the sessions of all processes of a host that name the same audit, counted together.

    place         the directory: where it is, whose it may be
    files         an owner's file: made, locked, found dead or alive
    neighbours    who else is there: finds new owners, drops dead ones
    membership    a process that counts: its own file, and the thread that looks around
    view          a look from outside, by who counts nothing
    control       how to ask a process to change its counts; answering: its side; asked: what can be asked

What the files hold, and why readers need no lock, is said in `_core/foreign.pxd` and drawn in docs/bytes.md.
"""

from __future__ import annotations

from inbound_audit.shared.neighbours import ListenerInfo, OwnerInfo
from inbound_audit.shared.place import directory_of
from inbound_audit.shared.view import View

__all__ = ["ListenerInfo", "OwnerInfo", "View", "directory_of"]
