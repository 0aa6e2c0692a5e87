"""Shared mode: the sessions of all processes of a host that name the same audit, counted together.

    places        where the directory is: of a service, of a user
    directory     the directory, open: which user may write to it
    changes       which of its files have changed
    owner_file    a process's file: created, locked, published, removed
    scanner       discovers the files of other owners and drops the dead ones
    membership    a process that counts: its own file, and the thread that scans
    view          a read-only view for a process that is not a member
    control       how a process is asked to change its own counts

What the files hold, and why readers need no lock, is said in `_core/foreign.pxd` and drawn in docs/bytes.md.
"""

from inbound_audit.shared.places import directory_of, find_directory
from inbound_audit.shared.scanner import ListenerInfo, OwnerInfo
from inbound_audit.shared.view import View

__all__ = ["ListenerInfo", "OwnerInfo", "View", "directory_of", "find_directory"]
