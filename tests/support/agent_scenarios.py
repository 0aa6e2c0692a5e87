"""What happens while one call to the system of an agent fails: scenarios of `tests.support.faults`.

Two hosts, each with sessions of its own. The subject is the agent of the first one; the second one has its agent in
another process. A driver opens and closes sessions on both while the agent starts, connects again, and stops.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from tests.support.fault_scenarios import ALL, NAME, Counting, calls_of, joined
from tests.support.faults import Partner, Scenario, forked
from tests.support.ports import free_ports
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, end_of, eventually

from inbound_audit.cli.agent import agent
from inbound_audit.cluster import redis_engine, zenoh_engine  # noqa: F401  once, not in each case
from inbound_audit.cluster.agent import Agent
from inbound_audit.cluster.engine import EngineSettings, open_engine
from inbound_audit.shared import directory_of

PID, PHASE, DRIVEN = 2, 3, 4  # places in the tally
CLUSTER = "test"


class HostCounting(Counting):
    """A process of a host: it opens and closes sessions, and counts those of the host and of the cluster."""

    def open(self) -> None:
        assert self.audit
        self.held.append(self.audit.listener("SMTP", "other").session(f"198.51.100.{100 + len(self.held)}"))

    def close(self) -> None:
        self.held.pop().close()

    def counts(self) -> tuple[int, int]:
        assert self.audit
        count = self.audit.inbound_session_count
        return count(ALL, "SMTP"), count(ALL, "inbound_cidr")


class OtherNode(HostCounting):
    """A process of another host, and the agent of that host."""

    def __init__(self, place: Path, settings: EngineSettings, engine: str) -> None:
        place.mkdir()
        os.environ["INBOUND_AUDIT_SHM"] = str(place)
        super().__init__(sessions=2)
        self._agent = Agent(NAME, None, lambda: settings, lambda settings: open_engine(engine, settings))
        self._thread = threading.Thread(target=self._agent.run)
        self._thread.start()

    def leave(self) -> None:
        self._agent.stop()
        self._thread.join(PATIENCE)
        super().leave()


class RunAgent(Scenario):
    """`agent` starts, connects again, and stops, over Redis."""

    calls = calls_of(
        "open link unlink fallocate mmap madvise lock dup stat list chmod socket bind listen connect send recv sockopt "
        "thread pipe"
    )
    engine = "redis"
    limit_s = 4 * PATIENCE
    quick_cases = 8
    usual = ("is connected to other nodes", "reaches no other node")

    def before(self) -> None:
        self.sessions = [3, 2]
        first, second = self.addresses()
        settings = EngineSettings(CLUSTER, "mx2", **second)
        self.options = ["--cluster", CLUSTER, "--node", "mx1", "--engine", self.engine]
        self.options += [f"--{option}={address}" for option, given in first.items() for address in given]
        self.hosts = [
            Partner(lambda: HostCounting(self.sessions[0])),
            Partner(lambda: OtherNode(self.place / "mx2", settings, self.engine)),
        ]
        self._await_counts(False)
        self.driver = forked(lambda: [self._drive(phase) for phase in (1, 2)])

    def addresses(self) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
        """The options of both agents that say where the other one is found."""
        pid = os.getpid()
        address = f"127.{1 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255 or 255}"
        self.server = RedisServer(self.place, address=address, prefix=("env", "-u", "LD_PRELOAD"))
        self.server.start()
        return {"join": (self.server.url,)}, {"join": (self.server.url,)}

    def prepare(self) -> None:
        # The agent leaves signals as they were; one that comes after its end does nothing.
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def act(self) -> None:
        with self.may_fail():
            self._run(1)

    def _run(self, phase: int) -> None:
        self.tally[PID], self.tally[PHASE] = os.getpid(), phase
        try:
            agent.main([NAME, *self.options], standalone_mode=False)
        finally:
            self.tally[PHASE] = -phase

    def after(self) -> None:
        """No count of an agent that has ended is left, and the next one counts the cluster."""
        self.tally[PHASE] = -1
        eventually(lambda: self.tally[DRIVEN] == 1, "the end of what was done beside the first agent")
        self._await_counts(False)
        assert end_of(forked(self._run_the_next)) == 0
        assert end_of(self.driver) == 0
        self._await_counts(False)

    def _run_the_next(self) -> None:
        self.prepare()
        self._run(2)

    def fresh(self) -> None:
        for host in self.hosts:
            host.ask("leave")
        place = Path(directory_of(NAME))
        with joined() as audit:  # removes what a process that was killed has left
            assert audit.total() == 0
            eventually(lambda: len(list(place.glob("*.owner"))) == 1, "the end of the other owners")
        left = [path.name for path in place.glob("*")]
        assert left == [], left

    def names_cause(self, text: str) -> bool:
        """To find a lock taken is no failure: the agent waits for it."""
        taken = self.case[::2] == ("lock", "EAGAIN") and "another agent of" in text
        return taken or super().names_cause(text)

    # ---- what is done beside an agent, in a process of its own

    def _drive(self, phase: int) -> None:
        eventually(lambda: abs(self.tally[PHASE]) == phase, "the agent's start")
        try:
            self._change_beside(phase)
        finally:
            self._signal(phase, signal.SIGTERM)
        eventually(lambda: self.tally[PHASE] != phase, "the agent's end")
        self.tally[DRIVEN] = phase

    def _change_beside(self, phase: int) -> None:
        self._await_counts(True, phase)
        for connects_again in (True, False) if phase == 1 else (False,):
            for what, sessions in (("open", 1), ("close", -1)):
                for at, host in enumerate(self.hosts):
                    host.ask(what)
                    self.sessions[at] += sessions
                self._await_counts(True, phase)
            if connects_again:
                self._signal(phase, signal.SIGHUP)

    def _signal(self, phase: int, number: signal.Signals) -> None:
        if self.tally[PHASE] == phase:
            os.kill(self.tally[PID], number)

    def _await_counts(self, together: bool, phase: int = 0) -> None:
        """Until each host counts both, or itself alone; or the agent of that phase has ended. What a host counts of its
        own is exact at each moment."""
        total = sum(self.sessions)

        def is_counted() -> bool:
            found = [host.ask("counts") for host in self.hosts]
            assert [own for own, _ in found] == self.sessions, (found, self.sessions)
            return [cluster for _, cluster in found] == ([total, total] if together else self.sessions)

        what = f"counts of {self.sessions}, {'together' if together else 'each alone'}"
        eventually(lambda: (phase and self.tally[PHASE] != phase) or is_counted(), what)


class RunZenohAgent(RunAgent):
    """`agent` over Zenoh, whose own threads make calls in no order: what fails are calls for files."""

    calls = calls_of("open link unlink fallocate mmap madvise lock dup stat list chmod")
    failing = calls
    engine = "zenoh"
    keeps_threads = True
    quick_cases = 8

    def addresses(self) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
        first, second = (f"tcp/127.0.0.1:{port}" for port in free_ports(2))
        return {"listen": (first,), "join": (second,)}, {"listen": (second,), "join": (first,)}


SCENARIOS: dict[str, type[Scenario]] = {"agent": RunAgent, "agent-zenoh": RunZenohAgent}
