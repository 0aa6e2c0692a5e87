"""The trees of a cluster's nodes: absolute counts, a digest, and the sum over all nodes."""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support import gold_records, inner
from tests.support.gold import Address, GoldCounter, unmapped
from tests.support.strategies import addresses

from inbound_audit import InboundAudit
from inbound_audit._ipcount import MAX_NODES, NODE_STATES, NodeTree, NodeTrees
from inbound_audit.errors import CapacityError, InboundAuditError

NAMES = ["mx1", "mx2", "mx3"]
counts = st.one_of(st.just(0), st.integers(1, 3), st.integers(1, 1_000_000))
some_hosts = st.dictionaries(addresses.map(unmapped), counts, max_size=20)
names = st.sampled_from(NAMES)


def address(text: str) -> Address:
    return ipaddress.ip_address(text)


def held(node: NodeTree) -> dict[Address, int]:
    return gold_records.decode(node.records()[0])


def present(hosts: dict[Address, int]) -> dict[Address, int]:
    return {host: count for host, count in hosts.items() if count}


def split(hosts: dict[Address, int], parts: int) -> list[bytes]:
    """Records that continue one another."""
    ordered = sorted(hosts.items(), key=lambda item: (item[0].version, item[0]))
    size = len(ordered) // parts + 1
    return [gold_records.encode(dict(ordered[at : at + size])) for at in range(0, len(ordered), size)]


class NodesMachine(RuleBasedStateMachine):
    """Nodes against a dict each: what a change returns, what a tree holds, and what `inbound_cidr` counts."""

    @initialize()
    def begin(self) -> None:
        self.audit = InboundAudit(capacity=1 << 24)
        self.trees = NodeTrees(self.audit)
        self.nodes = {name: self.trees.add(name) for name in NAMES}
        self.gold: dict[str, dict[Address, int]] = {name: {} for name in NAMES}
        self.here = GoldCounter()
        self.listener = self.audit.listener("SMTP")
        self.sessions = []

    def teardown(self) -> None:
        if hasattr(self, "audit"):
            for session in self.sessions:
                session.close()
            self.audit.close()

    def changed(self, name: str, new: dict[Address, int]) -> int:
        old, self.gold[name] = self.gold[name], new
        return sum(old.get(host, 0) != new.get(host, 0) for host in old.keys() | new.keys())

    @rule(name=names, hosts=some_hosts)
    def set_many(self, name: str, hosts: dict[Address, int]) -> None:
        changes = self.nodes[name].set_many(gold_records.encode(hosts))
        assert changes == self.changed(name, present({**self.gold[name], **hosts}))

    @rule(name=names, hosts=some_hosts, kept=st.integers(1, 3), parts=st.integers(1, 3))
    def replace(self, name: str, hosts: dict[Address, int], kept: int, parts: int) -> None:
        some = {host: count for at, (host, count) in enumerate(self.gold[name].items()) if at % kept == 0}
        hosts = {**some, **hosts}
        changes = self.nodes[name].replace(split(hosts, parts))
        assert changes == self.changed(name, present(hosts))

    @rule(name=names)
    def empty(self, name: str) -> None:
        self.nodes[name].empty()
        self.gold[name] = {}

    @rule(name=names)
    def ask_for_the_same_node(self, name: str) -> None:
        self.nodes[name] = self.trees.add(name)

    @rule(wanted=st.booleans())
    def keep_the_sum(self, wanted: bool) -> None:
        self.trees.sum = wanted
        assert self.trees.sum == wanted

    @rule(host=addresses)
    def open_session(self, host: Address) -> None:
        self.sessions.append(self.listener.session(host.packed))
        self.here.add(host)

    @precondition(lambda self: self.sessions)
    @rule(at=st.integers(0, 100))
    def close_session(self, at: int) -> None:
        session = self.sessions.pop(at % len(self.sessions))
        self.here.remove(session.remote_ip)
        session.close()

    @invariant()
    def nodes_hold_what_they_were_given(self) -> None:
        for name, node in getattr(self, "nodes", {}).items():
            assert held(node) == self.gold[name]
            assert (node.hosts, node.total) == (len(self.gold[name]), sum(self.gold[name].values()))
            assert node.digest == gold_records.digest(self.gold[name])
            node._check()

    @invariant()
    def the_view_is_the_sum_of_all(self) -> None:
        if hasattr(self, "audit"):
            gold = GoldCounter()
            for hosts in (*self.gold.values(), self.here.hosts):
                gold.hosts.update(hosts)
            assert self.audit.total("inbound_cidr") == gold.total
            assert self.audit.tree("inbound_cidr") == gold.tree()
            assert self.audit.total() == self.here.total
            assert self.audit.tree() == self.here.tree()
            self.trees._check()


