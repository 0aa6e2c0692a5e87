"""Lines on standard error: warnings of the package and of its libraries, and what a command says beside its output.

With `as_json` each line is a JSON object with the members time, level and message.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from time import monotonic

from inbound_audit.cli.failure import write_line
from inbound_audit.log_limiter import LogLimiter, kind_of

logger = logging.getLogger("inbound_audit.cli")


class LogLimitFilter(logging.Filter):
    """Limits each kind of message to one line per interval of a `LogLimiter`: those of one place in the code that
    report the same kind of error."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._limiter = LogLimiter(logger, clock=clock)

    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info[1] if record.exc_info else None
        kind = record.pathname, record.lineno, kind_of(None, (raised, *(record.args or ())))
        held_back = self._limiter.admit(kind)
        if held_back:
            record.msg, record.args = f"{record.getMessage()} (and {held_back} more like it)", None
        return held_back is not None


class _StandardError(logging.Handler):
    """Writes each record as a line to the standard error of this moment."""

    waits = True
    """Whether a line waits for what reads it; otherwise it is left out."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.waits:
                print(self.format(record), file=sys.stderr, flush=True)
            else:
                write_line(sys.stderr, self.format(record))
        except Exception:
            self.handleError(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        message = super().format(record)  # with the traceback, if there is one
        return json.dumps({"time": time, "level": record.levelname.lower(), "message": message})


@contextlib.contextmanager
def to_standard_error(as_json: bool) -> Iterator[None]:
    """Sends warnings and errors to standard error while the block runs."""
    handler = _StandardError(logging.WARNING)
    handler.setFormatter(_Json() if as_json else logging.Formatter())
    # The package's own loggers limit themselves, each kind of message for itself.
    foreign = LogLimitFilter()
    handler.addFilter(lambda record: record.name.startswith("inbound_audit") or foreign.filter(record))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def set_up(verbose: bool, as_json: bool = False) -> None:
    """For `serve`, also at a reload: lines begin with the time of day and the level, and wait for no reader; with
    `verbose` refusals are logged, too."""
    for handler in _handlers():
        handler.waits = False
        handler.setLevel(logging.INFO if verbose else logging.WARNING)
        if as_json:
            handler.setFormatter(_Json())
        elif not are_json():
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.getLogger("inbound_audit").setLevel(logging.INFO if verbose else logging.NOTSET)
    # aiosmtpd logs a warning for every mistake of a peer.
    logging.getLogger("mail.log").setLevel(logging.ERROR)


def are_json() -> bool:
    """Whether lines are JSON objects."""
    return any(isinstance(handler.formatter, _Json) for handler in _handlers())


def _handlers() -> list[_StandardError]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _StandardError)]


def say(text: str, level: int = logging.WARNING) -> None:
    """A line to the user on standard error, beside the output of a command."""
    logger.log(level, "%s", text)
