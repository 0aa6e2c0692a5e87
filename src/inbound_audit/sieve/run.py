"""What one run of a script keeps, what all runs of it share, and the verdict that a run returns."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from time import monotonic, thread_time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from inbound_audit.address_lists.lists import NetworkLists
from inbound_audit.errors import PolicyError, did_you_mean
from inbound_audit.policy.verdict import ACCEPT, REFUSAL_CODE, Verdict, cached_verdict
from inbound_audit.process import ProcessLock
from inbound_audit.regular_file import Directories
from inbound_audit.sieve.tree import At
from inbound_audit.sieve.values import Scalar, Value, joined

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session

logger = logging.getLogger("inbound_audit.sieve")

REFUSES_FROM = 400
DEFAULT_REFRESH_S = 1800
"""Between two looks at the file of an address list."""
MAX_COUNTERS = 1000
"""Names of counters; what comes after them is counted together."""
OTHERS = "others"
MAX_CHARACTERS = 1 << 24
"""Characters of all texts that one run puts together."""
SMALL = 1000
"""Characters that are compared or copied in a few microseconds."""


Item = TypeVar("Item")
_PART = 16


def with_checks(items: Sequence[Item], check: Item) -> list[Item]:
    """What runs one after the other, with a check between parts that are so short that no part needs one."""
    return [one for at, item in enumerate(items) for one in ((check, item) if at and at % _PART == 0 else (item,))]


class AddressList(NamedTuple):
    """How a script defines an address list. `kind` is the record that a match returns, ``"a"`` or ``"txt"``."""

    source: str
    kind: str
    refresh: int
    has_values: bool
    """A query returns the value of a match, else `default`; not only whether there is a match."""
    default: str
    expands: bool


class Host:
    """What all runs of one script share. `hits` counts how often its actions were taken, by the counter's name."""

    def __init__(self, path: Path, directories: Directories, max_hook_ms: int) -> None:
        self.path, self.max_hook_ms = path, max_hook_ms
        self.hits: Counter[str] = Counter()
        self._lock = ProcessLock()
        self._places: dict[int, str] = {}
        self.lists = NetworkLists(directories)
        self._defined: dict[str, AddressList] = {}

    def define_list(self, name: str, chosen: AddressList) -> None:
        """Reads an address list, unless it is there with the same options. Raises PolicyError."""
        if self._defined.get(name) != chosen:
            self.lists.define(name, chosen.source, chosen.kind, chosen.refresh)
            self._defined[name] = chosen

    def defined_list(self, name: str) -> AddressList:
        """Raises PolicyError for a list that was not defined."""
        if name not in self._defined:
            raise PolicyError(f"no address list {name!r}; define_cidr makes one{did_you_mean(name, self._defined)}")
        return self._defined[name]

    def hit(self, at: At, counter: str) -> None:
        """Counts an action, by its place when it has no counter of its own."""
        name = counter or self._places.get(at.line) or self._places.setdefault(at.line, f"{self.path.name}:{at.line}")
        hits = self.hits
        with self._lock:
            if name not in hits and len(hits) >= MAX_COUNTERS:
                name = OTHERS
            hits[name] += 1

    def log(self, at: At, message: str) -> None:
        logger.info("%s:%d: %s", self.path, at.line, message)


class Run:
    """One run: its session, its variables, its context variables, and the reply to the session as far as it is set.

    A run has bounds in time and memory. Whatever takes more than some microseconds calls `check` before the next such
    step, and each text that is put together is counted by `joined`.
    """

    # The reply. On the class, since most runs let the session in without one.
    code = 0
    text = ""
    tarpit = 0.0
    refused = leave = False
    line = 0
    """Of the action that has set it; 0: none has."""

    overrun_s = 0.0
    """How many seconds it took, if it has used up its time."""

    _characters = 0
    _deadline: float | None = None
    _began = 0.0

    def __init__(self, ac: Session, host: Host) -> None:
        self.ac = ac
        self.host = host
        self.variables: dict[str, Value] = {}

    def check(self) -> None:
        """Raises PolicyError if the run has taken too long.

        The time is that of the processor, from the first check on: a run is not to fail because the machine is busy.
        """
        now = thread_time()
        if self._deadline is None:
            self._deadline, self._began = now + self.host.max_hook_ms / 1000, monotonic()
        elif now > self._deadline:
            self.overrun_s = monotonic() - self._began
            raise PolicyError(f"the script ran for more than {self.host.max_hook_ms} ms")

    def joined(self, between: str, parts: Iterable[Scalar | str]) -> str:
        """Puts a text together. Raises PolicyError when it is too long, or all texts of the run together are."""
        made = joined(between, parts)
        self._characters += len(made)
        if self._characters > MAX_CHARACTERS:
            raise PolicyError(f"the script puts together texts of more than {MAX_CHARACTERS} characters in all")
        if len(made) > SMALL:
            self.check()
        return made

    @cached_property
    def context(self) -> dict[str, dict[str, str]]:
        """Context variables of the connection (``vctx_conn``) and of the message (``vctx_mess``)."""
        return {"vctx_conn": {}, "vctx_mess": {}}

    def reply(self, code: int, text: str, *, refused: bool = False) -> None:
        """Sets the reply; the last one counts. A code from 400 refuses, and `refused` does with any."""
        self.code, self.text = code, text
        self.refused = refused or code >= REFUSES_FROM

    def verdict(self) -> Verdict:
        """A script that only disconnects refuses: a banner would be of no use."""
        if not (self.code or self.leave or self.tarpit):
            return ACCEPT
        if self.leave and not self.code:
            return cached_verdict(False, REFUSAL_CODE, "", self.tarpit, True)
        return cached_verdict(not self.refused, self.code, self.text, self.tarpit, self.leave)
