"""Postfix's policy delegation protocol: what a request asks, and what Postfix gets for whatever it has sent."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mail_servers import holds, listening

from inbound_audit import InboundAudit, Limits, LuaPolicy, Verdict
from inbound_audit.errors import AddressError, InboundAuditError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.policy_delegation import MAX_REQUEST_BYTES, PolicyServers
from inbound_audit.policy.base import Policy
from inbound_audit.policy.dry_run import DryRun

# The example of SMTPD_POLICY_README, which has all attributes.
EXAMPLE = """\
request=smtpd_access_policy
protocol_state=RCPT
protocol_name=SMTP
helo_name=some.domain.tld
queue_id=8045F2AB23
sender=foo@bar.tld
recipient=bar@foo.tld
recipient_count=0
client_address=1.2.3.4
client_name=another.domain.tld
reverse_client_name=another.domain.tld
instance=123.456.7
sasl_method=plain
sasl_username=you
sasl_sender=
size=12345
ccert_subject=solaris9.porcupine.org
ccert_issuer=Wietse+20Venema
ccert_fingerprint=C2:9D:F4:87:71:73:73:D9:18:E7:C2:F3:C1:DA:6E:04
encryption_protocol=TLSv1/SSLv3
encryption_cipher=DHE-RSA-AES256-SHA
encryption_keysize=256
etrn_domain=
stress=
ccert_pubkey_fingerprint=68:B3:29:DA:98:93:E3:40:99:C7:D8:AD:5C:B9:C9:40
client_port=1234
policy_context=submission
server_address=10.3.2.1
server_port=54321

