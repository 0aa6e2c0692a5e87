"""`SievePolicy`: a policy in Sieve, asked once a session."""

from __future__ import annotations

from collections import Counter
from os import PathLike
from typing import TYPE_CHECKING

from inbound_audit.errors import PolicyError
from inbound_audit.policy.base import Choice, ScriptPolicy
from inbound_audit.sieve.compile import script
from inbound_audit.sieve.faults import ScriptError
from inbound_audit.sieve.parse import parse
from inbound_audit.sieve.run import Host, Run, logger
from inbound_audit.sieve.source import read

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session
    from inbound_audit.policy.verdict import Verdict


class SievePolicy(ScriptPolicy):
    """A policy written in Sieve with the reference's additions (docs/policies.md).

    The script is compiled here and run for each session, before the banner. `on_error` says what becomes of a session
    on which it fails: it is let in, or refused. Such an error never reaches the caller; it is logged once a burst and
    counted in `errors`. `hits` counts by name how often actions were taken.

    Raises PolicyError when the script is missing, can't be read, or is wrong; the message has line and column. Needs
    lark, which the extra `sieve` brings; ImportError says so.

    Any thread may ask, several at once: a run keeps what it works out to itself.
    """

    implementation = "Sieve"

    def __init__(self, path: str | PathLike[str], *, on_error: Choice = "accept") -> None:
        super().__init__(path, on_error, logger)
        self._host = Host(self.path)
        self._closed = False
        try:
            self._run = script(parse(read(self.path)))
        except ScriptError as error:
            raise PolicyError(f"{self.path}:{error}") from None

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
            self._run(run)
        except ScriptError as error:
            return self._failed("validate_connect", f"{self.path.name}:{error}")
        except Exception as error:
            return self._failed("validate_connect", f"{self.path.name}: {error}")
        return run.verdict()

    def close(self) -> None:
        """Idempotent. Sessions that are asked about afterwards are let in or refused as `on_error` says."""
        self._closed = True
