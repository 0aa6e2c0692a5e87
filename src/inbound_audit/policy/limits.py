"""`Limits`: the policy that most people need, without a script.

A limit is a prefix length and how many sessions may be open from the connecting IP's prefix of that length, the one
that asks included; or how many connections may come from there, messages be accepted or refusals be given in some time
(room `rates`). Everything is checked when the policy is built; `validate_connect` is one native call, whether it lets
in or refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from inbound_audit._ipcount import LimitTables, parse_pair, parse_prefix
from inbound_audit.errors import CapacityError, CidrError, MonitorError, PolicyError, did_you_mean, named_keywords
from inbound_audit.policy.base import Policy
from inbound_audit.policy.rates import EXAMPLE, MAX_COUNT, Most, Rate, monitors_for, read_most
from inbound_audit.policy.reason import Reason
from inbound_audit.policy.verdict import ACCEPT, DENIED_TEXT, REFUSAL_CODE, REFUSAL_TEXT, Verdict

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session
    from inbound_audit.audit import InboundAudit

LimitValue = int | str | Sequence[int | str]
"""The most open sessions; a text such as ``"300/5m"`` or ``"10 then deny for 5m"``; or several of these."""

LimitTable = Mapping[str, LimitValue]


class Row(NamedTuple):
    """One limit of a network: of a prefix length, or ("total") of the whole network or listener."""

    network: str
    key: str
    kind: str
    lengths: tuple[int, int]
    """For IPv4 and IPv6; -1: not for this family."""
    most: int | Rate
    deny_s: int
    """For how many seconds a prefix that is over it is denied; 0: it is not."""

    @property
    def name(self) -> str:
        """As in `refused`."""
        return f"{self.network} {self.key}" + (f" {self.most.name}" if isinstance(self.most, Rate) else "")

    @property
    def option(self) -> str:
        """As the command line's ``--limit`` has it: ``/24=100``, ``partner:/24=300/5m``, ``partner:total=500``."""
        where = "" if self.kind == "listener" or self.network == "default" else f"{self.network}:"
        return f"{where}{self.key}={Most(self.most, self.deny_s)}"

    @property
    def reason(self) -> str:
        """Why it denies a prefix."""
        return f"over {self.option}"

    def native(self, cluster: bool, dry_run: bool) -> tuple[str, str, int, int, int, str, int, tuple[int, str] | None]:
        """For the native part: name, kind, lengths, maximum, the events and seconds of a limit over time, and the
        denial that follows."""
        denial = (self.deny_s, self.reason) if self.deny_s and not dry_run else None
        view = "cluster " if cluster and self.kind != "listener" else ""
        if isinstance(self.most, Rate):
            return self.name, f"{view}timed {self.kind}", *self.lengths, *self.most, denial
        return self.name, view + self.kind, *self.lengths, self.most, "", 0, denial


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit, whether a new connection of a client would be over it, and what it counts now: without that
    connection."""

    limit: str
    prefix: str | None
    count: int
    most: int
    over: bool


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
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        # A number of many thousand digits has no text of digits.
        shown = hex(value)[:40] if isinstance(value, int) and abs(value) >> 128 else repr(value)
        raise PolicyError(f"{where}: {shown} is not a number of sessions, or a text such as {EXAMPLE}")
    return value


def _most(value: object, where: str) -> Most:
    if not isinstance(value, str):
        return Most(_maximum(value, where))
    try:
        return read_most(value)
    except ValueError as error:
        raise PolicyError(f"{where}: {error}; or a number, for open sessions") from None


def _values(value: object, where: str) -> list[Most]:
    """What one prefix length, or a total, is limited to. Raises PolicyError."""
    if not isinstance(value, (list, tuple)):
        return [_most(value, where)]
    found: dict[str, Most] = {}
    for each in value:
        most = _most(each, where)
        what = most.most.name if isinstance(most.most, Rate) else "open sessions"
        if found.setdefault(what, most) is not most:
            raise PolicyError(f"{where}: {found[what]} and {most} both limit {what}; give one of them")
    if not found:
        raise PolicyError(f"{where}: an empty list limits nothing; give a number, or a text such as {EXAMPLE}")
    return list(found.values())


def _rows(limits: object, network: str, where: str) -> list[Row]:
    """One table of limits. Raises PolicyError."""
    if not isinstance(limits, Mapping):
        raise PolicyError(f"{where}: {limits!r} is not a mapping from a prefix length to a number of sessions")
    rows: list[Row] = []
    for key, value in limits.items():
        try:
            four, six = parse_pair(key)
        except CidrError as error:
            raise PolicyError(f"{where}: limit {error}") from None
        lengths = -1 if four is None else four, six
        found = _values(value, f"{where}: limit {key!r}")
        if 0 in lengths and any(most.deny_s for most in found):
            raise PolicyError(
                f"{where}: limit {key!r}: would deny every address; deny for a longer prefix, such as /32"
            )
        rows += [Row(network, key, "prefix", lengths, *most) for most in found]
    return rows


def _listener_total(value: object) -> list[Row]:
    """Raises PolicyError."""
    if isinstance(value, (str, list, tuple)):
        raise PolicyError(
            f"listener_total: {value!r}: is for open sessions alone, because monitors count all listeners together; "
            "for a limit over time write '/0' in `limits`, or `total` in a network"
        )
    return [] if value is None else [Row("listener", "total", "listener", _WHOLE, _maximum(value, "listener_total"), 0)]


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
        found = _values(given["total"], f"{where}: total")
        if any(most.deny_s for most in found):
            raise PolicyError(f"{where}: total: would deny the whole network; deny for a prefix length, such as /32")
        rows += [Row(name, "total", "network", _WHOLE, *most) for most in found]
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
    """A maximum of open sessions per prefix, of the session's own service type; or of events in some time.

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

    An override of the audit (`InboundAudit.deny`, `allow`) decides before the limits, in a dry run as well: `denial` is
    the verdict of who is denied, and `denied` counts them.

    A text in place of a number is a limit over time: ``"300/5m"`` for at most 300 connections in five minutes, ``"20
    rejections/1h"`` and ``"100 receptions/1h"`` for refusals and accepted messages. A list has several limits of one
    prefix: ``{"/32": [10, "300/5m"]}``. What is counted is what the audit's monitors record: of all services and
    listeners, a refused connection too. Of the windows of a monitor, each as long as the limit's time, the current one
    counts, and the one before as far as the time up to now covers it, rounded down. So it is exact if the events of
    that window came evenly, and no burst lets more than twice the number through in that time. With `cluster` the
    other nodes' events count as well, of a monitor that the agents were given. With ``" then deny for 10m"`` behind it
    a limit that was passed denies the connecting IP's prefix for so long (`InboundAudit.deny`), but for addresses of
    other networks in it, and unless a user has said otherwise about that prefix.

    A guard or gate makes the monitors that an audit lacks (`prepare`); a policy that is asked without them makes them
    when it is first asked.

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
        everywhere = _listener_total(listener_total)
        default = _Network([], _rows(self.limits, "default", "limits"))
        named = {"exempt": _Network(_prefixes(exempt, "exempt"), [])}
        self.exempt = tuple(named["exempt"].prefixes)
        named |= {f"network {name!r}": _network(name, given) for name, given in (networks or {}).items()}
        _check_overlap(named)
        first, *others = named.values()
        listed = [first, default, *others]
        tables = [
            [row.native(cluster, dry_run) for row in network.rows + everywhere * (number != _EXEMPT)]
            for number, network in enumerate(listed)
        ]
        if not any(tables):
            raise PolicyError("limits: nothing is limited; expected e.g. {'/32': 10}, a total or listener_total")
        prefixes = [(prefix, number) for number, network in enumerate(listed) for prefix in network.prefixes]
        if len(prefixes) > MAX_PREFIXES or sum(map(len, tables)) > MAX_LIMITS:
            raise PolicyError(f"networks: have more than {MAX_PREFIXES} prefixes or {MAX_LIMITS} limits in all")
        refusal = _refusal(code, text)
        self.refusal, self.denial = refusal, Verdict(False, code, DENIED_TEXT, disconnect=True)
        self._configure(tables, prefixes, _DEFAULT, ACCEPT, ACCEPT if dry_run else refusal, self.denial)
        self._names = ["exempt", "default", *(networks or {})]
        self._listener_total = listener_total
        self._networks = {
            name: {**given, "prefixes": network.prefixes}
            for (name, given), network in zip((networks or {}).items(), others, strict=True)
        }
        rows = [row for network in listed for row in network.rows] + everywhere
        self.rows = [row for network in listed[1:] for row in network.rows + everywhere]
        """By the numbers that the native part has."""
        self._options = [row.option for row in rows]
        self.denying = {} if dry_run else {row.reason: f"{row.name} then deny" for row in rows if row.deny_s}
        """The limits that deny, by the reason that they give."""
        self._rates = [row.most for row in rows if isinstance(row.most, Rate)]

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
        default: dict[str, LimitValue] = {}
        named: dict[str, dict[str, Any]] = {name: {"prefixes": list(prefixes)} for name, prefixes in networks.items()}
        listener_total: Any = None
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
    def arguments(self) -> dict[str, Any]:
        """From which `Limits` makes the same limits again, as JSON has them; without `dry_run` and the reply of a
        refusal. O(limits + listed prefixes)."""
        networks = {
            name: {key: dict(value) if isinstance(value, Mapping) else value for key, value in network.items()}
            for name, network in self._networks.items()
        }
        return {
            "limits": dict(self.limits),
            "exempt": list(self.exempt),
            "networks": networks,
            "listener_total": self._listener_total,
            "cluster": self.cluster,
        }

    def monitors_for(self, present: Iterable[str]) -> list[str]:
        """The monitors that limits over time need beside those that are `present`, for a program that makes its audit.

        A monitor that is present is used if its windows are as long as the limit's time and if it has two or more.
        """
        return monitors_for(self._rates, present)

    def prepare(self, audit: InboundAudit) -> None:
        """Adds to an audit the monitors that limits over time need and that it lacks. Raises PolicyError if it has no
        room for them, InboundAuditError if it is closed."""
        if self.denying:
            audit._carry_out_denials()
        lacking = self.monitors_for(audit.monitors)
        if lacking:
            try:
                audit.add_monitors(lacking)
            except (MonitorError, CapacityError) as error:
                raise PolicyError(f"limits over time need the monitors {', '.join(lacking)}: {error}") from None

    def check(self, audit: InboundAudit) -> None:
        """As `prepare`."""
        self.prepare(audit)

    def explain(self, ac: Session) -> Reason | None:
        """The limit that the session was over. None unless `explains` was set before it was asked."""
        passed = self._take_passed(ac)
        return None if passed is None else Reason("limit", *passed, would_refuse=self.refusal if self.dry_run else None)

    def states(self, ac: Session) -> tuple[str, list[LimitState]]:
        """The network of a client ("default", "exempt" or its name), and its limits. `ac`: of `Listener.visit`.
        O(limits x (prefix length + listed prefixes below the limit's prefix))."""
        number, states = self._states(ac)
        return self._names[number], [LimitState(*state) for state in states]

    @property
    def refused(self) -> Counter[str]:
        """How many sessions were refused, by the limit that they were over: ``"default /24"``, ``"partner total"``,
        ``"default /24 connections/5m"``."""
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