TestNodes = NodesMachine.TestCase


@pytest.fixture
def audit():
    with InboundAudit(capacity=1 << 24) as audit:
        yield audit


@pytest.fixture
def trees(audit: InboundAudit) -> NodeTrees:
    return NodeTrees(audit)


def many(number: int, count: int = 1) -> dict[Address, int]:
    """Hosts of both families, spread and dense."""
    four = [ipaddress.IPv4Address(at * 0x9E3779B1 % 2**32) for at in range(number)]
    six = [
        ipaddress.IPv6Address((0x20010DB8 << 96) + at * 0x10001 * (1 if at % 2 else 1 << 64)) for at in range(number)
    ]
    return dict.fromkeys([*four, *six], count)


def test_many_hosts_come_back_in_order_and_in_pieces(trees: NodeTrees) -> None:
    node, hosts = trees.add("mx2"), many(3000)
    node.set_many(gold_records.encode(hosts))
    parts, cursor = [], b""
    while not parts or cursor:
        part, cursor = node.records(cursor, 1000)
        assert len(part) <= 1000
        parts.append(part)
    assert Counter(host for part in parts for host in gold_records.decode(part)) == Counter(list(hosts))
    other = trees.add("mx3")
    other.set_many(gold_records.encode(many(100, 7)))
    assert other.replace(parts) == len(hosts)
    assert (held(other), other.digest) == (hosts, node.digest)
    other._check()


@pytest.mark.parametrize("last", ["255.255.255.255", f"{'ffff:' * 7}ffff"])
def test_a_cursor_at_the_last_address_ends_or_goes_on_with_the_other_family(last: str, trees: NodeTrees) -> None:
    node = trees.add("mx2")
    hosts = {address(last): 1, address("2001:db8::"): 1}
    node.set_many(gold_records.encode(hosts))
    rest = node.records(address(last).packed)[0]
    assert gold_records.decode(rest) == {
        host: 1 for host in hosts if (host.version, host) > (address(last).version, address(last))
    }


def test_records_that_do_not_continue_one_another_replace_nothing(trees: NodeTrees) -> None:
    node = trees.add("mx2")
    node.set_many(gold_records.encode(many(10)))
    parts = split(many(20, 3), 4)
    for wrong in (parts[::-1], [*parts, parts[-1]], [parts[0], b"\x00"]):
        with pytest.raises(ValueError, match="are not records"):
            node.replace(wrong)
    assert held(node) == many(10)


def test_records_are_checked_without_a_tree(trees: NodeTrees) -> None:
    one, two = split(many(3), 2)
    gone = gold_records.encode(dict.fromkeys(many(3), 0))
    assert [trees.check_records(parts) for parts in ([], [b""], [one, two], [one, b"", two], [gone])] == [0, 0, 6, 6, 0]
    for parts in ([two, one], [one, one], [one, b"\xff"], [one[:-1]], [one + b"\0"], ["records"], [None]):
        with pytest.raises(ValueError, match="record"):
            trees.check_records(parts)  # type: ignore[arg-type]


