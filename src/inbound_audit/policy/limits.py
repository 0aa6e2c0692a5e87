"""`Limits`: the policy that most people need, without a script.

A limit is a prefix length and how many sessions may be open from the connecting IP's prefix of that length, the one
that asks included. Everything is checked when the policy is built; `validate_connect` is one native call, whether it
lets in or refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from inbound_audit._ipcount import LimitTables, parse_pair, parse_prefix
from inbound_audit.errors import CidrError, PolicyError, did_you_mean, named_keywords
from inbound_audit.policy.base import Policy
from inbound_audit.policy.verdict import ACCEPT, REFUSAL_CODE, REFUSAL_TEXT, Verdict

LimitTable = Mapping[str, int]
Row = tuple[str, str, int, int, int]
"""A limit as the native part takes it: name, kind, IPv4 length, IPv6 length (-1: not for this family), maximum."""

# The reference's stock policy, with IPv6 lengths of our own: a /64 is what one IPv6 customer link has (RFC 4291), so
# it takes the part of an IPv4 host; a /48 is what one site is given at most (RFC 6177), the part of an IPv4 /24.
STOCK_LIMITS: LimitTable = {"/32,/64": 10, "/24,/48": 100, "/0": 20000}

MAX_PREFIXES = 1 << 16
"""Listed prefixes, the exempt ones included: a limit may have to count each of them when a session is accepted."""
MAX_LIMITS = 1 << 10
"""Limits of all networks together."""

_EXEMPT, _DEFAULT = 0, 1
_RESERVED = ("default", "listener")  # they begin the names of other limits in `refused`
_NETWORK_KEYS = ("prefixes", "limits", "total")
_WHOLE = (0, 0)


def _maximum(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        # A number of many thousand digits has no text of digits.
        shown = hex(value)[:40] if isinstance(value, int) and abs(value) >> 128 else repr(value)
        raise PolicyError(f"{where}: {shown} is not a number of sessions")
    return value


def _rows(limits: object, network: str, where: str) -> list[Row]:
    """One table of limits. Raises PolicyError."""
    if not isinstance(limits, Mapping):
        raise PolicyError(f"{where}: {limits!r} is not a mapping from a prefix length to a number of sessions")
    rows: list[Row] = []
    for key, maximum in limits.items():
        try:
            four, six = parse_pair(key)
        except CidrError as error:
            raise PolicyError(f"{where}: limit {error}") from None
        name = f"{network} {key}"
        rows.append((name, "prefix", -1 if four is None else four, six, _maximum(maximum, f"{where}: limit {key!r}")))
    return rows


def _prefixes(prefixes: object, where: str) -> list[str]:
    """Raises PolicyError."""
    if isinstance(prefixes, str) or not isinstance(prefixes, Iterable):
        raise PolicyError(f"{where}: {prefixes!r} is not a list of prefixes")
    listed = list(islice(prefixes, MAX_PREFIXES + 1))
    if len(listed) > MAX_PREFIXES:
        raise PolicyError(f"{where}: has more than {MAX_PREFIXES} prefixes")
    try:
        for prefix in listed:
            parse_prefix(prefix)
    except CidrError as error:
        raise PolicyError(f"{where}: {error}") from None
    return listed


def _option(row: Row) -> str:
    """A limit as the command line's ``--limit`` has it: ``/24=100``, ``partner:/24=100``, ``partner:total=500``."""
    network, _, key = row[0].rpartition(" ")
    return f"{key}={row[4]}" if row[1] == "listener" or network == "default" else f"{network}:{key}={row[4]}"


class _Network(NamedTuple):
    prefixes: list[str]
    rows: list[Row]


def _network(name: object, given: object) -> _Network:
    """A named network as it was configured. Raises PolicyError."""
    where = f"network {name!r}"
    if not isinstance(name, str) or not name or name in _RESERVED:
        raise PolicyError(f"{where}: give it another name, a text that is not 'default' or 'listener'")
    if not isinstance(given, Mapping):
        raise PolicyError(f"{where}: {given!r} is not a mapping with 'prefixes' and 'limits' or 'total'")
    for key in given:
        if key not in _NETWORK_KEYS:
            known = ", ".join(_NETWORK_KEYS)
            raise PolicyError(f"{where}: unknown key {key!r}{did_you_mean(key, _NETWORK_KEYS)} (known: {known})")
    prefixes = _prefixes(given.get("prefixes", ()), where)
    if not prefixes:
        raise PolicyError(f"{where}: has no prefixes; give it 'prefixes' such as ['192.0.2.0/24']")
    if "limits" not in given and given.get("total") is None:
        raise PolicyError(f"{where}: has no limits; give it 'limits' or 'total'")
    rows = _rows(given.get("limits", {}), name, where)
    if given.get("total") is not None:
        rows.append((f"{name} total", "network", *_WHOLE, _maximum(given["total"], f"{where}: total")))
    return _Network(prefixes, rows)


def _check_overlap(networks: Mapping[str, _Network]) -> None:
    """Raises PolicyError for a prefix that two networks have: an address would belong to either."""
    owner: dict[tuple[int, bytes, int], str] = {}
    for name, network in networks.items():
        for prefix in network.prefixes:
            other = owner.setdefault(parse_prefix(prefix), name)
            if other != name:
                raise PolicyError(f"{name}: {prefix!r} is listed in {other}, too; list it once")


def _refusal(code: Any, text: Any) -> Verdict:
    """Raises PolicyError."""
    verdict = Verdict(accepted=False, code=code, text=text, disconnect=True)
    if code < 400:
        raise PolicyError(f"code {code!r}: a refusal has a reply code from 400 to 599, such as 421")
    return verdict


