"""The parts of `serve` that a process shows badly: what is logged, what a machine lacks, what is let go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import pytest
from tests.support.waiting import eventually

from inbound_audit import InboundAudit, LuaPolicy, Verdict
from inbound_audit.cli import params, sockets
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.logs import LogLimitFilter
from inbound_audit.cli.maildir import Discard
from inbound_audit.cli.policies import Policies
from inbound_audit.cli.report import Figures, as_text
from inbound_audit.cli.service import keep_other_threads_short
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.sockets import Endpoint, UnixEndpoint
from inbound_audit.policy.dry_run import DryRun
from inbound_audit.policy.message import Message
from inbound_audit.policy.verdict import REFUSE

SCRIPT = """
local policy = {}
function policy:validate_connect(ac, vctx) return 0 end
msys.registerModule("policy", policy)
"""


def settings(**given: Any) -> Settings:
    nothing: dict[str, Any] = {field.name: None for field in fields(Settings) if field.default is MISSING}
    return Settings(
        **{
            **nothing,
            "exempt": (),
            "policy_dir": (),
            "max_hook_ms": 50,
            "dry_run": False,
            "on_error": "accept",
            **given,
        }
    )


# ---- values of options


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:25", "127.0.0.1", 25),
        ("[::1]:0", "::1", 0),
        ("[fe80::1%lo]:25", "fe80::1%lo", 25),
        ("localhost:65535", "localhost", 65535),
        (":25", None, 25),
        ("*:25", None, 25),
    ],
)
def test_an_endpoint(text: str, host: str | None, port: int) -> None:
    assert Endpoint.parse(text) == (host, port)
    assert str(Endpoint.parse(text)) == ("*" + text if text == ":25" else text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/mail/milter", UnixEndpoint("/run/mail/milter")),
        ("local:/run/mail/milter", UnixEndpoint("/run/mail/milter")),
        ("inet:127.0.0.1:8893", Endpoint("127.0.0.1", 8893)),
        ("inet:[::1]:8893", Endpoint("::1", 8893)),
        ("inet6:8893@::1", Endpoint("::1", 8893)),
        ("inet:8893@localhost", Endpoint("localhost", 8893)),
        ("127.0.0.1:8893", Endpoint("127.0.0.1", 8893)),
        (":8893", Endpoint(None, 8893)),
    ],
)
def test_a_socket_of_a_mail_server(text: str, endpoint: Endpoint | UnixEndpoint) -> None:
    assert UnixEndpoint.parse(text) == endpoint


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "unix:milter", "unix:/" + "x" * 107, "inet:", "inet:25", "inet:@", "/run/x", "tcp:1:2"],
)
def test_no_socket_of_a_mail_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|port|bytes"):
        UnixEndpoint.parse(text)


@pytest.mark.parametrize("text", ["", "66", "6666", "668", "-660", "rw-", "0o660"])
def test_no_mode(text: str) -> None:
    with pytest.raises(click.UsageError, match="such as 660"):
        params.file_mode.convert(text, None, None)


@pytest.mark.parametrize(
    "text", ["", ":", "25", "host", "::1", "::1:25", "[::1]25", "1.2.3.4:", "a:0x1", "a:+1", "a: 1"]
)
def test_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"ADDRESS:|not a port"):
        Endpoint.parse(text)


def test_sizes_and_lengths() -> None:
    assert [params.size(text) for text in ("8192", "64k", "64K", "3M", "2G")] == [
        8192,
        1 << 16,
        1 << 16,
        3 << 20,
        2 << 30,
    ]
    assert [params.prefix_lengths(text) for text in ("24,56", "/0,/0", "32,128")] == [(24, 56), (0, 0), (32, 128)]
    assert params.limit("/24,/56=100") == ("/24,/56", 100)
    assert [params.limit(text) for text in ("total=5", "a:/24=5", "a b:total=0")] == [
        ("total", 5), ("a:/24", 5), ("a b:total", 0)
    ]  # fmt: skip
    assert params.named_network("a=192.0.2.0/24,::1") == ("a", ("192.0.2.0/24", "::1"))


# ---- sockets


def without_ipv6(kind: int) -> Any:
    create = socket.create_server

    def create_server(address: tuple[str, int], *, family: int = socket.AF_INET, **rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(kind, "no such family here")
        return create((address[0], 0), family=family, **rest)

    return create_server


@pytest.mark.parametrize("kind", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_without_ipv6_what_was_not_asked_for_is_done_without(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_server", without_ipv6(kind))
    for endpoints in ([], [Endpoint(None, 0)]):
        (only,) = sockets.bind(endpoints)
        with only:
            assert only.family == socket.AF_INET
    with pytest.raises(Failure, match=r"\[::1\]:25"):
        sockets.bind([Endpoint("::1", 25)])


@pytest.fixture
def hand_over(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Hands a descriptor over, as systemd does; the sockets that are made of it close it."""

    def hand(fd: int, number: str = "1") -> None:
        monkeypatch.setattr(sockets, "_FIRST_HANDED", fd)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", number)

    return hand


