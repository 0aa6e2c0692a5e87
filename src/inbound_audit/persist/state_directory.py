"""The state directory: where kept series and their logs lie, and whose it may be.

What lies there is counted, so nobody else may write to it: it is made for its owner alone (0700), and one that belongs
to another user or lets others write is refused and left as it is.
"""

from __future__ import annotations

import contextlib
import os
import stat

from inbound_audit._ipcount import shared_mode_possible
from inbound_audit.errors import SharedStateError
from inbound_audit.shared.directory import Directory

VARIABLE = "INBOUND_AUDIT_STATE"
FOR_ROOT = "/var/lib/inbound_audit"


def default_directory() -> str:
    """``$INBOUND_AUDIT_STATE``; else /var/lib/inbound_audit for root, ``$XDG_STATE_HOME/inbound_audit`` or
    ~/.local/state/inbound_audit for others. It need not exist.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return os.path.abspath(named)
    if os.geteuid() == 0:
        return FOR_ROOT
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # what that convention says of relative ones: ignore them
        base = os.path.expanduser("~/.local/state")
    return os.path.join(base, "inbound_audit")


class StateDirectory(Directory):
    """The open directory at `path` (None: the default one), made when it is not there.

    Raises SharedStateError when it can't be made, or is refused.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.fd = -1
        self.path = default_directory() if path is None else os.path.abspath(path)
        if not shared_mode_possible():
            raise SharedStateError(f"{self.path}: series that are kept, or have a log, need Linux")
        try:
            _make(self.path)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SharedStateError(f"{self.path}: no state can be kept there: {error.strerror}") from None
        fault = _why_not(os.fstat(self.fd))
        if fault:
            self.close()
            raise SharedStateError(f"{self.path}: refused: {fault}")

    def sync(self) -> None:
        """What was renamed and removed stays so when the power fails. Raises OSError."""
        os.fsync(self.fd)


def _make(path: str) -> None:
    """Makes a directory and those above it that are missing, each 0700."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):  # of several processes that start together each does this
            os.mkdir(path, 0o700)


def _why_not(found: os.stat_result) -> str | None:
    if found.st_uid != os.geteuid():
        return f"it belongs to another user (uid {found.st_uid})"
    mode = stat.S_IMODE(found.st_mode)
    return f"its mode {mode:04o} lets others write; counts could be anybody's" if mode & 0o022 else None
