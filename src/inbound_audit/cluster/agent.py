"""The agent of a host: it says to the other nodes what this host counts, and keeps what they count. Overrides too.

    engine's threads -- frames --> Inbox --> the loop: Receiver, Sender -- frames --> engine
                                               | nodes whose snapshot is wanted
                                               v
                                             threads that ask --> Receiver

One loop has the sender, the receiver and the trees of the nodes. The engine's threads put frames into the inbox, which
has an end; the oldest frame gives way, and the sequence numbers show that it is missing. A thread reads and writes the
overrides of this host.

Lock rule: `_lock` is held for each use of the sender and the receiver: by the loop, by the engine's threads, and by
those that ask. No frame is sent, and no answer awaited, under it.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees
from inbound_audit.cluster.asking import Asking
from inbound_audit.cluster.change_log import ChangeLog, about, about_windows, in_hex
from inbound_audit.cluster.engine import Engine, EngineSettings, single_join_warning
from inbound_audit.cluster.frames import may_wait
from inbound_audit.cluster.host_overrides import HostOverrides
from inbound_audit.cluster.host_series import HostSeries
from inbound_audit.cluster.inbox import MAX_FRAMES_A_STEP, Arrived, Inbox
from inbound_audit.cluster.node_state import State
from inbound_audit.cluster.receiver import Receiver
from inbound_audit.cluster.repeating import Repeating
from inbound_audit.cluster.sender import Sender
from inbound_audit.cluster.stand_still import StandStill
from inbound_audit.errors import CapacityError, ClusterError
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.series import requests

logger = logging.getLogger("inbound_audit.cluster")

MAX_HANDLING_S = 0.015
"""Seconds in which frames are handled before this node speaks again: a frame of 256 KiB takes some 12 ms."""

MAX_WAIT_S = 0.05
"""Seconds of the longest wait of the loop, and between two checks of all nodes: whose lease ends, whose snapshot is
wanted. A frame that comes in between costs nothing for each node."""

STEP_PER_NODE_S, MAX_STEP_S = 0.0001, 0.02
"""Seconds from one step of the loop to the next, per node and at most. Frames that come meanwhile are handled together,
since to wake up costs more than to handle one; the other nodes wait longer than that before they speak again."""

MIN_SUMMED = 50
"""With so many other nodes their sum is kept as a tree of its own, which a process counts in place of theirs."""

OVERRIDES_S = 0.1
"""Seconds between two looks at the overrides of this host."""

CHORES_S = 1.0
"""Seconds between two checks of what need not be checked at each step."""


class Agent:
    """The agent of the audit that the processes of this host share as `name`.

    `settings` returns what the engine is opened with, and is called again for `reload`; `make_engine` makes an engine,
    as `open_engine` does; `chore` is called once a second and may raise. `monitors` (such as ``"300,6"``) are said to
    other nodes and counted with theirs; `is_manager`: this host counts the series that are for managers. Raises
    SharedStateError and CapacityError as `InboundAudit` does.
    """

    def __init__(
        self,
        name: str,
        group: str | None,
        settings: Callable[[], EngineSettings],
        make_engine: Callable[[EngineSettings], Engine],
        chore: Callable[[], None] = lambda: None,
        monitors: Collection[str] = (),
        is_manager: bool = False,
    ) -> None:
        self._open_audit = partial(InboundAudit, shared=name, group=group)
        self._settings_now = settings
        self._settings = settings()
        self._make_engine = make_engine
        self._chore = chore
        self._audit = self._open_audit()
        with contextlib.ExitStack() as at_failure:
            at_failure.callback(self._audit.close)
            self._begin(monitors, is_manager)
            at_failure.pop_all()
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self._asking = Asking(self._ask, self._answered)
        self._carrying_out = Repeating(self._overrides.carry_out, OVERRIDES_S)
        self._engine: Engine | None = None
        self._stops = self._reloads = False
        self._linked: bool | None = None
        self._unsent = 0
        self._changes = ChangeLog()
        self._warned = False
        self._log = LogLimiter(logger)
        self._nodes_at = self._chores_at = 0.0
        self._stand_still = StandStill(time.monotonic())
        self._command = requests.Command(lambda series, request: self.status(), {}, {})
        requests.COMMANDS["cluster"] = self._command

    def _begin(self, monitors: Collection[str], is_manager: bool) -> None:
        """Makes what says and keeps counts. Raises CapacityError."""
        self._trees = NodeTrees(self._audit)
        epoch = secrets.randbits(63) + 1
        self._series = HostSeries(self._trees, monitors, is_manager)
        # The time of a walk in which others had the processor says nothing of what the next one costs.
        self._overrides = HostOverrides(
            lambda: self._audit._overrides.table, lambda entries: self._audit._overrides.take(entries)
        )
        said, overrides = self._series.said.values(), self._overrides
        self._sender = Sender(epoch, self._trees, time.monotonic, said, cost=time.thread_time, overrides=overrides)
        self._receiver = Receiver(
            self._settings.node, epoch, self._trees, time.monotonic, series=self._series, overrides=overrides
        )

    # ---- from any thread, and from signal handlers

    def stop(self) -> None:
        """`run` says goodbye to the other nodes, and returns."""
        self._stops = True
        self._inbox.wake()

    def reload(self) -> None:
        """Opens the engine with the settings as they are now. The epoch stays, and the others wait for a lease.
        Settings that are wrong are logged, and the engine stays."""
        self._reloads = True
        self._inbox.wake()

    def status(self) -> dict[str, object]:
        """What is known of the nodes beside their counts, which each process of the host has."""
        with self._lock:
            return {
                "cluster": self._settings.cluster,
                "node": self._settings.node,
                "linked": bool(self._linked),
                "duplicate": self._receiver.duplicate,
                "unsent": self._unsent,
                "overtaken": self._inbox.dropped,
                "unlisted": self._receiver.dropped,
                "series": len(self._series.series),
                "nodes": [
                    *(about(state) for state in self._receiver.nodes.values() if state.state != State.THIS_HOST),
                    {
                        "node": self._settings.node,
                        "digest": in_hex(self._sender.digest),
                        **about_windows([one.said() for one in self._series.said.values()]),
                    },
                ],
            }

    # ---- the loop

    def run(self) -> None:
        """Returns after `stop`. Raises ClusterError if the engine can't be opened with the settings, or no thread can
        be started, and what `chore` raises."""
        try:
            self._asking.start()
            self._carrying_out.start()
            with self._lock:
                self._series.find()  # before the first word: the others keep what an agent before this one has said
            self._open(self._make_engine(self._settings))
            while not self._stops:
                taken = self._inbox.take(self._pause_s())
                self._step(taken)
                if rest_s := self._rest_s(taken):
                    time.sleep(rest_s)
                if self._reloads:
                    self._reloads = False
                    self._reopen()
                if time.monotonic() >= self._chores_at:
                    self._chores_at = time.monotonic() + CHORES_S
                    self._do_chores()
            if not self._receiver.duplicate:
                self._publish([self._sender.goodbye()])
        finally:
            if requests.COMMANDS.get("cluster") is self._command:
                del requests.COMMANDS["cluster"]
            self._asking.close()
            self._carrying_out.close()
            if self._engine is not None:
                self._engine.close()
            self._audit.close()

    def _pause_s(self) -> float:
        return min(MAX_WAIT_S, self._sender.due(time.monotonic()))

    def _rest_s(self, taken: Sequence[Arrived]) -> float:
        """Seconds until frames are taken again, after these: with more nodes, more come at once. Heartbeats alone have
        come at the end of a wait, and the next ones have the next wait."""
        if len(taken) == MAX_FRAMES_A_STEP or all(may_wait(frame) for _, frame, _ in taken):
            return 0.0
        return min(STEP_PER_NODE_S * self._sender.nodes, MAX_STEP_S)

    def _step(self, taken: Sequence[Arrived]) -> None:
        """Handles what has come first: a node whose frames have waited in the inbox was not silent."""
        with self._lock:
            self._handle(taken)
            now = time.monotonic()
            wanted: list[str] = []
            if now >= self._nodes_at:
                if self._stand_still.check(now):
                    self._receiver.woke(now)
                self._nodes_at = now + MAX_WAIT_S
                self._receiver.tick(self._inbox.since(now))
                self._series.turn()
                wanted = self._receiver.asks(now, self._asking.nodes)
            self._sender.nodes = len(self._receiver.nodes)
            self._sender.silent = self._receiver.duplicate
            frames = self._sender.frames(now)
        self._publish(frames)
        self._asking.ask(wanted)

    def _handle(self, taken: Sequence[Arrived]) -> None:
        """Handles frames for MAX_HANDLING_S, one at least; the rest waits for the next step."""
        ends_at = time.monotonic() + MAX_HANDLING_S
        for at, (node, frame, came_at) in enumerate(taken):
            if at and time.monotonic() >= ends_at:
                self._inbox.put_back(taken[at:])
                break
            self._receiver.heard(node, frame, came_at)

    def _publish(self, frames: Iterable[bytes]) -> None:
        if self._engine is not None:
            self._unsent += sum(not self._engine.publish(frame) for frame in frames)

    # ---- on threads that ask

    def _ask(self, node: str, timeout_s: float) -> list[bytes] | None:
        engine = self._engine
        return None if engine is None else engine.ask(node, timeout_s)

    def _answered(self, node: str, parts: list[bytes] | None) -> None:
        with self._lock:
            self._receiver.answered(node, parts, time.monotonic())

    # ---- what the engine calls

    def _snapshot(self) -> list[bytes]:
        with self._lock:
            return self._sender.snapshot()

    def _link(self, up: bool) -> None:
        if up != self._linked:
            self._linked = up
            node = self._settings.node
            if up:
                logger.warning("%s is connected to other nodes", node)
            else:
                logger.warning("%s reaches no other node; it counts its own sessions, and keeps trying", node)

    def _gone(self, node: str) -> None:
        with self._lock:
            self._receiver.gone(node, time.monotonic())

    # ---- the engine

    def _open(self, engine: Engine) -> None:
        engine.open(self._inbox.put, self._snapshot, self._link, self._gone)
        self._engine = engine

    def _reopen(self) -> None:
        """The old engine is closed before the new one opens: both would listen at the same address."""
        try:
            settings = self._settings_now()
            engine = self._make_engine(settings)
        except ClusterError as error:
            logger.error("%s; the old settings stay in use", error)
            return
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        try:
            self._open(engine)
            self._settings = settings
        except ClusterError as error:
            logger.error("%s; the old settings stay in use", error)
            self._open_as_before()

    def _open_as_before(self) -> None:
        """Opens the engine with the settings that were in use. What fails is logged, and tried again with the
        chores."""
        try:
            self._open(self._make_engine(self._settings))
        except ClusterError as error:
            self._link(False)
            self._log.report(logging.ERROR, "%s; it is tried again", error, kind="open")

    # ---- once a second

    def _do_chores(self) -> None:
        self._chore()
        if self._engine is None:
            self._open_as_before()
        with self._lock:
            if self._receiver.full:
                self._move()
            self._series.find()
            nodes = list(self._receiver.nodes.values())
            others = sum(state.state == State.HEARD for state in nodes)
            self._keep_sum(others)
        self._changes.report(nodes)
        self._warn_of_windows()
        warning = single_join_warning(self._settings, others + 1)
        if warning is not None and not self._warned:
            self._warned = True
            logger.warning("%s", warning)

    def _warn_of_windows(self) -> None:
        if any(said.is_too_much for said in self._series.said.values()):
            words = "this host has more windows, or more hosts in them, than other nodes count"
            self._log.report(logging.WARNING, words, kind="windows")

    def _move(self) -> None:
        """Makes a new file for the trees: the sections of a file keep their names, and all are used up. For a moment
        other processes may count both files."""
        with contextlib.closing(self._audit):
            self._audit = self._open_audit()
            self._trees = NodeTrees(self._audit)
            self._series.move(self._trees)
            self._receiver.move(self._trees)
            self._sender.move(self._trees)

    def _keep_sum(self, others: int) -> None:
        """Between half of the bound and the bound it stays as it is: to make the sum takes time."""
        if others >= MIN_SUMMED or others < MIN_SUMMED // 2:
            try:
                self._trees.sum = others >= MIN_SUMMED
            except CapacityError as error:
                logger.warning(
                    "no sum over %d nodes is kept, and their trees are counted one by one: %s", others, error
                )
