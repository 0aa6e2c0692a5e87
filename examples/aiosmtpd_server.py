"""An SMTP server on aiosmtpd: limits by network, a line per message, and the open sessions when it ends.

    python examples/aiosmtpd_server.py [HOST [PORT]]

Needs `pip install inbound-audit[smtp]`. Refused peers get the policy's reply in place of the banner.
"""

import signal
import sys
from typing import Any

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners import Guard
from inbound_audit.listeners.smtp import SMTP, Controller


class Handler:
    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        ac = server.inbound_session  # the accept construct: the client's address, and the sessions around it
        who = f"{ac.remote_ip} ({ac.inbound_session_count()} open)" if ac else "a client without an address"
        print(f"{who}: {len(envelope.content)} bytes", flush=True)
        return "250 thank you"


def main(host: str = "127.0.0.1", port: str = "2525") -> None:
    with InboundAudit() as audit:
        guard = Guard(audit.listener("SMTP", name="mx"), Limits({"/32": 2, "/24,/48": 20, "/0": 1000}))
        controller = Controller(Handler(), host, int(port), guard=guard)
        controller.start()
        for address in controller.addresses:
            print("listening on", *address, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
        print(f"{guard.accepted} accepted, {guard.refused} refused; open now:", audit.top(3), flush=True)
        controller.stop()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # for sigwait, in every thread
    main(*sys.argv[1:])
