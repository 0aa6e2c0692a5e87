"""Pictures against a model that draws the compressed tree itself."""

from __future__ import annotations

import heapq
import ipaddress
import threading
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit import InboundAudit, PrefixCounter
from inbound_audit._ipcount import SeriesStore
from inbound_audit.errors import CidrError, MonitorError, SeriesError, UnknownServiceType
from inbound_audit.picture import Picture, picture_of_counter

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Row = tuple[int, str, int]

addresses = st.one_of(
    st.builds(lambda n: ipaddress.IPv4Address(0xC0000200 + n), st.integers(0, 1023)),
    st.builds(ipaddress.IPv4Address, st.integers(0, 2**32 - 1)),
    st.builds(lambda n: ipaddress.IPv6Address((0x20010DB8 << 96) + n), st.integers(0, 1023)),
    st.builds(lambda n: ipaddress.IPv6Address((0x2001 << 112) + n), st.integers(0, 2**112 - 1)),
)


class Model:
    """Splits the heaviest prefix, and of equal ones that with the lowest address, while two rows are left."""

    def __init__(self, hosts: Iterable[Address], rows: int) -> None:
        self.hosts = Counter(hosts)
        self.rows: list[tuple[Network, int, list[int]]] = []
        waiting: list[tuple[int, int, int, int]] = []
        roots = []
        for version in (4, 6):
            inside = [host for host in self.hosts if host.version == version]
            if inside and len(self.rows) < rows:
                roots.append(self.add(inside, waiting))
        while waiting and len(self.rows) + 2 <= rows:
            at = heapq.heappop(waiting)[-1]
            network, _, branches = self.rows[at]
            if network.prefixlen == network.max_prefixlen:
                continue
            for half in network.subnets():
                branches.append(self.add([host for host in self.hosts if host in half], waiting))
        self.drawn: list[Row] = []
        for root in roots:
            self.draw(root, -1)

    def add(self, hosts: list[Address], waiting: list[tuple[int, int, int, int]]) -> int:
        network: Network = ipaddress.ip_network(min(hosts))
        while not all(host in network for host in hosts):
            network = network.supernet()
        count = sum(self.hosts[host] for host in hosts)
        heapq.heappush(waiting, (-count, network.version, int(network.network_address), len(self.rows)))
        self.rows.append((network, count, []))
        return len(self.rows) - 1

    def draw(self, at: int, parent: int) -> None:
        network, count, branches = self.rows[at]
        position = len(self.drawn)
        self.drawn.append((count, str(network), parent))
        for branch in branches:
            self.draw(branch, position)


def shown(picture: Picture) -> list[Row]:
    return [(row.count, row.prefix, row.parent) for row in picture.rows]


@given(st.lists(addresses, max_size=60), st.integers(2, 130))
def test_the_rows_are_those_of_the_model(hosts: list[Address], rows: int) -> None:
    with InboundAudit() as audit:
        smtp = [audit.listener("SMTP", name="a"), audit.listener("SMTP", name="b")]
        sessions = [smtp[i % 2].session(str(host)) for i, host in enumerate(hosts)]
        assert shown(audit.picture(rows)) == Model(hosts, rows).drawn
        assert shown(audit.picture(rows, listener="b")) == Model(hosts[1::2], rows).drawn
        counter = PrefixCounter(capacity=1 << 24)
        for host in hosts:
            counter.add(host)
        assert shown(picture_of_counter(counter, rows)) == Model(hosts, rows).drawn
        for row in audit.picture(rows).rows:
            inside = [host for host in hosts if host in row.network]
            assert shown(audit.picture(rows, within=row.prefix)) == Model(inside, rows).drawn
            assert audit.inbound_session_count(row.prefix) == row.count
        for session in sessions:
            session.close()
        assert audit.picture(rows).rows == ()


@given(st.lists(addresses, max_size=40), st.lists(addresses, max_size=40), st.integers(2, 60))
def test_a_change_is_right_or_not_known(before: list[Address], after: list[Address], rows: int) -> None:
    with InboundAudit() as audit:
        smtp = audit.listener()
        sessions = [smtp.session(str(host)) for host in before]
        earlier = audit.picture(rows)
        for session in sessions:
            session.close()
        for host in after:
            sessions.append(smtp.session(str(host)))
        now = audit.picture(rows)
        changes = now.changes(earlier)
        for row, change in zip(now.rows, changes, strict=True):
            was = sum(host in row.network for host in before)
            assert change is None or change == row.count - was
            if rows > 2 * len(before):  # nothing is hidden in a row that is not split
                assert change is not None
        for session in sessions:
            session.close()


