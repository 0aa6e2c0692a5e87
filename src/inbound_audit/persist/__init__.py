"""Named series in files: snapshots that outlive the process, and change logs.

    state_directory     the directory: where it is, and which user may write to it
    names               the names of the files there
    format              the bytes of a snapshot (docs/persistence.md draws them)
    snapshots           a snapshot's file: written whole or not at all, checked when read, set aside when damaged
    locks               one lock file per live process
    claims              snapshots of processes that have ended: which of them count, and which process adopts them
    marks               up to which line of which change log the counts go
    change_log          the change log of a series: written by the core, read here
    persisted_series    one series: what is written of it, and what was adopted
    store               all persisted and logged series of an audit

A process writes only its own snapshots, under an id that no process had before, and holds the lock of that id while it
lives. If no process holds the lock of a snapshot, a process that persists the series takes the lock, adds the counts to
its own, and writes them into its own snapshot together with the id that they came from. So a saved count counts in
exactly one file at every moment, whichever process is killed, and when.
"""

from inbound_audit.persist.change_log import Entry, read_log
from inbound_audit.persist.state_directory import StateDirectory, default_directory
from inbound_audit.persist.store import StateStore

__all__ = ["Entry", "StateDirectory", "StateStore", "default_directory", "read_log"]
