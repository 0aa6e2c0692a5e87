"""The state directory: where snapshots and change logs lie, and which user may write to it.

What lies there is counted, so no other user may write to it: it is made for its owner alone (0700), and one that
belongs to another user or lets others write is refused and left as it is.
"""

from __future__ import annotations

import os
import stat

from inbound_audit._ipcount import shared_mode_possible
from inbound_audit.descriptor import make_directories
from inbound_audit.errors import SharedStateError, cause_of
from inbound_audit.shared.directory import Directory
from inbound_audit.shared.places import first_of

VARIABLE = "INBOUND_AUDIT_STATE"
FOR_ROOT = "/var/lib/inbound_audit"


def default_directory() -> str:
    """``$INBOUND_AUDIT_STATE``; else inbound_audit in ``$STATE_DIRECTORY`` (systemd's StateDirectory=); else
    /var/lib/inbound_audit for root, and `user_state_directory` for others. It need not exist.
    """
    named, service = os.environ.get(VARIABLE), first_of("STATE_DIRECTORY")
    if named:
        return os.path.abspath(named)
    if service:
        return os.path.join(service, "inbound_audit")
    return FOR_ROOT if os.geteuid() == 0 else user_state_directory()


def user_state_directory() -> str:
    """``$XDG_STATE_HOME/inbound_audit``, or ~/.local/state/inbound_audit. It need not exist."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: ignore relative paths
        base = os.path.expanduser("~/.local/state")
    return os.path.join(base, "inbound_audit")


class StateDirectory(Directory):
    """The open directory at `path` (None: the default one), made when it is not there.

    Raises SharedStateError when it can't be made, or is refused.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = default_directory() if path is None else os.path.abspath(path)
        if not shared_mode_possible():
            raise SharedStateError(f"{self.path}: series that are persisted or logged need Linux")
        try:
            make_directories(self.path)
            found = self._open()
        except OSError as error:
            raise SharedStateError(f"{self.path}: no state can be kept there: {cause_of(error)}") from None
        fault = _why_not(found)
        if fault:
            self.close()
            raise SharedStateError(f"{self.path}: refused: {fault}")

    def sync(self) -> None:
        """Makes renames and removals survive a power failure. Raises OSError."""
        os.fsync(self.fd)


def _why_not(found: os.stat_result) -> str | None:
    if found.st_uid != os.geteuid():
        return f"it belongs to another user (uid {found.st_uid})"
    mode = stat.S_IMODE(found.st_mode)
    return f"its mode {mode:04o} lets other users write" if mode & 0o022 else None