def test_a_node_has_no_more_hosts_than_it_may(trees: NodeTrees) -> None:
    node = trees.add("mx2", max_hosts=3)
    hosts = {address(f"192.0.2.{at}"): 1 for at in range(3)}
    node.set_many(gold_records.encode(hosts))
    moved = {address("192.0.2.2"): 0, address("192.0.2.1"): 2, address("192.0.2.0"): 0, address("10.0.0.1"): 5}
    assert node.set_many(gold_records.encode(moved)) == 4
    assert node.set_many(gold_records.encode({address("10.0.0.2"): 1})) == 1
    with pytest.raises(CapacityError, match=r"mx2.* 3 hosts"):
        node.set_many(gold_records.encode({address("10.0.0.3"): 1}))
    assert node.hosts == 3
    with pytest.raises(CapacityError, match=r"mx2.* 3 hosts"):
        node.replace(gold_records.encode(many(2)))
    assert node.hosts == 3
    assert node.replace(gold_records.encode({address(f"::{at}"): 1 for at in range(3)})) == 6
    node._check()


def test_a_count_beyond_what_a_family_can_have_is_an_error_and_the_digest_stays_right(trees: NodeTrees) -> None:
    node = trees.add("mx2")
    with pytest.raises(CapacityError, match="4294967295"):
        node.set_many(gold_records.encode({address("10.0.0.1"): 2**32 - 1, address("10.0.0.2"): 1}))
    assert node.total == 2**32 - 1
    node._check()


def test_a_sum_that_can_not_hold_a_count_is_given_up(audit: InboundAudit, trees: NodeTrees) -> None:
    trees.sum = True
    for name in NAMES:
        trees.add(name).set_many(gold_records.encode({address("10.0.0.1"): 2**31}))
    assert not trees.sum
    assert audit.total("inbound_cidr") == 3 * 2**31
    trees.add("mx1").empty()
    assert audit.total("inbound_cidr") == 2**32
    with pytest.raises(CapacityError):
        trees.sum = True
    trees.add("mx2").empty()
    trees.sum = True
    assert audit.total("inbound_cidr") == 2**31
    trees._check()


def test_a_full_tree_is_an_error_and_holds_what_it_held() -> None:
    with InboundAudit(capacity=1 << 16) as audit:
        node = NodeTrees(audit).add("mx2")
        with pytest.raises(CapacityError, match="mx2"):
            node.set_many(gold_records.encode(many(5000)))
        assert 0 < node.hosts < 10_000
        node._check()


def test_free_blocks_of_the_wrong_sizes_are_merged_in_a_tree_and_in_the_sum() -> None:
    """What many small blocks had, few large ones can have."""
    small = {ipaddress.IPv6Address(at * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128): 1 for at in range(5000)}
    large = {ipaddress.IPv4Address(at): 1 for at in range(0, 20 * 256, 3)}
    with InboundAudit(capacity=1 << 16) as audit:
        trees = NodeTrees(audit)
        trees.sum = True
        node = trees.add("mx2")
        for hosts in (100, 1000, 5000):
            with pytest.raises(CapacityError) if hosts == 5000 else contextlib.nullcontext():
                node.replace(gold_records.encode(dict(list(small.items())[:hosts])))
        node.set_many(gold_records.encode(dict.fromkeys(list(held(node))[1:], 0)))
        assert node.hosts == 1
        trees.sum = True
        node.set_many(gold_records.encode(large))
        assert (held(node).keys() >= large.keys(), trees.sum) == (True, True)
        trees._check()
        node._check()


@pytest.mark.parametrize("name", ["", "a b", "mx/1", "mx*", "$mx", "mx#", "mx?", "mx\n", "\x7f", "mxé", "x" * 64])
def test_a_name_that_no_node_can_have_is_refused(name: str, trees: NodeTrees) -> None:
    with pytest.raises(ValueError, match="the name of a node is"):
        trees.add(name)
    assert trees.size == 0


