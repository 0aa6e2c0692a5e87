"""What happens while one call to the system fails: the scenarios of `tests.support.faults`."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import mailbox
import os
import random
import signal
import smtplib
import sys
import time
from collections import Counter
from pathlib import Path

from tests.support.faults import LIMIT_S, NOTHING, Library, Partner, Scenario, eventually, forked
from tests.support.sharing import request_one
from tests.support.waiting import end_of

from inbound_audit import InboundAudit, Listener, Session
from inbound_audit._ipcount import SeriesStore
from inbound_audit.cli.serve import serve
from inbound_audit.errors import SharedStateError
from inbound_audit.persist import read_log
from inbound_audit.persist.persisted_series import PersistedSeries
from inbound_audit.series import requests
from inbound_audit.shared import View, directory_of, membership

NAME = "mail"
SPAN = {"interval": 1 << 20, "num_windows": 4}
ALL = "0.0.0.0/0"

ATTEMPTED, DONE = 0, 1  # places in a tally
OPENING = ("open", "dup", "stat", "mkdir", "list", "thread")


def calls_of(names: str) -> frozenset[str]:
    return frozenset(names.split())


def joined(capacity: int = 1 << 24) -> InboundAudit:
    return InboundAudit(shared=NAME, capacity=capacity)


def scan_often() -> None:
    """A partner scans at once, so that the subject makes few calls while it waits for that."""
    membership.SCAN_INTERVAL_S, membership.RESCAN_DELAY_S = 0.005, 0.001


def total() -> int:
    """As a process sees it that counts nothing."""
    try:
        with View(NAME) as view:
            return view.total()
    except SharedStateError:
        return 0


# ---- shared counts


class Counting:
    """A partner that counts sessions of its own."""

    def __init__(self, sessions: int = 3) -> None:
        self.audit: InboundAudit | None = None
        self.held: list[Session] = []
        self.wanted = sessions
        self.join()

    def join(self) -> None:
        scan_often()
        self.audit = joined()
        mx = self.audit.listener("SMTP", "other")
        self.held = [mx.session(f"198.51.100.{i}") for i in range(self.wanted)]

    def leave(self) -> None:
        assert self.audit
        self.audit.close()
        self.audit = None

    def total(self) -> int:
        assert self.audit
        return self.audit.total()

    def await_total(self, expected: int) -> None:
        eventually(lambda: self.total() == expected, f"a total of {expected}, which is {self.total()}")


class Sharing(Scenario):
    """Sessions of the subject beside those of a partner."""

    others = 3

    def before(self) -> None:
        self.partner = Partner(lambda: Counting(self.others))
        self.audit: InboundAudit | None = None
        self.mx: Listener | None = None
        self.sessions: list[Session] = []

    def join(self) -> None:
        self.audit = joined()
        self.mx = self.audit.listener("SMTP", "mx")

    def open(self, *addresses: str) -> None:
        for address in addresses:
            if self.mx is not None:
                with self.may_fail():
                    self.sessions.append(self.mx.session(address))

    def exact(self) -> None:
        """All count the same, in the end."""
        assert self.audit
        assert self.mx
        expected = len(self.sessions) + self.others
        audit = self.audit
        eventually(lambda: audit.total() == expected, f"a total of {expected}, which is {audit.total()}")
        self.partner.ask("await_total", expected)
        eventually(lambda: total() == expected, "the total of a view")
        self.mx._check()

    def again(self) -> None:
        if self.audit is None:
            self.join()
        assert self.audit
        if self.mx is None:
            self.mx = self.audit.listener("SMTP", "mx")
        self.exact()
        self.sessions += [self.mx.session(f"203.0.113.{i}") for i in range(20)]
        self.exact()
        for session in self.sessions[::2]:
            session.close()
        del self.sessions[::2]
        self.exact()
        self.audit.close()
        self.sessions.clear()
        self.audit = self.mx = None

    def after(self) -> None:
        self.partner.ask("await_total", self.others)

    def fresh(self) -> None:
        with joined() as audit:
            eventually(lambda: audit.total() == self.others, "the sessions of the others alone")
        self.partner.ask("leave")
        eventually(lambda: not list(self.place.rglob("*.owner")), "an empty directory")
        with joined() as audit:  # removes the socket of a process that was killed
            assert audit.total() == 0
        assert [path.name for path in self.place.rglob("*") if path.is_file() or path.is_socket()] == []


class Join(Sharing):
    """Joins a shared audit, opens sessions and closes some, and leaves."""

    calls = calls_of("open link unlink fallocate mmap madvise lock dup stat list chmod bind listen socket pipe thread")

    def act(self) -> None:
        with self.may_fail():
            self.join()
        self.open(*(f"192.0.2.{i}" for i in range(5)))
        if self.audit is not None:
            for session in self.sessions[:2]:
                session.close()
            del self.sessions[:2]
            assert self.audit.total() >= len(self.sessions)
        if self.case.n % 2:
            return
        if self.audit is not None:
            self.audit.close()
            self.sessions.clear()
            self.audit = self.mx = None


class Grow(Sharing):
    """The shared file grows, gives memory back, and grows again."""

    calls = calls_of("fallocate mmap madvise")

    def prepare(self) -> None:
        self.join()
        self.exact()

    def act(self) -> None:
        assert self.audit
        rng = random.Random(7)
        for _ in range(2):
            for name in "abc":
                with self.may_fail():
                    listener = self.audit.listener("SMTP", name)
                    for _ in range(1500):
                        self.sessions.append(listener.session(rng.randbytes(rng.choice((4, 16)))))
            for session in self.sessions[100:]:
                session.close()
            del self.sessions[100:]

    def exact(self) -> None:
        super().exact()
        assert self.audit
        expected = Counter(ipaddress.ip_network(session.remote_ip) for session in self.sessions)
        rows = self.audit.top(1 << 20, prefixlen=(32, 128))
        partners = {ipaddress.ip_network(f"198.51.100.{i}") for i in range(self.others)}
        found = {ipaddress.ip_network(prefix): n for n, prefix in rows}
        assert {prefix: n for prefix, n in found.items() if prefix not in partners} == expected


class Beside(Sharing):
    """Counts on while other processes join, leave and die."""

    calls = calls_of("open lock stat list mmap read")

    def before(self) -> None:
        super().before()
        self.comers = [Partner(lambda: Counting(2)) for _ in range(2)]
        self.comers[0].ask("leave")

    def prepare(self) -> None:
        self.join()

    def act(self) -> None:
        assert self.audit
        self.comers[0].ask("join")
        self.open("192.0.2.1", "192.0.2.2")
        with self.may_fail():
            self.audit._drop_dead_owners()
        os.kill(self.comers[1].pid, signal.SIGKILL)
        self.open("192.0.2.3")
        self.comers[0].ask("leave")
        with self.may_fail():
            self.audit._drop_dead_owners()
        self.comers[0].ask("join")
        assert self.audit.total() >= len(self.sessions)
        self.comers[0].ask("leave")

    def after(self) -> None:
        if self.killed:
            os.kill(self.comers[1].pid, signal.SIGKILL)
            self.comers[0].kill()
        super().after()


class Rotate(Scenario):
    """Windows of a shared series rotate, with a clock that the test sets."""

    calls = calls_of("fallocate mmap write")

    def before(self) -> None:
        self.gold: Counter[int] = Counter()
        self.now = 1_795_572_000.0

    def prepare(self) -> None:
        self.audit = InboundAudit(shared=NAME, capacity=1 << 24, clock=lambda: self.now)

    def _define(self) -> None:
        self.audit.series.define("s", "ip", 60, 3, max_bytes=1 << 22)

    def _turn(self, rng: random.Random) -> None:
        self.now += 60
        for _ in range(800):
            self.audit.series.add("s", rng.randbytes(4))
            self.gold[int(self.now // 60)] += 1

    def act(self) -> None:
        rng = random.Random(3)
        with self.may_fail():
            self._define()
        if "s" in self.audit.series.names:
            for _ in range(6):
                with self.may_fail():
                    self._turn(rng)

    def _exact(self) -> None:
        for window in range(3):
            found, wanted = self.audit.series.count("s", ALL, window, window), self.gold[int(self.now // 60) - window]
            assert found == wanted, (window, found, wanted)

    def again(self) -> None:
        self._define()
        self._exact()
        rng = random.Random(4)
        for _ in range(4):
            self._turn(rng)
            self._exact()
        self.audit.close()

    def fresh(self) -> None:
        with joined() as audit:
            audit.series.define("s", "ip", 60, 3)
            assert audit.series.count("s", ALL, 0, 2) == 0


# ---- kept series


class Keeping(Scenario):
    """A series in a state directory. The tally has what was added, and what a save has promised."""

    serialize = False

    def before(self) -> None:
        self.audit: InboundAudit | None = None

    def prepare(self) -> None:
        self.audit = InboundAudit(state=self.state)

    def define(self) -> None:
        assert self.audit
        self.audit.series.define("kept", "ip", **SPAN, persist=True, serialize=self.serialize)

    def count(self) -> int:
        assert self.audit
        return self.audit.series.count("kept", ALL, 0, 3) if "kept" in self.audit.series.names else 0

    def add(self, count: int) -> None:
        assert self.audit
        if "kept" in self.audit.series.names:
            self.tally[ATTEMPTED] += count
            self.audit.series.add("kept", f"192.0.2.{count}", count)

    def save(self) -> None:
        assert self.audit
        before = self.count()
        with self.may_fail():
            self.audit.series.save()
            if "kept" in self.audit.series.names and self.audit.series.defined("kept").persist:
                self.tally[DONE] = before

    def end(self) -> None:
        assert self.audit
        self.audit.series.save()
        self.tally[DONE] = self.count()
        self.audit.close()
        self.audit = None

    def fresh(self) -> None:
        self.prepare()
        self.define()
        found = self.count()
        assert self.tally[DONE] <= found <= self.tally[ATTEMPTED], (self.tally[DONE], found, self.tally[ATTEMPTED])
        if not self.killed:
            assert found == self.tally[ATTEMPTED], (found, self.tally[ATTEMPTED])
        self.add(1)
        self.end()
        names = [path.name for path in self.state.iterdir()]
        assert len([name for name in names if name.endswith(".series")]) == 1, names
        assert [name for name in names if not name.endswith((".series", ".lock", ".log"))] == [], names


class Save(Keeping):
    """A series is persisted, and saved twice."""

    calls = calls_of("open write fsync rename unlink lock dup stat mmap madvise mkdir list thread")

    def act(self) -> None:
        with self.may_fail():
            self.define()
        self.add(2)
        self.save()
        self.add(3)
        self.save()
        self.save()

    def again(self) -> None:
        self.define()
        assert self.count() == self.tally[ATTEMPTED]
        self.add(4)
        self.end()
        assert self.tally[DONE] == self.tally[ATTEMPTED]


class Adopt(Keeping):
    """The snapshots of two processes that have ended are adopted."""

    calls = calls_of("open read write fsync rename unlink lock stat list")

    def before(self) -> None:
        super().before()
        for count in (3, 5):
            assert end_of(forked(lambda count=count: self._leave(count))) == 0
        self.tally[DONE] = self.tally[ATTEMPTED]

    def _leave(self, count: int) -> None:
        """A process that saves and dies, and leaves alone what the one before it has left."""
        PersistedSeries.adopt = lambda *arguments: None
        self.prepare()
        self.define()
        self.add(count)
        self.audit.series.save()
        os._exit(0)

    def act(self) -> None:
        with self.may_fail():
            self.define()
        self.add(2)
        self.save()

    def again(self) -> None:
        assert self.audit
        self.define()
        store = self.audit.series.state_store()
        store.run_once()
        assert self.count() == self.tally[ATTEMPTED], (self.count(), self.tally[ATTEMPTED])
        self.add(4)
        self.end()

    def save(self) -> None:
        """What was adopted is promised already."""
        assert self.audit
        with self.may_fail():
            self.audit.series.save()


class Log(Scenario):
    """Changes are logged, and the log is rotated."""

    calls = calls_of("open write dup stat mkdir")

    def prepare(self) -> None:
        self.audit = InboundAudit(state=self.state)
        self.added = 0

    def _define(self) -> None:
        self.audit.series.define("kept", "ip", **SPAN, serialize=True)

    def _add(self, count: int) -> None:
        if "kept" in self.audit.series.names and self.audit.series.defined("kept").serialize:
            for _ in range(count):
                self.tally[ATTEMPTED] += 1
                self.audit.series.add("kept", "192.0.2.7")
                self.added += 1
                self.tally[DONE] += 1

    def act(self) -> None:
        with self.may_fail():
            self._define()
        self._add(6)
        with contextlib.suppress(OSError):  # the test is the one that renames
            os.rename(self.state / "kept.log", self.state / "kept.log.1")
        self.audit.series.state_store().run_once()
        self._add(4)

    def again(self) -> None:
        self._define()
        self.audit.series.state_store().run_once()
        self._add(5)
        assert self.audit.series.count("kept", ALL, 0, 3) == self.added
        # Before the log could be opened, which was logged, no line has a number.
        number, lost = SeriesStore(self.audit).logged("kept")
        assert number - lost >= self.added - (6 if self.case.call in OPENING else 1)
        self.tally[DONE] = self.tally[ATTEMPTED] = number - lost
        self.audit.close()

    def fresh(self) -> None:
        entries = [entry for path in self.state.glob("kept.log*") for entry in read_log(path, broken=lambda *why: None)]
        assert len({(entry.log, entry.sequence) for entry in entries}) == len(entries)
        assert self.tally[DONE] <= len(entries) <= self.tally[ATTEMPTED], (len(entries), self.tally[DONE])


class Replay(Keeping):
    """The change log of a process that has ended is loaded: some of its lines are in its snapshot."""

    calls = calls_of("open read write fsync rename")
    serialize = True

    def before(self) -> None:
        super().before()
        assert end_of(forked(self._leave)) == 0
        self.tally[DONE] = 4  # what was saved; the rest is promised once it is loaded and saved

    def _leave(self) -> None:
        self.prepare()
        self.define()
        for _ in range(4):
            self.add(1)
        self.audit.series.save()
        for _ in range(6):
            self.add(1)
        os._exit(0)

    def _ask(self, **request: object) -> dict[str, object]:
        answer = json.loads(requests.handle(self.audit, json.dumps(request).encode()))
        if not answer["ok"]:
            raise SharedStateError(answer["error"])
        return answer

    def _load(self) -> None:
        if "kept" not in self.audit.series.names or not self.audit.series.defined("kept").persist:
            return
        known = {int(log, 16): n for log, n in self._ask(do="known", series="kept")["marks"].items()}
        entries = list(read_log(self.state / "kept.log", known))
        rows = [[entry.microseconds, entry.key, entry.by] for entry in entries]
        marks = {f"{entry.log:016x}": entry.sequence for entry in entries}
        self._ask(do="load", series="kept", **SPAN, rows=rows, marks=marks)

    def act(self) -> None:
        with self.may_fail():
            self.define()
        with self.may_fail():
            self._load()
        with self.may_fail():
            self.audit.series.save()
        with self.may_fail():
            self._load()

    def again(self) -> None:
        self.define()
        self.audit.series.state_store().run_once()
        self._load()
        assert self.count() == 10, self.count()
        self.end()

    def fresh(self) -> None:
        self.prepare()
        self.define()
        self._load()
        assert self.count() == 10, self.count()
        self.end()


# ---- requests


class Asked:
    """A partner that asks another process for changes, or is asked itself."""

    def __init__(self) -> None:
        scan_often()
        self.audit = joined()
        self.audit.series.define("asked", "ip", **SPAN)

    def others(self) -> list[str]:
        with View(NAME) as view:
            return [owner.id for owner in view.owners if owner.pid != os.getpid()]

    def ask(self, requests: int) -> tuple[int, int]:
        """How many requests may have been carried out, and how many were answered."""
        tried = done = 0
        owners = self.others()
        with View(NAME) as view:
            for _ in range(requests):
                request = {"do": "add", "series": "asked", **SPAN, "key": "192.0.2.7", "count": 1}
                try:
                    tried += len(owners)
                    done += sum(request_one(view.place, owner, request, LIMIT_S / 4)["ok"] is True for owner in owners)
                except SharedStateError:
                    pass
        return tried, done

    def count(self) -> int:
        return self.audit.series.count("asked", ALL, 0, 3)

    def touch(self) -> None:
        """A name comes and goes in the directory, which all owners read."""
        path = Path(directory_of(NAME), "passing")
        path.touch()
        path.unlink()

    def leave(self) -> None:
        self.audit.close()


class Requests(Scenario):
    """The subject and a partner that has joined before it."""

    def before(self) -> None:
        self.partner = Partner(Asked)
        self.partner.ask("count")  # it has joined

    def prepare(self) -> None:
        self.asked = Asked()


class AskedByOthers(Requests):
    """The subject handles requests."""

    calls = calls_of("accept recv send sockopt read")

    def act(self) -> None:
        self.tried, self.done = self.partner.ask("ask", 4)
        self.partner.ask("touch")
        if self.case == NOTHING:  # else the fault may be what keeps the subject from reading it
            eventually(lambda: "read" in Library().seen(), "the change")

    def after(self) -> None:
        self.partner.ask("count")  # what a subject that was killed has asked for is over before another one is there

    def again(self) -> None:
        tried, done = self.partner.ask("ask", 3)
        assert tried == done == 3, (tried, done)
        assert self.done + 3 <= self.asked.count() <= self.tried + 3, (self.tried, self.done, self.asked.count())
        assert self.done >= 3
        self.asked.leave()

    def fresh(self) -> None:
        other = Asked()
        assert self.partner.ask("ask", 2) == (2, 2)
        eventually(lambda: other.count() == 2, "the counts of those that live")
        other.leave()


class AsksOthers(Requests):
    """The subject asks, and the partner answers."""

    calls = calls_of("socket connect recv send")

    def act(self) -> None:
        with self.may_fail(), View(NAME) as view:
            found = [owner.id for owner in view.owners if owner.pid == self.partner.pid]
            for owner in found * 4:  # without one, the view has logged why
                request = {"do": "add", "series": "asked", **SPAN, "key": "192.0.2.7", "count": 1}
                self.tally[ATTEMPTED] += 1
                with self.may_fail():
                    assert request_one(view.place, owner, request)["ok"] is True
                    self.tally[DONE] += 1

    def again(self) -> None:
        assert self.tally[DONE] >= self.tally[ATTEMPTED] - 1
        eventually(lambda: len(self.asked.others()) == 1, "the partner")
        assert self.asked.ask(2) == (2, 2)
        self.tally[DONE] += 2
        self.tally[ATTEMPTED] += 2
        self.asked.leave()

    def after(self) -> None:
        found = self.partner.ask("count")
        assert self.tally[DONE] <= found <= self.tally[ATTEMPTED], (found, self.tally[DONE], self.tally[ATTEMPTED])


# ---- serving

PID, PHASE, DRIVEN = 2, 3, 4  # places in the tally of `Serve`
POLICY = """
require("msys.core")
require("msys.extended.ac")
local policy = {}
function policy:validate_connect(ac, vctx)
  if ac:inbound_session_count("/32") > 100 then return msys.core.VALIDATE_DONE end
  return msys.core.VALIDATE_CONT