@given(
    st.lists(st.tuples(addresses, st.integers(0, 3), st.integers(1, 3)), max_size=40),
    st.lists(addresses, min_size=1, max_size=40),
    st.integers(2, 40),
    st.integers(0, 2),
)
def test_the_rows_of_a_picture_in_windows(
    events: list[tuple[Address, int, int]], open_now: list[Address], rows: int, first: int
) -> None:
    """Of another tree than that which is drawn, as rejections of open sessions; and over windows that have gone."""
    now = [600.0]
    with InboundAudit(monitors=["60,3"], clock=lambda: now[0], capacity=1 << 20) as audit:
        counted: Counter[tuple[int, Address]] = Counter()
        for window in range(4):
            for host, at, n in events:
                if at == window:
                    with audit.listener("SMTP", f"mx{n}").session(str(host)) as session:
                        session.record_rejection(n)
                    counted[3 - window, host] += n
            now[0] += 60 if window < 3 else 0
        sessions = [audit.listener("IMAP").session(str(host)) for host in open_now]
        drawn = audit.picture(rows, service_type="IMAP").rows
        entry = ("rejections", "60,3", 60, 3)
        prefixes, parents = [row.prefix for row in drawn], [row.parent for row in drawn]
        found = SeriesStore(audit).count_rows(*entry, first, 2, prefixes, parents)
        for row, count in zip(drawn, found, strict=True):
            inside = [n for (window, host), n in counted.items() if first <= window <= 2 and host in row.network]
            assert count == sum(inside) == SeriesStore(audit).count(*entry, row.prefix, first, 2)
        for session in sessions:
            session.close()


@given(
    st.lists(st.tuples(addresses, st.integers(0, 2), st.integers(-4, 6).filter(bool)), max_size=40),
    st.integers(2, 40),
    st.integers(0, 2),
)
def test_a_series_of_which_something_is_taken(changes: list[tuple[Address, int, int]], rows: int, first: int) -> None:
    now = [600.0]
    with InboundAudit(clock=lambda: now[0], capacity=1 << 20) as audit:
        audit.series.define("hits", type="ip", interval=60, num_windows=3)
        for window in range(3):
            for host, at, n in changes:
                if at == window:
                    audit.series.add("hits", str(host), n)
            now[0] += 60 if window < 2 else 0
        drawn = audit.picture(rows, series="hits", startv=first, endv=2)
    inside: Counter[int] = Counter()
    assert len(drawn.rows) <= rows
    for position, row in reversed(list(enumerate(drawn.rows))):
        count = sum(n for host, at, n in changes if at <= 2 - first and host in row.network)
        assert row.count == max(count, inside[position]) > 0
        inside[row.parent] += row.count
    assert drawn.total == inside[-1]


def test_what_rows_of_windows_can_t_be_counted() -> None:
    with InboundAudit(monitors=["60,3"]) as audit:
        count_rows = SeriesStore(audit).count_rows
        for parents in ([0], [-2], [1]):
            with pytest.raises(ValueError, match="in no prefix before it"):
                count_rows("rejections", "60,3", 60, 3, 0, 2, ["192.0.2.0/24"], parents)
        with pytest.raises(CidrError, match="/33"):
            count_rows("rejections", "60,3", 60, 3, 0, 2, ["192.0.2.0/33"], [-1])
        for windows in ((0, 3), (2, 1), (-1, 0)):
            with pytest.raises(MonitorError, match="windows"):
                count_rows("rejections", "60,3", 60, 3, *windows, [], [])
        with pytest.raises(SeriesError):
            count_rows("rejections", "60,4", 60, 4, 0, 2, [], [])


