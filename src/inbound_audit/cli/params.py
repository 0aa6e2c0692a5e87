"""Values of options: text in, a checked value out; a malformed text is a usage error that names the option."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TypeVar

import click

from inbound_audit._ipcount import parse_duration, parse_monitor, parse_pair, parse_prefix
from inbound_audit.cli.sockets import Endpoint
from inbound_audit.errors import InboundAuditError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


Value = TypeVar("Value")


def checked(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """A click type from a function that turns text into a value, or raises with the reason."""

    @functools.wraps(parse)
    def convert(text: str) -> Value:
        try:
            return parse(text)
        except (ValueError, InboundAuditError) as error:
            raise click.BadParameter(str(error)) from None

    return convert


endpoint = checked(Endpoint.parse)


def whole_number(least: int) -> Callable[[str], int]:
    """A click type for whole numbers from `least` on."""

    @checked
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) >= least):
            raise ValueError(f"{text!r}: write a whole number from {least} on")
        return int(text)

    return convert


@checked
def limit(text: str) -> tuple[str, int]:
    """``/24,/56=100`` as ``("/24,/56", 100)``; the key may also be ``total``, ``NETWORK:/24`` or ``NETWORK:total``.

    Raises ValueError or CidrError.
    """
    key, equals, maximum = text.rpartition("=")
    if not (equals and maximum.isascii() and maximum.isdigit() and len(maximum) < 20):
        raise ValueError(f"{text!r}: write a prefix length and how many sessions it may have, such as /24=100")
    length = key.rpartition(":")[2]
    if length != "total":
        parse_pair(length)
    return key, int(maximum)


@checked
def named_network(text: str) -> tuple[str, tuple[str, ...]]:
    """``partner=192.0.2.0/24,2001:db8::/32`` as the name and the prefixes. Raises ValueError or CidrError."""
    name, equals, prefixes = text.partition("=")
    if not (name and equals) or ":" in name:
        raise ValueError(
            f"{text!r}: write a name without a colon and its prefixes, such as partner=192.0.2.0/24,2001:db8::/32"
        )
    return name, tuple(map(network, prefixes.split(",")))


@checked
def network(text: str) -> str:
    """An address or a prefix, as it was. Raises CidrError."""
    if "," in text:
        raise ValueError(f"{text!r}: write one address or prefix, and the option once for each")
    parse_prefix(text)
    return text


@checked
def prefix_lengths(text: str) -> tuple[int, int]:
    """``24,56`` as ``(24, 56)``: the length for IPv4 and the one for IPv6. Raises ValueError or CidrError."""
    four, six = parse_pair(text, bare=True)
    if four is None or "," not in text:
        raise ValueError(f"{text!r}: write two lengths, the first for IPv4 and the second for IPv6, such as 24,56")
    return four, six


@checked
def monitor(text: str) -> str:
    """``300,6`` or ``5m,6``, as it was: the length of a window, and the number of windows. Raises MonitorError."""
    parse_monitor(text)
    return text


duration = checked(parse_duration)


@checked
def regex(text: str) -> re.Pattern[str]:
    """Raises ValueError."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r}: {error}") from None


@checked
def size(text: str) -> int:
    """``64M`` as bytes; K, M and G are powers of 1024. Raises ValueError or CapacityError."""
    found = re.fullmatch(r"(\d{1,18})([KMG]?)", text.upper(), re.ASCII)
    if found is None:
        raise ValueError(f"{text!r}: write a number of bytes, such as 64M or 1G")
    return int(found[1]) * _UNITS[found[2]]
