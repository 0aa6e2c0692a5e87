"""`inbound-audit serve` as it is used: a process, signals, and real SMTP over IPv4 and IPv6."""

from __future__ import annotations

import json
import mailbox
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from tests.support.command_line import COMMAND, SHUTDOWN, Serve, address_of, begun, environment, run
from tests.support.listening import Peer
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE, eventually

MESSAGE = b"Subject: greetings\r\n\r\nhello\r\n.a line with a dot\r\n"

POLICY = """
require("msys.core")
require("msys.extended.ac")
require("msys.extended.vctx")
local policy = {}
%s
msys.registerModule("policy", policy)
"""
REFUSE_AT_CONNECT = """
function policy:validate_connect(ac, vctx)
  if ac:inbound_session_count("/32") > 0 then vctx:disconnect(421, "not today") end
  return msys.core.VALIDATE_CONT
end
"""
REFUSE_AT_RCPT = """
function policy:validate_rcptto(msg, str, ac, vctx)
  vctx:set_code(550, "no such recipient")
  return msys.core.VALIDATE_DONE
end
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Path:
    """A PEM file with a key and its certificate, for the addresses that tests connect to."""
    return write_certificate(authority, tmp_path / "certificate.pem")


def write_certificate(authority: trustme.CA, path: Path) -> Path:
    authority.issue_cert("127.0.0.1", "::1").private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_policy(tmp_path / "policy.lua", REFUSE_AT_RCPT)


def write_policy(path: Path, body: str) -> Path:
    path.write_text(POLICY % body)
    return path


@pytest.fixture(params=[0, 1], ids=["ipv4-gate", "ipv6-no-gate"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Which of the two addresses that `Serve` listens on. One is served by a gate, and one without, as both are to be
    the same; `test_gate_serve` has both for one family."""
    number: int = request.param
    monkeypatch.setattr(Serve, "more", ("--no-gate",) if number else ())
    return number


def test_a_message_is_in_the_maildir_when_the_peer_reads_250(tmp_path: Path, family: int) -> None:
    with Serve("--maildir", str(tmp_path / "a" / "box")) as server:
        with smtplib.SMTP(*server.addresses[family], timeout=PATIENCE) as client:
            client.ehlo("client.example")
            client.sendmail("sender@example.net", ["one@example.com", "two@example.com"], MESSAGE)
            (message,) = mailbox.Maildir(tmp_path / "a" / "box", create=False)
        peer = ("127.0.0.1", "IPv6:::1")[family]
        assert message["Return-Path"] == "<sender@example.net>"
        assert message.get_all("Delivered-To") == ["one@example.com", "two@example.com"]
        assert message["Received"].startswith(f"from client.example ([{peer}]) by mx.example with ESMTP;")
        assert message["Subject"] == "greetings"
        assert message.get_payload() == "hello\n.a line with a dot\n"
        assert server.stopped()["accepted"] == 1


def test_without_a_maildir_mail_is_discarded(family: int) -> None:
    with Serve() as server, smtplib.SMTP(*server.addresses[family], timeout=PATIENCE) as client:
        assert client.sendmail("sender@example.net", ["one@example.com"], MESSAGE) == {}
        assert client.ehlo()[0] == 250
        assert not client.has_extn("starttls")
        assert [event["event"] for event in server.events][:3] == ["listening", "discarding", "policy"]


def test_the_report_counts_messages(tmp_path: Path) -> None:
    with Serve("--maildir", str(tmp_path / "box")) as server:
        with smtplib.SMTP(*server.addresses[0], timeout=PATIENCE) as client:
            for _ in range(3):
                client.sendmail("sender@example.net", ["one@example.com", "two@example.com"], MESSAGE)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("sender@example.net", ["not an address@"], MESSAGE)
        assert server.stopped()["messages"] == 3
        assert "discarding" not in {event["event"] for event in server.events}


def test_a_maildir_that_breaks_is_no_lost_message(tmp_path: Path) -> None:
    with Serve("--maildir", str(tmp_path / "box")) as server:
        for part in ("tmp", "new", "cur"):
            (tmp_path / "box" / part).rmdir()
        with smtplib.SMTP(*server.addresses[0], timeout=PATIENCE) as client:
            with pytest.raises(smtplib.SMTPDataError, match="451"):
                client.sendmail("sender@example.net", ["one@example.com"], MESSAGE)
            assert client.noop()[0] == 250
        server.complaint("could not be stored")