def test_names_of_every_allowed_character_and_length(trees: NodeTrees) -> None:
    allowed = "".join(c for c in map(chr, range(0x21, 0x7F)) if c not in "/*$#?")
    for name in ("x" * 63, *(allowed[at : at + 30] for at in range(0, len(allowed), 30))):
        assert trees.add(name).name == name
    assert trees.add("x" * 63).name == "x" * 63


def test_what_other_processes_read_of_a_node(audit: InboundAudit, trees: NodeTrees) -> None:
    two, one = trees.add("mx2"), trees.add("mx1")
    assert audit._nodes() == []
    two.set_word(NODE_STATES["lost"], 12345)
    one.set_word(NODE_STATES["this host"])
    two.set_many(gold_records.encode({address("192.0.2.7"): 3}))
    assert audit._nodes() == [("mx1", 5, 0, 0, 0), ("mx2", 2, 12345, 1, 3)]
    two.empty()
    two.set_word(0)
    assert audit._nodes() == [("mx1", 5, 0, 0, 0)]
    for state in (-1, max(NODE_STATES.values()) + 1):
        with pytest.raises(ValueError, match="state"):
            one.set_word(state)


def test_a_closed_audit_takes_no_records(audit: InboundAudit, trees: NodeTrees) -> None:
    node = trees.add("mx2")
    trees.sum = True
    node.set_many(gold_records.encode({address("192.0.2.7"): 3}))
    audit.close()
    assert (audit.total("inbound_cidr"), node.hosts, node.digest, trees.sum) == (0, 0, 0, False)
    for change in (lambda: node.set_many(b""), lambda: node.replace(b""), node.empty):
        with pytest.raises(InboundAuditError, match="closed"):
            change()


def test_a_file_has_room_for_so_many_nodes() -> None:
    with InboundAudit(capacity=1 << 16) as audit:
        trees = NodeTrees(audit)
        for at in range(MAX_NODES):
            trees.add(f"mx{at}")
        with pytest.raises(CapacityError, match=f"{MAX_NODES} nodes"):
            trees.add("mx")
        assert trees.add("mx7").name == "mx7"
        assert trees.size == MAX_NODES


def test_a_tree_of_a_node_is_made_by_node_trees_alone() -> None:
    for make in (NodeTree, lambda: NodeTree.__new__(NodeTree)):
        with pytest.raises(TypeError, match="NodeTrees"):
            make()
    for wrong in ((), (None,), ("mail",)):
        with pytest.raises(TypeError):
            NodeTrees.__new__(NodeTrees, *wrong)


# ---- the sum, from inside


@pytest.fixture
def owner() -> inner.Owner:
    """An owner with a tree of SMTP (0), two nodes (1 and 2) and their sum (3)."""
    owner = inner.Owner()
    for service in (inner.SMTP, inner.INBOUND_CIDR, inner.INBOUND_CIDR):
        owner.add(owner.add_tree(service), "192.0.2.7", 10**owner.trees)
    owner.add(owner.add_sum(), "192.0.2.7", 1100)
    return owner


def test_the_sum_is_read_in_place_of_the_nodes_while_it_is_marked(owner: inner.Owner) -> None:
    assert owner.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 1110
    owner.use_sum(3, True)
    assert owner.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 1110
    owner.add(3, "192.0.2.7")  # it is the sum that is read
    assert owner.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 1111
    assert owner.sum_trees("192.0.2.7", inner.SMTP) == 10
    owner.use_sum(3, False)
    assert owner.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 1110


def test_the_checker_finds_a_sum_that_is_none(owner: inner.Owner) -> None:
    assert owner.check_sum(3) is None
    owner.add(3, "192.0.2.8")
    assert "total" in owner.check_sum(3)
    owner.add(1, "192.0.2.9")
    assert "another count" in owner.check_sum(3)


def test_beside_a_stopped_writer_the_sum_is_read_as_any_tree(owner: inner.Owner) -> None:
    owner.use_sum(3, True)
    owner.stop_in_update(3)
    assert owner.sum_trees("192.0.2.7", inner.INBOUND_CIDR) == 1110
