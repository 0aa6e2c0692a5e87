"""Who else is there: the owners' files of a place, mapped while their owners live."""

from __future__ import annotations

import logging
import os
import stat
from time import monotonic_ns
from typing import NamedTuple

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, OtherVersionError, SharedStateError
from inbound_audit.shared import owner_file
from inbound_audit.shared.directory import SharedDirectory

logger = logging.getLogger("inbound_audit.shared")


class ListenerInfo(NamedTuple):
    """A listener of another process and its open sessions."""

    service_type: str
    name: str
    total: int


class OwnerInfo(NamedTuple):
    """A process that counts. `pid` and `started` (Unix time) are its own words; `damaged`: why it can't be counted."""

    id: str
    pid: int
    started: float
    listeners: tuple[ListenerInfo, ...]
    damaged: str | None


class _OpenOwner:
    """An owner's file that we hold open."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.stat = os.fstat(fd)
        self.mapped: _ipcount.OwnerFile | None = None
        self.damaged: str | None = None
        self.strange = False

    def __del__(self) -> None:
        os.close(self.fd)


class OwnerScanner:
    """The owners of a place besides ourselves. `scan` is the only thing here that takes system calls.

    Lock rule: one thread at a time; the caller's.
    """

    def __init__(
        self,
        audit: _ipcount.Audit,
        place: SharedDirectory,
        *,
        remove_dead: bool,
        pid: int | None = None,
        owner: str | None = None,
    ) -> None:
        self._own_file = _ipcount.OwnFile(audit)
        self._place = place
        self._remove_dead = remove_dead
        self._pid = pid
        self._owner = owner
        self._files: dict[str, _OpenOwner] = {}

    def scan(self, own: int | None = None) -> None:
        """Drops owners that are dead and finds those that are new, but the one whose file is open as `own`.

        O(owners) system calls. Raises OSError when this process has no descriptor left to look with.
        """
        _ipcount.watch_faults()
        for name, file in list(self._files.items()):
            if owner_file.has_owner(file.fd):
                self._refresh_owner(name, file)
            else:
                self._drop_dead(name)
        there = set(self._place.names())
        for name in there:
            if (
                name not in self._files
                and owner_file.NAME.fullmatch(name)
                and self._owner in (None, owner_file.id_of(name))
            ):
                self._open_owner(name, own)
            elif self._remove_dead and owner_file.SOCKET.fullmatch(name) and f"{name[:16]}.owner" not in there:
                owner_file.remove_orphan_socket(self._place, name)

    def move(self, place: SharedDirectory) -> None:
        """The same audit has another directory now."""
        self.detach_all()
        self._place = place

    def detach_all(self) -> None:
        """Lets all of them go."""
        for name in list(self._files):
            self._detach(name)

    @property
    def scan_counts(self) -> dict[str, int]:
        """How often each has looked around, by name; odd while it does."""
        return {name: file.mapped.scan_count for name, file in self._files.items() if file.mapped is not None}

    @property
    def owners(self) -> list[OwnerInfo]:
        found = []
        for name, file in sorted(self._files.items()):
            mapped = file.mapped
            if mapped is not None and self._pid in (None, mapped.pid):
                listeners = tuple(ListenerInfo(*row) for row in mapped.listeners)
                found.append(OwnerInfo(owner_file.id_of(name), mapped.pid, mapped.started, listeners, None))
            elif file.damaged is not None and self._pid is None:
                found.append(OwnerInfo(owner_file.id_of(name), 0, 0.0, (), file.damaged))
        return found

    @property
    def incompatible(self) -> list[tuple[str, str]]:
        """Owners that live and write another layout: name and why."""
        return [(name, file.damaged) for name, file in self._files.items() if file.strange and file.damaged is not None]

    def _open_owner(self, name: str, own: int | None) -> None:
        fd = owner_file.open_to_read(self._place, name)
        if fd is None:
            return
        file = _OpenOwner(fd)
        # A file may have two names; it counts once.
        known = [other.fd for other in self._files.values()] + ([] if own is None else [own])
        if not stat.S_ISREG(file.stat.st_mode) or any(os.path.samestat(file.stat, os.fstat(other)) for other in known):
            return
        if owner_file.has_owner(fd):
            self._files[name] = file
            self._refresh_owner(name, file)
        else:
            self._remove(name)

    def _refresh_owner(self, name: str, file: _OpenOwner) -> None:
        found = os.fstat(file.fd)
        try:
            if file.mapped is None:
                file.mapped = self._own_file.map_owner(file.fd, found.st_size)
            if self._pid is not None and file.mapped.pid != self._pid:
                return
            file.mapped.refresh(found.st_size, 512 * found.st_blocks, monotonic_ns())
            needed = file.mapped.needed
            if os.fstat(file.fd).st_size < needed:  # asked again: the file may have grown since
                raise SharedStateError("was cut short by somebody")
        except InboundAuditError as error:
            if file.damaged != str(error):
                logger.warning("%s/%s: %s; its sessions are not counted", self._place.path, name, error)
            file.damaged = str(error)
            file.strange = isinstance(error, OtherVersionError)
            self._unmap(file)
        else:
            file.damaged, file.strange = None, False

    def _unmap(self, file: _OpenOwner) -> None:
        if file.mapped is not None:
            file.mapped.detach(monotonic_ns())
            file.mapped = None

    def _detach(self, name: str) -> None:
        self._unmap(self._files.pop(name))

    def _drop_dead(self, name: str) -> None:
        ours = os.fstat(self._files[name].fd)
        self._detach(name)
        try:
            there = os.stat(name, dir_fd=self._place.fd, follow_symlinks=False)
        except OSError:
            return
        if os.path.samestat(ours, there):
            self._remove(name)

    def _remove(self, name: str) -> None:
        if self._remove_dead:
            owner_file.remove(self._place, name)
