"""The hooks of a policy, and what policies that run a script have in common."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from inbound_audit._ipcount import parse_monitor
from inbound_audit.errors import PolicyError
from inbound_audit.log_limiter import LogLimiter, kind_of_text
from inbound_audit.policy.reason import Reason
from inbound_audit.policy.verdict import ACCEPT, LOCAL_ERROR, UNAVAILABLE, Verdict, cached_verdict
from inbound_audit.process import ProcessLock
from inbound_audit.ration import Ration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inbound_audit._ipcount import Session
    from inbound_audit.audit import InboundAudit
    from inbound_audit.policy.message import Message

Choice = Literal["accept", "refuse"]
Capabilities = tuple["Sequence[str]", "Sequence[str]"]
"""The ESMTP capabilities that a policy adds and removes."""


DEFAULT_HOOK_MS = 50
"""Milliseconds of the processor that a hook of a script may take."""
SUSPENDED = "the hook is not run, because its last runs have used up their time; it is tried again later"
"""Why a hook fails that is suspended."""


class ConnectPolicy(Protocol):
    """The least that a listener accepts as a policy: an object with `validate_connect`.

    The other hooks of `Policy` are called if the object has them.
    """

    def validate_connect(self, ac: Session, /) -> Verdict: ...


def evaluate(policy: ConnectPolicy | None, hook: str, *arguments: object) -> Verdict:
    """Calls a hook of a policy; ACCEPT if there is no policy or it does not have the hook.

    Raises what the hook raises, TypeError if it returns something else than a Verdict, and PolicyError for a verdict of
    a class derived from it whose values are wrong.
    """
    method = getattr(policy, hook, None)
    if method is None:
        return ACCEPT
    verdict = method(*arguments)
    if type(verdict) is not Verdict:
        if not isinstance(verdict, Verdict):
            raise TypeError(f"the policy returned {verdict!r}, which is not a Verdict")
        Verdict(verdict.accepted, verdict.code, verdict.text, verdict.tarpit, verdict.disconnect)
    return verdict


class Policy:
    """A policy that lets every client in: each hook once, with what a policy returns that does not decide there.

    A policy of one's own derives from it, or is any object with `validate_connect`. Every listener calls
    `validate_connect` before the banner and `end_session` when a session ends; SMTP listeners call the others.
    """

    needed_monitors: tuple[str, ...] = ()
    """The monitors that the policy counts with, as far as they are known when it is loaded."""

    explains = False
    """Whether `explain` will be called: a guard with a decision log sets it."""

    def validate_connect(self, ac: Session) -> Verdict:
        """May the connection stay?"""
        return ACCEPT

    def attributes(self, ac: Session, values: Mapping[str, str]) -> None:
        """What the mail server knows of a client, by the names of Postfix's policy delegation protocol. Called before
        the other hooks of a session, where there is such a protocol."""

    def validate_tls(self, ac: Session, cipher: str) -> Verdict:
        """The session uses TLS; `cipher` is its name. Asked before each `validate_ehlo` of such a session."""
        return ACCEPT

    def validate_ehlo(self, ac: Session, text: str) -> Verdict:
        """`text` is the client's name for itself."""
        return ACCEPT

    def validate_mailfrom(self, ac: Session, text: str) -> Verdict:
        """`text` is the sender's address. A new message begins here."""
        return ACCEPT

    def validate_rcptto(self, ac: Session, text: str, message: Message) -> Verdict:
        """`text` is the recipient's address, `message` what is known so far."""
        return ACCEPT

    def validate_data(self, ac: Session, message: Message) -> Verdict:
        """The message has been received."""
        return ACCEPT

    def validate_data_spool(self, ac: Session, message: Message) -> Verdict:
        """The message is about to be kept."""
        return ACCEPT

    def capabilities(self, ac: Session) -> Capabilities:
        """The ESMTP capabilities that are added to and removed from the greeting of this session."""
        return (), ()

    def explain(self, ac: Session) -> Reason | None:
        """Why the question that this thread has just asked about a session was answered so. Asked at once after it, and
        only once."""
        return None

    def end_session(self, ac: Session) -> None:
        """The session is over, and may be closed."""

    def prepare(self, audit: InboundAudit) -> None:
        """Makes in an audit what the policy counts with. A guard or gate calls it before it asks the policy."""

    def check(self, audit: InboundAudit) -> None:
        """Raises PolicyError if `audit` lacks a monitor that the policy counts with."""
        present = {parse_monitor(monitor) for monitor in audit.monitors}
        missing = [monitor for monitor in self.needed_monitors if parse_monitor(monitor) not in present]
        if missing:
            options = " ".join(f"--monitor {monitor}" for monitor in missing)
            raise PolicyError(f"counts with monitors that the audit does not have; start with {options}")

    def close(self) -> None:
        """Ends the policy. Idempotent."""


