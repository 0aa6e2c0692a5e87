"""Who else is there: the owners' files of a place, mapped while their owners live."""

from __future__ import annotations

import logging
import os
import stat
from time import monotonic_ns
from typing import NamedTuple

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, OtherVersionError, SharedStateError
from inbound_audit.shared import files
from inbound_audit.shared.place import Place

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


class _Met:
    """An owner's file that we hold open."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.stat = os.fstat(fd)
        self.mapped: _ipcount.OwnerFile | None = None
        self.damaged: str | None = None
        self.strange = False

    def __del__(self) -> None:
        os.close(self.fd)


class Neighbours:
    """The owners of a place besides ourselves. `look` is the only thing here that takes system calls.

    Lock rule: one thread at a time; the caller's.
    """

    def __init__(
        self,
        audit: _ipcount.Audit,
        place: Place,
        *,
        remove_dead: bool,
        pid: int | None = None,
        owner: str | None = None,
    ) -> None:
        self._audit = audit
        self._place = place
        self._remove_dead = remove_dead
        self._pid = pid
        self._owner = owner
        self._met: dict[str, _Met] = {}

    def look(self, own: int | None = None) -> None:
        """Drops owners that are dead and finds those that are new, but the one whose file is open as `own`.

        O(owners) system calls. Raises OSError when this process has no descriptor left to look with.
        """
        _ipcount.watch_faults()
        for name, met in list(self._met.items()):
            if files.has_owner(met.fd):
                self._regard(name, met)
            else:
                self._drop(name)
        there = set(self._place.names())
        for name in there:
            if name not in self._met and files.NAME.fullmatch(name) and self._owner in (None, files.id_of(name)):
                self._approach(name, own)
            elif self._remove_dead and files.SOCKET.fullmatch(name) and f"{name[:16]}.owner" not in there:
                files.remove_if_alone(self._place, name)

    def move(self, place: Place) -> None:
        """The same audit has another directory now."""
        self.forget()
        self._place = place

    def forget(self) -> None:
        """Lets all of them go."""
        for name in list(self._met):
            self._leave(name)

    @property
    def looks(self) -> dict[str, int]:
        """How often each has looked around, by name; odd while it does."""
        return {name: met.mapped.scan_count for name, met in self._met.items() if met.mapped is not None}

    @property
    def owners(self) -> list[OwnerInfo]:
        found = []
        for name, met in sorted(self._met.items()):
            mapped = met.mapped
            if mapped is not None and self._pid in (None, mapped.pid):
                listeners = tuple(ListenerInfo(*row) for row in mapped.listeners)
                found.append(OwnerInfo(files.id_of(name), mapped.pid, mapped.started, listeners, None))
            elif met.damaged is not None and self._pid is None:
                found.append(OwnerInfo(files.id_of(name), 0, 0.0, (), met.damaged))
        return found

    @property
    def strangers(self) -> list[tuple[str, str]]:
        """Owners that live and write another layout: name and why."""
        return [(name, met.damaged) for name, met in self._met.items() if met.strange and met.damaged is not None]

    def _approach(self, name: str, own: int | None) -> None:
        fd = files.open_to_read(self._place, name)
        if fd is None:
            return
        met = _Met(fd)
        # A file may have two names; it counts once.
        known = [other.fd for other in self._met.values()] + ([] if own is None else [own])
        if not stat.S_ISREG(met.stat.st_mode) or any(os.path.samestat(met.stat, os.fstat(other)) for other in known):
            return
        if files.has_owner(fd):
            self._met[name] = met
            self._regard(name, met)
        else:
            self._remove(name)

    def _regard(self, name: str, met: _Met) -> None:
        found = os.fstat(met.fd)
        try:
            if met.mapped is None:
                met.mapped = self._audit._map_owner(met.fd, found.st_size)
            if self._pid is not None and met.mapped.pid != self._pid:
                return
            met.mapped.refresh(found.st_size, 512 * found.st_blocks, monotonic_ns())
            needed = met.mapped.needed
            if os.fstat(met.fd).st_size < needed:  # asked again: the file may have grown since
                raise SharedStateError("was cut short by somebody")
        except InboundAuditError as error:
            if met.damaged != str(error):
                logger.warning("%s/%s: %s; its sessions are not counted", self._place.path, name, error)
            met.damaged = str(error)
            met.strange = isinstance(error, OtherVersionError)
            self._unmap(met)
        else:
            met.damaged, met.strange = None, False

    def _unmap(self, met: _Met) -> None:
        if met.mapped is not None:
            met.mapped.detach(monotonic_ns())
            met.mapped = None

    def _leave(self, name: str) -> None:
        self._unmap(self._met.pop(name))

    def _drop(self, name: str) -> None:
        ours = os.fstat(self._met[name].fd)
        self._leave(name)
        try:
            there = os.stat(name, dir_fd=self._place.fd, follow_symlinks=False)
        except OSError:
            return
        if os.path.samestat(ours, there):
            self._remove(name)

    def _remove(self, name: str) -> None:
        if self._remove_dead:
            files.remove(self._place, name)
