"""Services, listeners and sessions: who is counted where, and until when."""

from __future__ import annotations

import contextlib
import copy
import gc
import ipaddress
import random
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.support.gold import GoldCounter, unmapped
from tests.support.strategies import addresses, length_for
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, Listener, Session
from inbound_audit.errors import AddressError, CapacityError, InboundAuditError, UnknownServiceType
from inbound_audit.services import SERVICE_TYPES


@pytest.fixture
def audit():
    with InboundAudit() as audit:
        yield audit


class AuditMachine(RuleBasedStateMachine):
    """Sessions on several listeners of two services, against one gold counter a listener."""

    sessions = Bundle("sessions")
    places = st.sampled_from([("SMTP", "mx"), ("SMTP", "submission"), ("IMAP", "default")])

    def __init__(self) -> None:
        super().__init__()
        self.audit = InboundAudit()
        self.gold: dict[tuple[str, str], GoldCounter] = {}

    @rule(target=sessions, where=places, remote=addresses, form=st.integers(0, 3))
    def open(self, where, remote, form):
        text = str(remote)
        given = [text, remote, remote.packed, (text, 25)][form]
        session = self.audit.listener(*where).session(given)
        self.gold.setdefault(where, GoldCounter()).add(remote)
        return session

    @rule(session=sessions, remote=addresses)
    def rebind(self, session, remote):
        gold = self.gold[session.service_type, session.listener_name]
        if session.closed:
            with pytest.raises(InboundAuditError, match="closed"):
                session.rebind(remote)
        else:
            gold.remove(session.remote_ip)
            gold.add(remote)
            session.rebind(remote)
            assert session.remote_ip == str(unmapped(remote))

    @rule(session=consumes(sessions), times=st.integers(1, 3))
    def close(self, session, times):
        if not session.closed:
            self.gold[session.service_type, session.listener_name].remove(session.remote_ip)
        for _ in range(times):
            session.close()
            assert session.closed

    @rule(data=st.data(), session=sessions)
    def ask(self, data, session):
        ip = ipaddress.ip_address(session.remote_ip)
        length = data.draw(length_for(ip))
        smtp = [gold for (service, _), gold in self.gold.items() if service == "SMTP"]
        imap = [gold for (service, _), gold in self.gold.items() if service == "IMAP"]
        cidr = f"/{length}" if length != 32 else f"{ip}/32"
        golden = f"{ip}/{length}"
        assert session.inbound_session_count(cidr) == sum(gold.count(golden) for gold in smtp)
        assert session.inbound_session_count(cidr, "inbound_cidr") == sum(gold.count(golden) for gold in smtp)
        assert self.audit.inbound_session_count(golden) == sum(gold.count(golden) for gold in smtp)
        assert session.inbound_session_count() == self.gold[session.service_type, session.listener_name].count(str(ip))
        if imap:
            assert session.inbound_session_count(None, "IMAP") == sum(gold.count(str(ip)) for gold in imap)

    @rule()
    def ask_rows(self):
        for service in {service for service, _ in self.gold}:
            whole = GoldCounter()
            for (other, _), gold in self.gold.items():
                if other == service:
                    whole.hosts.update(gold.hosts)
            assert self.audit.tree(service) == whole.tree()
            assert self.audit.total(service) == whole.total
            top = self.audit.top(5, service_type=service, prefixlen=(24, 64))
            assert [n for n, _ in top] == [n for n, _ in whole.top(5, prefixlen=(24, 64))]

    @invariant()
    def holds(self):
        for where, gold in self.gold.items():
            listener = self.audit.listener(*where)
            listener._check()
            assert listener.total == gold.total

    def teardown(self):
        self.audit.close()


TestAudit = AuditMachine.TestCase
TestAudit.settings = settings(stateful_step_count=40)


def test_a_session_is_counted_until_it_is_closed(audit):
    listener = audit.listener("SMTP", name="mx")
    with listener.session(("192.0.2.7", 25)) as ac:
        assert ac.inbound_session_count() == 1
        assert audit.total() == 1
        assert not ac.closed
    assert ac.closed
    assert audit.total() == 0
    assert ac.inbound_session_count("/24") == 0
    assert ac.remote_addr == "192.0.2.7:25"
    ac.close()
    assert audit.total() == 0


