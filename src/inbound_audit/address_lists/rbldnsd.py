"""Address lists in the format of rbldnsd(8), read as that program reads them: an entry per line, with A and TXT values.

    # comment                        also ; and lines that begin with $, which speak to a name server
    :127.0.0.2:listed, see $         from here on the value of entries that have none of their own
    192.0.2.7                        an address; 192.0.2 and 192.0.2.0/24 are a network
    192.0.2.10-192.0.2.20            a range (IPv4 only); 192.0.2.10-20 is the same
    2001:db8::/32 :4:spammers        values after a blank; ":4:" is short for ":127.0.0.4:"
    2001:db8:1                       a network: 2001:db8:1::/48
    198.51.100.0/24 a text           the text alone
    !198.51.100.9                    not listed, although the network around it is
    $1 see http://bl.example/        what $1 stands for in a text; $ is the address in question, $$ a dollar sign

An IPv4 line is one that the program's ip4trie or ip4set takes with its option -e (host bits are ignored), an IPv6 line
one that ip6trie takes. A line that is neither is skipped.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from inbound_audit._ipcount import parse_prefix
from inbound_audit.errors import CidrError

MAX_ENTRIES = 1_000_000
"""Networks of one list; a range is several."""

_DEFAULT_A = "127.0.0.2"  # the program's own
_MAX_TXT = 255  # bytes of a TXT record in a file
_MAX_EXPANDED = 254  # bytes of one that is returned
_ALL = 1 << 32  # addresses of IPv4
_TEMPLATE = "="  # the name of the template that all texts are put into

_SPECIAL = re.compile(r"[#;:]?\$(.*)", re.DOTALL)
_VARIABLE = re.compile(r"([0-9=])[ \t]+(.+)", re.DOTALL)
_IGNORED = re.compile(r"(soa|ns|nameserver|ttl|timestamp)[ \t]", re.IGNORECASE)  # for a name server alone
_MAX_RANGE = re.compile(r"maxrange4[ \t]+(/?)(\d+)$", re.IGNORECASE)

# Most lines: an address or a network that the core reads, alone or with a value behind it.
_PLAIN = re.compile(
    r"(?:\d+\.){3}\d+(?:/\d+)?(?![^ \t#;:])|[0-9a-f:]*::[0-9a-f:]*(?:/\d+)?(?![^ \t#;])", re.ASCII | re.IGNORECASE
)
_OCTETS = r"(\d+(?:\.\d+){0,3})"
_IPV4 = re.compile(rf"{_OCTETS}(?:/(\d+)|-{_OCTETS})?(?![^ \t#;:])", re.ASCII)
_GROUP = re.compile(r"[0-9a-f]+", re.ASCII | re.IGNORECASE)
_LENGTH = re.compile(r"/(\d+)", re.ASCII)
_GROUPS = 8  # of an IPv6 address
_VALUE = re.compile(rf":{_OCTETS}[ \t]*(?::[ \t]*(.*))?$", re.ASCII | re.DOTALL)
_PLACEHOLDER = re.compile(r"\$([$=0-9]?)")


class Value(NamedTuple):
    """What a look-up returns: an A record and a TXT record."""

    a: str = _DEFAULT_A
    txt: str = ""


class Entry(NamedTuple):
    """One network of a list, as text, which may have host bits; `value` is None for an excluded one."""

    network: str
    value: Value | None


class Zone:
    """A list as a file has it. `entries` are in the order of the file, of equal networks the first counts.

    `skip` is called with the number of a line, and the reason, for each line that can't be read. Raises ValueError for
    more than `MAX_ENTRIES` networks. O(lines).
    """

    def __init__(self, lines: Iterable[str], skip: Callable[[int, str], None]) -> None:
        self.entries: list[Entry] = []
        self._default = Value()
        self._variables: dict[str, str] = {}
        self._max_range = _ALL
        for number, line in enumerate(lines, 1):
            try:
                self._read(line.strip(" \t\r\n"))
            except ValueError as error:
                skip(number, str(error))
            if len(self.entries) > MAX_ENTRIES:
                raise ValueError(f"has more than {MAX_ENTRIES} networks")

    def expand(self, text: str, address: str) -> str:
        """A TXT value as the program returns it for `address` (in its shortest form)."""
        template = whole = text.removeprefix("=")
        if not text.startswith("=") and _TEMPLATE in self._variables:
            template, whole = self._variables[_TEMPLATE], text or address
        known = {**self._variables, "": address, "$": "$", "=": whole}
        return _cut(_PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), template), _MAX_EXPANDED)

    def _read(self, line: str) -> None:
        if special := _SPECIAL.match(line):
            self._set(special[1])
        elif line.startswith(":") and not line.startswith("::"):
            self._default = _value(line, Value())
        elif line and line[0] not in "#;":
            self.entries.extend(self._entries(line))

    def _set(self, line: str) -> None:
        if variable := _VARIABLE.match(line):
            self._variables.setdefault(variable[1], variable[2])
        elif limit := _MAX_RANGE.match(line):
            size = int(limit[2]) if not limit[1] else 1 << max(32 - int(limit[2]), 0)
            self._max_range = min(self._max_range, size)
        elif not _IGNORED.match(line):
            raise ValueError("unknown special entry")

    def _entries(self, line: str) -> Iterator[Entry]:
        excluded = line.startswith("!")
        networks, rest = self._networks(line[1:].lstrip(" \t") if excluded else line)
        rest = rest.lstrip(" \t")
        value = self._default if excluded or not rest or rest[0] in "#;" else _value(rest, self._default)
        for network in networks:
            yield Entry(network, None if excluded else value)

    def _networks(self, line: str) -> tuple[list[str], str]:
        """The networks at the start of a line, and what follows."""
        plain = _PLAIN.match(line)
        if plain and (self._max_range == _ALL or "/" not in plain[0]) and _is_prefix(plain[0]):
            return [plain[0]], line[plain.end() :]
        match = _IPV4.match(line)
        if match and (match[2] or match[3] or "." in match[1]):
            return _ipv4(match[1], match[2], match[3], self._max_range), line[match.end() :]
        network, rest = _ipv6(line)
        return [network], rest


def _is_prefix(text: str) -> bool:
    """Whether the core reads it; if not, it is a form of this format alone, or an error that has its own words here."""
    try:
        parse_prefix(text)
    except CidrError:
        return False
    return True


def _value(text: str, default: Value) -> Value:
    """``:A:TXT``, ``:A`` or a text; what is missing comes from the default."""
    if not text.startswith(":"):
        return Value(default.a, _cut(text, _MAX_TXT))
    match = _VALUE.match(text)
    if not match:
        raise ValueError("not a value such as ':127.0.0.2:text'")
    octets = _octets(match[1])
    if not any(octets):
        raise ValueError("the A value is 0")
    front, last = ([127], octets) if len(octets) == 1 else (octets[:-1], octets[-1:])  # as inet_aton: 10.2 is 10.0.0.2
    a = ".".join(map(str, front + [0] * (3 - len(front)) + last))
    return Value(a, default.txt if match[2] is None else _cut(match[2], _MAX_TXT))


def _octets(text: str) -> list[int]:
    octets = [int(octet) for octet in text.split(".")]
    if max(octets) > 255:
        raise ValueError("an octet is over 255")
    return octets


def _ipv4(first: str, length: str | None, last: str | None, max_range: int) -> list[str]:
    low = _octets(first)
    high = low if last is None else _octets(last)
    if last is not None and len(high) == 1:  # 192.0.2.10-20
        high = low[:-1] + high
    if len(high) != len(low):
        raise ValueError("the ends of the range have different lengths")
    missing = 4 - len(low)
    begin = ipaddress.IPv4Address(bytes(low + [0] * missing))
    end = ipaddress.IPv4Address(bytes(high + [255] * missing))
    if length is not None and int(length) > 32:
        raise ValueError("the length is not one from 0 to 32")
    size = int(end) - int(begin) + 1 if length is None else 1 << (32 - int(length))
    if size > max_range:
        raise ValueError("larger than $MAXRANGE4 allows")
    if length is not None:
        return [f"{begin}/{int(length)}"]
    return [str(network) for network in ipaddress.summarize_address_range(begin, end)]


def _ipv6(line: str) -> tuple[str, str]:
    """The network at the start of a line, and what follows. Without a length, the groups that are there count."""
    groups: list[int] = []
    gap, at, ended = (0, 2, False) if line.startswith("::") else (-1, 0, False)
    while not ended and (group := _GROUP.match(line, at)):
        groups.append(int(group[0], 16))
        at = group.end()
        ended = len(groups) == _GROUPS or not line.startswith(":", at)
        at += not ended
        if not ended and gap < 0 and line.startswith(":", at):
            gap, at = len(groups), at + 1
    length = 16 * len(groups) if gap < 0 else 128
    bare = (match := _LENGTH.match(line, at)) is None
    if match is not None:
        length, at = int(match[1]), match.end()
    missing = _GROUPS - len(groups)
    if (
        max(groups, default=0) > 0xFFFF
        or (gap < 0 and not ended)
        or (gap >= 0 and not missing)
        or line[at : at + 1] not in ("", *" \t#;:")
    ):
        raise ValueError("not an address")
    if bare and length == 16:
        raise ValueError("a bare number; write it with a length, as 10/8")
    cut = gap if gap >= 0 else len(groups)
    packed = b"".join(group.to_bytes(2, "big") for group in groups[:cut] + [0] * missing + groups[cut:])
    return str(ipaddress.IPv6Network((packed, length), strict=False)), line[at:]


def _cut(text: str, size: int) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    return text if len(raw) <= size else raw[:size].decode("utf-8", "surrogateescape")