"""
VALUES = dict(line.split("=", 1) for line in EXAMPLE.splitlines() if line)
DUNNO = b"action=DUNNO\n\n"
UNAVAILABLE = b"action=DEFER_IF_PERMIT 4.3.0 service not available, try again later\n\n"


def request(**values: str) -> bytes:
    named = {**VALUES, **values}
    return "".join(f"{name}={value}\n" for name, value in named.items()).encode() + b"\n"


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit(monitors=["300,6"]) as made:
        yield made


def ask(factory: PolicyServers, tmp_path: Path, *parts: bytes) -> bytes:
    """Sends all of it over one connection; what comes back until that is closed."""
    path = f"{tmp_path}/policy"

    async def scenario() -> bytes:
        async with listening(factory, path):
            reader, writer = await asyncio.open_unix_connection(path)
            for part in parts:
                writer.write(part)
            answers = b""
            expected = sum(part.count(b"\n\n") or 1 for part in parts)
            while answers.count(b"\n\n") < expected and (data := await reader.read(1 << 16)):
                answers += data
            writer.close()
            await holds(lambda: not factory.connections)
            return answers

    return asyncio.run(scenario())


def test_the_counts_of_others_are_asked_and_none_is_added(audit: InboundAudit, tmp_path: Path) -> None:
    guard = Guard(audit.listener("SMTP", "policyd"), Limits({"/32": 1}))
    factory = PolicyServers(guard)
    others = [audit.listener("SMTP").session("1.2.3.4")]
    assert ask(factory, tmp_path, request()) == DUNNO
    others.append(audit.listener("SMTP").session("1.2.3.4"))
    refused = b"action=421 4.7.1 connection limit exceeded\n\n"
    assert ask(factory, tmp_path, request(), request(), request(client_address="1.2.3.5")) == refused + refused + DUNNO
    assert (audit.total("SMTP"), audit.connections("300,6", "0.0.0.0/0")) == (2, 2)
    assert (audit.rejections("300,6", "0.0.0.0/0"), guard.open, guard.refused) == (0, 0, 2)
    for session in others:
        session.close()


def test_a_visit_is_closed_from_the_beginning(audit: InboundAudit) -> None:
    listener = audit.listener("SMTP")
    with listener.session("1.2.3.4"), listener.visit(("1.2.3.4", 25), ("10.3.2.1", 25)) as ac:
        assert (ac.closed, ac.inbound_session_count(), ac.inbound_session_count("/24")) == (True, 1, 1)
        assert (ac.remote_addr, ac.local_addr) == ("1.2.3.4:25", "10.3.2.1:25")
        with pytest.raises(InboundAuditError, match="closed"):
            ac.rebind("1.2.3.5")
    with pytest.raises(AddressError):
        listener.visit("no address")
    assert (listener.total, audit.connections("300,6", "1.2.3.4")) == (0, 1)


def test_refusals_are_recorded_on_request(audit: InboundAudit, tmp_path: Path) -> None:
    factory = PolicyServers(Guard(audit.listener("SMTP"), Limits({"/32": 0})), records=True)
    with audit.listener("SMTP").session("1.2.3.4"):
        assert ask(factory, tmp_path, request()).startswith(b"action=421 ")
    assert (audit.rejections("300,6", "1.2.3.4"), audit.connections("300,6", "1.2.3.4")) == (1, 1)


class Recorder(Policy):
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.seen: dict[str, str] = {}
        self.ended = 0
        self.verdict = Verdict()

    def attributes(self, ac: Any, values: Any) -> None:
        self.seen = dict(values)

    def validate_connect(self, ac: Any) -> Verdict:
        self.asked.append(("connect", ac.remote_addr, ac.local_addr))
        return self.verdict

    def validate_tls(self, ac: Any, cipher: str) -> Verdict:
        self.asked.append(("tls", cipher))
        return Verdict()

    def validate_ehlo(self, ac: Any, text: str) -> Verdict:
        self.asked.append(("ehlo", text))
        return Verdict()

    def validate_mailfrom(self, ac: Any, text: str) -> Verdict:
        self.asked.append(("mail", text))
        return Verdict()

    def validate_rcptto(self, ac: Any, text: str, message: Any) -> Verdict:
        self.asked.append(("rcpt", text, message.mailfrom, tuple(message.rcptto), message.size))
        return Verdict()

    def validate_data(self, ac: Any, message: Any) -> Verdict:
        self.asked.append(("data", message.mailfrom, tuple(message.rcptto), message.size))
        return Verdict()

    def end_session(self, ac: Any) -> None:
        self.ended += 1


ASKED = {
    "CONNECT": [],
    "EHLO": [("tls", "DHE-RSA-AES256-SHA"), ("ehlo", "some.domain.tld")],
    "HELO": [("tls", "DHE-RSA-AES256-SHA"), ("ehlo", "some.domain.tld")],
    "MAIL": [("mail", "foo@bar.tld")],
    "RCPT": [("rcpt", "bar@foo.tld", "foo@bar.tld", (), 12345)],
    "DATA": [],
    "END-OF-MESSAGE": [("data", "foo@bar.tld", ("bar@foo.tld",), 12345)],
    "VRFY": [],
    "ETRN": [],
    "what comes later": [],
}


@pytest.mark.parametrize("state", ASKED)
@pytest.mark.parametrize("dry", [False, True])
def test_each_state_asks_its_hooks(audit: InboundAudit, tmp_path: Path, state: str, dry: bool) -> None:
    policy = Recorder()
    factory = PolicyServers(Guard(audit.listener("SMTP"), DryRun(policy) if dry else policy))
    assert ask(factory, tmp_path, request(protocol_state=state)) == DUNNO
    assert policy.asked == [("connect", "1.2.3.4:1234", "10.3.2.1:54321"), *ASKED[state]]
    assert (policy.seen, policy.ended) == ({**VALUES, "protocol_state": state}, 1)


SCRIPT = """
require("msys.core")
local policy = {}
function policy:validate_connect(ac, vctx)
  local value = vctx:get(msys.core.VCTX_CONN, "%s")
  vctx:set_code(550, "it is <" .. tostring(value) .. ">")
  return msys.core.VALIDATE_DONE
