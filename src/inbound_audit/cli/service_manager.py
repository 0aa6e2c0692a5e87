"""What a service says to systemd (sd_notify(3)): that it is ready, that it stops, what it does, that it does not hang.

A unit of `Type=notify` names a socket in ``$NOTIFY_SOCKET``; with `WatchdogSec=` it kills a service that is silent.
"""

from __future__ import annotations

import logging
import os
import re
import socket

from inbound_audit.cli.failure import reason

FOREVER_USEC = (1 << 64) - 1
"""systemd's USEC_INFINITY, which is no time."""

MIN_BEAT_S = 0.001
"""A process that did nothing else would be no sign of life."""

logger = logging.getLogger("inbound_audit.serve")


class ServiceManager:
    """Connects to the service manager that started this process; without one, `notify` does nothing.

    The socket is connected once, so that the name need not be reachable later, in a changed root or as another user.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.watchdog_s = _watchdog_s()
        """Seconds of silence after which the service manager kills this process; None if it watches no one."""
        address = os.environ.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):  # a name in the file system, or an abstract one
            return
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connected.setblocking(False)
            connected.connect("\0" + address[1:] if address.startswith("@") else address)
            self._socket = connected
        except OSError as error:
            connected.close()
            logger.warning("the service manager at %s can't be reached: %s", address, reason(error))

    @property
    def beat_s(self) -> float | None:
        """Seconds between two signs of life, half of what the watchdog allows; None without a watchdog."""
        return self.watchdog_s and max(self.watchdog_s / 2, MIN_BEAT_S)

    def notify(self, *lines: str) -> None:
        """Sends lines such as ``READY=1``. One that can't be sent is left out: the next one may be."""
        if self._socket is not None:
            try:
                self._socket.send("\n".join(lines).encode("utf-8", "backslashreplace"))
            except OSError as error:
                logger.debug("the service manager does not take %s: %s", lines, reason(error))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _watchdog_s() -> float | None:
    """``$WATCHDOG_USEC`` in seconds, if it is for this process (sd_watchdog_enabled(3))."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text or pid not in ("", str(os.getpid())):
        return None
    if re.fullmatch("[0-9]{1,20}", text) is None or not 0 < int(text) < FOREVER_USEC:
        logger.warning("$WATCHDOG_USEC is ignored, it is no time in microseconds: %.40s", text)
        return None
    return int(text) / 1e6