def test_a_session_over_the_limit_is_refused_before_the_banner(family: int) -> None:
    with Serve("--limit", "/32,/64=2") as server:
        address = server.addresses[family]

        def answer() -> bytes:
            with Peer(*address) as peer:
                return peer.line()

        with Peer(*address) as first, Peer(*address) as second:
            assert first.line().startswith(b"220 mx.example ESMTP")
            assert second.line().startswith(b"220 ")
            with Peer(*address) as third:
                assert third.rest() == b"421 connection limit exceeded\r\n"
            second.reset()
            eventually(lambda: answer().startswith(b"220 "), "room for another one")
        total = server.stopped()
        assert total["accepted"] == 3
        assert total["refused"] >= 1
        assert total["accepted"] + total["refused"] == total["opened"]


def test_the_exempt_are_not_limited_and_the_families_have_limits_of_their_own() -> None:
    with Serve("--limit", "/32,/64=0", "--exempt", "::1") as server:
        four, six = server.addresses
        with Peer(*four) as refused, Peer(*six) as exempt:
            assert refused.line().startswith(b"421")
            assert exempt.line().startswith(b"220")


def test_the_stock_limits_hold_without_a_policy(family: int) -> None:
    with Serve() as server:
        peers = [Peer(*server.addresses[family]) for _ in range(11)]
        assert sorted(peer.line()[:3] for peer in peers) == [b"220"] * 10 + [b"421"]
        for peer in peers:
            peer.close()
        assert server.event("policy")["policy"] == "/32,/64=10 /24,/48=100 /0=20000"


def test_a_dry_run_lets_in_and_counts_sessions_it_would_refuse(family: int) -> None:
    with Serve("--limit", "/32,/64=1", "--dry-run") as server:
        with Peer(*server.addresses[family]) as first, Peer(*server.addresses[family]) as second:
            assert first.line().startswith(b"220")
            assert second.line().startswith(b"220")
        total = server.stopped()
        assert (total["accepted"], total["refused"], total["would_refuse"]) == (2, 0, 1)
        assert server.event("policy")["policy"] == "/32,/64=1, as a dry run"


def test_a_lua_policy_is_asked_at_later_stages_too(policy: Path, family: int) -> None:
    with Serve("--policy", str(policy)) as server, smtplib.SMTP(*server.addresses[family], timeout=PATIENCE) as client:
        client.ehlo()
        assert client.mail("sender@example.net")[0] == 250
        assert client.rcpt("one@example.com") == (550, b"no such recipient")


def test_a_dry_run_of_a_lua_policy_asks_it_all_the_same(tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "policy.lua", REFUSE_AT_CONNECT + REFUSE_AT_RCPT)
    with Serve("--policy", str(policy), "--dry-run", "--maildir", str(tmp_path / "box")) as server:
        for address in server.addresses:
            with smtplib.SMTP(*address, timeout=PATIENCE) as client:
                client.sendmail("sender@example.net", ["one@example.com"], MESSAGE)
        total = server.stopped()
        assert (total["accepted"], total["refused"], total["would_refuse"]) == (2, 0, 4)
        assert len(mailbox.Maildir(tmp_path / "box", create=False)) == 2


FAILS = "function policy:validate_connect(ac, vctx) error('it broke') end"


@pytest.mark.parametrize(("choice", "answer"), [("accept", b"220"), ("refuse", b"421")])
def test_on_error_decides_what_a_broken_hook_means(tmp_path: Path, choice: str, answer: bytes) -> None:
    policy = write_policy(tmp_path / "policy.lua", FAILS)
    with Serve("--policy", str(policy), "--on-error", choice) as server:
        for address in server.addresses:
            with Peer(*address) as peer:
                assert peer.line()[:3] == answer
        assert "policy.lua" in server.complaint("it broke")
        assert server.stopped()["failures"] == 2


