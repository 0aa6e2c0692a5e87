"""What monitors and series count over a cluster: what this host recorded, and what its agent has of the other nodes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.support import gold_records
from tests.support.lua_support import KINDS, Kind
from tests.support.lua_support import Bench as LuaBench
from tests.support.lua_windows import ECHO, ask, literal, of_python, table
from tests.support.sieve_support import Bench as SieveBench
from tests.support.timing import Clock

from inbound_audit import InboundAudit, Limits, LuaPolicy
from inbound_audit._ipcount import MONITOR_KINDS, ClusterSeries, NodeTree, NodeTrees
from inbound_audit.cli.console import queries
from inbound_audit.cli.console.context import ConsoleContext
from inbound_audit.cli.console.grammar import Names
from inbound_audit.errors import SeriesError
from inbound_audit.shared import View

MONITOR = "300,6"
FOUR, SIX = "192.0.2.7", "2001:db8::7"
CIDRS = [None, "/24", "/24,/48", "/0", "192.0.2.0/24", "198.51.100.1", "2001:db8::/32", "2001:db8::9", "/33"]
WINDOWS = [(0, None), (1, None), (0, 1), (1, 5), (0, 5), (2, 1), (0, 6)]
PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"

MAX_HOSTS = 1000


def records(hosts: dict[str, int]) -> bytes:
    return gold_records.encode({ipaddress.ip_address(host): count for host, count in hosts.items()})


class Agent:
    """The agent of this host, in this process: it has what other nodes have recorded."""

    def __init__(self, **audit: Any) -> None:
        self.audit = InboundAudit(shared="mail", capacity=1 << 22, **audit)
        self._trees = NodeTrees(self.audit)
        self._series: dict[tuple[object, ...], ClusterSeries] = {}
        self._windows: dict[tuple[object, ...], NodeTree] = {}

    def says(self, scope: str, name: str, *size: int, hosts: dict[str, int], window: int = 0, sign: int = 0) -> None:
        """The other node has recorded that, and nothing else, in one window."""
        key = (scope, name, *size)
        if key not in self._series:
            self._series[key] = self._trees.series(scope, name, *size)  # type: ignore[call-arg]
        one = self._series[key]
        one.advance()
        number = one.number - window
        tree = self._windows.get((key, number, sign))
        if tree is None:
            tree = self._windows[key, number, sign] = one.tree(number, sign, MAX_HOSTS)
        assert one.fill(number, sign, [tree])
        tree.replace(records(hosts))


def scan(*audits: InboundAudit) -> None:
    for audit in audits:
        assert audit._membership is not None
        audit._membership.scan()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def agent(place: Path, clock: Clock) -> Iterator[Agent]:
    made = Agent(clock=clock)
    yield made
    made.audit.close()


@pytest.fixture
def worker(agent: Agent, clock: Clock) -> Iterator[InboundAudit]:
    with InboundAudit(shared="mail", capacity=1 << 22, monitors=[MONITOR], clock=clock) as audit:
        yield audit


def remember(agent: Agent, worker: InboundAudit, clock: Clock) -> None:
    """Both have recorded in two windows: the worker one of each kind for each host, the others more."""
    for kind, times in zip(MONITOR_KINDS, (1, 10, 100), strict=True):
        agent.says(kind, MONITOR, 300, 6, hosts={FOUR: times, "198.51.100.1": 2 * times})
    for host in (FOUR, SIX):
        with worker.listener().session(host) as ac:
            ac.record_reception()
            ac.record_rejection()
    clock.seconds += 300
    for kind, times in zip(MONITOR_KINDS, (3, 30, 300), strict=True):
        agent.says(kind, MONITOR, 300, 6, hosts={FOUR: times, "192.0.2.9": times, SIX: 4 * times, "2001:db8::9": times})
        agent.says(kind, MONITOR, 300, 6, hosts={FOUR: times // 3, "198.51.100.1": 2 * times // 3}, window=1)
    scan(worker, agent.audit)
    for host in (FOUR, SIX):
        worker.listener().session(host).close()


# ---- monitors


def test_a_monitor_counts_all_nodes_if_it_is_asked_to(agent: Agent, worker: InboundAudit, clock: Clock) -> None:
    remember(agent, worker, clock)
    assert worker.connections(MONITOR, FOUR) == 1
    assert worker.connections(MONITOR, FOUR, cluster=True) == 4
    assert worker.connections(MONITOR, "192.0.2.0/24", cluster=True) == 7
    assert worker.connections(MONITOR, "192.0.2.0/24", 1, cluster=True) == 2
    assert worker.receptions(MONITOR, "::/0", 0, 5, cluster=True) == 151
    assert worker.receptions(MONITOR, "::/0", 0, 5) == 1
    assert worker.rejections(0, "0.0.0.0/0", 0, 1, cluster=True) == 901
    assert worker.rejections(0, "0.0.0.0/0", 0, 1, cluster=False) == 1
    with worker.listener().session(SIX) as ac:
        assert worker.connections(MONITOR, ac=ac, cluster=True) == 14


def test_a_sliding_average_of_all_nodes(agent: Agent, worker: InboundAudit, clock: Clock) -> None:
    remember(agent, worker, clock)
    clock.seconds += 75 - clock.seconds % 300  # a quarter of the window
    assert worker.sliding_average("connections", MONITOR, FOUR) == 1 + 0.75 * 1
    assert worker.sliding_average("connections", MONITOR, FOUR, cluster=True) == 4 + 0.75 * 2
    assert worker.sliding_average("rejections", 0, "192.0.2.0/24", cluster=True) == 600 + 0.75 * 101


def test_windows_of_a_limit_have_other_nodes_only_if_it_is_of_the_cluster(
    agent: Agent, worker: InboundAudit, clock: Clock
) -> None:
    remember(agent, worker, clock)
    for cluster, fullest in ((False, (1, f"{FOUR}/32")), (True, (13, f"{SIX}/128"))):
        limits = Limits({"/32,/128": "0/5m"}, cluster=cluster)
        assert limits._fullest(worker, "SMTP", 0, 1, 1 << 20, True, 0)[0] == [fullest]


def test_the_end_of_the_agent_leaves_the_counts_of_this_host(agent: Agent, worker: InboundAudit, clock: Clock) -> None:
    worker.series.define("s", replicate="cluster")
    worker.series.add("s", FOUR)
    agent.says("series", "s", 300, 6, hosts={FOUR: 4})
    remember(agent, worker, clock)
    assert worker.connections(MONITOR, FOUR, 0, 5, cluster=True) == 6
    assert worker.series.count("s", FOUR, 0, 5) == 5
    agent.audit.close()
    scan(worker)
    assert worker.connections(MONITOR, FOUR, 0, 5, cluster=True) == 2
    assert worker.series.count("s", FOUR, 0, 5) == 1


# ---- named series


@pytest.mark.parametrize(("replicate", "remote"), [("none", 0), ("cluster", 1), ("manager", 1)])
def test_a_series_counts_all_nodes_by_its_definition(
    agent: Agent, worker: InboundAudit, replicate: str, remote: int
) -> None:
    worker.series.define("s", "ip", 600, 4, replicate=replicate)
    worker.series.define("t", "string", 600, 4, replicate=replicate)
    worker.series.add("s", FOUR, 2)
    worker.series.add("t", "mx.example", 3)
    agent.says("series", "s", 600, 4, hosts={FOUR: 5, SIX: 7})
    agent.says("series", "s", 600, 4, hosts={FOUR: 10, "192.0.2.1": 1}, sign=1)
    agent.says("series", "s", 600, 4, hosts={FOUR: 100}, window=3)
    scan(worker)
    assert worker.series.count("s", FOUR) == 2 - 5 * remote
    assert worker.series.count("s", "192.0.2.0/24") == 2 - 6 * remote
    assert worker.series.count("s", "192.0.2.0/24", 0, 3) == 2 + 94 * remote
    assert worker.series.count("s", "::/0") == 7 * remote
    with pytest.raises(SeriesError, match="windows 0 to 4"):
        worker.series.count("s", FOUR, 0, 4)
    assert worker.series.count("t", "mx.example") == 3


def test_the_other_family_counts_nothing_whatever_other_nodes_say(agent: Agent, worker: InboundAudit) -> None:
    """On another node the series may be of type ip."""
    worker.series.define("s", "cidr", 600, 4, replicate="cluster")
    agent.says("series", "s", 600, 4, hosts={FOUR: 5, SIX: 7})
    scan(worker)
    assert (worker.series.count("s", FOUR), worker.series.count("s", SIX), worker.series.count("s", SIX)) == (5, 0, 0)


def test_a_later_definition_that_replicates_a_series(agent: Agent, worker: InboundAudit) -> None:
    worker.series.define("s")
    agent.says("series", "s", 300, 6, hosts={FOUR: 5})
    scan(worker)
    assert worker.series.count("s", FOUR) == 0
    worker.series.define("s", replicate="cluster")
    assert worker.series.count("s", FOUR) == 5


def test_a_key_is_removed_on_this_host_alone(agent: Agent, worker: InboundAudit) -> None:
    worker.series.define("s", replicate="cluster")
    worker.series.add("s", FOUR, 2)
    agent.says("series", "s", 300, 6, hosts={FOUR: 5})
    scan(worker)
    worker.series.remove_item("s", FOUR)
    assert worker.series.count("s", FOUR) == 5


def test_a_series_of_which_nothing_is_recorded_here(agent: Agent, worker: InboundAudit) -> None:
    """The agent may have it before this process defines it."""
    agent.says("series", "s", 300, 6, hosts={SIX: 5})
    scan(worker)
    worker.series.define("s", replicate="cluster")
    assert worker.series.count("s", "2001:db8::/32") == 5


# ---- in a policy


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_lua_counts_what_python_counts(agent: Agent, clock: Clock, tmp_path: Path, kind: Kind) -> None:
    bench = LuaBench(tmp_path, kind, shared="mail", capacity=1 << 22, monitors=[MONITOR], clock=clock)
    try:
        remember(agent, bench.audit, clock)
        echo = bench.policy(ECHO)
        for peer, name in product((FOUR, SIX), MONITOR_KINDS):
            ac = bench.session(peer)
            for cidr, (startv, endv), cluster in product(CIDRS, WINDOWS, ("true", "false")):
                given = table(cidr=cidr, startv=startv, endv=endv)[:-1] + f", cluster = {cluster}}}"
                expected = of_python(
                    getattr(bench.audit, name), MONITOR, cidr, startv, endv, ac=ac, cluster=cluster == "true"
                )
                assert ask(echo, ac, f"msys.audit.{name}({literal(MONITOR)}, {given})") == expected, given
    finally:
        bench.close()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_lua_counts_a_series_that_is_replicated(agent: Agent, clock: Clock, tmp_path: Path, kind: Kind) -> None:
    bench = LuaBench(tmp_path, kind, shared="mail", capacity=1 << 22, monitors=[MONITOR], clock=clock)
    try:
        echo = bench.policy(ECHO.replace('"s", "ip", 300, 6', '"s", "ip", 300, 6, { replicate = "cluster" }'))
        ac = bench.session(FOUR)
        ask(echo, ac, 'msys.audit_series.add("s")')
        agent.says("series", "s", 300, 6, hosts={FOUR: 5, "192.0.2.9": 2, SIX: 7})
        agent.says("series", "s", 300, 6, hosts={FOUR: 9}, sign=1, window=1)
        scan(bench.audit)
        counts = {"": 6, ', "/24"': 8, ', "::/0"': 7, ", ac": 6, ", {startv = 1}": -9, ', {key = "/24", endv = 5}': -1}
        for given, count in counts.items():
            assert ask(echo, ac, f'msys.audit_series.count("s"{given})') == count, given
    finally:
        bench.close()


def test_lua_counts_without_a_session(agent: Agent, worker: InboundAudit, clock: Clock, tmp_path: Path) -> None:
    remember(agent, worker, clock)
    (tmp_path / "policy.lua").write_text(f"""
        local mod = {{}}
        function mod:init()
          here = msys.audit.connections("{MONITOR}", {{ cidr = "192.0.2.0/24" }})
          everywhere = msys.audit.connections("{MONITOR}", {{ cidr = "192.0.2.0/24", cluster = true }})
        end
        function mod:validate_connect(ac, vctx)
          vctx:set_code(250, here .. " " .. everywhere)
        end
        msys.registerModule("m", mod)
    """)
    policy = LuaPolicy(tmp_path / "policy.lua", audit=worker)
    with worker.listener().session(SIX) as ac:
        assert policy.validate_connect(ac).text == "1 7"
    policy.close()


@pytest.mark.parametrize("cluster", [False, True])
def test_sieve_counts_what_python_counts(agent: Agent, clock: Clock, tmp_path: Path, cluster: bool) -> None:
    bench = SieveBench(tmp_path, shared="mail", monitors=[MONITOR], clock=clock)
    suffix = "_cluster" if cluster else ""
    try:
        remember(agent, bench.audit, clock)
        clock.seconds += 75 - clock.seconds % 300
        for name, mask in product(MONITOR_KINDS, ("32", "24", "24,48", "0")):
            cidr = ",".join(f"/{length}" for length in mask.split(","))
            hashed = f'$h = hash_create; hash_set $h "period_end" 1; hash_set $h "mask" "{mask}";'
            said = [
                bench.say(f'ec_ip_{name}{suffix} 0 "{mask}"'), bench.say(f"ec_ip_{name}{suffix} $h", hashed)
            ]  # fmt: skip
            with bench.session() as ac:  # each run opens a session, which a monitor counts
                average = bench.audit.sliding_average(name, 0, cidr, ac=ac, cluster=cluster)
                total = getattr(bench.audit, name)(0, cidr, 0, 1, ac=ac, cluster=cluster)
            late = 2 if name == "connections" else 0
            assert said == [str(int(average) - late), str(total - late + late // 2)]
    finally:
        bench.audit.close()


def test_sieve_replicates_a_series(agent: Agent, clock: Clock, tmp_path: Path) -> None:
    bench = SieveBench(tmp_path, shared="mail", clock=clock)
    try:
        agent.says("series", "s", 300, 6, hosts={FOUR: 5, "192.0.2.9": 2})
        add = '$h = hash_create; hash_set $h "series" "s"; hash_set $h "monitor" "300,6"; hash_set $h "replicate" %d;'
        assert bench.say('audit_series "s" "300,6" "24"', 'audit_series_add "s" "300,6";') == "1"
        scan(bench.audit)
        assert bench.say('audit_series "s" "300,6" "24"', add % 0 + "audit_series_add $h;") == "2"
        assert bench.say('audit_series "s" "300,6" "24"', add % 1 + "audit_series_add $h;") == "10"
        assert bench.say('audit_series "s" "300,6"') == "8"
    finally:
        bench.audit.close()


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not installed with the package")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_policy_of_the_page_about_clusters(agent: Agent, clock: Clock, tmp_path: Path, kind: Kind) -> None:
    scripts = re.findall(r"^```lua\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    script = next(one for one in scripts if "cluster = true" in one)
    bench = LuaBench(tmp_path, kind, shared="mail", capacity=1 << 22, monitors=[MONITOR], clock=clock)
    try:
        policy = bench.policy(f"local mod = {{}}\n{script}\nmsys.registerModule('m', mod)")
        assert policy.validate_connect(bench.session(FOUR))
        agent.says("connections", MONITOR, 300, 6, hosts={"192.0.2.200": 500}, window=1)
        agent.says("series", "failures", 3600, 24, hosts={SIX: 101}, window=23)
        scan(bench.audit)
        assert not policy.validate_connect(bench.session("192.0.2.8"))
        assert policy.validate_connect(bench.session("198.51.100.1"))
        assert policy.validate_connect(bench.session("2001:db8::8"))
        assert not policy.validate_connect(bench.session(SIX))
        assert policy.errors == 0, policy.last_error
    finally:
        bench.close()


# ---- in the console


def test_the_console_counts_all_nodes(place: Path) -> None:
    size = (1 << 20, 3)
    agent = Agent()
    monitor = f"{size[0]},{size[1]}"
    with agent.audit, InboundAudit(shared="mail", capacity=1 << 22, monitors=[monitor]) as worker:
        worker.series.define("s", "ip", *size, replicate="cluster")
        worker.series.add("s", FOUR, 2)
        worker.listener().session(FOUR).close()
        agent.says("series", "s", *size, hosts={FOUR: 5, SIX: 7})
        agent.says("series", "s", *size, hosts={SIX: 4}, sign=1)
        agent.says("connections", monitor, *size, hosts={"192.0.2.9": 10})
        with View("mail") as view:
            context = ConsoleContext("mail", view, print)
            counts = {row[:4]: row[4] for row in queries.show_ip(context, "192.0.2.0/24").rows}
            assert sum(counts[("connections", *size, window)] for window in range(2)) == 11
            assert sum(counts[("receptions", *size, window)] for window in range(2)) == 0
            rows = {(row[1], row[5]): row[6] for row in queries.show_all(context).rows}
            assert rows == {("", FOUR): 1, ("", "192.0.2.9"): 10, ("s", FOUR): 7, ("s", SIX): 3}
            assert list(queries.count_cidr(context, "::/0", "s", size, 0, 2).rows) == [(3,)]
            found = queries.show_count(context, "0.0.0.0/0", Names(("s",), False))
            assert list(found.rows) == [("192.0.2.7/32", 7)]


# ---- in files


def test_what_other_nodes_recorded_is_not_saved_here(place: Path, clock: Clock, tmp_path: Path) -> None:
    """A node saves its own: else it would be counted twice when both are back."""
    agent = Agent(clock=clock)
    for at_first in (True, False):
        with InboundAudit(shared="mail", capacity=1 << 22, clock=clock, state=tmp_path) as audit:
            audit.series.define("s", persist=True, replicate="cluster")
            if at_first:
                audit.series.add("s", FOUR, 2)
                agent.says("series", "s", 300, 6, hosts={FOUR: 5})
                scan(audit)
                assert audit.series.count("s", FOUR) == 7
                agent.audit.close()
            else:
                assert audit.series.count("s", FOUR) == 2
