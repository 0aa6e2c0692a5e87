"""For Prometheus: a collector of shared audits, and the pages that are scraped. Needs the extra `metrics`.

    REGISTRY.register(Collector([SharedAudit("mail")]))  # in a program that has metrics of its own

A scrape reads the counts of that moment from outside the processes that count: it makes none of them wait.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector as BaseCollector

from inbound_audit.log_limiter import LogLimiter
from inbound_audit.metrics.figures import ABOUT, SharedAudit

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""An application of WSGI (PEP 3333)."""

logger = logging.getLogger("inbound_audit.metrics")

PREFIX = "inbound_audit_"

MAX_SCRAPES = 16
"""Connections that are served at once; those beyond it are closed."""

REQUEST_TIMEOUT_S = 5
"""Seconds that a peer may be silent."""


class Collector(BaseCollector):
    """The figures of shared audits as gauges, each with the label `audit`. Any thread may collect."""

    def __init__(self, audits: Sequence[SharedAudit]) -> None:
        self._audits = audits

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for audit in self._audits:
            for name, labels, value in audit.figures():
                if name not in families:
                    families[name] = GaugeMetricFamily(PREFIX + name, ABOUT[name], labels=list(labels))
                families[name].add_metric(list(labels.values()), value)
        yield InfoMetricFamily(f"{PREFIX}build", "What reads the audits.", {"version": version("inbound-audit")})
        yield from families.values()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: to register it reads no audit."""
        return ()


def registry_of(audits: Sequence[SharedAudit]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collector(audits))
    return registry


def application(audits: Sequence[SharedAudit]) -> Application:
    """The pages `/metrics`, and `/healthz`: 200 if each audit can be read, otherwise 503 and why. Others are 404."""
    metrics: Application = make_wsgi_app(registry_of(audits))

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/healthz":
            why = _why_down(audits)
            return _page(start_response, "503 Service Unavailable" if why else "200 OK", why or "ok")
        return _page(start_response, "404 Not Found", "the pages are /metrics and /healthz")

    return serve


def _why_down(audits: Sequence[SharedAudit]) -> str:
    return "\n".join(audit.why_down for audit in audits if not audit.is_up())


def _page(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves an application at a listening socket, which is closed with it. At most `MAX_SCRAPES` peers at once."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, app: Application) -> None:
        host, port = listening.getsockname()[:2]
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = host, port  # no name is looked up
        self.setup_environ()
        self.set_app(app)
        self._room = threading.BoundedSemaphore(MAX_SCRAPES)
        self._errors = LogLimiter(logger)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        self._errors.report(logging.INFO, "a scrape has failed", kind="scrape")


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