@pytest.mark.parametrize(("choice", "answer"), [("accept", b"220"), ("refuse", b"421")])
def test_when_full_decides_what_a_full_arena_means(choice: str, answer: bytes) -> None:
    balancer = ["--proxy-from", "127.0.0.0/8"]
    with Serve("--capacity", "8K", "--when-full", choice, "--limit", "/0=100000", *balancer) as server:
        answers, peers = set[bytes](), []
        for host in range(200):
            peers.append(Peer(*server.addresses[0]))
            peers[-1].send(b"PROXY TCP6 2001:db8:%x::%x ::1 1024 25\r\n" % (host * 331, host * 77))
            answers.add(peers[-1].line()[:3])
            if server.complaints:
                break
        server.complaint("uncounted")
        assert answer in answers
        for peer in peers:
            peer.close()
        assert server.stopped()["open"] == 0


def test_starttls(authority: trustme.CA, certificate: Path, family: int, tmp_path: Path) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Serve("--tls-cert", str(certificate), "--maildir", str(tmp_path / "box"), "--limit", "/0=1") as server:
        with smtplib.SMTP(*server.addresses[family], timeout=PATIENCE) as client:
            client.starttls(context=context)
            client.sendmail("sender@example.net", ["one@example.com"], MESSAGE)
        (message,) = mailbox.Maildir(tmp_path / "box", create=False)
        assert "with ESMTPS;" in message["Received"]
        total = server.stopped()
        assert (total["opened"], total["accepted"], total["open"]) == (1, 1, 0)


def presented(context: ssl.SSLContext, address: tuple[str, int]) -> object:
    with smtplib.SMTP(*address, timeout=PATIENCE) as client:
        client.starttls(context=context)
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert()["serialNumber"]  # type: ignore[index]


def test_a_hangup_renews_the_certificate(authority: trustme.CA, certificate: Path) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Serve("--tls-cert", str(certificate)) as server:
        old = presented(context, server.addresses[1])
        key = certificate.read_bytes()
        certificate.write_bytes(b"no certificate")
        server.tell(signal.SIGHUP)
        server.complaint("not reloaded")
        assert presented(context, server.addresses[1]) == old
        certificate.write_bytes(key)
        write_certificate(authority, certificate)
        server.tell(signal.SIGHUP)
        eventually(lambda: presented(context, server.addresses[1]) != old, "the new certificate")


def test_the_client_behind_a_balancer_is_the_one_that_is_counted(tmp_path: Path) -> None:
    arguments = ["--proxy-from", "127.0.0.0/8", "--proxy-from", "::1", "--limit", "/32,/64=1"]
    with Serve(*arguments, "--maildir", str(tmp_path / "box"), "--prefixlen", "32,128") as server:
        four, six = server.addresses
        with Peer(*four) as one, Peer(*six) as two, Peer(*four) as same, Peer(*six) as other:
            for peer, header in (
                (one, b"PROXY TCP6 2001:db8::7 ::1 4001 25\r\n"),
                (two, b"PROXY TCP4 192.0.2.7 127.0.0.1 4002 25\r\n"),
                (same, b"PROXY TCP6 2001:db8::8 ::1 4003 25\r\n"),
                (other, b"PROXY TCP6 2001:db8:0:1::7 ::1 4004 25\r\n"),
            ):
                peer.send(header)
                assert peer.line()[:3] == (b"421" if peer is same else b"220")
            for line in (b"HELO client", b"MAIL FROM:<a@example.net>", b"RCPT TO:<b@example.com>"):
                assert one.ask(line).startswith(b"250")
            assert one.ask(b"DATA").startswith(b"354")
            assert one.ask(b".").startswith(b"250")
        (message,) = mailbox.Maildir(tmp_path / "box", create=False)
        assert "([IPv6:2001:db8::7])" in message["Received"]
        assert "with SMTP;" in message["Received"]
        total = server.stopped()
        assert (total["accepted"], total["refused"], total["uncounted"]) == (3, 1, 0)


def test_a_header_from_elsewhere_is_not_believed(family: int) -> None:
    with Serve("--proxy-from", "192.0.2.0/24") as server, Peer(*server.addresses[family]) as peer:
        assert peer.line().startswith(b"220")
        assert peer.ask(b"PROXY TCP4 192.0.2.7 127.0.0.1 4002 25").startswith(b"554")


