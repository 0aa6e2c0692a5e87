"""gunicorn: `count` in a hook of its configuration file, for all workers that call `accept`: sync, gthread, ASGI.

    def post_fork(server, worker):
        audit = InboundAudit(shared="web")
        count(worker, Guard(audit.listener("HTTP"), Limits({"/32,/64": 20})))

Each worker has an audit of its own. With `shared` they count together, and the counts of a worker that was killed go
with it.
"""

from __future__ import annotations

from typing import Any

from gunicorn.workers.base_async import AsyncWorker

from inbound_audit.listeners.admission import Refusal
from inbound_audit.listeners.sockets import GuardSource, counted_context, counted_socket


def count(worker: Any, guard: GuardSource, *, refusal: Refusal = b"") -> None:
    """Makes a worker count its connections. Call it in the hook `post_fork`, once.

    `refusal` is sent to a refused connection; with TLS nothing is. An ASGI worker, and uvicorn's, get the event loop of
    asyncio unless their loop was chosen.

    Raises TypeError for the workers of gevent and eventlet, which accept by the descriptor.
    """
    if isinstance(worker, AsyncWorker):
        raise TypeError(f"{type(worker).__name__} would count nothing: choose another worker_class")
    if worker.cfg.is_ssl:
        refusal, given = b"", worker.cfg.ssl_context
        worker.cfg.set("ssl_context", lambda config, make: counted_context(given(config, make)))
    if "asgi_loop" in worker.cfg.settings and worker.cfg.asgi_loop == "auto":
        worker.cfg.set("asgi_loop", "asyncio")
    if getattr(getattr(worker, "config", None), "loop", None) == "auto":  # uvicorn's
        worker.config.loop = "asyncio"
    for listening in worker.sockets:
        listening.sock = counted_socket(listening.sock, guard, refusal=refusal)
