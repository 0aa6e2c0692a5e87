"""`SievePolicy`: a policy in Sieve, asked once a session."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inbound_audit.errors import PolicyError
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.policy.verdict import ACCEPT, REFUSAL_CODE, Verdict
from inbound_audit.sieve.compile import script
from inbound_audit.sieve.faults import ScriptError
from inbound_audit.sieve.parse import parse
from inbound_audit.sieve.run import Host, Run, logger
from inbound_audit.sieve.source import read

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session

# What a client is told when the script fails and failing means refusing: nothing about the script.
_FAILED = Verdict(False, REFUSAL_CODE, "service not available, try again later", disconnect=True)
_HOOK = "validate_connect"


class SievePolicy:
    """A policy written in Sieve with the reference's additions (docs/policies.md).

    The script is compiled here and run for each session, before the banner. `on_error` says what becomes of a session
    on which it fails: it is let in, or refused. Such an error never reaches the caller; it is logged once a burst and
    counted in `errors`. `hits` counts by name how often actions were taken.

    Raises PolicyError when the script is missing, can't be read, or is wrong; the message has line and column. Needs
    lark, which the extra `sieve` brings; ImportError says so.

    Any thread may ask, several at once: a run keeps what it works out to itself.
    """

    def __init__(self, path: str | PathLike[str], *, on_error: Literal["accept", "refuse"] = "accept") -> None:
        if on_error not in ("accept", "refuse"):
            raise PolicyError(f"on_error {on_error!r}: is neither 'accept' nor 'refuse'")
        self.path = Path(path)
        self.on_error = on_error
        self.errors_by_hook: Counter[str] = Counter()
        self.last_error: str | None = None
        self._host = Host(self.path)
        self._lock = threading.Lock()
        self._burst = LogLimiter(logger)
        self._closed = False
        try:
            self._run = script(parse(read(self.path)))
        except ScriptError as error:
            raise PolicyError(f"{self.path}:{error}") from None

    @property
    def implementation(self) -> str:
        """What runs the script."""
        return "Sieve"

    @property
    def hits(self) -> Counter[str]:
        """How often actions were taken: by the name of their counter, else by ``file:line``."""
        return self._host.hits

    @property
    def errors(self) -> int:
        """How many runs failed since the policy was loaded."""
        return sum(self.errors_by_hook.values())

    def validate_connect(self, ac: Session) -> Verdict:
        """Runs the script: may the connection stay?"""
        run = Run(ac, self._host)
        try:
            if self._closed:
                raise PolicyError("the policy is closed")
            self._run(run)
        except Exception as error:
            return self._failed(error)
        return run.verdict()

    def close(self) -> None:
        """Idempotent. Sessions that are asked about afterwards are let in or refused as `on_error` says."""
        self._closed = True

    def _failed(self, error: Exception) -> Verdict:
        words = f"{self.path.name}:{error}" if isinstance(error, ScriptError) else f"{self.path.name}: {error}"
        with self._lock:
            self.errors_by_hook[_HOOK] += 1
            self.last_error = words
        self._burst.report(logging.ERROR, "%s: %s failed: %s", self.path, _HOOK, words)
        return ACCEPT if self.on_error == "accept" else _FAILED
