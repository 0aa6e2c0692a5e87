"""One override, and how it is written as a line of JSON."""

from __future__ import annotations

import ipaddress
import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from inbound_audit._ipcount import MAX_OVERRIDES, parse_prefix
from inbound_audit.errors import CidrError, PolicyError

Action = Literal["deny", "allow"]

MAX_WHY = 200
"""Characters of a reason."""
MAX_SECONDS = 100 * 366 * 86400
"""A hundred years: the longest time of an override that ends."""
MAX_LINE_BYTES = 8192
"""Three texts of `MAX_WHY` characters have up to 7,200 bytes in ASCII."""

LIFTED_S = 86400.0
"""Seconds for which it is kept at least that an override was lifted: a file or a node may have a change that is not
known here."""

BY_LIMIT = "limit"
"""Who has made an override that a limit asked for. Users are written as ``user@host``."""


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number here")


def made_by(by: str, node: str) -> str:
    """Who has made an override, as people read it: ``user@host``, or ``limit at host``."""
    return f"{by} at {node}" if by == BY_LIMIT else by


_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_no_constant).decode

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Key = tuple[int, bytes, int]
"""A prefix as `parse_prefix` returns it."""


class Decision(NamedTuple):
    """An override that holds. Times are in seconds since 1970; `until` is None if it does not end.

    `by`: ``user@host``, or "limit" if a limit said ``then deny``. `node`: the host on which it was made.
    """

    prefix: str
    action: Action
    until: float | None
    why: str
    since: float
    by: str
    node: str


class Entry(NamedTuple):
    """The last change of a prefix: an override, or ("lift") that it has no override any more.

    `changed` (nanoseconds since 1970) and `node` order the changes of a prefix. `kept` (seconds since 1970; None: it
    has no end) is when it may be forgotten: the last end of this change and of those before it, any of which may come
    back from a copy. `until` of a lifted prefix is the same.
    """

    prefix: str
    action: str
    until: float | None
    why: str
    since: float
    by: str
    changed: int
    node: str
    kept: float | None

    @property
    def order(self) -> tuple[int, str, str]:
        """Greater for the later change; the action, so that two nodes that are one by mistake agree."""
        return self.changed, self.node, self.action

    @property
    def decision(self) -> Decision:
        return Decision(self.prefix, "allow" if self.action == "allow" else "deny", *self[2:6], self.node)

    def holds(self, now: float) -> bool:
        """Whether it decides about connections."""
        return self.action != "lift" and (self.until is None or self.until > now)

    def is_kept(self, now: float) -> bool:
        """Whether it says something still: if only that an earlier change holds no more."""
        return self.kept is None or self.kept > now

    def line(self) -> bytes:
        """As `read_line` reads it."""
        return _line_of(self)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "prefix": str, "action": str, "until": (int, float, type(None)), "why": str, "since": (int, float), "by": str,
    "changed": int, "node": str, "kept": (int, float, type(None)),
}  # fmt: skip


@lru_cache(MAX_OVERRIDES)
def _line_of(entry: Entry) -> bytes:
    """A file is written whole whenever one of its entries has changed, so the lines that were written are kept."""
    return _encode(entry._asdict()).encode() + b"\n"


@lru_cache(MAX_OVERRIDES)
def read_line(line: bytes) -> tuple[Key, Entry]:
    """As `parse_line`. A file is read again whenever one of its lines has changed, so the lines that were read are
    kept."""
    return parse_line(line)


