"""What goes wrong while `serve` runs, on standard error: one line a burst, whatever a peer can provoke."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

INTERVAL = 10.0
"""Seconds for which a line of code that has logged something keeps quiet."""


class LogLimitFilter(logging.Filter):
    """Lets the first record of each place in the code through, then none for `INTERVAL` seconds, and tells how many
    it held back. The places are few, so this needs no bound."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._quiet_until: dict[tuple[str, int], float] = {}
        self._held_back: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place, now = (record.pathname, record.lineno), self._clock()
        if now < self._quiet_until.get(place, now):
            self._held_back[place] = self._held_back.get(place, 0) + 1
            return False
        self._quiet_until[place] = now + INTERVAL
        held_back = self._held_back.pop(place, 0)
        if held_back:
            record.msg, record.args = f"{record.getMessage()} (and {held_back} more like it)", None
        return True


def set_up(verbose: bool) -> None:
    """Warnings and errors go to standard error; with `verbose` refusals too, a line a burst."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    # This package's own loggers keep to one line a burst by themselves, each kind of message for itself.
    foreign = LogLimitFilter()
    handler.addFilter(lambda record: record.name.startswith("inbound_audit") or foreign.filter(record))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if verbose:
        logging.getLogger("inbound_audit").setLevel(logging.INFO)
    # aiosmtpd warns of everything that a peer gets wrong.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
