"""`inbound-audit milter` before a real Postfix: one Postfix for all tests, a milter for each at the same socket."""

from __future__ import annotations

import contextlib
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.listening import Peer
from tests.support.milters import MilterProcess, PolicydProcess
from tests.support.postfix import MILTERTEST, Postfix, needs_miltertest, needs_postfix
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Debian's Postfix and miltertest")

REFUSING = """
require("msys.core")
local policy = {}
local function answer(vctx, text, word)
  if not text:find(word, 1, true) then return msys.core.VALIDATE_CONT end
  vctx:set_code(word == "later" and 450 or 550, "5 % of " .. word)
  return msys.core.VALIDATE_DONE
end
function policy:validate_ehlo(str, ac, vctx) return answer(vctx, str, "badname") end
function policy:validate_mailfrom(str, ac, vctx) return answer(vctx, str, "badsender") end
function policy:validate_rcptto(msg, str, ac, vctx) return answer(vctx, str, "later") end
function policy:validate_data(msg, ac, vctx)
  if msg:get_message_size() < 5000 then return msys.core.VALIDATE_CONT end
  vctx:set_code(552, "too large")
  return msys.core.VALIDATE_DONE
end
msys.registerModule("policy", policy)
"""
AT_CONNECT = """
require("msys.core")
local policy = {{}}
function policy:validate_connect(ac, vctx)
  vctx:{how}({code}, "{text}")
  return msys.core.VALIDATE_DONE
end
msys.registerModule("policy", policy)
"""


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that Postfix's user can reach, as pytest's own can not be."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="milter-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="module")
def postfix(sockets: Path) -> Iterator[Postfix]:
    with Postfix(f"smtpd_milters = unix:{sockets}/milter\nmilter_connect_timeout = {PATIENCE:.0f}s") as running:
        yield running


@pytest.fixture
def start(sockets: Path) -> Iterator[Callable[..., MilterProcess]]:
    with contextlib.ExitStack() as running:

        def begin(*arguments: str) -> MilterProcess:
            listen = f"unix:{sockets}/milter"
            return running.enter_context(MilterProcess("--socket-mode", "666", *arguments, listen=listen))

        yield begin


def client(address: tuple[str, int], host: str = "127.0.0.1") -> smtplib.SMTP:
    """Raises smtplib.SMTPConnectError if it is refused at once."""
    return smtplib.SMTP(*address, local_hostname="client.example", timeout=PATIENCE, source_address=(host, 0))


def banner(address: tuple[str, int], host: str = "127.0.0.1") -> int:
    """The code that a client gets."""
    try:
        with client(address, host):
            return 220
    except smtplib.SMTPConnectError as error:
        return error.smtp_code


def script(place: Path, text: str) -> str:
    path = place / "policy.lua"
    path.write_text(text)
    return str(path)