class Limits(LimitTables, Policy):
    """A maximum of open sessions per prefix, of the session's own service type.

    `limits` maps a prefix length to the maximum: ``{"/32": 10, "/24,/56": 100, "/0": 20000}``; without it the
    reference's stock policy holds. `exempt` lists prefixes that are not limited at all. `networks` gives named
    networks limits of their own in place of `limits`, a maximum for all their sessions together (`total`), or both:
    ``{"partner": {"prefixes": ["192.0.2.0/24", "2001:db8::/32"], "limits": {"/32": 50}, "total": 500}}``.
    `listener_total` is the maximum of all sessions of one listener, whatever network they belong to. With `cluster` all
    other limits of a session of SMTP count the sessions of all nodes of the cluster, as `inbound_cidr` does.

    The longest listed prefix decides which network an address belongs to; an exempt prefix is listed too. A limit
    counts the sessions of its own network: those of a named network and the exempt ones use up nothing of the default
    limits. Only `listener_total` counts every session; an exempt session is not refused by it.

    With `dry_run` no session is refused, and `would_refuse` counts those that would have been. `code` and `text` are
    the reply of a refusal, and `refusal` is its verdict.

    Raises PolicyError, which names the entry, for an entry that is malformed or unknown, and for limits that limit
    nothing.

    >>> Limits({"/32": 10, "/24,/56": 100}, exempt=["127.0.0.0/8", "::1"])
    Limits({'/32': 10, '/24,/56': 100})
    """

    @named_keywords
    def __init__(
        self,
        limits: LimitTable | None = None,
        *,
        exempt: Iterable[str] = (),
        networks: Mapping[str, Mapping[str, object]] | None = None,
        listener_total: int | None = None,
        cluster: bool = False,
        dry_run: bool = False,
        code: int = REFUSAL_CODE,
        text: str = REFUSAL_TEXT,
    ) -> None:
        self.limits = STOCK_LIMITS if limits is None else limits
        self.cluster, self.dry_run = cluster, dry_run
        if networks is not None and not isinstance(networks, Mapping):
            raise PolicyError(f"networks: {networks!r} is not a mapping from a name to a network")
        everywhere: list[Row] = []
        if listener_total is not None:
            everywhere.append(("listener total", "listener", *_WHOLE, _maximum(listener_total, "listener_total")))
        default = _Network([], _rows(self.limits, "default", "limits"))
        named = {"exempt": _Network(_prefixes(exempt, "exempt"), [])}
        self.exempt = tuple(named["exempt"].prefixes)
        named |= {f"network {name!r}": _network(name, given) for name, given in (networks or {}).items()}
        _check_overlap(named)
        first, *others = named.values()
        listed = [first, default, *others]
        view = "cluster " if cluster else ""
        tables = [
            [(name, view + kind, four, six, maximum) for name, kind, four, six, maximum in network.rows]
            + everywhere * (number != _EXEMPT)
            for number, network in enumerate(listed)
        ]
        if not any(tables):
            raise PolicyError("limits: nothing is limited; expected e.g. {'/32': 10}, a total or listener_total")
        prefixes = [(prefix, number) for number, network in enumerate(listed) for prefix in network.prefixes]
        if len(prefixes) > MAX_PREFIXES or sum(map(len, tables)) > MAX_LIMITS:
            raise PolicyError(f"networks: have more than {MAX_PREFIXES} prefixes or {MAX_LIMITS} limits in all")
        refusal = _refusal(code, text)
        self._configure(tables, prefixes, _DEFAULT, ACCEPT, ACCEPT if dry_run else refusal)
        self.refusal = refusal
        self._options = [_option(row) for network in (*listed, _Network([], everywhere)) for row in network.rows]

    @classmethod
    def from_options(
        cls,
        limits: LimitTable | None,
        networks: Mapping[str, Iterable[str]],
        *,
        exempt: Iterable[str] = (),
        dry_run: bool = False,
    ) -> Limits:
        """Limits from flat options, as the command line has them.

        The keys of `limits` are ``"/24"`` (a default limit; without any the stock policy holds), ``"total"`` (of each
        listener), ``"partner:/24"`` and ``"partner:total"`` (of a named network); `networks` maps a name to its
        prefixes. Raises PolicyError.
        """
        default: dict[str, int] = {}
        named: dict[str, dict[str, Any]] = {name: {"prefixes": list(prefixes)} for name, prefixes in networks.items()}
        listener_total = None
        for key, maximum in (limits or {}).items():
            network, colon, length = key.rpartition(":")
            if colon and network not in named:
                near = did_you_mean(network, named)
                raise PolicyError(f"limit {key!r}: no network is named {network!r}{near}; give it by --network")
            if colon and length == "total":
                named[network]["total"] = maximum
            elif colon:
                named[network].setdefault("limits", {})[length] = maximum
            elif length == "total":
                listener_total = maximum
            else:
                default[length] = maximum
        return cls(default or None, networks=named, listener_total=listener_total, exempt=exempt, dry_run=dry_run)

    @property
    def refused(self) -> Counter[str]:
        """How many sessions were refused, by the limit that they were over: ``"default /24"``, ``"partner total"``."""
        return Counter() if self.dry_run else self._counts()

    @property
    def would_refuse(self) -> Counter[str]:
        """How many sessions a dry run would have refused, by the same names."""
        return self._counts() if self.dry_run else Counter()

    def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for name, number in self._passed:
            if number:
                counts[name] += number
        return counts

    def __repr__(self) -> str:
        options = "".join(f", {name}=True" for name in ("cluster", "dry_run") if getattr(self, name))
        return f"Limits({self.limits!r}{options})"

    def describe(self) -> str:
        """The limits in the form of the command line's ``--limit``."""
        return " ".join(self._options)
