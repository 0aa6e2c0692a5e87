"""`audit.series`: the named series of an audit, with their definitions and what is kept of them in files."""

from __future__ import annotations

import ipaddress
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from inbound_audit import _ipcount
from inbound_audit.errors import SeriesError, named_keywords
from inbound_audit.process import ProcessLock
from inbound_audit.series.definition import DEFAULT_BYTES, FAMILIES, Definition, check, contradiction

if TYPE_CHECKING:
    from inbound_audit.persist import StateStore
    from inbound_audit.shared.membership import Membership

logger = logging.getLogger("inbound_audit.series")


class Folded(NamedTuple):
    """A window (0 is the current one) in which `hosts` hosts were folded to prefixes of these lengths or shorter ones;
    32 and 128: no host of that family was folded."""

    window: int
    ipv4: int
    ipv6: int
    hosts: int


class SeriesSet(_ipcount.SeriesTable):
    """The named series of an audit: `audit.series`.

    >>> from inbound_audit import InboundAudit
    >>> audit = InboundAudit()
    >>> _ = audit.series.define("failures", "ip", 300, 6)
    >>> audit.series.add("failures", "192.0.2.7", 2)
    >>> audit.series.count("failures", "192.0.2.0/24", 0, 5)
    2

    Lock rule: `_lock` protects the definitions and the state store. The core protects the windows.
    """

    def __init__(
        self,
        audit: _ipcount.Audit,
        state: str | os.PathLike[str] | None = None,
        membership: Membership | None = None,
    ) -> None:
        """`state`: the directory of kept series. `membership`: of a shared audit, reaches the other owners."""
        self._windows = _ipcount.SeriesStore(audit)
        self._state = state
        self._membership = membership
        self._definitions: dict[str, Definition] = {}
        self._store: StateStore | None = None
        self._lock = ProcessLock()

    # ---- definitions

    @named_keywords
    def define(
        self,
        name: str,
        type: str = "ip",
        interval: int = 300,
        num_windows: int = 6,
        *,
        serialize: bool = False,
        replicate: str = "none",
        persist: bool = False,
        max_hosts: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
    ) -> Definition:
        """Makes a series of `num_windows` windows of `interval` seconds. The same definition again changes nothing.

        `type` says what a key is: ``"ip"`` an address of either family; ``"cidr"`` an IPv4 and ``"cidr_ipv6"`` an IPv6
        address, as in the reference: an address of the other family adds nothing and counts 0, and the first one logs a
        warning; ``"string"`` a text.

        `max_bytes` is for all windows together, each has an equal share; `max_hosts` is per window. Beyond either bound
        a window gives up its finest detail, and no count is lost (`folded`). With `persist` the counts survive a
        restart; with `serialize` each change is a line in a change log. Both are files in the audit's `state`
        directory. `replicate` says which hosts of a cluster count what this one adds: ``"cluster"`` all,
        ``"manager"`` those whose agent is a manager, ``"none"`` no other. Each of these options may be set in a later
        definition as well, and stays set.

        Raises SeriesError for an invalid value or a definition that contradicts an earlier one, CapacityError when
        there is no room for the windows, and SharedStateError when the `state` directory can't be used: then the
        series counts, and nothing is kept.
        """
        name = str.__str__(name) if isinstance(name, str) else name  # of StrEnum, say: the core takes exact texts
        wanted = Definition(name, type, interval, num_windows, serialize, replicate, persist, max_hosts, max_bytes)
        check(wanted)
        with self._lock:
            known = self._definitions.get(name)
            if known is None:
                known = self._make(wanted)
            elif why := contradiction(known, wanted):
                raise SeriesError(f"{name!r}: is defined already, and {why}")
            return self._keep(known, wanted)

    def _make(self, wanted: Definition) -> Definition:
        self._define_windows(wanted)
        known = self._definitions[wanted.name] = wanted._replace(serialize=False, persist=False)
        self._announce()
        return known

    def _define_windows(self, wanted: Definition) -> None:
        self._windows.define(
            "strings" if wanted.type == "string" else "series",
            wanted.name,
            wanted.interval,
            wanted.num_windows,
            wanted.window_bytes,
            wanted.max_hosts or 0,
            FAMILIES.get(wanted.type, 0),
            _ipcount.REPLICATE[wanted.replicate],
        )

    def _keep(self, known: Definition, wanted: Definition) -> Definition:
        """Begins to persist, to log or to replicate a series that was not before."""
        if wanted.replicate not in ("none", known.replicate):
            known = self._definitions[known.name] = known._replace(replicate=wanted.replicate)
            self._define_windows(known)
        if wanted.persist and not known.persist:
            self.state_store().keep(*known[:4])
            known = self._definitions[known.name] = known._replace(persist=True)
        if wanted.serialize and not known.serialize:
            self.state_store().log(known.name)
            known = self._definitions[known.name] = known._replace(serialize=True)
        return known

    def _announce(self) -> None:
        """Waits until the other owners of a shared audit have scanned our windows."""
        if self._membership is not None:
            self._membership.wait_until_scanned()

    def ensure_negative_trees(self, name: str) -> bool:
        """Makes the trees for removed counts, and the other owners scan them before a count is removed."""
        made = super().ensure_negative_trees(name)
        if made:
            self._announce()
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """The series that are defined here, in the order of their definitions."""
        return tuple(self._definitions)

    def defined(self, name: str) -> Definition:
        """The definition of a series. Raises SeriesError for an unknown name."""
        definition = self._definitions.get(name)
        if definition is None:
            raise _ipcount.window_error(_ipcount.NO_SUCH_SERIES, None, name, self._audit)
        return definition

    # ---- counts

    def remove_item(self, name: str, key: object = None, *, ac: _ipcount.Session | None = None) -> None:
        """Removes a key from all windows, in all processes of a shared audit. Raises as `add` does.

        A key that was folded is part of a prefix, and its counts stay. O(windows x bytes of the address).
        """
        self.remove_here(name, key, ac=ac)
        if self._membership is not None:
            text = _text_of(ac if key is None and ac is not None else key)
            for why in self._membership.request_others({"do": "remove", "series": name, "key": text}):
                logger.warning("series %s: %s was not removed everywhere: %s", name, text, why)

    def folded(self, name: str) -> list[Folded]:
        """The windows of this process that gave up detail, the current one first. Raises SeriesError."""
        return [Folded(*row) for row in self._windows.folded(name)]

    def hosts(self, name: str) -> int:
        """The distinct hosts of each window of this process, added up. Raises SeriesError."""
        return self._windows.hosts(name)

    def memory(self, name: str) -> int:
        """The bytes that the windows of this process use. Raises SeriesError."""
        return self._windows.memory(name)

    # ---- files

    def state_store(self) -> StateStore:
        """What reads and writes the files of kept series. Made at the first call."""
        with self._lock:
            if self._store is None:
                from inbound_audit.persist import StateStore  # threads and files: only for an audit that keeps a series

                self._store = StateStore(self._audit, self._state)
            return self._store

    def save(self) -> None:
        """Writes every persisted series now. Raises OSError or SharedStateError."""
        if self._store is not None:
            self._store.save()

    def save_before_close(self) -> None:
        """Saves for the last time, before the counts are dropped."""
        if self._store is not None:
            self._store.leave()

    def release_files(self) -> None:
        """Lets the files go when the counts are dropped: from now on other processes may adopt what was saved."""
        store, self._store = self._store, None
        if store is not None:
            store.forget()


def _text_of(key: object) -> str:
    """A key as JSON can have it: neither packed addresses nor getpeername() tuples."""
    if isinstance(key, _ipcount.Session):
        return key.remote_ip
    if isinstance(key, tuple):
        return str(key[0])
    if isinstance(key, (bytes, bytearray, memoryview)):
        return str(ipaddress.ip_address(bytes(key)))
    return str(key)