def parse_line(line: bytes) -> tuple[Key, Entry]:
    """Raises ValueError for what is no entry."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"has more than {MAX_LINE_BYTES} bytes")
    found = _decode(line.decode())
    if not isinstance(found, dict) or found.keys() != _KINDS.keys():
        raise ValueError(f"is not an object with {', '.join(_KINDS)}")
    return checked(found)


def checked(found: dict[str, Any]) -> tuple[Key, Entry]:
    """The entry of such an object. Raises ValueError."""
    for name, kind in _KINDS.items():
        if not isinstance(found[name], kind) or isinstance(found[name], bool):
            raise ValueError(f"{name} is {found[name]!r}")
    if found["action"] not in ("deny", "allow", "lift"):
        raise ValueError(f"action is {found['action']!r}")
    times = found["since"], found["until"] or 0, found["kept"] or 0
    if not (0 <= found["changed"] < 1 << 63 and all(0 <= seconds < 1e11 for seconds in times)):
        raise ValueError("a time is out of range")
    if _later(found["until"], found["kept"]) != found["kept"]:
        raise ValueError("kept is before until")
    texts = found["why"], found["by"], found["node"]
    if any(len(text) > MAX_WHY or _FORBIDDEN.search(text) for text in texts):
        raise ValueError("a text is too long, or has control characters")
    key = parse_prefix(found["prefix"])
    # One form for equal entries: hosts compare their lines.
    same = {name: None if found[name] is None else found[name] + 0.0 for name in ("until", "since", "kept")}
    return key, Entry(**{**found, **same, "prefix": prefix_of(key)})


def around(address: Key, lengths: Iterable[int]) -> Iterator[Key]:
    """The prefixes of those lengths that hold an address, which has its whole length."""
    version, packed, width = address
    number = int.from_bytes(packed, "big")
    for length in lengths:
        first = number >> width - length << width - length
        yield version, first.to_bytes(len(packed), "big"), length


def prefix_of(key: Key) -> str:
    """The text of a prefix, ``192.0.2.0/24``."""
    _, packed, length = key
    return f"{ipaddress.ip_address(packed)}/{length}"


def exact_prefix(text: str) -> Key:
    """An address or prefix as a user writes it. Raises CidrError, for host bits too: it may be a slip of the pen."""
    key = parse_prefix(text)
    address = text.strip("[]").partition("/")[0].strip("[]")
    if parse_prefix(address)[1] != key[1]:
        raise CidrError(f"{text!r}: has bits beyond its length; write {prefix_of(key)}, or {address} for one address")
    return key


def holds_own_addresses(prefix: str) -> bool:
    """Whether a prefix holds an address by which a machine speaks to itself. Raises CidrError."""
    version, first, length = parse_prefix(prefix)
    own = parse_prefix(f"{'127.0.0.1' if version == 4 else '::1'}/{length}")
    return own == (version, first, length) or (version == 4 and first[:1] == b"\x7f")


def entry_of(
    action: str,
    key: Key,
    for_s: float | None,
    why: str,
    by: str,
    node: str,
    *,
    now: float,
    before: Entry | None = None,
) -> Entry:
    """A change of now, later than the one before it. Raises PolicyError for a time or reason that can't be."""
    if not isinstance(why, str) or len(why) > MAX_WHY or _FORBIDDEN.search(why):
        raise PolicyError(f"why: {str(why)[:60]!r}: write at most {MAX_WHY} characters in one line")
    if for_s is not None:
        if isinstance(for_s, bool) or not isinstance(for_s, (int, float)) or not math.isfinite(for_s) or for_s <= 0:
            raise PolicyError(f"for_s: {for_s!r}: write seconds above 0, or None for an override without an end")
        for_s = min(for_s, MAX_SECONDS)
    until = None if for_s is None else now + for_s
    kept = until if before is None else _later(until, before.kept)
    changed = max(time.time_ns(), 0 if before is None else before.changed + 1)
    until = kept if action == "lift" else until
    return Entry(prefix_of(key), action, until, why, now, by[:MAX_WHY], changed, node[:MAX_WHY], kept)


def joined(one: Entry, other: Entry) -> Entry:
    """Two changes of one prefix: the later one, kept as long as either; the same whichever is named first, also of two
    that are one change and differ, as after an edit of a file by hand."""
    if one == other:
        return one
    later = max(one, other, key=Entry.line if one.order == other.order else lambda entry: entry.order)
    kept = _later(one.kept, other.kept)
    return later if later.kept == kept else later._replace(kept=kept)


def _later(one: float | None, other: float | None) -> float | None:
    """The later of two ends. None: it has no end."""
    return None if one is None or other is None else max(one, other)
