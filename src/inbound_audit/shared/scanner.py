"""Owner discovery: the files of the other owners in a directory, attached while their owners live."""

from __future__ import annotations

import logging
import os
import stat
from time import monotonic_ns
from typing import NamedTuple

from inbound_audit import _ipcount
from inbound_audit.descriptor import Descriptor, Identity
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
    """A process with a file. It states `pid`, `started` (Unix time) and `served` (`_ipcount.SERVED`) itself; `damaged`:
    why it can't be counted."""

    id: str
    pid: int
    started: float
    listeners: tuple[ListenerInfo, ...]
    damaged: str | None
    served: tuple[int, ...] = (0,) * len(_ipcount.SERVED)

    @property
    def sessions(self) -> int:
        """Open sessions of all its listeners."""
        return sum(listener.total for listener in self.listeners)


class _OpenOwner:
    """The open file of another owner."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.mapped: _ipcount.OwnerFile | None = None
        self.damaged: str | None = None
        self.incompatible = False


class OwnerScanner:
    """The other owners of a directory. Only `scan` makes system calls.

    `node`: only the trees of that node of a cluster are attached, as if they were listeners of SMTP.

    Lock rule: the caller's; one thread at a time.
    """

    def __init__(
        self,
        audit: _ipcount.Audit,
        place: SharedDirectory,
        *,
        remove_dead: bool,
        pid: int | None = None,
        owner: str | None = None,
        node: str | None = None,
    ) -> None:
        self._own_file = _ipcount.OwnFile(audit)
        self._place = place
        self._remove_dead = remove_dead
        self._pid = pid
        self._owner = owner
        self._node = node
        self._files: dict[str, _OpenOwner] = {}
        self._names: dict[Identity, str] = {}  # a file may have two names; it counts once
        self._dropped: set[str] = set()  # the numbers of dead files, by the last scan: their ends are reported twice

    def scan(self, own: Identity | None = None, changed: set[str] | None = None) -> set[str]:
        """Drops owners that are dead and attaches those that are new, except for the file whose identity is `own`.

        `changed`: the only names that have changed since the scan before; None: any may have. Returns the names that
        were looked at: `changed`, or all that are there. O(changed) or O(owners) system calls. Raises OSError when this
        process has no descriptor left.
        """
        _ipcount.watch_faults()
        lately, self._dropped = self._dropped, set()
        for name in self._known(own, changed, lately):
            self._check(name, self._files[name])
        # model: owners/list
        there = set(self._place.names()) if changed is None else changed
        for name in there - set(self._files):
            if owner_file.NAME.fullmatch(name) and self._owner in (None, owner_file.id_of(name)):
                self._open_owner(name, own)
        if changed is None and self._remove_dead:
            for name in filter(owner_file.SOCKET.fullmatch, there):
                if f"{name[:16]}.owner" not in there:
                    owner_file.remove_unused_socket(self._place, name)
        return there

    def _known(self, own: Identity | None, changed: set[str] | None, lately: set[str]) -> list[str]:
        """The attached files among those that have changed. A file was made without a name, and the kernel reports that
        its writer closed it under the number of its inode: an unknown number may stand for any file, unless the scan
        before has dropped it (`lately`)."""
        if changed is None:
            return list(self._files)
        closed = {name for name in changed if name.startswith("#")}
        numbers = {f"#{identity[1]}": name for identity, name in self._names.items()} if closed else {}
        closed -= lately
        if own is not None:
            closed.discard(f"#{own[1]}")
        if not closed <= numbers.keys():
            return list(self._files)
        grown = {name for name, file in self._files.items() if file.mapped is not None and file.mapped.grown}
        return list(grown | (changed & self._files.keys()) | {numbers[number] for number in closed})

    def _check(self, name: str, file: _OpenOwner) -> None:
        fd = self._descriptor_of(name, file)
        if fd is None:
            self._detach(name)
        elif owner_file.has_owner(fd):  # model: owners/has_owner
            self._refresh_owner(name, file, fd)
        else:
            self._drop_dead(name)

    def move(self, place: SharedDirectory) -> None:
        """The same audit has another directory now."""
        self.detach_all()
        self._place = place

    def detach_all(self) -> None:
        """Detaches all owners."""
        for name in list(self._files):
            self._detach(name)

    @property
    def scan_counts(self) -> dict[str, int]:
        """How often each owner has begun and ended a scan, by name: odd while it scans."""
        return {name: file.mapped.scan_count for name, file in self._files.items() if file.mapped is not None}

    def __len__(self) -> int:
        """How many files are open."""
        return len(self._files)

    @property
    def owners(self) -> list[OwnerInfo]:
        found = []
        for name, file in sorted(self._files.items()):
            mapped = file.mapped
            if mapped is not None and self._pid in (None, mapped.pid):
                listeners = tuple(ListenerInfo(*row) for row in mapped.listeners)
                row = owner_file.id_of(name), mapped.pid, mapped.started, listeners, None, mapped.served
                found.append(OwnerInfo(*row))
            elif file.damaged is not None and self._pid is None:
                found.append(OwnerInfo(owner_file.id_of(name), 0, 0.0, (), file.damaged))
        return found

    @property
    def incompatible(self) -> list[tuple[str, str]]:
        """Owners that live and write another layout: name and why."""
        return [(name, file.damaged) for name, file in self._files.items() if file.incompatible and file.damaged]

    def _open_owner(self, name: str, own: Identity | None) -> None:
        descriptor = owner_file.open_to_read(self._place, name)
        if descriptor is None or descriptor.identity == own or descriptor.identity in self._names:
            return
        fd = descriptor.number
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        if owner_file.has_owner(fd):
            self._files[name] = _OpenOwner(descriptor)  # model: owners/attach
            self._names[descriptor.identity] = name
            self._refresh_owner(name, self._files[name], fd)
        else:
            self._remove(name)  # model: owners/remove_unowned

    def _descriptor_of(self, name: str, file: _OpenOwner) -> int | None:
        """The number, or None if the file is lost: other code of the process may have closed its descriptor."""
        fd = file.descriptor.current
        if fd is None:
            again = owner_file.open_to_read(self._place, name)
            if again is None or again.identity != file.descriptor.identity:
                return None
            file.descriptor, fd = again, again.number
        return fd

    def _refresh_owner(self, name: str, file: _OpenOwner, fd: int) -> None:
        found = os.fstat(fd)
        try:
            if file.mapped is None:
                file.mapped = self._own_file.map_owner(fd, found.st_size, self._node)
            if self._pid is not None and file.mapped.pid != self._pid:
                return
            file.mapped.refresh(fd, found.st_size, 512 * found.st_blocks, monotonic_ns())
            needed = file.mapped.needed
            if found.st_size < needed > os.fstat(fd).st_size:  # read again: the file may have grown since
                raise SharedStateError("was cut short by another process")
        except InboundAuditError as error:
            if file.damaged != str(error):
                logger.warning("%s/%s: %s; its sessions are not counted", self._place.path, name, error)
            file.damaged = str(error)
            file.incompatible = isinstance(error, OtherVersionError)
            self._unmap(file)
        else:
            file.damaged, file.incompatible = None, False

    def _unmap(self, file: _OpenOwner) -> None:
        if file.mapped is not None:
            file.mapped.detach(monotonic_ns())
            file.mapped = None

    def _detach(self, name: str) -> None:
        file = self._files.pop(name)
        del self._names[file.descriptor.identity]
        self._unmap(file)

    def _drop_dead(self, name: str) -> None:
        dead = self._files[name].descriptor.identity
        self._dropped.add(f"#{dead[1]}")
        self._detach(name)  # model: owners/detach
        if dead == self._place.identity_of(name):
            self._remove(name)  # model: owners/remove_dead

    def _remove(self, name: str) -> None:
        if self._remove_dead:
            owner_file.remove(self._place, name)
