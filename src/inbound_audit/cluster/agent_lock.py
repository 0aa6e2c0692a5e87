"""The lock that makes one agent the agent of an audit on a host: a second one waits, as a stand-by.

The file ``agent.lock`` lies in the directory that the processes of the audit share. The lock is an OFD lock: the kernel
releases it at any death of its holder.
"""

from __future__ import annotations

import os

from inbound_audit.descriptor import Descriptor, open_regular
from inbound_audit.errors import SharedStateError, cause_of
from inbound_audit.shared import owner_file
from inbound_audit.shared.directory import SharedDirectory

NAME = "agent.lock"


class AgentLock:
    """The lock of that directory, not yet taken.

    Lock rule: one thread.
    """

    def __init__(self, place: SharedDirectory) -> None:
        self._place = place
        self._file: Descriptor | None = None

    def take(self) -> bool:
        """Takes the lock, unless another process has it; with the lock in hand: whether it still is the one that others
        find. Raises SharedStateError."""
        try:
            if self._file is not None:
                if self._is_found(self._file):
                    return True
                self.release()
            opened = open_regular(NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, at=self._place.fd)
            # Its holder removes the file when it ends: the lock of a file that has no name means nothing.
            if owner_file.lock(opened.number) and self._is_found(opened):
                self._file = opened
            else:
                opened.close()
        except OSError as error:
            raise SharedStateError(f"{self._place.path}/{NAME}: {cause_of(error)}") from None
        return self._file is not None

    def release(self) -> None:
        """Removes the file, while it is locked, and gives up the lock. Idempotent."""
        if self._file is not None:
            if self._is_found(self._file):
                owner_file.remove_name(self._place, NAME)
            self._file.close()
            self._file = None

    def _is_found(self, opened: Descriptor) -> bool:
        return self._place.identity_of(NAME) == opened.identity