def has_hook(policy: ConnectPolicy | None, *hooks: str) -> bool:
    """Whether a policy decides in one of these hooks, which are names of `Policy`."""
    methods = [getattr(policy, hook, None) for hook in hooks]
    return any(
        method is not None and getattr(method, "__func__", None) is not getattr(Policy, hook)
        for hook, method in zip(hooks, methods, strict=True)
    )


class ScriptPolicy(Policy):
    """A policy that runs a script.

    An error of the script never reaches the listener: it is counted in `errors_by_hook`, kept in `last_error`, and
    logged, at most one line per hook and 10 seconds. `on_error` decides what becomes of the session: "accept" lets it
    in, "refuse" refuses it with a temporary code. A hook that runs for more than `max_hook_ms` fails. If such
    runs take more than half of the time, hooks that have done it are not run, and fail at once.

    Raises PolicyError if `on_error` is neither, or if `max_hook_ms` is not a whole number from 1.
    """

    implementation: str
    """The name of what runs the script, e.g. ``"LuaJIT 2.1.1774896198"``."""

    _close_when_collected = False

    def __init__(
        self,
        path: str | PathLike[str],
        on_error: Choice,
        logger: logging.Logger,
        max_hook_ms: int = DEFAULT_HOOK_MS,
    ) -> None:
        if on_error not in ("accept", "refuse"):
            raise PolicyError(f"on_error {on_error!r}: is neither 'accept' nor 'refuse'")
        check_bound("max_hook_ms", max_hook_ms, 1)
        self.max_hook_ms = max_hook_ms
        self.path = Path(path)
        self.on_error = on_error
        self.errors_by_hook: Counter[str] = Counter()
        self.last_error: str | None = None
        self._lock = ProcessLock()
        self._logger = logger
        self._limiter = LogLimiter(self._logger)
        self._ration = Ration(max_hook_ms / 1000)
        self._places = threading.local()  # where a script has decided in this thread last
        self._overran: set[str] = set()  # hooks, since the ration was whole

    def __del__(self) -> None:
        if self._close_when_collected:
            self.close()

    @property
    def errors(self) -> int:
        """How many hooks have failed since the policy was loaded."""
        return sum(self.errors_by_hook.values())

    def explain(self, ac: Session) -> Reason | None:
        """The script, with the line that has decided if that is known."""
        conn_id, path, line = getattr(self._places, "last", (0, "", None))
        self._places.last = 0, "", None
        if conn_id != ac.conn_id:
            path, line = str(self.path), None
        return Reason("script", script=path, line=line)

    def _note_place(self, ac: Session, name: str, line: str | int) -> None:
        """Where the script has decided in the hook that has just run: the script itself or a file beside it, and a
        line."""
        if name:
            self._places.last = ac.conn_id, str(self.path.parent / name), int(line)

    def check(self, audit: InboundAudit) -> None:
        try:
            super().check(audit)
        except PolicyError as error:
            raise PolicyError(f"{self.path}: {error}") from None

    def _verdict(self, hook: str, *answer: Any) -> Verdict:
        """The verdict that a script comes to (`cached_verdict`). Wrong values are a failure of the hook."""
        try:
            return cached_verdict(*answer)
        except (PolicyError, TypeError) as error:  # TypeError: a value that can't even be looked up
            return self._failed(hook, str(error))

    def _is_suspended(self, hook: str) -> bool:
        """Whether the hook is not to be run now: it has used up its time, and the ration is used up."""
        return hook in self._overran and self._ration.left_s <= 0

    def _failed(self, hook: str, message: str, overrun_s: float = 0) -> Verdict:
        """Records a failure of a hook, which took `overrun_s` seconds if it has used up its time. Returns the verdict
        that `on_error` chooses."""
        if overrun_s > 0:
            if self._ration.is_whole:
                self._overran.clear()
            self._overran.add(hook)
            self._ration.spend(overrun_s)
        with self._lock:
            self.errors_by_hook[hook] += 1
            self.last_error = message
        kind = hook, kind_of_text(message)
        self._limiter.report(logging.ERROR, "%s: %s failed: %s", self.path, hook, message, kind=kind)
        if self.on_error == "accept":
            return ACCEPT
        return UNAVAILABLE if hook == "validate_connect" else LOCAL_ERROR


def check_bound(name: str, value: object, least: int) -> None:
    """Raises PolicyError for what is not a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PolicyError(f"{name} {value!r}: expected a whole number from {least}")
