"""Limits as the command line has them: ``/24,/56=100``, ``/32=300/5m``, ``partner:total=500``."""

from __future__ import annotations

from collections.abc import Iterable

from inbound_audit._ipcount import parse_pair
from inbound_audit.policy.limits import LimitTable
from inbound_audit.policy.rates import read_most


def read_limit(text: str) -> tuple[str, int | str]:
    """``/24,/56=100`` as ``("/24,/56", 100)``, ``/24=300/5m`` as ``("/24", "300/5m")``; the key may also be ``total``,
    ``NETWORK:/24`` or ``NETWORK:total``.

    Raises ValueError or CidrError.
    """
    # A rate has a slash behind the last equals sign; `/24` alone has none before it.
    key, _, most = text.rpartition("=")
    is_text = key != "" and ("/" in most or " then " in most)
    is_number = key != "" and most.isascii() and most.isdigit() and len(most) < 20
    if not is_text and not is_number:
        raise ValueError(
            f"{text!r}: write a prefix length and how many sessions it may have, such as /24=100, or how many "
            "connections in some time, such as /24=300/5m"
        )
    length = key.rpartition(":")[2]
    if length != "total":
        parse_pair(length)
    if is_text:
        read_most(most)
        if key == "total" and " then " in most:
            raise ValueError(f"{text!r}: would deny every address; deny for a prefix length, such as /32={most}")
        if key == "total":
            raise ValueError(
                f"{text!r}: a limit over time counts all listeners; write /0={most}, or NAME:total={most} for a network"
            )
    return key, most if is_text else int(most)


def grouped(given: Iterable[tuple[str, int | str]]) -> LimitTable:
    """The values of each key of several limits: one of open sessions at most, and any number over time. Raises
    ValueError."""
    limits: dict[str, list[int | str]] = {}
    for key, value in given:
        limits.setdefault(key, []).append(value)
    if any(sum(isinstance(value, int) for value in values) > 1 for values in limits.values()):
        raise ValueError("has the same length twice")
    return {key: values if len(values) > 1 else values[0] for key, values in limits.items()}
