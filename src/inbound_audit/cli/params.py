"""Kinds of values: text in, a checked value out; a malformed text is a usage error that names the option."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import click

from inbound_audit._ipcount import parse_duration, parse_monitor, parse_pair, parse_prefix
from inbound_audit.cli.sockets import Endpoint
from inbound_audit.errors import InboundAuditError
from inbound_audit.policy.limits import LimitTable
from inbound_audit.policy.options import grouped, read_limit

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MIN_LOOK_INTERVAL_S, MAX_LOOK_INTERVAL_S = 0.1, 60.0
_TEXT: Mapping[str, Any] = {"type": "string"}


class Kind(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """A type of click: its name in the help, and the function that reads a text (`read`), or raises with the reason.

    `schema` is the type of a value in a configuration file (JSON Schema): a text, unless numbers stand for themselves.
    """

    def __init__(self, name: str, read: Callable[[str], Any], schema: Mapping[str, Any] = _TEXT) -> None:
        self.name = name
        self.read = read
        self.schema = schema

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return self.read(value)
        except (ValueError, InboundAuditError) as error:
            self.fail(str(error), param, ctx)


def kind(name: str, schema: Mapping[str, Any] = _TEXT) -> Callable[[Callable[[str], Any]], Kind]:
    """Makes a `Kind` of the function that it decorates."""
    return functools.partial(Kind, name, schema=schema)


def option(name: str, kind: Any, about: str, *, parameter: str | None = None, **more: Any) -> Callable[[Any], Any]:
    """An option of a command, with its help. `kind` is a type of click, or a word: the option then takes any text.

    `parameter` is the argument of the function, if it has another name than the option; `more` is for `click.option`.
    """
    more |= {"metavar": kind} if isinstance(kind, str) else {"type": kind}
    return click.option(name, *filter(None, [parameter]), help=about, **more)


def read_number(least: int, most: int | None, text: str) -> int:
    """A whole number from `least` to `most`, or without an upper bound. Raises ValueError."""
    found = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= found <= (found if most is None else most):
        raise ValueError(f"{text!r}: write a whole number from {least} {'on' if most is None else f'to {most}'}")
    return found


def whole_number(least: int, most: int | None = None) -> Kind:
    schema = {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})
    return Kind("N", functools.partial(read_number, least, most), schema)


limit = Kind("/LENGTH=N", read_limit)


def grouped_limits(given: tuple[tuple[str, int | str], ...]) -> LimitTable | None:
    """As `grouped`; None for none. Raises click.UsageError."""
    try:
        return grouped(given) or None
    except ValueError as error:
        raise click.UsageError(f"--limit {error}") from None


def check_networks(given: tuple[tuple[str, tuple[str, ...]], ...], limits: LimitTable | None) -> None:
    """Each network needs a limit, if each network of a limit is given. Raises click.UsageError."""
    if len(dict(given)) < len(given):
        raise click.UsageError("--network has the same name twice")
    networks, limited = set(dict(given)), {key.rpartition(":")[0] for key in limits or ()}
    if limited <= {"", *networks} and (unlimited := sorted(networks - limited)):
        name = unlimited[0]
        raise click.UsageError(f"--network {name}: write its limit, such as --limit {name}:/24=100 or {name}:total=500")


@kind("NET")
def network(text: str) -> str:
    """An address or a prefix, as it was. Raises CidrError."""
    if "," in text:
        raise ValueError(f"{text!r}: write one address or prefix, and the option once for each")
    parse_prefix(text)
    return text


@kind("NAME=NET,...")
def named_network(text: str) -> tuple[str, tuple[str, ...]]:
    """``partner=192.0.2.0/24,2001:db8::/32`` as the name and the prefixes. Raises ValueError or CidrError."""
    name, equals, prefixes = text.partition("=")
    if not (name and equals) or ":" in name:
        raise ValueError(
            f"{text!r}: write a name without a colon and its prefixes, such as partner=192.0.2.0/24,2001:db8::/32"
        )
    return name, tuple(map(network.read, prefixes.split(",")))


@kind("V4,V6")
def prefix_lengths(text: str) -> tuple[int, int]:
    """``24,56`` as ``(24, 56)``: the length for IPv4 and the one for IPv6. Raises ValueError or CidrError."""
    four, six = parse_pair(text, bare=True)
    if four is None or "," not in text:
        raise ValueError(f"{text!r}: write two lengths, the first for IPv4 and the second for IPv6, such as 24,56")
    return four, six


@kind("INTERVAL,NUMBER")
def monitor(text: str) -> str:
    """``300,6`` or ``5m,6``, as it was: the length of a window, and the number of windows. Raises MonitorError."""
    parse_monitor(text)
    return text


@kind("PATTERN")
def regex(text: str) -> re.Pattern[str]:
    """Raises ValueError."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r}: {error}") from None


@kind("SIZE", {"type": ["string", "integer"]})
def size(text: str) -> int:
    """``64M`` as bytes; K, M and G are powers of 1024. Raises ValueError or CapacityError."""
    found = re.fullmatch(r"(\d{1,18})([KMG]?)", text.upper(), re.ASCII)
    if found is None:
        raise ValueError(f"{text!r}: write a number of bytes, such as 64M or 1G")
    return int(found[1]) * _UNITS[found[2]]


@kind("BITS")
def file_mode(text: str) -> int:
    """``660`` as the number of these bits. Raises ValueError."""
    if re.fullmatch(r"0?[0-7]{3}", text, re.ASCII) is None:
        raise ValueError(f"{text!r}: write three digits from 0 to 7, such as 660")
    return int(text, 8)


endpoint = Kind("ADDRESS:PORT", Endpoint.parse)
duration = Kind("DURATION", parse_duration)


@kind("DURATION")
def look_interval(text: str) -> float:
    """A duration from 0.1 s to 60 s, in seconds. Raises ValueError."""
    seconds = float(duration.read(text))
    if not MIN_LOOK_INTERVAL_S <= seconds <= MAX_LOOK_INTERVAL_S:
        raise ValueError(f"{text!r}: write a duration from 0.1s to 60s, such as 1s")
    return seconds
