"""`SievePolicy`: a policy in Sieve, run once per session."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, cast

from inbound_audit.errors import InboundAuditError, PolicyError, named_keywords
from inbound_audit.policy.base import DEFAULT_HOOK_MS, SUSPENDED, Choice, ScriptPolicy
from inbound_audit.regular_file import Directories, read_regular
from inbound_audit.sieve.compile import script
from inbound_audit.sieve.needs import needs_of
from inbound_audit.sieve.networks import DEFINE_LIST, define_list
from inbound_audit.sieve.parse import decode, parse
from inbound_audit.sieve.run import Host, Run, logger
from inbound_audit.sieve.tree import ScriptError

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session
    from inbound_audit.audit import InboundAudit
    from inbound_audit.policy.verdict import Verdict


MAX_BYTES = 1 << 20


class SievePolicy(ScriptPolicy):
    """A policy written in Sieve with the reference's additions (docs/policies.md).

    The script is compiled here and run for each session, before the banner. If a run fails, `on_error` lets
    the session in or refuses it. The error never reaches the caller: it is logged, at most one line per 10 seconds,
    and counted in `errors`. A run that takes more than `max_hook_ms` milliseconds of the processor fails. Address lists
    lie in the directory of the script or in those of `search`. `hits` counts by name how often actions were taken.

    Raises PolicyError when the script is missing, can't be read, or is wrong; the message has line and column. Needs
    lark and google-re2, which the extra `sieve` brings; raises ImportError without them.

    Any thread may call it, several at once: each run has its own state.
    """

    implementation = "Sieve"

    @named_keywords
    def __init__(
        self,
        path: str | PathLike[str],
        *,
        on_error: Choice = "accept",
        search: Sequence[str | PathLike[str]] = (),
        max_hook_ms: int = DEFAULT_HOOK_MS,
    ) -> None:
        super().__init__(path, on_error, logger, max_hook_ms)
        self._host = Host(self.path, Directories(path, search), max_hook_ms)
        self._closed = False
        try:
            statements = parse(decode(read_regular(self.path, MAX_BYTES)[0] or b""))
            self._run = script(statements)
            self.needed_monitors, self._number_of_monitors, lists = needs_of(statements)
        except ScriptError as error:
            raise PolicyError(f"{self.path}:{error}") from None
        loading = Run(cast("Session", None), self._host)
        for options in lists:  # now, so that no session waits for their files; the run reports what is wrong with them
            with contextlib.suppress(InboundAuditError):
                define_list(loading, **DEFINE_LIST.read_options(options))
        self._host.lists.ration = self._ration

    def check(self, audit: InboundAudit) -> None:
        super().check(audit)
        if len(audit.monitors) < self._number_of_monitors:
            position = self._number_of_monitors - 1
            words = f"counts with the monitor at position {position}, and the audit has {len(audit.monitors)}"
            raise PolicyError(f"{self.path}: {words}; start with one --monitor, such as --monitor 300,6, for each")

    @property
    def hits(self) -> Counter[str]:
        """How often actions were taken: by the name of their counter, else by ``file:line``."""
        return self._host.hits

    def validate_connect(self, ac: Session) -> Verdict:
        """Runs the script: may the connection stay?"""
        run = Run(ac, self._host)
        try:
            if self._closed:
                raise PolicyError("the policy is closed")
            if self._overran and self._is_suspended("validate_connect"):
                raise PolicyError(SUSPENDED)
            self._run(run)
            if run.line and self.explains:
                self._note_place(ac, self.path.name, run.line)
            return run.verdict()
        except ScriptError as error:
            return self._failed("validate_connect", f"{self.path.name}:{error}", run.overrun_s)
        except Exception as error:
            return self._failed("validate_connect", f"{self.path.name}: {error}", run.overrun_s)

    def close(self) -> None:
        """Idempotent. Sessions that are validated afterwards are let in or refused, as `on_error` decides."""
        self._closed = True
