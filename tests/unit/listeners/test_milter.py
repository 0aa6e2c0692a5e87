"""A milter, spoken to in frames that another implementation of the protocol has made (kilter.protocol)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kilter.protocol import messages as wire
from tests.support.mail_servers import MailServer, holds, listening, macros, packed

from inbound_audit import InboundAudit, Limits, Verdict
from inbound_audit.listeners import Guard, mail_server, milter
from inbound_audit.listeners.mail_server import BEGIN_S
from inbound_audit.listeners.milter import MilterFactory
from inbound_audit.listeners.milter_protocol import MAX_FRAME_BYTES
from inbound_audit.policy.base import Policy

MAIL = wire.EnvelopeFrom(b"<a@example.net>", [b"SIZE=1000"])
RCPT = wire.EnvelopeRecipient(b"<b@example.com>", [b"NOTIFY=NEVER"])
END = wire.EndOfMessage(b"")
GOES_ON = (b"c", b"")


class Recorder(Policy):
    """Notes what it is asked; `answers` is the verdict by hook."""

    def __init__(self, **answers: Verdict) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers = answers
        self.ended = 0

    def end_session(self, ac: Any) -> None:
        self.ended += 1


def _noting(hook: str) -> Any:
    def validate(self: Recorder, ac: Any, *arguments: Any) -> Verdict:
        shown = [(one.mailfrom, tuple(one.rcptto), one.size) if hasattr(one, "mailfrom") else one for one in arguments]
        self.asked.append((hook, ac.remote_ip, *shown))
        return self.answers.get(hook, Verdict())

    return validate


for _hook in vars(Policy):
    if _hook.startswith("validate_"):
        setattr(Recorder, _hook, _noting(_hook))


class Place:
    """An audit, a guard and a milter; `run` runs a scenario against its socket."""

    def __init__(self, policy: Any = None, **audit: Any) -> None:
        self.audit = InboundAudit(**audit)
        self.guard = Guard(self.audit.listener("SMTP"), policy)
        self.factory = MilterFactory(self.guard)

    def run(self, scenario: Callable[[Callable[[], Awaitable[MailServer]]], Awaitable[None]]) -> None:
        async def serve() -> None:
            with TemporaryDirectory() as directory:
                async with listening(self.factory, f"{directory}/milter") as connect:
                    await scenario(connect)

        asyncio.run(serve())

    def count(self, prefix: str = "0.0.0.0/0") -> int:
        return self.audit.inbound_session_count(prefix)


@pytest.fixture
def make() -> Iterator[Callable[..., Place]]:
    with contextlib.ExitStack() as held:

        def place(policy: Any = None, **audit: Any) -> Place:
            made = Place(policy, **audit)
            held.enter_context(made.audit)
            return made

        yield place


# ---- counting


ENDINGS: dict[str, Callable[[MailServer, MilterFactory], object]] = {
    "quits": lambda server, factory: server.send(wire.Close()),
    "closes": lambda server, factory: server.close(),
    "vanishes": lambda server, factory: server.vanish(),
    "sends nonsense": lambda server, factory: server.send(b"\0\0\0\0"),
    "takes another client": lambda server, factory: server.send(b"\0\0\0\1K"),
    "is told to stop": lambda server, factory: factory.stop(),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_client_is_counted_until_its_connection_ends(make: Any, ending: str, in_transaction: bool) -> None:
    policy = Recorder()
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin("192.0.2.7")
        assert place.count("192.0.2.7") == 1
        if in_transaction and ending != "is told to stop":
            await server.say(MAIL)
        ENDINGS[ending](server, place.factory)
        await holds(lambda: place.count() == 0)
        assert (place.guard.open, policy.ended) == (0, 1)

    place.run(scenario)


def test_a_connection_serves_one_client_after_another(make: Any) -> None:
    place = make(Limits({"/32": 1}))

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin("192.0.2.7")
        for host in range(8, 12):
            server.send(b"\0\0\0\1K")
            assert await server.client(f"192.0.2.{host}") == GOES_ON
            assert (place.count("192.0.2.0/24"), place.count(f"192.0.2.{host}")) == (1, 1)

    place.run(scenario)
    assert place.guard.opened == 5


CLIENTS = [
    (b"client\0" + b"4\x9c\x40192.0.2.7\0", "192.0.2.7"),
    (b"client\0" + b"6\x9c\x402001:db8::7\0", "2001:db8::7"),
    (b"client\0" + b"6\x9c\x40IPv6:2001:db8::7\0", "2001:db8::7"),  # as Sendmail writes it
    (b"client\0" + b"6\x9c\x40::ffff:192.0.2.7\0", "192.0.2.7"),
    (b"[192.0.2.7]\0" + b"4\0\x00192.0.2.7\0", "192.0.2.7"),
]


@pytest.mark.parametrize(("data", "address"), CLIENTS)
def test_the_client_of_a_connection(make: Any, data: bytes, address: str) -> None:
    place = make()

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.negotiate()
        assert await server.say(frame(b"C", data)) == GOES_ON
        assert place.audit.inbound_session_count(address) == 1

    place.run(scenario)


@pytest.mark.parametrize("data", [b"localhost\0L\0\0/run/socket\0", b"localhost\0U", b"localhost\0U\0"])
def test_a_client_without_an_address_is_let_in_and_not_counted(make: Any, data: bytes) -> None:
    place = make(Limits({"/0": 0}))

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.negotiate()
        assert await server.say(frame(b"C", data)) == GOES_ON
        assert await server.say(MAIL) == GOES_ON
        assert await server.say(END) == GOES_ON

    place.run(scenario)
    assert (place.guard.uncounted, place.guard.accepted, place.guard.received) == (1, 1, 1)


def test_an_address_that_can_not_be_read_is_refused(make: Any) -> None:
    place = make()

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.negotiate()
        letter, reply = await server.say(frame(b"C", b"client\0" + b"4\0\x00not.an.address\0"))
        assert (letter, reply[:4]) == (b"y", b"421 ")

    place.run(scenario)


def frame(letter: bytes, data: bytes = b"") -> bytes:
    return (1 + len(data)).to_bytes(4, "big") + letter + data


# ---- the macro {client_addr}, and what else the mail server knows


def test_the_macro_names_the_client_of_a_unix_socket(make: Any) -> None:
    place = make(Limits({"/32": 1}))

    async def scenario(connect: Any) -> None:
        first, second = await connect(), await connect()
        for server, letter in ((first, b"c"), (second, b"y")):
            await server.negotiate()
            told = macros("C", {"{client_addr}": "192.0.2.7", "{client_port}": "40000"})
            assert (await server.say(told, frame(b"C", b"localhost\0L\0\0/run/socket\0")))[0] == letter
        assert place.count("192.0.2.7") == 2

    place.run(scenario)


def test_the_count_follows_the_macro_to_another_client(make: Any) -> None:
    policy = Recorder()
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin("10.0.0.1")
        assert await server.say(macros("M", {"{client_addr}": "10.0.0.1"}), MAIL) == GOES_ON
        assert await server.say(END) == GOES_ON
        assert await server.say(macros("M", {"{client_addr}": "2001:db8::0007"}), MAIL) == GOES_ON
        assert (place.count("10.0.0.1"), place.audit.inbound_session_count("2001:db8::7")) == (0, 1)
        assert await server.say(END) == GOES_ON
        policy.answers["validate_connect"] = Verdict(False, 451, "not you", disconnect=True)
        told = macros("M", {"{client_addr}": "192.0.2.9"})
        assert await server.say(told, MAIL) == (b"y", b"451 4.7.1 not you\0")
        assert await server.say(MAIL) == (b"y", b"451 4.7.1 not you\0")

    place.run(scenario)
    connects = [ip for hook, ip, *_ in policy.asked if hook == "validate_connect"]
    assert connects == ["10.0.0.1", "2001:db8::7", "192.0.2.9"]


def test_a_macro_that_is_no_address_moves_nothing(make: Any) -> None:
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin("192.0.2.7")
        for text in ("unknown", "", "client.example", "192.0.2.7.9"):
            assert await server.say(macros("M", {"{client_addr}": text}), MAIL) == GOES_ON
            assert (await server.say(END))[0] == b"c"
            assert place.count("192.0.2.7") == 1

    place.run(scenario)


def test_the_servers_own_address(make: Any) -> None:
    seen: list[str] = []

    class Noting(Policy):
        def validate_connect(self, ac: Any) -> Verdict:
            seen.append(ac.local_addr)
            return Verdict()

    place = make(Noting())

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.negotiate()
        server.send(macros("C", {"{daemon_addr}": "192.0.2.25", "{daemon_port}": "25"}))
        await server.client("192.0.2.7")

    place.run(scenario)
    assert seen == ["192.0.2.25:25"]


# ---- refusals


REPLIES = [
    (Verdict(False, 421, "too many"), b"421 4.7.1 too many\0"),
    (Verdict(False, 554, "5.7.0 go away"), b"554 5.7.0 go away\0"),
    # A text that begins with a digit would make the reply malformed, unless it is a status of the code's own class.
    (Verdict(False, 450, "10 are too many"), b"450 4.7.1 10 are too many\0"),
    (Verdict(False, 450, "5.7.0 go away"), b"450 4.7.1 5.7.0 go away\0"),
    (Verdict(False, 550, "5.7 go away"), b"550 5.7.1 5.7 go away\0"),
    (Verdict(False, 450, "4.7.0"), b"450 4.7.0\0"),
    (Verdict(False, 450, "one\n2"), b"450-4.7.1 one\r\n450 4.7.1 2\0"),
    (Verdict(False, 450, "100 % of them"), b"450 4.7.1 100 %% of them\0"),
    (Verdict(False, 200, "no refusal"), b"421 4.7.1 no refusal\0"),
    (Verdict(False), b"421 4.7.1 connection limit exceeded\0"),
    (Verdict(True, disconnect=True), b"421 4.7.1 connection limit exceeded\0"),
    (Verdict(False, 550, "Grüße"), b"550 5.7.1 Gr??e\0"),
]
COMMANDS = {
    "validate_ehlo": [wire.Helo("client")],
    "validate_mailfrom": [MAIL],
    "validate_rcptto": [MAIL, RCPT],
    "validate_data": [MAIL, RCPT, END],
    "validate_data_spool": [MAIL, RCPT, END],
}


@pytest.mark.parametrize(("verdict", "reply"), REPLIES)
def test_a_refused_client_gets_the_policys_reply_to_all_that_it_does(make: Any, verdict: Verdict, reply: bytes) -> None:
    place = make(Recorder(validate_connect=verdict), monitors=["300,6"])

    async def scenario(connect: Any) -> None:
        server = await connect()
        assert await server.begin() == (b"y", reply)
        for later in (wire.Helo("client"), MAIL, END):
            assert await server.say(later) == (b"y", reply)

    place.run(scenario)
    assert (place.guard.refused, place.guard.accepted, place.guard.received) == (1, 0, 0)
    assert place.audit.rejections("300,6", "192.0.2.7") == 1


@pytest.mark.parametrize("hook", COMMANDS)
@pytest.mark.parametrize(("verdict", "reply"), REPLIES)
def test_a_refused_command(make: Any, hook: str, verdict: Verdict, reply: bytes) -> None:
    place = make(Recorder(**{hook: verdict}), monitors=["300,6"])

    async def scenario(connect: Any) -> None:
        server = await connect()
        assert await server.begin() == GOES_ON
        *before, last = COMMANDS[hook]
        for command in before:
            assert await server.say(command) == GOES_ON
        assert await server.say(last) == (b"y", reply)
        # The session goes on, unless the verdict ends it.
        ended = (b"y", reply) if verdict.disconnect else None
        assert await server.say(wire.Unknown(b"X")) == (ended or GOES_ON)

    place.run(scenario)
    assert (place.guard.refused, place.guard.received) == (0, 0)
    assert place.audit.rejections("300,6", "192.0.2.7") == 1


def test_a_message_of_a_refused_sender_has_not_begun(make: Any) -> None:
    place = make(Recorder(validate_mailfrom=Verdict(False, 550, "no")))

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        assert (await server.say(MAIL))[0] == b"y"
        server.send(RCPT)
        assert await server.closed()

    place.run(scenario)


# ---- hooks


def test_each_stage_asks_its_hooks(make: Any) -> None:
    policy = Recorder()
    place = make(policy, monitors=["300,6"])
    header = wire.Header("Subject", b"hello\n there")
    content = b"Subject: hello\r\n there\r\n" + b"\r\n" + b"text\r\n" + b"and more\r\n"

    async def scenario(connect: Any) -> None:
        server = await connect()
        assert await server.begin() == GOES_ON
        assert await server.say(wire.Helo("client.example")) == GOES_ON
        told = macros("H", {"{tls_version}": "TLSv1.3", "{cipher}": "TLS_AES_256_GCM_SHA384"})
        assert await server.say(told, wire.Helo("client.example")) == GOES_ON
        for _ in range(2):
            assert await server.say(MAIL) == GOES_ON
            assert await server.say(RCPT) == GOES_ON
            assert await server.say(wire.EnvelopeRecipient(b"<c@example.com>")) == GOES_ON
            server.send(header, wire.Body(b"text\r\n"), wire.Body(b"and more\r\n"))
            assert await server.say(END) == GOES_ON

    place.run(scenario)
    message = ("a@example.net", ("b@example.com", "c@example.com"), len(content))
    once = [
        ("validate_mailfrom", "192.0.2.7", "a@example.net"),
        ("validate_rcptto", "192.0.2.7", "b@example.com", ("a@example.net", (), 1000)),
        ("validate_rcptto", "192.0.2.7", "c@example.com", ("a@example.net", ("b@example.com",), 1000)),
        ("validate_data", "192.0.2.7", message),
        ("validate_data_spool", "192.0.2.7", message),
    ]
    assert policy.asked == [
        ("validate_connect", "192.0.2.7"),
        ("validate_ehlo", "192.0.2.7", "client.example"),
        ("validate_tls", "192.0.2.7", "TLS_AES_256_GCM_SHA384"),
        ("validate_ehlo", "192.0.2.7", "client.example"),
        *once,
        *once,
    ]
    assert place.guard.received == place.audit.receptions("300,6", "192.0.2.7") == 2


def test_a_recipient_that_is_refused_is_none_of_the_message(make: Any) -> None:
    policy = Recorder()
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        await server.say(MAIL)
        policy.answers["validate_rcptto"] = Verdict(False, 550, "no")
        assert (await server.say(RCPT))[0] == b"y"
        del policy.answers["validate_rcptto"]
        await server.say(wire.EnvelopeRecipient(b"<c@example.com>"))
        await server.say(END)

    place.run(scenario)
    assert policy.asked[-1][2][1] == ("c@example.com",)


def test_a_message_that_is_given_up_leaves_nothing_to_the_next(make: Any) -> None:
    policy = Recorder()
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        await server.say(MAIL)
        await server.say(RCPT)
        server.send(wire.Body(b"x" * 1000), wire.Abort())
        await server.say(wire.EnvelopeFrom(b"<>"))
        await server.say(END)

    place.run(scenario)
    assert policy.asked[-1] == ("validate_data_spool", "192.0.2.7", ("", (), 0))
    assert place.guard.received == 1


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", "bücher".encode(), b"a..b", b"xn--zz", b"x" * 64 + b".example", b"", b"%n%s"]
)
def test_a_client_may_call_itself_anything(make: Any, name: bytes) -> None:
    policy = Recorder()
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        assert await server.say(frame(b"H", name + b"\0")) == GOES_ON
        assert await server.say(frame(b"M", b"<" + name + b">\0A=b=c\0")) == GOES_ON

    place.run(scenario)
    shown = name.decode("utf-8", "replace")
    assert policy.asked[1:] == [("validate_ehlo", "192.0.2.7", shown), ("validate_mailfrom", "192.0.2.7", shown)]


# ---- negotiation


def test_limits_have_the_mail_server_leave_out_what_they_do_not_ask(make: Any) -> None:
    place = make(Limits({"/32": 10}), monitors=["300,6"])
    left_out = wire.ProtocolFlags(0)
    for name in ("HELO", "RECIPIENT", "BODY", "HEADERS", "END_OF_HEADERS", "UNKNOWN", "DATA"):
        left_out |= wire.ProtocolFlags[f"NO_{name}"]

    async def scenario(connect: Any) -> None:
        server = await connect()
        agreed = await server.negotiate()
        assert (agreed.version, agreed.action_flags) == (6, wire.ActionFlags.SETSYMLIST)
        assert agreed.protocol_flags == left_out
        assert agreed.macros[wire.Stage.CONNECT][0] == "{client_addr}"
        await server.client("192.0.2.7")
        assert await server.say(MAIL) == GOES_ON
        assert [one.in_transaction for one in place.factory.connections] == [True]
        assert await server.say(END) == GOES_ON

    place.run(scenario)
    assert place.audit.receptions("300,6", "192.0.2.7") == 1


@pytest.mark.parametrize("policy", [None, Limits({"/32": 10}), Recorder()], ids=["none", "limits", "script"])
@pytest.mark.parametrize("version", [2, 4, 6, 9])
def test_a_mail_server_that_can_leave_out_nothing(make: Any, policy: Any, version: int) -> None:
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        agreed = await server.negotiate(version=version, actions=0, steps=0)
        assert (agreed.version, agreed.protocol_flags, agreed.action_flags) == (min(version, 6), 0, 0)
        assert agreed.macros == {}
        await server.client("192.0.2.7")
        header, body = wire.Header("Subject", b"x"), wire.Body(b"x")
        for part in (
            wire.Helo("x"),
            MAIL,
            RCPT,
            wire.Data(),
            header,
            wire.EndOfHeaders(),
            body,
            END,
            wire.Unknown(b"x"),
        ):
            assert await server.say(part) == GOES_ON

    place.run(scenario)
    assert place.guard.received == 1


def test_what_is_negotiated_suits_the_policy_that_is_asked(make: Any) -> None:
    """The policy is exchanged between the negotiation and the client: the old one is asked about that client."""
    old, new = Recorder(), Recorder()
    place = make(old)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.negotiate()
        place.guard.policy = new
        await server.client("192.0.2.7")
        await (await connect()).begin()

    place.run(scenario)
    assert (len(old.asked), len(new.asked)) == (1, 1)


# ---- bad input


TOO_LARGE = (MAX_FRAME_BYTES + 1).to_bytes(4, "big")
BROKEN = {
    "no frame": b"EHLO x\r\n",
    "an empty frame": b"\0\0\0\0",
    "a large frame": TOO_LARGE,
    "the largest": b"\xff\xff\xff\xff",
    "an unknown command": frame(b"!"),
    "a connection twice without an end": frame(b"C", b"client"),
    "a connection of no family": frame(b"C", b"client\0Z\0\x00192.0.2.7\0"),
    "a short connection": frame(b"C", b"client\0" + b"4\0"),
    "an address without its end": frame(b"C", b"client\0" + b"4\0\x00192.0.2.7"),
    "a name without its end": frame(b"H", b"client"),
    "a name of 5,000 bytes": frame(b"H", b"x" * 5000 + b"\0"),
    "a sender without anything": frame(b"M"),
    "a recipient before a sender": frame(b"R", b"<a@example.net>\0"),
    "a body before a sender": frame(b"B", b"x"),
    "an end before a sender": frame(b"E"),
    "macros without their end": frame(b"D", b"Cname\0value"),
    "a short negotiation": frame(b"O", b"\0\0\0\6"),
    "an old version": frame(b"O", b"\0\0\0\1" + bytes(8)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_of_the_protocol_ends_its_own_connection(
    make: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        good, bad, mute = await connect(), await connect(), await connect()
        mute.send(b"\0\0")
        await good.begin("192.0.2.1")
        await bad.begin("192.0.2.2")
        bad.send(BROKEN[what])
        assert await bad.closed()
        await holds(lambda: place.count() == 1)
        assert await good.say(MAIL) == GOES_ON

    with caplog.at_level(logging.DEBUG, logger="inbound_audit"):
        place.run(scenario)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "192.0.2.2" in caplog.text


@pytest.mark.parametrize("letter", [b"C", b"H", b"M", b"D", b"Q"])
def test_a_negotiation_comes_first(make: Any, letter: bytes) -> None:
    place = make()

    async def scenario(connect: Any) -> None:
        server = await connect()
        server.send(frame(letter, b"x\0"))
        assert await server.closed()

    place.run(scenario)
    assert place.guard.opened == 0


def test_a_command_without_a_client(make: Any) -> None:
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.negotiate()
        server.send(wire.Helo("x"))
        assert await server.closed()

    place.run(scenario)


@given(parts=st.lists(st.one_of(
    st.binary(max_size=60),
    st.builds(frame, st.sampled_from([bytes([n]) for n in b"OCDHMRLBENTUAQK!"]), st.binary(max_size=40)),
    st.sampled_from([packed(MAIL), packed(RCPT), packed(END), packed(wire.Helo("x"))]),
), max_size=12))  # fmt: skip
def test_any_bytes_leave_no_count_and_no_exception(parts: list[bytes]) -> None:
    problems: list[Any] = []
    with InboundAudit() as audit:
        place = Place.__new__(Place)
        place.audit, place.guard = audit, Guard(audit.listener("SMTP"), Recorder())
        place.factory = MilterFactory(place.guard)

        async def scenario(connect: Any) -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
            server = await connect()
            await server.begin()
            server.send(*parts)
            server.close()
            await holds(lambda: not place.factory.connections)

        place.run(scenario)
        assert (problems, audit.total("SMTP"), place.guard.open) == ([], 0, 0)


def test_frames_may_come_in_pieces(make: Any) -> None:
    policy = Recorder()
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        session = next(iter(place.factory.connections))
        for byte in packed(MAIL) + packed(RCPT):
            session.data_received(bytes([byte]))
        assert [await server.answer(), await server.answer()] == [GOES_ON, GOES_ON]

    place.run(scenario)
    assert [row[0] for row in policy.asked] == ["validate_connect", "validate_mailfrom", "validate_rcptto"]


def test_a_message_of_many_recipients_is_bounded(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inbound_audit.listeners.milter_message.MAX_ENVELOPE_BYTES", 1000)
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        await server.say(MAIL)
        for _ in range(8):
            assert await server.say(RCPT) == GOES_ON
        server.send(RCPT)
        assert await server.closed()

    place.run(scenario)


def test_others_are_served_while_one_sends_without_an_end(make: Any) -> None:
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        busy, other = await connect(), await connect()
        await busy.begin("192.0.2.1")
        await other.begin("192.0.2.2")
        session = next(one for one in place.factory.connections if "192.0.2.1" in str(one))
        asked = len(place.guard.policy.asked)
        session.data_received(packed(wire.Helo("x")) * 1000)
        assert 0 < len(place.guard.policy.asked) - asked < 1000
        assert await other.say(MAIL) == GOES_ON
        for _ in range(1000):
            assert await busy.answer() == GOES_ON

    place.run(scenario)


def test_a_mail_server_that_reads_no_answer_is_not_read(make: Any) -> None:
    policy = Recorder(validate_ehlo=Verdict(False, 550, "x" * 8000))
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        session = next(iter(place.factory.connections))
        session.data_received(packed(wire.Helo("x")) * 2000)
        await holds(lambda: session._blocked)
        assert len(policy.asked) < 1500  # the rest waits until answers are read
        for _ in range(2000):
            assert (await server.answer())[0] == b"y"
        await holds(lambda: len(policy.asked) == 2001)

    place.run(scenario)


def test_more_than_a_frame_that_waits_for_an_answer_ends_the_connection(make: Any) -> None:
    place = make(Recorder(validate_ehlo=Verdict(tarpit=1000)))

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        server.send(wire.Helo("x"), bytes(4 * MAX_FRAME_BYTES))
        assert await server.closed()
        await holds(lambda: place.count() == 0)

    place.run(scenario)


def test_unanswered_frames_are_read_as_fast_as_they_are_served(make: Any) -> None:
    """A client of the mail server can make them come faster: by many short headers."""
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin("192.0.2.7")
        await server.say(MAIL)
        headers = frame(b"L", b"X\0 a\0") * 1000
        for _ in range(3 * MAX_FRAME_BYTES // len(headers)):
            server.send(headers)
        assert await server.say(END) == GOES_ON
        assert place.count("192.0.2.7") == 1

    place.run(scenario)
    assert place.guard.received == 1


def test_answers_that_are_not_read_hold_up_no_end(make: Any) -> None:
    policy = Recorder(validate_ehlo=Verdict(False, 550, "x" * 8000))
    place = make(policy)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        session = next(iter(place.factory.connections))
        session.data_received(packed(wire.Helo("x")) * 2000)
        before = -1
        while before != len(policy.asked):  # until the buffers of the system are full
            before = len(policy.asked)
            await asyncio.sleep(0.2)
        session.end()
        await holds(lambda: not place.factory.connections and place.count() == 0)

    place.run(scenario)


def test_the_host_of_a_mail_server_that_is_gone_is_found_out(make: Any) -> None:
    place = make()

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(place.factory, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await holds(lambda: bool(place.factory.connections))
        connection = next(iter(place.factory.connections))._transport.get_extra_info("socket")
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        writer.close()
        await holds(lambda: not place.factory.connections)
        server.close()

    asyncio.run(serve())


# ---- time


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0", packed(wire.Helo("x"))[:-1]], ids=["nothing", "half a length", "half a frame"]
)
def test_a_mail_server_that_stops_in_the_middle_is_given_up(
    make: Any, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make()

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        monkeypatch.setattr(mail_server, "BEGIN_S", 0.05)
        monkeypatch.setattr(milter, "IDLE_S", 0.05)
        server.send(wire.Abort(), sent)
        assert await server.closed()
        await holds(lambda: place.count() == 0)

    place.run(scenario)


def test_a_client_may_be_silent_for_long_and_a_mail_server_without_one_may_not(make: Any) -> None:
    place = make()

    async def scenario(connect: Any) -> None:
        server = await connect()
        await holds(lambda: bool(place.factory.connections))
        session = next(iter(place.factory.connections))

        def left() -> float:
            return session._timer.when() - asyncio.get_running_loop().time()

        assert left() <= BEGIN_S
        await server.negotiate()
        assert left() <= BEGIN_S
        await server.client("192.0.2.7")
        assert left() > BEGIN_S
        server.send(b"\0\0\0\1K")
        await holds(lambda: place.count() == 0)
        assert left() <= BEGIN_S
        await server.client("192.0.2.8")
        assert left() > BEGIN_S

    place.run(scenario)


def test_bytes_that_come_one_by_one_do_not_lengthen_the_time_of_a_frame(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make()

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        session = next(iter(place.factory.connections))
        session.data_received(b"\0")
        timer = session._timer
        session.data_received(b"\0")
        session.data_received(b"\0")
        assert session._timer is timer
        session.data_received(b"\1A")
        assert session._timer is not timer  # the frame is there: the next one has its own time

    place.run(scenario)


# ---- tarpits


@pytest.mark.parametrize("hook", ["validate_connect", *COMMANDS])
@pytest.mark.parametrize("accepted", [True, False])
def test_an_answer_waits_for_the_end_of_a_tarpit(
    make: Any, hook: str, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = Verdict(accepted, 0 if accepted else 450, "" if accepted else "slowly", tarpit=0.01)
    place = make(Recorder(**{hook: verdict}))
    waits: list[float] = []
    write_later = milter.Milter._write_later

    def noting(session: milter.Milter, answer: bytes, seconds: float) -> None:
        waits.append(seconds)
        write_later(session, answer, seconds)

    monkeypatch.setattr(milter.Milter, "_write_later", noting)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.negotiate()
        commands = [wire.Connect("client", IPv4Address("192.0.2.7"), 1), *COMMANDS.get(hook, [])]
        for command in commands[:-1]:
            assert await server.say(command) == GOES_ON
        answer = await server.say(commands[-1])
        if "data" in hook:
            assert answer == (b"p", b"")  # the mail server is told to go on waiting
            answer = await server.answer()
        assert answer == (GOES_ON if accepted else (b"y", b"450 4.7.1 slowly\0"))

    place.run(scenario)
    assert waits == [0.01]


def test_no_mail_server_waits_longer_than_it_would(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_server, "MAX_TARPIT_S", 0.01)
    place = make(Recorder(validate_connect=Verdict(tarpit=86400)))

    async def scenario(connect: Any) -> None:
        assert await (await connect()).begin() == GOES_ON

    place.run(scenario)


def test_a_client_that_leaves_in_a_tarpit_is_counted_no_more(make: Any) -> None:
    place = make(Recorder(validate_ehlo=Verdict(tarpit=1000)))

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        server.send(wire.Helo("x"))
        await holds(lambda: any(one._wait for one in place.factory.connections))
        server.close()
        await holds(lambda: place.count() == 0 and not place.factory.connections)

    place.run(scenario)


# ---- stopping


def test_a_stop_lets_open_transactions_end(make: Any) -> None:
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        idle, inside = await connect(), await connect()
        await idle.begin("192.0.2.1")
        await inside.begin("192.0.2.2")
        await inside.say(MAIL)
        stopping = asyncio.ensure_future(place.factory.shut_down(1000, asyncio.Event()))
        assert await idle.closed()
        assert await inside.say(RCPT) == GOES_ON
        assert await inside.say(END) == GOES_ON
        assert await inside.closed()
        assert await stopping == 0

    place.run(scenario)
    assert place.guard.received == 1


@pytest.mark.parametrize("way", ["grace", "cut"])
def test_a_stop_cuts_off_what_does_not_end(make: Any, way: str) -> None:
    place = make(Recorder())

    async def scenario(connect: Any) -> None:
        inside = await connect()
        await inside.begin("192.0.2.2")
        await inside.say(MAIL)
        cut = asyncio.Event()
        if way == "cut":
            cut.set()
        assert await place.factory.shut_down(0 if way == "grace" else 1000, cut) == 1
        assert await inside.closed()

    place.run(scenario)


def test_a_stop_in_a_tarpit_sends_its_answer_first(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make(Recorder(validate_data=Verdict(tarpit=0.01)))
    write_later = milter.Milter._write_later
    inside: list[int] = []

    def stopping(session: milter.Milter, answer: bytes, seconds: float) -> None:
        write_later(session, answer, seconds)
        inside.append(place.factory.stop())

    monkeypatch.setattr(milter.Milter, "_write_later", stopping)

    async def scenario(connect: Any) -> None:
        server = await connect()
        await server.begin()
        await server.say(MAIL)
        assert await server.say(END) == (b"p", b"")
        assert await server.answer() == GOES_ON
        assert await server.closed()

    place.run(scenario)
    assert inside == [1]