@pytest.mark.parametrize(
    ("remote", "addr", "ip", "port", "version"),
    [
        ("192.0.2.7", "192.0.2.7:0", "192.0.2.7", 0, 4),
        ("192.0.2.7:25", "192.0.2.7:25", "192.0.2.7", 25, 4),
        ("2001:DB8::7", "2001:db8::7.0", "2001:db8::7", 0, 6),
        ("[2001:db8::7]", "2001:db8::7.0", "2001:db8::7", 0, 6),
        ("[2001:db8::7]:65535", "2001:db8::7.65535", "2001:db8::7", 65535, 6),
        ("fe80::1%eth0", "fe80::1.0", "fe80::1", 0, 6),
        ("::ffff:192.0.2.7", "192.0.2.7:0", "192.0.2.7", 0, 4),
        ("[::ffff:192.0.2.7]:25", "192.0.2.7:25", "192.0.2.7", 25, 4),
        (("192.0.2.7", 25), "192.0.2.7:25", "192.0.2.7", 25, 4),
        (("fe80::1%2", 25, 0, 2), "fe80::1.25", "fe80::1", 25, 6),
        (("::ffff:192.0.2.7", 25, 0, 0), "192.0.2.7:25", "192.0.2.7", 25, 4),
        (ipaddress.ip_address("192.0.2.7"), "192.0.2.7:0", "192.0.2.7", 0, 4),
        (ipaddress.ip_address("2001:db8::7"), "2001:db8::7.0", "2001:db8::7", 0, 6),
        (b"\xc0\x00\x02\x07", "192.0.2.7:0", "192.0.2.7", 0, 4),
        (bytearray(15) + b"\x01", "::1.0", "::1", 0, 6),
        (bytes(10) + b"\xff\xff\xc0\x00\x02\x07", "192.0.2.7:0", "192.0.2.7", 0, 4),
    ],
)
def test_every_form_of_a_remote(audit, remote, addr, ip, port, version):
    with audit.listener().session(remote, local=remote) as ac:
        assert (ac.remote_addr, ac.remote_ip, ac.remote_port, ac.version) == (addr, ip, port, version)
        assert ac.local_addr == addr
        assert audit.inbound_session_count(ip) == 1


@pytest.mark.parametrize(
    "remote",
    ["", b"", None, "/run/mail.sock", b"\0abstract", "mail.example.org", "192.0.2.7:", "192.0.2.7:x", "192.0.2.7:70000",
     "[2001:db8::7]:", "[2001:db8::7]25", "2001:db8::7]", "192.0.2.7/24", " 192.0.2.7", "192.0.2.7\0", "\ud800",
     (), ("",), (None, 25), ("192.0.2.7", 70000), ("192.0.2.7", -1), b"abc", bytes(5), 7, object(), ["192.0.2.7", 25],
     ("192.0.2.7:25", 25), ipaddress.ip_network("192.0.2.0/24"), memoryview(bytes(8))[::2]],
)  # fmt: skip
def test_what_is_no_remote_changes_nothing(audit, remote):
    listener = audit.listener()
    with listener.session("192.0.2.1") as ac:
        for attempt in (listener.session, ac.rebind):
            with pytest.raises(AddressError) as caught:
                attempt(remote)
            assert (repr(remote[0]) if isinstance(remote, tuple) and remote else repr(remote)) in str(caught.value) or (
                repr(remote) in str(caught.value)
            )
        assert (listener.total, ac.inbound_session_count()) == (1, 1)


def test_a_session_keeps_nothing_that_could_lead_back_to_it(audit):
    """It takes no part in garbage collection: a cycle through `local` would never be collected, nor counted out."""

    class Local:
        pass

    local = Local()
    local.session = audit.listener().session("192.0.2.7", local)
    gone = weakref.ref(local)
    held = [local]
    del local
    with pytest.warns(ResourceWarning, match="never closed"):
        held.clear()
    assert gone() is None
    assert audit.total() == 0


def test_none_is_smtp_for_an_audit_too(audit):
    with audit.listener().session("192.0.2.7"):
        assert audit.inbound_session_count("192.0.2.7", None) == 1


