"""`LuaPolicy`: a policy script, asked once per session and, by SMTP listeners, once per command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from inbound_audit._ipcount import accept_bytes
from inbound_audit.errors import InboundAuditError, PolicyError, named_keywords
from inbound_audit.lua.running import Running
from inbound_audit.lua.script_host import ScriptHost
from inbound_audit.lua.sources import Sources
from inbound_audit.lua.world import World, logger, raw, text
from inbound_audit.policy.base import DEFAULT_HOOK_MS, SUSPENDED, Choice, ScriptPolicy, check_bound
from inbound_audit.policy.verdict import ACCEPT, Verdict
from inbound_audit.process import wait_before_forks

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.audit import InboundAudit
    from inbound_audit.policy.message import Message

DEFAULT_STEPS = 10_000_000
DEFAULT_MEMORY = 256 << 20
DEFAULT_SESSIONS = 100_000
MIN_MEMORY = 2 << 20  # with less, Lua runs out of memory while it starts, and that ends the process


class LuaPolicy(ScriptPolicy):
    """A policy written in Lua (docs/policies.md), as the reference's scripts are.

    `on_error` says what becomes of a session whose hook raises or returns an unknown value: it is let in, or refused.
    Such an error never reaches the caller; it is logged at most once per 10 seconds and counted in `errors`. `search`
    are further directories for `require` and for address lists.

    `ffi` chooses how an accept construct is handed over: LuaJIT's FFI, a portable userdata, or (None) the better one
    that there is; scripts cannot tell. `lua` names one of lupa's modules (``"luajit21"``, ``"lua51"``); None takes
    LuaJIT where there is one. `max_steps` bounds the function calls and loop passes of one hook, `max_hook_ms` its
    processor time in milliseconds (100 times as much while the policy is loaded). `max_memory` bounds the bytes of the
    Lua state and is at least 2 MiB (LuaJIT 2.0 has no such bound). `max_sessions` bounds the sessions for which
    something is kept.

    Series that the script defines are defined in each audit whose sessions it is asked about. One that is given as
    `audit` is known before there is a session: they are then defined in it at once, and `init` may count in them.

    Raises PolicyError, with script and line, when the script is missing, does not compile or fails while it is loaded.

    Any thread may ask; one at a time runs Lua. The policy keeps the audits of the sessions that it has seen alive, so
    an accept construct that a script has kept may be asked for ever.
    """

    @named_keywords
    def __init__(
        self,
        path: str | PathLike[str],
        *,
        on_error: Choice = "accept",
        ffi: bool | None = None,
        lua: str | None = None,
        search: Sequence[str | PathLike[str]] = (),
        max_steps: int = DEFAULT_STEPS,
        max_hook_ms: int = DEFAULT_HOOK_MS,
        max_memory: int = DEFAULT_MEMORY,
        max_sessions: int = DEFAULT_SESSIONS,
        audit: InboundAudit | None = None,
    ) -> None:
        check_bound("max_steps", max_steps, 1)
        check_bound("max_memory", max_memory, MIN_MEMORY)
        check_bound("max_sessions", max_sessions, 1)
        sources = Sources(path, search)
        super().__init__(sources.path, on_error, logger, max_hook_ms)
        self._host = ScriptHost(sources, audit)
        self._asked = self._host.asked
        self._known: set[Listener] = set()
        self._world = World(lua, ffi, max_memory)
        bounds = {"max_steps": max_steps, "max_hook_ms": max_hook_ms, "max_sessions": max_sessions}
        places = {"path": raw(sources.templates), "suspended": raw(SUSPENDED)}
        self._world.build(self._host.functions(), {**bounds, **places})
        self._entry_points = self._world.entry_points
        self.implementation = self._world.implementation
        self._closed = self._explains = False
        self._running = Running(self._asked)
        wait_before_forks(self._running)
        self._load(sources)
        self._host.lists.ration = self._world.ration = self._ration  # from now on sessions wait as well
        if audit is not None:
            self.check(audit)
        self._connect: Callable[[int], Any] = (
            self._entry_points["validate_connect"] if self.ffi else self._connect_locked
        )

    def _load(self, sources: Sources) -> None:
        source = sources.main()
        if not self._world.make_room_for(len(source.text)):
            raise PolicyError(f"{self.path}: not enough memory")
        try:
            modules = self._entry_points["load"](source.text, source.chunkname)
        except self._world.error as error:
            raise PolicyError(f"{self.path}: {_message(error)}") from None
        self.needed_monitors = tuple({**self._host.monitors, **self._host.series.defined_monitors})
        if not modules:
            raise PolicyError(f"{self.path}: registers no module; a policy ends with msys.registerModule(name, table)")

    @property
    def ffi(self) -> bool:
        """Whether accept constructs are handed over by LuaJIT's FFI."""
        return self._world.ffi

    @property
    def sessions(self) -> int:
        """For how many sessions something is kept, until `end_session`."""
        with self._running:
            return 0 if self._closed else int(self._entry_points["sessions"]())

    def validate_connect(self, ac: Session) -> Verdict:
        """`core_validate_accept`, then `validate_connect` of every module: may the connection stay?"""
        # `_ask` once more, without what only texts and other Luas need, and without a lock, which costs as much as a
        # call of Lua does: this is asked for every connection.
        if ac.listener not in self._known and (failed := self._add_listener("validate_connect", ac)) is not None:
            return failed
        handle = ac._handle
        self._asked[handle] = ac
        try:
            try:
                answer = self._connect_locked(handle) if self._overran or self._running.forks else self._connect(handle)
            finally:
                self._asked.pop(handle, None)
        except (self._world.error, PolicyError) as error:
            return self._hook_failed("validate_connect", error)
        return ACCEPT if answer is None else self._answered("validate_connect", ac, *answer)

    def validate_ehlo(self, ac: Session, text: str) -> Verdict:
        return self._ask("validate_ehlo", ac, raw(text))

    def validate_mailfrom(self, ac: Session, text: str) -> Verdict:
        return self._ask("validate_mailfrom", ac, raw(text))

    def validate_tls(self, ac: Session, cipher: str) -> Verdict:
        """Sets the context variables of TLS; no hook of a script runs."""
        return self._ask("validate_tls", ac, raw(cipher))

    def attributes(self, ac: Session, values: Mapping[str, str]) -> None:
        """Sets context variables of the session; no hook of a script runs."""
        for name, value in values.items():
            self._ask("attribute", ac, raw(name), raw(value))

    def validate_rcptto(self, ac: Session, text: str, message: Message) -> Verdict:
        return self._ask("validate_rcptto", ac, raw(text), message.size, raw(message.mailfrom), message=message)

    def validate_data(self, ac: Session, message: Message) -> Verdict:
        """The message has been received; `message.size` is its size in bytes."""
        return self._ask("validate_data", ac, *_about(message), message=message)

    def validate_data_spool(self, ac: Session, message: Message) -> Verdict:
        """The message is about to be kept; then `validate_data_spool_each_rcpt` is asked for each recipient."""
        recipients = raw("\n".join(message.rcptto))
        return self._ask("validate_data_spool", ac, *_about(message), recipients, message=message)

    def end_session(self, ac: Session) -> None:
        """Runs `validate_dealloc` and forgets what was kept for the session, which may be closed by now."""
        if not self._closed:
            self._ask("end_session", ac)

    def capabilities(self, ac: Session) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ESMTP capabilities that hooks of this session have added and removed."""
        if self._closed:
            return (), ()
        with self._running:
            added, removed = self._enter("capabilities", ac._handle, ())
        return tuple(text(added).splitlines()), tuple(text(removed).splitlines())

    def close(self) -> None:
        """Runs `deinit` of every module. Idempotent. Hooks that are called afterwards fail as `on_error` decides."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._connect = self._refuse_to_ask
        try:
            with self._running:
                self._entry_points["stop"]()
        except self._world.error as error:
            self._failed("deinit", _message(error))

    def _ask(self, hook: str, ac: Session, *arguments: object, message: Message | None = None) -> Verdict:
        if ac.listener not in self._known and (failed := self._add_listener(hook, ac)) is not None:
            return failed
        handle = ac._handle
        with self._running:
            self._asked[handle] = ac
            if message is not None:
                self._host.messages[handle] = message
            try:
                answer = self._enter(hook, handle, arguments)
            except (self._world.error, PolicyError) as error:
                return self._hook_failed(hook, error)
            finally:
                self._asked.pop(handle, None)
                self._host.messages.pop(handle, None)
        return ACCEPT if answer is None else self._answered(hook, ac, *answer)

    def _answered(self, hook: str, ac: Session, *answer: Any) -> Verdict:
        """The verdict of a script, whose sixth value is where it was set if the policy explains."""
        if len(answer) > 5:
            name, _, line = text(answer[5]).removesuffix(": ").rpartition(":")
            self._note_place(ac, name, line)
        return self._verdict(hook, *answer[:5])

    @property
    def explains(self) -> bool:
        return self._explains

    @explains.setter
    def explains(self, value: bool) -> None:
        if value and not self._explains and not self._closed:
            with self._running:
                self._entry_points["explain"]()
        self._explains = self._explains or value

    def _enter(self, hook: str, handle: int, arguments: tuple[object, ...]) -> Any:
        if self._closed:
            self._refuse_to_ask(handle)
        texts = sum(len(argument) for argument in arguments if isinstance(argument, bytes))
        if (texts or not self.ffi) and not self._world.make_room_for(texts):
            raise PolicyError("not enough memory")
        if self._overran and self._is_suspended(hook):
            self._entry_points["suspend"]()
        return self._entry_points[hook](self._token(handle), *arguments)

    def _connect_locked(self, handle: int) -> Any:
        """What is done before the hook runs needs the lock."""
        with self._running.instead_of_being_asked(handle):
            return self._enter("validate_connect", handle, ())

    def _token(self, handle: int) -> int | bytes:
        return handle if self.ffi else accept_bytes(handle)

    def _refuse_to_ask(self, _: int) -> None:
        raise PolicyError("the policy is closed")

    def _add_listener(self, hook: str, ac: Session) -> Verdict | None:
        """The first session of a listener. Returns a verdict, and no hook runs, if its audit can't have the series."""
        try:
            self._host.add_listener(ac)
        except InboundAuditError as error:
            return self._hook_failed(hook, error)
        self._known.add(ac.listener)
        return None

    def _hook_failed(self, hook: str, error: Exception) -> Verdict:
        """While Lua's lock is held: no other hook has run since."""
        memory = isinstance(error, MemoryError)
        if memory:
            self._world.collect()
        try:
            overrun_s = self._entry_points["overrun"](memory)
        except MemoryError:
            overrun_s = self.max_hook_ms / 1000
        return self._failed(hook, _message(error), overrun_s)


def _about(message: Message) -> tuple[int, bytes, bytes]:
    last = message.rcptto[-1] if message.rcptto else ""
    return message.size, raw(message.mailfrom), raw(last)


def _message(error: Exception) -> str:
    """An error's message. lupa has made its bytes characters, one each; an error that is not a string has none."""
    if isinstance(error, InboundAuditError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    return text(str(error).encode("latin-1", "replace")) or "the error is not a string"
