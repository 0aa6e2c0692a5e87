"""`Limits`: the policy that most people need, without Lua.

A limit is a prefix length and how many sessions may be open from the connecting IP's prefix of that length, the one
that asks included. Everything is checked when the policy is built; asking it (`validate_connect`) is one native call,
and comes back here only for a session that passes a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from inbound_audit._ipcount import LimitTables, NetworkMap
from inbound_audit.errors import CidrError, PolicyError
from inbound_audit.policy.base import Policy
from inbound_audit.policy.verdict import ACCEPT, REFUSAL_CODE, REFUSAL_TEXT, Verdict

LimitTable = Mapping[str, int]

# The reference's stock policy, with IPv6 lengths of our own: a /64 is what one IPv6 customer link has (RFC 4291), so
# it takes the part of an IPv4 host; a /48 is what one site is given at most (RFC 6177), the part of an IPv4 /24.
STOCK_LIMITS: LimitTable = {"/32,/64": 10, "/24,/48": 100, "/0": 20000}

_EXEMPT, _DEFAULT = 0, 1


def _length(key: str, text: str, longest: int) -> int:
    digits = text[1:]
    if not (text[:1] == "/" and len(digits) <= 3 and digits.isascii() and digits.isdigit() and int(digits) <= longest):
        raise PolicyError(f"limit {key!r}: {text!r} is no prefix length from /0 to /{longest}")
    return int(digits)


def _lengths(key: object) -> tuple[int, int]:
    """The lengths of a limit for IPv4 and IPv6; -1 where it does not speak of the family.

    As in a count, ``"/32"`` is exactly the connecting IP in both families, and ``"/24,/56"`` has one for each. Another
    length up to 32 is that of both, and a longer one can only mean IPv6.
    """
    if not isinstance(key, str):
        raise PolicyError(f"limit {key!r}: is not a text such as '/24'")
    first, comma, second = key.partition(",")
    if comma:
        return _length(key, first, 32), _length(key, second, 128)
    length = _length(key, first, 128)
    return (length if length <= 32 else -1), (128 if length == 32 else length)


def _table(limits: object, where: str) -> list[tuple[int, int, int]]:
    if not isinstance(limits, Mapping):
        raise PolicyError(f"{where}: {limits!r} is no mapping from a prefix length to a number")
    rows = []
    for key, most in limits.items():
        if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most < 2**63:
            raise PolicyError(f"{where}: limit {key!r}: {most!r} is no number of sessions")
        try:
            rows.append((*_lengths(key), most))
        except PolicyError as error:
            raise PolicyError(f"{where}: {error}") from None
    return rows


def _prefixes(prefixes: object, where: str) -> list[str]:
    if isinstance(prefixes, str) or not isinstance(prefixes, Iterable):
        raise PolicyError(f"{where}: {prefixes!r} is no list of prefixes")
    return list(prefixes)


class Limits(LimitTables, Policy):
    """At most so many open sessions from a prefix, of the session's own service type.

    `limits` maps a prefix length to the most sessions: ``{"/32": 10, "/24,/56": 100, "/0": 20000}``; without it the
    reference's stock policy holds. `exempt` lists prefixes that are not limited at all. `networks` gives named
    networks limits of their own in place of `limits`:
    ``{"partner": {"prefixes": ["192.0.2.0/24"], "limits": {"/32": 50}}}``; the longest match decides, and an exempt
    prefix counts as one. With `dry_run` nobody is refused, but it is counted who would have been.

    `refused` and `would_refuse` count verdicts by ``"name /length"`` of the limit that was passed.

    Raises PolicyError when an entry makes no sense, and names it.

    >>> Limits({"/32": 10, "/24,/56": 100}, exempt=["127.0.0.0/8", "::1"])
    Limits({'/32': 10, '/24,/56': 100})
    """

    def __init__(
        self,
        limits: LimitTable | None = None,
        *,
        exempt: Iterable[str] = (),
        networks: Mapping[str, Mapping[str, object]] | None = None,
        dry_run: bool = False,
        code: int = REFUSAL_CODE,
        text: str = REFUSAL_TEXT,
    ) -> None:
        self.limits = STOCK_LIMITS if limits is None else limits
        self.dry_run = dry_run
        self.refused: Counter[str] = Counter()
        self.would_refuse: Counter[str] = Counter()
        self._refusal = Verdict(accepted=False, code=code, text=text, disconnect=True)
        # Of each table, how its limits are called in the counters; the exempt have an empty table.
        tables: list[list[tuple[int, int, int]]] = [[], _table(self.limits, "limits")]
        self._names: list[list[str]] = [[], [f"default {key}" for key in self.limits]]
        members = [(prefix, _EXEMPT) for prefix in _prefixes(exempt, "exempt")]
        if networks is not None and not isinstance(networks, Mapping):
            raise PolicyError(f"networks: {networks!r} is no mapping from a name to a network")
        for name, network in (networks or {}).items():
            where = f"network {name!r}"
            if not isinstance(network, Mapping) or set(network) != {"prefixes", "limits"}:
                raise PolicyError(f"{where}: {network!r} is no mapping with 'prefixes' and 'limits'")
            members += [(prefix, len(tables)) for prefix in _prefixes(network["prefixes"], where)]
            tables.append(_table(network["limits"], where))
            self._names.append([f"{name} {key}" for key in network["limits"]])  # type: ignore[attr-defined]
        self._configure(tables, self._network_map(members), _DEFAULT, ACCEPT)

    @staticmethod
    def _network_map(members: list[tuple[str, int]]) -> NetworkMap:
        try:
            return NetworkMap(members)
        except CidrError as error:
            raise PolicyError(f"exempt and networks: {error}") from None

    def __repr__(self) -> str:
        return f"Limits({self.limits!r}{', dry_run=True' if self.dry_run else ''})"

    def describe(self) -> str:
        """The default limits in the form of the command line's options."""
        return " ".join(f"{lengths}={most}" for lengths, most in self.limits.items())

    def _passed(self, table: int, row: int, count: int, prefix: str) -> Verdict:
        name = self._names[table][row]
        if self.dry_run:
            self.would_refuse[name] += 1
            return ACCEPT
        self.refused[name] += 1
        return self._refusal