end
msys.registerModule("policy", policy)
"""


@pytest.mark.parametrize("name", VALUES)
def test_a_script_reads_every_attribute(audit: InboundAudit, tmp_path: Path, name: str) -> None:
    path = tmp_path / "policy.lua"
    path.write_text(SCRIPT % name)
    policy = LuaPolicy(path)
    answer = ask(PolicyServers(Guard(audit.listener("SMTP"), policy)), tmp_path, request())
    assert answer == f"action=550 5.7.1 it is <{VALUES[name]}>\n\n".encode()
    assert policy.sessions == 0
    policy.close()


def test_the_script_of_the_page(audit: InboundAudit, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "howto" / "postfix.md").read_text("utf-8")
    (script,) = re.findall(r"^```lua\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = tmp_path / "policy.lua"
    path.write_text(script)
    policy = LuaPolicy(path)
    factory = PolicyServers(Guard(audit.listener("SMTP"), policy))
    sessions = [audit.listener("SMTP").session(f"1.2.3.{host}") for host in range(21)]
    answers = ask(factory, tmp_path, request(sasl_username=""), request())
    assert answers == b"action=450 4.7.1 log in, or come again later\n\n" + DUNNO
    sessions.pop().close()
    assert ask(factory, tmp_path, request(sasl_username="")) == DUNNO
    for session in sessions:
        session.close()
    policy.close()


ANSWERS = [
    (Verdict(False, 550, "no"), b"550 5.7.1 no"),
    (Verdict(False, 450, "4.7.0 later"), b"450 4.7.0 later"),
    (Verdict(False, 450, "10 are too many"), b"450 4.7.1 10 are too many"),
    (Verdict(False, 450, "one\ntwo"), b"450 4.7.1 one 4.7.1 two"),
    (Verdict(False, 550, "100 % of Grüße"), b"550 5.7.1 100 % of Gr??e"),
    (Verdict(True, disconnect=True), b"421 4.7.1 connection limit exceeded"),
    (Verdict(True, 250, "fine"), b"DUNNO"),
    (Verdict(True, tarpit=0.01), b"DUNNO"),
    (Verdict(False, 450, "slowly", tarpit=0.01), b"450 4.7.1 slowly"),
]


@pytest.mark.parametrize(("verdict", "action"), ANSWERS)
def test_a_verdict_as_an_action(audit: InboundAudit, tmp_path: Path, verdict: Verdict, action: bytes) -> None:
    policy = Recorder()
    policy.verdict = verdict
    factory = PolicyServers(Guard(audit.listener("SMTP"), policy))
    assert ask(factory, tmp_path, request(), request()) == 2 * (b"action=" + action + b"\n\n")


@pytest.mark.parametrize("address", ["", "unknown"])
def test_a_client_that_postfix_does_not_know(audit: InboundAudit, tmp_path: Path, address: str) -> None:
    factory = PolicyServers(Guard(audit.listener("SMTP"), Limits({"/0": 0})))
    assert ask(factory, tmp_path, request(client_address=address)) == DUNNO


BROKEN = {
    "nothing": b"\n",
    "no attribute": b"hello\n\n",
    "no name": request()[:-1] + b"=value\n\n",
    "another request": request(request="junk"),
    "no request": b"client_address=1.2.3.4\n\n",
    "a zero byte": request(helo_name="a\0b"),
    "no text": b"\xff\xfe\n\n",
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize(("on_error", "answer"), [("accept", DUNNO), ("refuse", UNAVAILABLE)])
def test_a_broken_request_is_answered_and_the_next_one_too(
    audit: InboundAudit, tmp_path: Path, what: str, on_error: Any, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    factory = PolicyServers(Guard(audit.listener("SMTP"), Recorder(), on_error=on_error))
    with caplog.at_level(logging.DEBUG, logger="inbound_audit"):
        assert ask(factory, tmp_path, BROKEN[what], request()) == answer + DUNNO
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_a_request_without_an_end_is_bounded(audit: InboundAudit, tmp_path: Path) -> None:
    factory = PolicyServers(Guard(audit.listener("SMTP")))
    assert ask(factory, tmp_path, b"x=" + bytes(2 * MAX_REQUEST_BYTES)) == DUNNO


def test_a_policy_that_fails(audit: InboundAudit, tmp_path: Path) -> None:
    class Failing(Policy):
        def attributes(self, ac: Any, values: Any) -> None:
            raise RuntimeError("attributes")

        def validate_connect(self, ac: Any) -> Verdict:
            raise RuntimeError("connect")

    factory = PolicyServers(Guard(audit.listener("SMTP"), Failing(), on_error="refuse"))
    answer = b"action=421 4.7.1 service not available, try again later\n\n"
    assert ask(factory, tmp_path, request(), request()) == answer + answer
    assert factory.guard.failures == 4


@given(data=st.lists(st.one_of(
    st.binary(max_size=30), st.sampled_from([b"\n", b"=", b"request=smtpd_access_policy\n", b"client_address=::1\n"]),
), max_size=20))  # fmt: skip
def test_any_bytes_get_an_answer_for_each_empty_line(data: list[bytes], tmp_path_factory: Any) -> None:
    sent = b"".join(data) + b"\n\n"
    with InboundAudit() as audit:
        factory = PolicyServers(Guard(audit.listener("SMTP"), Recorder()))
        answers = ask(factory, tmp_path_factory.mktemp("any"), sent + request())
        assert answers.endswith(DUNNO)
        assert set(answers.split(b"\n\n")) <= {b"action=DUNNO", b""}
        assert audit.total("SMTP") == 0
