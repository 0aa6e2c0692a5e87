"""What `inbound-audit web` answers: the contract of its routes, tokens, requests of other sites, and garbage."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import run
from tests.support.pages import WebServer
from tests.support.waiting import eventually

from inbound_audit import InboundAudit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

READING, CHANGING = {"Authorization": f"Bearer {'r' * 40}"}, {"Authorization": f"Bearer {'c' * 40}"}
AS_JSON = {"Content-Type": "application/json"}
DENY = b'{"action": "deny", "prefix": "192.0.2.0/24", "for_s": 60, "why": "a flood"}'

LOOKS = count(100)
"""A number of rows that was not asked for before, so that the look is not an earlier one."""


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    """One for all tests of this file, with a token for reading and one for changes."""
    root = Path(tempfile.mkdtemp(prefix="sharing-", dir="/dev/shm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INBOUND_AUDIT_SHM", str(root))
        tokens = [root / "reading", root / "changing"]
        for path, token in zip(tokens, ("r" * 40, "c" * 40), strict=True):
            path.touch(0o600)
            path.write_text(f"{token}\n")
        files = ("--token-file", str(tokens[0]), "--change-token-file", str(tokens[1]))
        try:
            with (
                InboundAudit(shared="mail", monitors=["60,5"]) as audit,
                audit.listener().session("192.0.2.7"),
                audit.listener().session("2001:db8::7"),
                WebServer("--interval", "0.1s", *files) as made,
            ):
                yield made
        finally:
            shutil.rmtree(root)


def decisions(server: WebServer) -> list[dict[str, Any]]:
    status, look = server.ask(f"/api/look?rows={next(LOOKS)}", headers=READING)
    assert status == 200
    found: list[dict[str, Any]] = look["decisions"]
    return found


def change(server: WebServer, wish: bytes | dict[str, Any], **headers: str) -> tuple[int, Any]:
    body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
    return server.ask("/api/change", method="POST", body=body, headers={**CHANGING, **AS_JSON, **headers})


def test_a_look_and_a_history(server: WebServer) -> None:
    status, look = server.ask("/api/look?rows=2", headers=READING)
    assert (status, look["audit"], look["total"]) == (200, "mail", 2)
    assert look["rows"] == [["192.0.2.7/32", 1, None, 0], ["2001:db8::7/128", 1, None, 0]]
    status, look = server.ask("/api/look?monitor=60,5&kind=rejections&startv=1&endv=4", headers=READING)
    assert (status, look["total"], look["source"]["endv"]) == (200, 0, 4)
    status, history = server.ask("/api/history?prefix=192.0.2.0/24", headers=READING)
    assert (status, history["interval"], len(history["connections"]), sum(history["connections"])) == (200, 60, 5, 1)


def test_what_if(server: WebServer) -> None:
    status, found = server.ask("/api/what-if?limit=/24,/48=0&limit=/32=5", headers=READING)
    assert status == 200
    first, second = found["limits"]
    assert (first["limit"], first["refused"], second["refused"]) == ("/24,/48=0", 2, 0)
    assert sorted(first["prefixes"]) == [["192.0.2.0/24", 1, 0], ["2001:db8::/48", 1, 0]]
    status, found = server.ask("/api/what-if?limit=/24,/48=0&service=Control", headers=READING)
    assert (status, found["limits"][0]["refused"]) == (200, 0)
    assert server.ask("/api/what-if?limit=/32=0&node=mx9", headers=READING)[0] == 503
    status, found = server.ask("/api/what-if?limit=/32=0/60s", headers=READING)
    assert (status, sum(window["refused"] for window in found["windows"])) == (200, 2)  # a minute may have ended since


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("look?rows=1", "write a whole number from 2 to 10000"),
        ("look?rows=10001", "write a whole number from 2 to 10000"),
        ("look?rows=%C2%B2", "write a whole number"),
        ("look?rows=2&rows=3", "rows: write it once"),
        ("look?lisener=mx", "did you mean 'listener'?"),
        ("look?service=SNTP", "did you mean 'SMTP'?"),
        ("look?monitor=60,6", "no such monitor (known: 60,5)"),
        ("look?series=s", "no such series"),
        ("events?monitor=60", "60"),
        ("look?monitor=60,5&startv=-1", "startv: '-1': write a whole number"),
        ("look?monitor=60,5&startv=7", "7"),
        ("what-if", "0 limits"),
        ("what-if?limit=/24=1&service=SNTP", "did you mean 'SMTP'?"),
        ("what-if?limit=/24", "such as /24=100"),
        ("what-if?limits=/24=1", "did you mean 'limit'?"),
        ("what-if?" + "limit=/24=1&" * 17, "17 limits"),
        ("history", "''"),
        ("history?prefix=192.0.2.0/33", "192.0.2.0/33"),
        ("history?prefix=%00", "\\x00"),
    ],
)
def test_a_mistake_in_a_request_is_a_sentence(server: WebServer, query: str, why: str) -> None:
    status, found = server.ask(f"/api/{query}", headers=READING)
    assert status == 400
    assert why in found["error"]


@pytest.mark.parametrize("source", ["pid=999999", "node=mx9", "node=../../mail", "pid=0"])
def test_a_process_or_node_that_is_not_there_is_gone(server: WebServer, source: str) -> None:
    assert server.ask(f"/api/look?{source}", headers=READING)[0] == 503
    with server.events(source, **READING) as events:
        assert next(events)[0] == "gone"


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/look", "/api/change"])
def test_a_name_that_leads_here_by_dns_is_refused(server: WebServer, path: str) -> None:
    for host in ("rebound.example", f"rebound.example:{server.port}"):
        with server.opened(path, headers={"Host": host, **CHANGING}) as answer:
            assert (answer.status, b"rebound.example" in answer.read()) == (421, True)


@pytest.mark.parametrize("path", ["/api/look", "/api/events", "/api/history?prefix=::", "/api/what-if", "/api/none"])
def test_without_the_token_nothing_is_read(server: WebServer, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer " + "x" * 40}, {"Cookie": "token=" + "r" * 40}):
        with server.opened(path, headers=headers) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert answer.headers["Cache-Control"] == "no-store"
            assert list(json.loads(answer.read())) == ["error"]


def test_what_each_answer_says_to_browsers(server: WebServer) -> None:
    for path in ("/", "/nothing", "/static/main.js", "/api/look", "/api/nothing", "/api/look?rows=x"):
        with server.opened(path, headers={**READING, "Origin": "https://rebound.example"}) as answer:
            found = answer.headers
            assert found["X-Content-Type-Options"] == "nosniff"
            assert found["Referrer-Policy"] == "no-referrer"
            assert found["Cross-Origin-Opener-Policy"] == found["Cross-Origin-Resource-Policy"] == "same-origin"
            assert found["Content-Security-Policy"].startswith("default-src 'none'; ")
            assert not {name.lower() for name in found} & {"set-cookie", "access-control-allow-origin", "server"}
            assert found["Cache-Control"] == ("no-cache" if path in ("/", "/static/main.js") else "no-store")


def test_other_methods(server: WebServer) -> None:
    for method, path in (("PUT", "/api/change"), ("GET", "/api/change"), ("POST", "/api/look"), ("DELETE", "/")):
        headers = {**CHANGING, **AS_JSON}
        with server.opened(path, method=method, body=b"{}", headers=headers) as answer:
            assert answer.status == 405
    with server.opened("/api/events", method="HEAD", headers=READING) as answer:
        assert (answer.status, answer.read()) == (200, b"")
    preflight = {"Origin": "https://rebound.example", "Access-Control-Request-Method": "POST"}
    with server.opened("/api/change", method="OPTIONS", headers=preflight) as answer:
        assert answer.status >= 400


def test_deny_and_lift(server: WebServer) -> None:
    assert change(server, DENY) == (200, {"changed": True})
    (found,) = decisions(server)
    assert (found["action"], found["prefix"], found["why"]) == ("deny", "192.0.2.0/24", "a flood")
    with server.events(**CHANGING) as events:
        assert next(events)[1]["may_change"] is True
        assert change(server, {"action": "lift", "prefix": "192.0.2.0/24"}) == (200, {"changed": True})
        assert next(event for event in events if "decisions" in event[1])[1]["decisions"] == []
    assert change(server, {"action": "lift", "prefix": "192.0.2.0/24"}) == (200, {"changed": False})


@pytest.mark.parametrize("prefix", ["127.0.0.0/8", "::1", "0.0.0.0/0"])
def test_own_addresses_are_denied_after_a_confirmation(server: WebServer, prefix: str) -> None:
    wish = {"action": "deny", "prefix": prefix, "for_s": 60}
    status, found = change(server, wish)
    assert (status, found["confirm"]) == (409, True)
    assert prefix in found["error"]
    assert not decisions(server)
    assert change(server, {**wish, "confirm": True}) == (200, {"changed": True})
    assert len(decisions(server)) == 1
    assert change(server, {"action": "lift", "prefix": prefix}) == (200, {"changed": True})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (READING, 403),
        ({"Authorization": "Bearer x"}, 401),
        ({"Authorization": ""}, 401),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://rebound.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Host": "rebound.example"}, 421),
    ],
)
def test_what_other_sites_and_readers_send_changes_nothing(
    server: WebServer, headers: dict[str, str], status: int
) -> None:
    answer = change(server, DENY, **headers)
    assert (answer[0], list(answer[1])) == (status, ["error"])
    assert not decisions(server)


@pytest.mark.parametrize(
    "wish",
    [
        b"", b"[]", b"\x00" * 9, b'{"action": "deny"}', b'{"action": "deny", "prefix": "192.0.2.7/24"}',
        b'{"action": "deny", "prefix": "192.0.2.7", "for_s": -1}',
        b'{"action": "deny", "prefix": "192.0.2.7", "why": "\\n"}',
        b'{"action": "deny", "prefix": "192.0.2.7", "for_s": NaN}',
    ],
)  # fmt: skip
def test_a_change_that_makes_no_sense_changes_nothing(server: WebServer, wish: bytes) -> None:
    status, found = change(server, wish)
    assert (status, list(found)) == (400, ["error"])
    assert not decisions(server)


def test_a_body_that_is_too_large_is_refused(server: WebServer) -> None:
    status, found = change(server, DENY[:-1] + b" " * 20_000 + b"}")
    assert (status, "16384 bytes" in found["error"]) == (413, True)
    assert not decisions(server)


def answered(server: WebServer, sent: bytes) -> bytes:
    """What comes back until the server closes the connection, which it may do before it has read all."""
    got = b""
    with server.connect() as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(65536):
                got += part
        except ConnectionError:
            assert server.running
    return got


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (400, b"\x00\xff" * 5000),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100),  # TLS
        (400, b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * 300_000 + b"\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 60_000 + b"\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (505, b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"),
        (421, b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n"),
        (400, b"GET  HTTP/1.1\r\n\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ],
)
def test_garbage_is_refused_and_others_are_served(server: WebServer, status: int, sent: bytes) -> None:
    got = answered(server, sent)
    # Nothing comes to a client that is still sending when the server closes the connection.
    assert got.startswith(b"HTTP/1.1 %d " % status) or (len(sent) > 65536 and not got)
    assert server.ask("/api/look", headers=READING)[0] == 200


def test_a_request_of_the_old_protocol_without_a_name_is_refused(server: WebServer) -> None:
    assert answered(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")


# ---- the start


def test_off_this_machine_a_token_is_needed(place: Path) -> None:
    done = run("web", "mail", "--listen", "0.0.0.0:0", "--wait")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"write --token-file FILE" in done.stderr


def test_a_name_with_a_port_is_refused(place: Path) -> None:
    done = run("web", "mail", "--host", "audit.example.net:8443", "--wait")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"'audit.example.net:8443': write the name alone" in done.stderr


def test_a_token_file_is_made_for_its_user_alone_and_read_again(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "token"
    with WebServer("--wait", "--token-file", str(path)) as server:
        token = path.read_text().strip()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(token) >= 40
        assert server.token is None
        assert server.ask("/api/look", headers={"Authorization": f"Bearer {token}"})[0] == 503
        assert server.ask("/api/look")[0] == 401
    path.chmod(0o604)
    done = run("web", "mail", "--wait", "--token-file", str(path), "--listen", "127.0.0.1:0")
    assert (done.returncode, b"chmod 600" in done.stderr) == (1, True)
    path.chmod(0o600)
    path.write_text("short\n")
    done = run("web", "mail", "--wait", "--token-file", str(path), "--listen", "127.0.0.1:0")
    assert (done.returncode, b"write one token of 16" in done.stderr) == (1, True)


def test_a_unix_socket_and_a_token_for_this_run(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "web"
    with (
        InboundAudit(shared="mail") as audit,
        audit.listener().session("192.0.2.7"),
        WebServer("--allow-changes", "--host", "audit.example.net", listen=f"unix:{path}") as server,
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert server.ask("/api/look", headers={"Host": "audit.example.net"})[1]["total"] == 1
        assert server.ask("/api/look", headers={"Host": "www.example.net"})[0] == 421
        assert change(server, DENY, Host="audit.example.net")[0] == 401
        start, _, token = server.read_line().partition("#token=")
        assert start == "for changes, add this to the address of the page: "
        given = {"Host": "audit.example.net", "Authorization": f"Bearer {token}"}
        assert change(server, DENY, **given) == (200, {"changed": True})


def test_the_token_for_this_run_is_printed(place: Path) -> None:
    with InboundAudit(shared="mail") as audit, WebServer("--allow-changes") as server:
        audit.listener()
        assert server.token
        assert change(server, DENY, Authorization=f"Bearer {server.token}") == (200, {"changed": True})
        eventually(lambda: [one.prefix for one in audit.decisions()] == ["192.0.2.0/24"], "the override")


def test_an_audit_that_is_not_there_needs_wait(place: Path) -> None:
    done = run("web", "mail", "--listen", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"'mail'" in done.stderr
    assert not os.listdir(place)