def test_a_socket_of_systemd_is_taken_once_and_not_inherited(hand_over: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        copy = bound.dup()
        copy.set_inheritable(True)
        hand_over(copy.detach())
        assert sockets.are_handed_over()
        (taken,) = sockets.bind([])
        with taken:
            assert taken.getsockname() == bound.getsockname()
            assert not taken.get_inheritable()
        assert not sockets.are_handed_over()


def test_sockets_that_systemd_hands_to_another_process_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    (bound,) = sockets.bind([Endpoint("127.0.0.1", 0)])
    bound.close()


def make_unix(directory: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(directory / "socket"))
    made.listen()
    return made


@pytest.mark.parametrize(
    ("make", "unix", "said"),
    [
        (lambda directory: socket.socket(socket.AF_INET), True, "ListenStream=ADDRESS:PORT or a path and Accept=no"),
        (lambda directory: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), False, "write ListenStream=ADDRESS:PORT"),
        (make_unix, False, "write ListenStream=ADDRESS:PORT and Accept=no"),
        (lambda directory: (directory / "file").open("w"), False, "is no socket"),
    ],
    ids=["not listening", "datagrams", "unix", "a file"],
)
def test_what_systemd_hands_over_and_cannot_be_served_is_named(
    make: Any, unix: bool, said: str, hand_over: Callable[..., None], tmp_path: Path
) -> None:
    with make(tmp_path) as made:
        hand_over(os.dup(made.fileno()))
    fd = sockets._FIRST_HANDED
    with pytest.raises(Failure, match=said):
        sockets.bind([], unix=unix)
    if "no socket" in said:  # the others were closed
        os.close(fd)


