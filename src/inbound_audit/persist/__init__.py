"""What is kept of named series in files: snapshots that outlive the process, and logs of every change.

    place       the state directory: where it is, whose it may be
    names       the names of the files there
    format      the bytes of a snapshot (docs/persistence.md draws them)
    snapshots   a snapshot's file: written whole or not at all, read with care, set aside when it is damaged
    locks       who lives: one lock file a process
    orphans     snapshots of processes that have ended: whose they are now, and which of them count
    marks       up to which line of which log our counts go
    log         the log of a series: written by the core, read here
    saving      one series: what is written of it, and what we have adopted
    turn        one lock for all that this process does here; forks, and the end
    lent        what the system has lent a keeper, the thread among it
    keeper      all series of an audit

A process writes its own snapshots alone, under an id that nobody had before, and holds the lock of that id while it
lives. Where nobody holds the lock of a snapshot, who keeps that series takes the lock, adds its counts to its own, and
writes them into its own snapshot together with the id that they came from. So there is at every moment exactly one file
in which a saved count counts, whoever is killed, and when.
"""

from __future__ import annotations

from inbound_audit.persist.keeper import Keeper
from inbound_audit.persist.log import Entry, read_log
from inbound_audit.persist.place import StateDirectory, default_directory

__all__ = ["Entry", "Keeper", "StateDirectory", "default_directory", "read_log"]
