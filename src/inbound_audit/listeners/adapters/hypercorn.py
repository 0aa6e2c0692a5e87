"""hypercorn: a configuration whose sockets count.

    config = CountedConfig(make_guard)
    config.bind = ["[::]:8000"]
    asyncio.run(serve(app, config))

With workers `hypercorn.run.run(config)` takes the same configuration: each worker makes a guard of its own.
"""

from __future__ import annotations

from hypercorn.config import Config, Sockets

from inbound_audit.listeners.admission import Refusal
from inbound_audit.listeners.sockets import GuardSource, counted_socket


class CountedConfig(Config):
    """hypercorn's configuration. Connections of HTTP/1, HTTP/2 and WebSockets are counted, QUIC is not.

    `guard` and `refusal` are as for `counted_socket`; with workers `guard` must be a function of a module. A refusal
    is sent in clear: to the connections of `insecure_bind`, and to those of `bind` if there is no certificate.
    """

    def __init__(self, guard: GuardSource, *, refusal: Refusal = b"") -> None:
        super().__init__()
        self.guard, self.refusal = guard, refusal

    def create_sockets(self) -> Sockets:
        made = super().create_sockets()
        secure = [counted_socket(listening, self.guard) for listening in made.secure_sockets]
        clear = [counted_socket(listening, self.guard, refusal=self.refusal) for listening in made.insecure_sockets]
        return Sockets([*secure], [*clear], made.quic_sockets)