def test_service_types_are_a_list():
    with pytest.raises(UnknownServiceType, match="not a list"):
        InboundAudit(services="IMAP")


def test_conn_ids_differ(audit):
    listeners = [audit.listener(name=name) for name in "ab"]
    sessions = [listener.session("192.0.2.7") for listener in listeners for _ in range(100)]
    assert len({session.conn_id for session in sessions}) == 200
    for session in sessions:
        session.close()


def test_a_listener_is_made_once(audit):
    assert audit.listener() is audit.listener("SMTP", "default")
    assert audit.listener() is not audit.listener(name="mx")
    assert audit.listener() is not audit.listener("Control")
    assert (audit.listener("IMAP").service_type, audit.listener("IMAP").name) == ("IMAP", "default")
    assert audit.listener().audit is audit


def test_service_types_are_known_or_added(audit):
    assert set(audit.service_types) == set(SERVICE_TYPES)
    with pytest.raises(UnknownServiceType, match=r"'IMAP'.*known: SMTP"):
        audit.total("IMAP")
    audit.listener("IMAP")
    assert audit.total("IMAP") == 0
    assert InboundAudit(services=["POP3"]).total("POP3") == 0


@pytest.mark.parametrize("ask", ["total", "top", "tree"])
@pytest.mark.parametrize("name", ["smtp", "SMTP ", "", "\N{SNOWMAN}", None, 7])
def test_an_unknown_service_is_an_error(audit, ask, name):
    with pytest.raises(UnknownServiceType, match="no such service type"):
        getattr(audit, ask)(**{"service_type": name})


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b", "caf\u00e9", "line\nbreak"])
def test_what_can_be_no_service_type(audit, name):
    with pytest.raises(UnknownServiceType):
        audit.listener(name)
    assert name not in audit.service_types


def test_there_is_room_for_so_many_service_types(audit):
    for i in range(64 - len(audit.service_types)):
        audit.listener(f"service{i}")
    with pytest.raises(CapacityError, match="64 service types"):
        audit.listener("one more")
    audit.listener("service0")  # is known


def test_no_listener_belongs_to_the_view(audit):
    with pytest.raises(UnknownServiceType, match="view"):
        audit.listener("inbound_cidr")


def test_the_view_is_all_of_smtp(audit):
    sessions = [audit.listener(*where).session("192.0.2.7") for where in (("SMTP",), ("SMTP", "mx"), ("Control",))]
    assert audit.total("inbound_cidr") == 2
    assert audit.tree("inbound_cidr") == [(2, "192.0.2.7/32")]
    assert audit.inbound_session_count("192.0.2.0/24", "inbound_cidr") == 2
    for session in sessions:
        session.close()


def test_rebind_moves_the_count_between_families(audit):
    with audit.listener().session("192.0.2.7:40000") as ac:
        ac.rebind(("2001:db8::7", 50000))
        assert (ac.remote_addr, ac.version) == ("2001:db8::7.50000", 6)
        assert audit.tree() == [(1, "2001:db8::7/128")]
        ac.rebind("192.0.2.7")
        assert audit.tree() == [(1, "192.0.2.7/32")]
    assert audit.total() == 0


def test_rebind_into_a_full_arena_leaves_the_session_where_it_was():
    audit = InboundAudit(capacity=8192)
    listener = audit.listener()
    rng = random.Random(5)
    sessions = []
    with contextlib.suppress(CapacityError):
        while True:
            sessions.append(listener.session(rng.randbytes(16)))
    assert len(sessions) > 20
    refused = 0
    for session in sessions:
        before = session.remote_ip
        try:
            session.rebind(rng.randbytes(16))
        except CapacityError:
            refused += 1
            assert session.remote_ip == before
        listener._check()
    assert refused
    assert listener.total == len(sessions)
    for session in sessions:
        session.close()
    assert listener.total == 0


def test_a_collected_session_is_closed_and_warns(audit):
    listener = audit.listener()
    held = [listener.session("192.0.2.7")]
    with pytest.warns(ResourceWarning, match=r"192\.0\.2\.7"):
        held.clear()
    assert listener.total == 0