@pytest.mark.parametrize(
    ("number", "endpoints", "said"), [("x", [], "no number"), ("-1", [], "no number"), ("1", [":0"], "--listen")]
)
def test_a_mistake_beside_the_sockets_of_systemd(
    number: str, endpoints: list[str], said: str, hand_over: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        hand_over(bound.fileno(), number)
        with pytest.raises(Failure, match=said):
            sockets.bind([Endpoint.parse(each) for each in endpoints])


def test_of_several_sockets_all_are_bound_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    create = socket.create_server

    def remember(*args: Any, **kwargs: Any) -> socket.socket:
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(socket, "create_server", remember)
    with create(("::1", 0), family=socket.AF_INET6) as held:
        taken = held.getsockname()[1]
        with pytest.raises(Failure, match=rf"\[::1\]:{taken}: address already in use"):
            sockets.bind([Endpoint("127.0.0.1", 0), Endpoint("::1", 0), Endpoint("::1", taken)])
    assert [closed.fileno() for closed in made] == [-1, -1]


@pytest.mark.parametrize(("place", "step"), [(os, "unlink"), (socket.socket, "listen")], ids=["removes", "makes"])
def test_of_two_starters_at_a_unix_socket_one_listens(
    place: Any, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second starts while the first removes what was left there, or has bound its socket and does not listen."""
    endpoint = UnixEndpoint(str(tmp_path / "milter"))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(endpoint.path)
    first, waits = threading.current_thread(), threading.Event()
    outcomes: list[socket.socket | Failure] = []

    def start() -> None:
        try:
            outcomes.append(sockets.bind([endpoint])[0])
        except Failure as failure:
            outcomes.append(failure)

    second = threading.Thread(target=start)
    original, lock = getattr(place, step), fcntl.flock

    def noting(*arguments: Any) -> None:
        try:
            lock(*arguments)
        except BlockingIOError:
            waits.set()
            raise

    def interrupted(*arguments: Any, **rest: Any) -> Any:
        if threading.current_thread() is first and second.ident is None:
            second.start()
            eventually(lambda: outcomes or waits.is_set())
        return original(*arguments, **rest)

    monkeypatch.setattr(fcntl, "flock", noting)
    monkeypatch.setattr(place, step, interrupted)
    start()
    second.join()
    listening = [each for each in outcomes if isinstance(each, socket.socket)]
    try:
        assert [str(each) for each in outcomes if each not in listening] == [
            f"cannot listen on {endpoint}: address already in use; stop what listens there, or choose another --listen"
        ]
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(endpoint.path)
    finally:
        for each in listening:
            each.close()


def test_a_starter_that_stands_still_does_not_hold_up_the_next_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_LOCK_S", 0.0)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Failure, match=rf"another process .* lock of {tmp_path}"):
            sockets.bind([UnixEndpoint(str(tmp_path / "milter"))])
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(held)


# ---- policies


def test_a_script_is_closed_when_no_session_can_ask_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()  # what other tests have left is not counted
    closed: list[LuaPolicy] = []
    close = LuaPolicy.close

    def closing(policy: LuaPolicy) -> None:
        closed.append(policy)
        close(policy)

    monkeypatch.setattr(LuaPolicy, "close", closing)
    script = tmp_path / "policy.lua"
    script.write_text(SCRIPT)
    policies = Policies(settings(policy=str(script)))
    with InboundAudit(capacity=1 << 22) as audit, audit.listener("SMTP").session("2001:db8::7") as ac:
        held_by_a_session = policies.make()
        policies.make()
        gc.collect()
        assert closed == []
        assert held_by_a_session.validate_connect(ac)
        del held_by_a_session
        gc.collect()
        assert len(closed) == 1
        policies.close()
        assert len(closed) == 2
    script.write_text("no Lua")
    with pytest.raises(Failure, match=r"policy.lua:1:"):
        policies.make()


def test_a_policy_that_contradicts_what_is_counted_is_not_taken(tmp_path: Path) -> None:
    """When it is loaded, and not by each hook that it would fail: so a reload leaves the policy that was there."""
    script = tmp_path / "policy.lua"
    policies = Policies(settings(policy=str(script)))
    with InboundAudit(capacity=1 << 22) as audit:
        for _ in range(2):
            script.write_text(SCRIPT + 'msys.audit_series.define("s", "cidr", 60, 6)')
            policies.make(audit)
        assert audit.series.defined("s").interval == 60
        script.write_text(SCRIPT + 'msys.audit_series.define("s", "cidr", 61, 6)')
        with pytest.raises(Failure, match=r"--policy: .*policy.lua:5: 's': is defined already, and its interval is 60"):
            policies.make(audit)
    policies.close()


@pytest.mark.parametrize("dry_run", [False, True])
def test_named_networks_of_the_command_line(dry_run: bool) -> None:
    given = {"limits": {"/0": 1, "a:total": 2, "total": 3}, "network": (("a", ("10.0.0.0/8",)),), "dry_run": dry_run}
    policies = Policies(settings(**given))
    policy = policies.make()
    with InboundAudit(capacity=1 << 22) as audit, contextlib.ExitStack() as opened:
        listener = audit.listener("SMTP")
        remotes = ["10.0.0.1", "10.0.0.2", "192.0.2.1", "10.0.0.3", "192.0.2.1"]
        verdicts = [bool(policy.validate_connect(opened.enter_context(listener.session(one)))) for one in remotes]
    assert verdicts == ([True] * 5 if dry_run else [True, True, True, False, False])
    assert sum(policies.would_refuse.values()) == 2 * dry_run
    assert policies.describe() == "/0=1 a:total=2 total=3" + ", as a dry run" * dry_run
    policies.close()


def test_a_dry_run_asks_every_hook_and_passes_all() -> None:
    class Refuses:
        ended = 0

        def __getattr__(self, hook: str) -> Any:
            return lambda *args: Verdict(disconnect=True) if hook == "validate_ehlo" else REFUSE

        def end_session(self, ac: object) -> None:
            self.ended += 1

    refuses: Any = Refuses()
    policies = Policies(settings())
    dry = DryRun(refuses, policies.would_refuse)
    with InboundAudit(capacity=1 << 22) as audit, audit.listener("SMTP").session("192.0.2.7") as ac:
        message = Message()
        assert dry.validate_connect(ac)
        assert dry.validate_ehlo(ac, "client") == Verdict()
        assert dry.validate_mailfrom(ac, "a@example.net")
        assert dry.validate_rcptto(ac, "b@example.com", message)
        assert dry.validate_data(ac, message)
        assert dry.validate_data_spool(ac, message)
        dry.end_session(ac)
    assert refuses.ended == 1
    assert sum(dry.would_refuse.values()) == len(dry.would_refuse) == 6


# ---- report and log


def test_a_second_tells_of_what_is_rare_only_when_it_happens() -> None:
    before = Figures(
        open=9, opened=10, accepted=5, refused=5, messages=2, would_refuse=0, uncounted=1, failures=0, unlogged=0
    )
    now = Figures(
        open=3, opened=12, accepted=6, refused=6, messages=5, would_refuse=2, uncounted=1, failures=4, unlogged=3
    )
    second = now.since(before)
    rare = "messages +3  would refuse +2  policy errors +4  unlogged +3"
    assert as_text(second, None) == f"open 3  accepted +1  refused +1  {rare}"
    assert (
        as_text(before.since(before), (7, "2001:db8::/56"))
        == "open 9  accepted +0  refused +0  busiest 2001:db8::/56 7"
    )


def test_what_a_peer_provokes_is_logged_once_per_interval() -> None:
    now = [0.0]
    gate = LogLimitFilter(clock=lambda: now[0])

    def record(line: int) -> logging.LogRecord:
        return logging.LogRecord("x", logging.ERROR, "x.py", line, "it is %s", ("broken",), None)

    assert [gate.filter(record(1)) for _ in range(3)] == [True, False, False]
    assert gate.filter(record(2))
    now[0] = 10.0
    later = record(1)
    assert gate.filter(later)
    assert later.getMessage() == "it is broken (and 2 more like it)"
    now[0] = 20.0
    last = record(1)
    assert gate.filter(last)
    assert last.getMessage() == "it is broken"


def test_a_command_that_fails_is_logged_and_the_peer_may_come_again(caplog: pytest.LogCaptureFixture) -> None:
    assert asyncio.run(Discard().handle_exception(ValueError("disk"))).startswith("451")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == [
        "an SMTP command failed: ValueError: disk"
    ]


def test_other_threads_leave_python_to_the_event_loop_soon() -> None:
    before = sys.getswitchinterval()
    try:
        keep_other_threads_short()
        assert sys.getswitchinterval() <= before / 2
    finally:
        sys.setswitchinterval(before)