@needs_postfix
def test_a_client_counts_from_its_connection_to_the_end(postfix: Postfix, start: Any) -> None:
    with start("--limit", "/32=1") as milter:
        first = client(postfix.plain)
        assert banner(postfix.plain) == 421
        assert banner(postfix.plain, "127.0.0.2") == 220
        first.sendmail("a@example.net", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")
        first.close()  # without QUIT
        eventually(lambda: banner(postfix.plain) == 220)
        assert milter.stopped()["messages"] == 1


CONNECTS = [
    ("set_code", 421, "busy", 421, None),
    ("set_code", 554, "go away", 554, None),
    ("set_code", 450, "4.7.0 come again", 220, b"450 4.7.0 come again"),
    ("set_code", 450, "10 are too many", 220, b"450 4.7.1 10 are too many"),
]


@needs_postfix
@pytest.mark.parametrize(("how", "code", "text", "first", "then"), CONNECTS)
def test_a_refusal_at_connect(
    postfix: Postfix, start: Any, tmp_path: Path, how: str, code: int, text: str, first: int, then: Any
) -> None:
    """Postfix says 421 and 5xx in place of its banner, and other codes in answer to the commands that follow."""
    with start("--policy", script(tmp_path, AT_CONNECT.format(how=how, code=code, text=text))):
        peer = Peer(*postfix.plain)
        assert peer.line().startswith(str(first).encode())
        if then:
            peer.ask(b"HELO client.example")
            reply = peer.ask(b"MAIL FROM:<a@example.net>")
            assert reply.strip() == then
        eventually(lambda: f"{code} " in postfix.log and text in postfix.log)  # all of it is in the log
        peer.close()


@needs_postfix
def test_a_script_is_asked_at_each_stage(postfix: Postfix, start: Any, tmp_path: Path) -> None:
    with start("--policy", script(tmp_path, REFUSING)) as milter, client(postfix.plain) as peer:
        with client(postfix.plain) as badly_named:
            badly_named.ehlo("badname.example")
            code, text = badly_named.mail("a@example.net")  # Postfix lets EHLO pass, and refuses all that follows
            assert (code, text.endswith(b"5 % of badname")) == (550, True)
        peer.ehlo("client.example")
        code, text = peer.mail("badsender@example.net")
        assert (code, text.endswith(b"5 % of badsender")) == (550, True)
        assert peer.mail("a@example.net")[0] == 250
        code, text = peer.rcpt("later@example.com")
        assert (code, text.endswith(b"5 % of later")) == (450, True)
        assert peer.rcpt("b@example.com")[0] == 250
        assert peer.data("Subject: small\r\n\r\nx\r\n")[0] == 250
        peer.mail("a@example.net")
        peer.rcpt("b@example.com")
        code, text = peer.data("Subject: large\r\n\r\n" + 100 * ("x" * 78 + "\r\n"))
        assert (code, text.endswith(b"too large")) == (552, True)
        peer.quit()
        assert milter.stopped()["messages"] == 1


@needs_postfix
@pytest.mark.parametrize("address", ["192.0.2.7", "IPV6:2001:db8::7"])
def test_the_client_that_xclient_names(postfix: Postfix, start: Any, address: str) -> None:
    with start("--limit", "/32,/128=1"), client(postfix.plain) as first, client(postfix.plain, "127.0.0.2") as second:
        first.ehlo()
        assert first.docmd("XCLIENT", f"ADDR={address} NAME=client.example")[0] == 220
        assert banner(postfix.plain) == 220  # the count has moved to that client
        second.ehlo()
        assert second.docmd("XCLIENT", f"ADDR={address} NAME=client.example")[0] == 421
        second.close()


@needs_postfix
def test_the_client_that_a_balancer_names(postfix: Postfix, start: Any) -> None:
    def through_balancer(address: str, family: str = "TCP4") -> Peer:
        peer = Peer(*postfix.proxied)
        local = "192.0.2.25" if family == "TCP4" else "2001:db8::25"
        peer.send(f"PROXY {family} {address} {local} 40000 25\r\n".encode())
        return peer

    with start("--limit", "/32,/128=1"):
        clients = [
            through_balancer("192.0.2.7"),
            through_balancer("192.0.2.8"),
            through_balancer("2001:db8::7", "TCP6"),
        ]
        for peer in clients:
            assert peer.line().startswith(b"220")
        for address, family in (("192.0.2.7", "TCP4"), ("2001:db8::7", "TCP6")):
            again = through_balancer(address, family)
            assert again.line().startswith(b"421")
            again.close()
        for peer in clients:
            peer.close()


@needs_postfix
def test_receptions_are_recorded_and_shared(postfix: Postfix, start: Any, place: Any) -> None:
    arguments = ("--shared", "mail", "--monitor", "1h,2", "--limit", "/32=1 receptions/1h", "--service", "SMTP")
    with start(*arguments, "--listener", "postfix") as milter, client(postfix.plain) as peer:
        for _ in range(2):
            peer.sendmail("a@example.net", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")
        with InboundAudit(shared="mail") as view:
            assert view.inbound_session_count("127.0.0.1") == 1
        peer.quit()
        assert banner(postfix.plain) == 421
        total = milter.stopped()
        assert (total["messages"], total["refused"]) == (2, 1)


@needs_postfix
def test_a_reload_is_for_later_clients(postfix: Postfix, start: Any, tmp_path: Path) -> None:
    path = script(tmp_path, REFUSING)
    with start("--policy", path) as milter, client(postfix.plain) as peer:
        script(tmp_path, AT_CONNECT.format(how="set_code", code=421, text="closed"))
        milter.tell(signal.SIGHUP)
        milter.event("reloaded")
        assert peer.ehlo("client.example")[0] == 250
        assert banner(postfix.plain) == 421
        Path(path).write_text("broken(")
        milter.tell(signal.SIGHUP)
        milter.complaint("not reloaded, the old policy stays in use")
        assert banner(postfix.plain) == 421


@needs_postfix
def test_a_stop_lets_a_message_end(postfix: Postfix, start: Any) -> None:
    with start("--limit", "/32=10") as milter, client(postfix.plain) as peer:
        peer.ehlo()
        peer.mail("a@example.net")
        peer.rcpt("b@example.com")
        milter.tell(signal.SIGTERM)
        milter.event("stopping")
        assert peer.data("Subject: x\r\n\r\nx\r\n")[0] == 250
        assert milter.end() == 0
        assert milter.event("stopped")["total"]["messages"] == 1


@needs_postfix
def test_a_milter_that_was_killed_has_a_successor_at_its_socket(postfix: Postfix, start: Any) -> None:
    with start() as milter:
        milter.tell(signal.SIGKILL)
        milter.end()
    with client(postfix.plain) as peer:
        peer.ehlo()
        assert peer.mail("a@example.net")[0] == 451  # milter_default_action
    with start(), client(postfix.plain) as peer:
        peer.ehlo()
        assert peer.mail("a@example.net")[0] == 250


@needs_postfix
def test_the_lines_of_the_page(place: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "postfix.md").read_text("utf-8")
    (lines,) = re.findall(r"^```ini\n(smtpd_milters = .*?)^```$", page, re.MULTILINE | re.DOTALL)
    (arguments, policyd_arguments) = re.findall(r"^\$ inbound-audit \w+ --listen inet:\S+ (.*)$", page, re.MULTILINE)
    (policyd_lines,) = re.findall(r"^```ini\n(smtpd_recipient_.*?)^```$", page, re.MULTILINE | re.DOTALL)
    policyd_words = policyd_arguments.replace("=10", "=0").split()
    words = arguments.replace("--shared mail", "").replace("=10 ", "=1 ").split()
    with MilterProcess(*words, "--shared", "mail") as milter, PolicydProcess(*policyd_words) as policyd:
        ports = {"8893": milter.addresses[0][1], "8894": policyd.addresses[0][1]}
        both = re.sub("889[34]", lambda port: str(ports[port[0]]), lines + policyd_lines)
        with Postfix(both) as running, client(running.plain) as first:
            assert banner(running.plain) == 421
            first.ehlo()
            first.mail("a@example.net")
            code, text = first.rcpt("b@example.com")
            assert (code, b"connection limit exceeded" in text) == (421, True)
            first.close()


# ---- without Postfix


SESSION = """
local function check(what, result, conn, reply)
  if result ~= nil then error(what .. " has failed") end
  local got = mt.getreply(conn)
  if got ~= reply then error(what .. ": the answer is " .. string.char(got)) end
end
local conn = mt.connect(socket)
if conn == nil then error("no connection") end
mt.negotiate(conn, nil, nil, nil)
check("connect", mt.conninfo(conn, "client.example", "192.0.2.7"), conn, SMFIR_CONTINUE)
check("helo", mt.helo(conn, "client.example"), conn, SMFIR_CONTINUE)
check("refused helo", mt.helo(conn, "badname.example"), conn, SMFIR_REPLYCODE)
mt.macro(conn, SMFIC_MAIL, "i", "queue-id")
check("refused mail", mt.mailfrom(conn, "badsender@example.net"), conn, SMFIR_REPLYCODE)
check("mail", mt.mailfrom(conn, "<a@example.net>"), conn, SMFIR_CONTINUE)
check("refused rcpt", mt.rcptto(conn, "<later@example.com>"), conn, SMFIR_REPLYCODE)
check("rcpt", mt.rcptto(conn, "<b@example.com>"), conn, SMFIR_CONTINUE)
mt.header(conn, "Subject", "x")
mt.bodystring(conn, "text\\r\\n")
check("end", mt.eom(conn), conn, SMFIR_CONTINUE)
mt.disconnect(conn)
"""


@needs_miltertest
def test_a_session_of_miltertest(tmp_path: Path) -> None:
    (tmp_path / "session.lua").write_text(SESSION)
    socket_path = f"unix:{tmp_path}/milter"
    with MilterProcess("--policy", script(tmp_path, REFUSING), listen=socket_path) as milter:
        command = [str(MILTERTEST), "-D", f"socket={socket_path}", "-s", str(tmp_path / "session.lua")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        assert milter.stopped()["messages"] == 1


def test_the_socket_of_a_running_milter_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "milter"
    with MilterProcess(listen=f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o660
        second = MilterProcess(listen=f"unix:{path}")
        assert second.end() == 1
        assert second.complaint("address already in use")
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


@pytest.mark.parametrize("there", ["file", "directory"])
def test_what_is_no_socket_is_not_removed(tmp_path: Path, there: str) -> None:
    path = tmp_path / "milter"
    path.write_text("kept") if there == "file" else path.mkdir()
    milter = MilterProcess(listen=f"unix:{path}")
    assert milter.end() == 1
    assert milter.complaint(f"cannot listen on unix:{path}")
    assert path.exists()