def test_windows_of_monitors_and_series() -> None:
    now = [600.0]
    with InboundAudit(monitors=["60,3"], clock=lambda: now[0]) as audit:
        audit.series.define("hits", type="ip", interval=60, num_windows=3)
        for host in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
            with audit.listener().session(host) as session:
                session.record_rejection(2)
            audit.series.add("hits", host, 3)
        now[0] += 60
        audit.series.add("hits", "192.0.2.1", -3)
        audit.series.add("hits", "198.51.100.1")
        audit.series.add("hits", "192.0.2.2", -1)
        tree = [(2, "192.0.2.0/30", -1), (1, "192.0.2.1/32", 0), (1, "192.0.2.2/32", 0), (1, "2001:db8::1/128", -1)]
        assert shown(audit.picture(monitor="60,3", startv=1)) == tree
        assert shown(audit.picture(monitor="60,3", kind="rejections", endv=2)) == [(2 * n, p, i) for n, p, i in tree]
        assert shown(audit.picture(monitor="60,3", startv=1, within="192.0.0.0/16")) == tree[:3]
        assert shown(audit.picture(monitor="60,3", startv=1, within="2001:db8::/64")) == [(1, "2001:db8::1/128", -1)]
        assert shown(audit.picture(monitor="60,3", startv=1, within="198.51.100.0/24")) == []
        assert shown(audit.picture(monitor="60,3")) == []
        assert [row.prefix for row in audit.picture(series="hits").rows] == ["198.51.100.1/32"]
        rows = shown(audit.picture(series="hits", endv=1))
        assert (2, "192.0.2.2/32") in [row[:2] for row in rows]
        assert "192.0.2.1/32" not in [prefix for _, prefix, _ in rows]


def test_windows_out_of_view_make_no_rows() -> None:
    """Their slots are not used again yet."""
    now = [600.0]
    with InboundAudit(monitors=["10,5"], clock=lambda: now[0]) as audit:
        for host in ("192.0.2.1", "1.0.0.1"):
            audit.listener().session(host).close()
        now[0] += 40
        for host in ("10.0.0.1", "10.0.0.2"):
            audit.listener().session(host).close()
        now[0] += 10
        assert shown(audit.picture(2, monitor="10,5", endv=4)) == [(2, "10.0.0.0/30", -1)]


def test_what_can_t_be_drawn() -> None:
    with InboundAudit(monitors=["60,3"]) as audit:
        audit.series.define("names", type="string", interval=60, num_windows=3)
        for rows in (-1, 0, 1, 65537):
            with pytest.raises(ValueError, match="from 2 to 65536 rows"):
                audit.picture(rows)
        with pytest.raises(UnknownServiceType):
            audit.picture(service_type="SMPT")
        for wanted in ({}, {"monitor": "60,3"}):
            with pytest.raises(CidrError, match="/33"):
                audit.picture(within="192.0.2.0/33", **wanted)
        with pytest.raises(MonitorError, match="known: 60,3"):
            audit.picture(monitor="60,4")
        with pytest.raises(MonitorError, match="did you mean 'rejections'"):
            audit.picture(monitor="60,3", kind="rejection")
        for windows in ({"startv": 3}, {"startv": 2, "endv": 1}, {"startv": -1}):
            with pytest.raises(MonitorError, match="windows"):
                audit.picture(monitor="60,3", **windows)
        with pytest.raises(SeriesError, match="known: names"):
            audit.picture(series="hits")
        with pytest.raises(SeriesError, match="texts"):
            audit.picture(series="names")
        with pytest.raises(TypeError, match="did you mean 'listener'"):
            audit.picture(listner="mx")


def test_rows_add_up_beside_threads() -> None:
    """Sessions come and go during the walks: no row is less than the rows inside it, and none is made up."""
    ended = threading.Event()
    with InboundAudit() as audit:
        smtp = audit.listener()
        lasting = [smtp.session(f"192.0.2.{n}") for n in range(100)]

        def churn(part: int) -> None:
            while not ended.is_set():
                for n in range(50):
                    smtp.session(f"192.0.{part}.{n}").close()

        threads = [threading.Thread(target=churn, args=(part,)) for part in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(300):
                rows = audit.picture(500).rows
                assert all(row.rest >= 0 for row in rows)
                assert {f"192.0.2.{n}/32" for n in range(100)} <= {row.prefix for row in rows}
                assert 100 <= sum(row.count for row in rows if row.parent < 0) <= 102 + len(rows)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        for session in lasting:
            session.close()