NO_RESOLVER = """
import socket, sys, time
socket.getfqdn = socket.gethostbyaddr = socket.gethostbyname = lambda *_: time.sleep(3600)
from inbound_audit.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(("hostname", "banner"), [("mx.example", "mx.example"), (None, socket.gethostname())])
def test_a_resolver_that_does_not_answer_delays_nothing(hostname: str | None, banner: str) -> None:
    with Serve(command=(sys.executable, "-c", NO_RESOLVER), hostname=hostname) as server:
        with Peer(*server.addresses[0]) as peer:
            assert peer.line() == f"220 {banner} ESMTP\r\n".encode()
        assert server.stopped()["accepted"] == 1


def test_what_a_half_closed_peer_has_sent_is_stored_and_answered(tmp_path: Path, family: int) -> None:
    commands = [b"EHLO c", b"MAIL FROM:<a@example.net>", b"RCPT TO:<b@example.com>", b"DATA", b"hello", b".", b"QUIT"]
    with Serve("--maildir", str(tmp_path / "box")) as server:
        for _ in range(10):
            with Peer(*server.addresses[family]) as peer:
                peer.send(b"".join(line + b"\r\n" for line in commands))
                peer.socket.shutdown(socket.SHUT_WR)
                assert peer.rest().endswith(b"\r\n250 2.0.0 OK\r\n221 Bye\r\n")
        assert len(mailbox.Maildir(tmp_path / "box", create=False)) == 10
        assert server.stopped()["messages"] == 10


def test_a_session_has_limits() -> None:
    options = ("--max-recipients", "2", "--max-size", "1000", "--max-commands", "5")
    with Serve(*options) as server, smtplib.SMTP(*server.addresses[0], timeout=PATIENCE) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "1000"
        assert "auth" not in client.esmtp_features
        assert client.mail("a@example.net", ["SIZE=1001"])[0] == 552
        assert client.mail("a@example.net")[0] == 250
        assert [client.rcpt(f"{number}@example.com")[0] for number in range(3)] == [250, 250, 452]
        assert [client.noop()[0] for _ in range(5)] == [250] * 4 + [421]


# ---- listening


@pytest.mark.parametrize("listen", [":0", "*:0"])
def test_an_address_of_both_families_is_one_port(listen: str) -> None:
    with Serve("--limit", "/0=1", listen=[listen]) as server:
        ((_, port),) = server.addresses
        with Peer("127.0.0.1", port) as four, Peer("::1", port) as six, Peer("127.0.0.1", port) as again:
            assert [peer.line()[:3] for peer in (four, six, again)] == [b"220", b"220", b"421"]


def test_both_families_may_have_the_same_port() -> None:
    (port,) = free_ports(1)
    with Serve(listen=[f"0.0.0.0:{port}", f"[::]:{port}"]) as server:
        assert server.addresses == [("0.0.0.0", port), ("::", port)]
        with Peer("127.0.0.1", port) as four, Peer("::1", port) as six:
            assert four.line().startswith(b"220")
            assert six.line().startswith(b"220")


def test_a_name_is_every_address_that_it_has() -> None:
    with Serve(listen=["localhost:0"]) as server:
        assert {host for host, _ in server.addresses} <= {"127.0.0.1", "::1"}
        with Peer(*server.addresses[0]) as peer:
            assert peer.line().startswith(b"220")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_in_use_is_an_error_and_nothing_is_served(host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as held:
        address = f"[{host}]:{held.getsockname()[1]}"
        done = run("serve", "--listen", "127.0.0.1:0", "--listen", address.replace("[127.0.0.1]", "127.0.0.1"))
        assert done.returncode == 1
        assert done.stdout == b""
        assert done.stderr.count(b"\n") == 1
        assert b"address already in use" in done.stderr
        assert str(held.getsockname()[1]).encode() in done.stderr


def test_a_policy_that_does_not_compile_is_reported_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "policy.lua").write_text("local a = 1\nlocal = 2\n")
    done = run("serve", "--listen", "127.0.0.1:0", "--policy", "policy.lua", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"policy.lua:2:" in done.stderr


# ---- reload


def test_a_session_ends_with_the_policy_that_let_it_in(policy: Path, family: int) -> None:
    with Serve("--policy", str(policy)) as server, Peer(*server.addresses[family]) as old:
        assert old.line().startswith(b"220")
        write_policy(policy, REFUSE_AT_CONNECT)
        server.tell(signal.SIGHUP)
        server.event("reloaded")
        with Peer(*server.addresses[family]) as new:
            assert new.rest() == b"421 not today\r\n"
        assert old.ask(b"HELO client").startswith(b"250")
        assert old.ask(b"MAIL FROM:<a@example.net>").startswith(b"250")
        assert old.ask(b"RCPT TO:<b@example.com>") == b"550 no such recipient\r\n"


def test_a_broken_policy_is_reported_and_the_old_one_stays(policy: Path) -> None:
    write_policy(policy, REFUSE_AT_CONNECT)
    with Serve("--policy", str(policy)) as server:
        for broken in ("this is no Lua", "", None):
            if broken is None:
                policy.unlink()
            else:
                policy.write_text(broken)
            reported = len(server.complaints)
            server.tell(signal.SIGHUP)
            eventually(lambda reported=reported: len(server.complaints) > reported, "a complaint")
            assert "policy.lua" in server.complaints[-1]
            assert "not reloaded" in server.complaints[-1]
            with Peer(*server.addresses[1]) as peer:
                assert peer.rest() == b"421 not today\r\n"
        write_policy(policy, "function policy:validate_connect(ac, vctx) return msys.core.VALIDATE_CONT end")
        server.tell(signal.SIGHUP)
        server.event("reloaded")
        with Peer(*server.addresses[1]) as peer:
            assert peer.line().startswith(b"220")


def test_limits_of_the_command_line_have_nothing_to_reload() -> None:
    with Serve("--limit", "/32=1") as server:
        server.tell(signal.SIGHUP)
        server.complaint("nothing to reload")
        assert server.running


# ---- the end


@pytest.mark.parametrize(("number", "family"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)], ids=["term", "int"])
def test_a_stop_accepts_no_more_and_lets_transactions_end(number: signal.Signals, family: int, tmp_path: Path) -> None:
    with Serve("--maildir", str(tmp_path / "box"), "--grace", "1h") as server:
        address = server.addresses[family]
        with begun(address) as client, Peer(*address) as idle:
            assert idle.line().startswith(b"220")
            server.tell(number)
            assert server.event("stopping")["open"] == 1
            assert idle.rest() == SHUTDOWN
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=PATIENCE)
            assert client.ask(b"DATA").startswith(b"354")
            client.send(b"Subject: the last one\r\n\r\nhello\r\n.\r\nMAIL FROM:<late@example.net>\r\n")
            assert client.line().startswith(b"250")
            assert client.rest() == SHUTDOWN
        assert server.end() == 0
        total = server.event("stopped")["total"]
        assert (total["accepted"], total["messages"], server.event("stopped")["cut"]) == (2, 1, 0)
        assert len(mailbox.Maildir(tmp_path / "box", create=False)) == 1
        assert server.complaints == []


def test_an_idle_server_stops_at_once_and_says_little() -> None:
    with Serve() as server:
        server.tell(signal.SIGTERM)
        assert server.end() == 0
        assert [event["event"] for event in server.events] == ["listening", "discarding", "policy", "stopped"]
        assert server.complaints == []


def test_idle_sessions_get_421_whatever_the_grace_is(authority: trustme.CA, certificate: Path, family: int) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    arguments = ("--grace", "1h", "--tls-cert", str(certificate), "--proxy-from", "127.0.0.2")
    with Serve(*arguments) as server:
        address = server.addresses[family]
        with Peer(*address) as clear, Peer(*address) as in_handshake:
            assert clear.line().startswith(b"220")
            assert in_handshake.line().startswith(b"220")
            assert in_handshake.ask(b"STARTTLS").startswith(b"220")
            secret = smtplib.SMTP(*address, timeout=PATIENCE)
            secret.starttls(context=context)
            server.tell(signal.SIGTERM)
            assert clear.rest() == SHUTDOWN
            assert secret.getreply() == (421, b"4.3.2 service is shutting down")
            assert server.end() == 0  # while the peer of `secret` has not closed its end of TLS
            secret.close()
        assert server.event("stopped")["cut"] == 0
        assert server.complaints == []


def test_after_the_grace_transactions_are_cut(family: int) -> None:
    with Serve("--grace", "0") as server, begun(server.addresses[family]) as client:
        server.tell(signal.SIGTERM)
        assert client.rest() == SHUTDOWN
        assert server.end() == 0
        assert server.event("stopped")["cut"] == 1
        assert server.complaints == []


def test_a_balancer_that_has_sent_no_header_holds_up_no_stop() -> None:
    with Serve("--grace", "1h", "--proxy-from", "127.0.0.1") as server, Peer(*server.addresses[0]) as peer:
        eventually(lambda: server.event("second")["opened"] == 1, "the connection")
        server.tell(signal.SIGTERM)
        assert peer.rest() == SHUTDOWN
        assert server.end() == 0


def test_a_peer_that_is_made_to_wait_holds_up_no_stop(tmp_path: Path) -> None:
    policy = write_policy(
        tmp_path / "policy.lua",
        "function policy:validate_connect(ac, vctx) vctx:tarpit(3600) return msys.core.VALIDATE_CONT end",
    )
    with Serve("--policy", str(policy), "--grace", "1h") as server, Peer(*server.addresses[0]) as peer:
        assert server.event("second")["busiest"] == {"prefix": "127.0.0.0/24", "count": 1}
        eventually(lambda: server.total["accepted"] == 1, "that it is let in")
        before = server.total
        assert (before["open"], before["opened"], before["refused"]) == (1, 1, 0)
        assert server.stopped() == {**before, "open": 0}
        assert peer.rest() == SHUTDOWN
        assert server.complaints == []


def test_a_second_signal_cuts_at_once() -> None:
    with Serve("--grace", "1h") as server, begun(server.addresses[1]) as client:
        server.tell(signal.SIGINT)
        server.event("stopping")
        server.tell(signal.SIGINT)
        assert client.rest() == SHUTDOWN
        assert server.end() == 0
        assert server.event("stopped")["cut"] == 1


# ---- what it tells


def test_peers_that_behave_badly_fill_no_log() -> None:
    with Serve("--limit", "/0=100000", listen=[":0"]) as server:
        ((_, port),) = server.addresses
        for host in ("127.0.0.1", "::1") * 20:
            peer = Peer(host, port)
            peer.line()
            peer.send(b"EHLO \xff\r\nGARBAGE\r\nDATA\r\nHELO x\r\n")
            peer.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nand the")
            peer.reset()
        assert server.stopped()["accepted"] == 40
        assert server.complaints == []


def test_a_report_that_is_not_read_stops_no_server() -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", "--listen", "[::1]:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        address = address_of(process.stdout.readline().split()[-1])
        assert "discarded" in process.stdout.readline()
        assert "policy" in process.stdout.readline()
        process.stdout.close()
        with Peer(*address) as peer:
            assert peer.line().startswith(b"220")
            assert "without a report: standard output: broken pipe" in process.stderr.readline()
            assert peer.ask(b"NOOP").startswith(b"250")
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


def test_in_words_a_second_is_a_line() -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", "--listen", "[::1]:0", "--limit", "/32,/64=1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        address = address_of(process.stdout.readline().split()[-1])
        assert "messages are accepted and discarded; --maildir DIR keeps them" in process.stdout.readline()
        assert process.stdout.readline().split()[1:] == ["policy", "/32,/64=1"]
        with Peer(*address) as peer, Peer(*address) as refused:
            assert peer.line().startswith(b"220")
            assert refused.line().startswith(b"421")
            accepted = refusals = 0
            while accepted + refusals < 2:  # a second may have ended in between
                line = process.stdout.readline()
                form = r"\d\d:\d\d:\d\d  open [12]  accepted \+(\d)  refused \+(\d)  busiest ::/56 [12]\n"
                found = re.fullmatch(form, line)
                assert found, line
                accepted, refusals = accepted + int(found[1]), refusals + int(found[2])
            assert (accepted, refusals) == (1, 1)
        process.send_signal(signal.SIGTERM)
        *_, last = process.stdout.read().splitlines()
        assert last[10:] == "stopped: 1 accepted, 1 refused, 0 messages, 0 cut off"
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--shared", "json-lines")])
def test_with_json_all_lines_are_json(place: Path, workers: tuple[str, ...]) -> None:
    with Serve("-v", "--limit", "/32=1", *workers, listen=("127.0.0.1:0",)) as server:
        host, port = server.addresses[0]
        with Peer(host, port) as first:
            assert first.line().startswith(b"220")  # before the second: two workers at once may refuse both
            with Peer(host, port) as second:
                assert second.line().startswith(b"421")
            line = json.loads(server.complaint("421"))
            assert (line["level"], line["message"].split(" ")[0]) == ("info", "refused")
    assert all(json.loads(line) for line in server.complaints)
    done = run("serve", "--json", "--policy", "missing.lua")
    assert "missing.lua" in json.loads(done.stderr)["message"]
