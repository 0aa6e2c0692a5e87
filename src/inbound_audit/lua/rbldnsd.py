"""Address lists in the format of rbldnsd: an entry a line, each with an A and a TXT value.

    # comment                        also ; and lines that begin with $, which speak to a name server
    :127.0.0.2:listed, see $         from here on the value of entries that have none of their own
    192.0.2.7                        an address; 192.0.2 and 192.0.2.0/24 are a network
    192.0.2.10-192.0.2.20            a range (IPv4 only); 192.0.2.10-20 is the same
    2001:db8::/32 :4:spammers        values behind a blank; ":4:" is short for ":127.0.0.4:"
    198.51.100.0/24 a text           the text alone
    !198.51.100.9                    not listed, although the network around it is

As in the reference an IPv4 entry and its value may stand together (``192.0.2.7:4:text``); IPv6 needs the blank.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from inbound_audit.errors import PolicyError

_A = "127.0.0.2"  # what rbldnsd answers when a list does not say
_OCTETS = 4


class Value(NamedTuple):
    """What a look-up answers: an A record and a TXT record."""

    a: str = _A
    txt: str = ""


class Entry(NamedTuple):
    """One network of a list; `value` is None for one that is excluded."""

    network: str
    value: Value | None


def parse(lines: Iterable[str], name: str) -> Iterator[Entry]:
    """The entries of a list, in the order of the file. Raises PolicyError that names `name` and the line. O(lines)."""
    default = Value()
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line[0] in "#;$":
            continue
        try:
            if line[0] == ":":
                default = _value(line, Value())
            else:
                yield from _entries(line, default)
        except ValueError as error:
            raise PolicyError(f"{name}:{number}: {error}") from None


def _entries(line: str, default: Value) -> Iterator[Entry]:
    excluded = line.startswith("!")
    text, value = _split(line[1:] if excluded else line)
    own = None if excluded else _value(value, default)
    for network in _networks(text):
        yield Entry(network, own)


def _split(line: str) -> tuple[str, str]:
    """Address and value; a colon behind dots can only begin a value."""
    text, value = [*line.split(maxsplit=1), "", ""][:2]
    if "." in text.partition(":")[0] and ":" in text:
        text, _, value = line.strip().partition(":")
        return text, f":{value}"
    return text, value


def _value(text: str, default: Value) -> Value:
    if not text:
        return default
    if not text.startswith(":"):
        return Value(default.a, text)
    a, colon, txt = text[1:].partition(":")
    if a.isascii() and a.isdigit() and int(a) <= 255:
        a = f"127.0.0.{int(a)}"
    return Value(str(ipaddress.IPv4Address(a)) if a else default.a, txt if colon else default.txt)


def _networks(text: str) -> Iterator[str]:
    if ":" in text:
        yield str(ipaddress.IPv6Network(text, strict=False))
    elif "-" in text:
        yield from _range(*text.split("-", 1))
    else:
        yield _network(text)


def _network(text: str) -> str:
    """``10.1`` is 10.1.0.0/16; with a length, missing octets are zeros."""
    address, slash, length = text.partition("/")
    octets = address.split(".")
    if not slash:
        length = str(8 * len(octets))
    padded = ".".join(octets + ["0"] * (_OCTETS - len(octets)))
    return str(ipaddress.IPv4Network(f"{padded}/{length}", strict=False))


def _range(first: str, last: str) -> Iterator[str]:
    """The least networks that cover a range; a short end takes its front from the start."""
    begin = first.split(".")
    end = last.split(".")
    low = ipaddress.IPv4Address(".".join(begin + ["0"] * (_OCTETS - len(begin))))
    if len(end) < len(begin):
        end = begin[: len(begin) - len(end)] + end
    high = ipaddress.IPv4Address(".".join(end + ["255"] * (_OCTETS - len(end))))
    for network in ipaddress.summarize_address_range(low, high):
        yield str(network)