def test_closing_an_audit_ends_its_sessions():
    audit = InboundAudit()
    listener = audit.listener()
    session = listener.session("192.0.2.7")
    audit.close()
    assert audit.closed
    assert session.closed
    assert (audit.total(), session.inbound_session_count()) == (0, 0)
    session.close()
    audit.close()
    for attempt in (lambda: listener.session("192.0.2.7"), audit.listener, lambda: session.rebind("192.0.2.8")):
        with pytest.raises(InboundAuditError, match="closed"):
            attempt()
    assert audit.total() == 0


def test_sessions_outlive_their_audit():
    """Who holds a session holds the memory that it counts in."""
    session = InboundAudit().listener().session("192.0.2.7")
    gc.collect()
    assert session.inbound_session_count("/24") == 1
    session.close()
    assert session.inbound_session_count("/24") == 0


def test_a_cycle_of_audit_and_listener_is_collected():
    gc.collect()
    before = len([o for o in gc.get_objects() if isinstance(o, InboundAudit)])
    for _ in range(5):
        audit = InboundAudit()
        audit.myself = audit
        session = audit.listener().session("192.0.2.7")
        session.close()
    del audit, session
    gc.collect()
    assert len([o for o in gc.get_objects() if isinstance(o, InboundAudit)]) == before


@pytest.mark.parametrize("cls", [Session, Listener])
def test_sessions_and_listeners_are_not_made_by_hand(cls):
    for attempt in (cls, lambda: cls.__new__(cls)):
        with pytest.raises(TypeError, match=r"InboundAudit\.listener|Listener\.session"):
            attempt()


# A finalizer that Python runs in the midst of an allocation may make any of these objects itself.
MAKERS = {
    "a listener": lambda audit: audit.listener("SMTP", f"name {len(gc.get_objects())}"),
    "the same listener": lambda audit: audit.listener(),
    "series": lambda audit: audit.series,
    "a session": lambda audit: audit.listener().session("192.0.2.7").close(),
    "a series": lambda audit: audit.series.define(f"s{len(audit.series.names)}", max_bytes=1 << 20),
}


@pytest.mark.parametrize("inner", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("outer", MAKERS.values(), ids=MAKERS)
def test_a_finalizer_may_make_what_is_just_being_made(outer, inner):
    """A cycle is collected within the outer call, at any of its allocations."""
    made, errors = [], []

    class Finalized:
        def __init__(self, audit):
            self.cycle, self.audit = self, audit

        def __del__(self):
            try:
                made.append(inner(self.audit))
            except Exception as error:
                errors.append(error)

    thresholds = gc.get_threshold()
    audits = [InboundAudit(capacity=1 << 20) for _ in range(20)]
    try:
        gc.collect()
        gc.freeze()  # each collection from now on is quick: it leaves out what the test runner has
        for audit in audits:
            Finalized(audit)
            gc.set_threshold(1)
            outer(audit)
            gc.set_threshold(*thresholds)
    finally:
        gc.set_threshold(*thresholds)
    # Another thread may be in the midst of a collection, and then `gc.collect` does nothing.
    eventually(lambda: gc.collect() >= 0 and len(made) + len(errors) == len(audits), "the last finalizer")
    assert errors == []
    for audit in audits:
        assert audit.listener() is audit.listener()
        assert audit.series is audit.series
        assert audit.total() == 0
        audit.close()


@pytest.mark.parametrize("cls", [Session, Listener])
def test_no_way_around_makes_a_session_or_a_listener(audit, cls):
    listener = audit.listener()
    with listener.session("192.0.2.7") as session:
        made = session if cls is Session else listener
        made_by_hand(cls, made)


def made_by_hand(cls, made):
    for attempt in (
        lambda: object.__new__(cls),
        lambda: cls.__new__(cls, 1),
        lambda: cls(1, a=2),
        lambda: type.__call__(cls),
        lambda: copy.copy(made),
    ):
        with pytest.raises(TypeError):
            attempt()


@pytest.mark.parametrize("capacity", ["x", 1e9, None, True])
def test_a_capacity_is_a_whole_number(capacity):
    with pytest.raises(TypeError, match=f"capacity {capacity!r}: is not a whole number of bytes"):
        InboundAudit(capacity=capacity)


def test_an_unknown_keyword_of_a_listener_names_the_nearest(audit):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'service_typ'; did you mean 'service_type'\?"):
        audit.listener(service_typ="SMTP")