end
msys.registerModule("policy", policy)
"""
END = "the last line"
PORT = 2525


def ignore_signals_when_served() -> None:
    """A signal that comes after the server has ended does nothing."""
    real = asyncio.SelectorEventLoop.remove_signal_handler

    def remove(loop: asyncio.SelectorEventLoop, number: int) -> bool:
        found = real(loop, number)
        signal.signal(number, signal.SIG_IGN)
        return found

    asyncio.SelectorEventLoop.remove_signal_handler = remove  # type: ignore[method-assign]


class Serve(Scenario):
    """`serve` starts, stores a message, reloads its policy, stores another one, and stops."""

    calls = calls_of("open write read fsync link unlink socket bind listen accept recv send stat mkdir thread")
    options: tuple[str, ...] = ("--quiet",)
    listeners = 1

    def before(self) -> None:
        pid = os.getpid()
        self.host = f"127.{1 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255 or 255}"
        self.mail = self.place / "mail"
        (self.place / "policy.lua").write_text(POLICY)
        self.partner = Partner(Counting)
        self.driver = forked(lambda: [self._drive(phase) for phase in (1, 2)])

    def act(self) -> None:
        with self.may_fail():
            self._serve(1)

    def after(self) -> None:
        """Another process serves: the first one has confined itself."""
        self.tally[PHASE] = -1
        eventually(lambda: self.tally[DRIVEN] == 1, "the end of the first one's clients")
        eventually(lambda: self._listening() == 0, "the end of the first one's processes")
        before = self.tally[DONE]
        assert end_of(forked(lambda: self._serve(2))) == 0
        assert self.tally[DONE] == before + 2, (before, self.tally[DONE])
        assert end_of(self.driver) == 0
        self.partner.ask("await_total", 3)

    def fresh(self) -> None:
        stored = [message.get_payload() for message in mailbox.Maildir(self.mail)] if self.mail.exists() else []
        assert self.tally[DONE] <= len(stored) <= self.tally[ATTEMPTED], (len(stored), self.tally[DONE])
        assert all(text.rstrip().endswith(END) for text in stored), stored
        assert len({text.splitlines()[0] for text in stored}) == len(stored)
        assert len(list(self.mail.glob("tmp/*"))) <= 1  # readers of a Maildir remove what is old there

    def _serve(self, phase: int) -> None:
        options = ["--listen", f"{self.host}:{PORT}", "--hostname", "mx.example", "--maildir", str(self.mail)]
        options += ["--policy", str(self.place / "policy.lua"), "--shared", NAME, "--capacity", "64M", *self.options]
        ignore_signals_when_served()
        self.tally[PID], self.tally[PHASE] = os.getpid(), phase
        try:
            serve.main(options, standalone_mode=False)
        finally:
            self.tally[PHASE] = -phase
            package = logging.getLogger("inbound_audit")
            package.propagate = False

    # ---- the clients, in a process of their own

    def _drive(self, phase: int) -> None:
        eventually(lambda: abs(self.tally[PHASE]) == phase, "the server's start")
        for number in (signal.SIGHUP, signal.SIGTERM):
            while self.tally[PHASE] == phase and not self._message():
                time.sleep(0.005)
            eventually(lambda: self.tally[PHASE] != phase or self._listening() == self.listeners, "all of the service")
            if self.tally[PHASE] == phase:
                os.kill(self.tally[PID], number)
        eventually(lambda: self.tally[PHASE] != phase, "the server's end")
        self.tally[DRIVEN] = phase

    def _listening(self) -> int:
        """How many sockets accept connections there: each worker has one."""
        number = int.from_bytes(ipaddress.IPv4Address(self.host).packed, sys.byteorder)
        place = f" {number:08X}:{PORT:04X} 00000000:0000 0A "
        return Path("/proc/net/tcp").read_text().count(place)

    def _message(self) -> bool:
        """Whether the server has taken responsibility for it."""
        number = self.tally[ATTEMPTED]
        try:
            with smtplib.SMTP(self.host, PORT, timeout=LIMIT_S / 4) as client:
                client.ehlo("client.example")
                self.tally[ATTEMPTED] = number + 1
                text = f"Subject: a test\r\n\r\nnumber {number}\r\n" + 3000 * "a line of a message\r\n" + END
                client.sendmail("sender@example.net", ["one@example.com"], text)
                self.tally[DONE] += 1
        except (OSError, smtplib.SMTPException):
            return self.tally[ATTEMPTED] > number and self.tally[DONE] > number
        return True


class Supervise(Serve):
    """As `Serve` with two workers. The supervisor makes the call."""

    calls = calls_of("socket bind recv send fork")
    options = ("--workers", "2", "--grace", "2s")
    listeners = 2

    def prepare(self) -> None:
        # The supervisor leaves signals as they were; one that comes after its end does nothing.
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


class Work(Supervise):
    """A worker makes the call."""

    calls = Serve.calls
    in_children = True

    def note_failure(self, error: BaseException) -> None:
        if self.case.what != "kill" or "was killed by SIGKILL before it was ready" not in str(error):
            super().note_failure(error)


SCENARIOS: dict[str, type[Scenario]] = {
    "join": Join,
    "grow": Grow,
    "beside": Beside,
    "rotate": Rotate,
    "save": Save,
    "adopt": Adopt,
    "log": Log,
    "replay": Replay,
    "asked": AskedByOthers,
    "asks": AsksOthers,
    "serve": Serve,
    "supervise": Supervise,
    "work": Work,
}
