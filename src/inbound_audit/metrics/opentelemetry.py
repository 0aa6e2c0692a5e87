"""For OpenTelemetry: the figures of shared audits as gauges of a meter, by its API alone. The program that exports
them has the SDK.

    observe(metrics.get_meter("inbound_audit"), [SharedAudit("mail")])

Names follow its semantic conventions: ``inbound_audit.prefix.sessions`` in place of ``inbound_audit_prefix_sessions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from inbound_audit.metrics.figures import ABOUT, SharedAudit

UNITS = {
    "up": "1",
    "processes": "{process}",
    "damaged_processes": "{process}",
    "sessions": "{session}",
    "events": "{event}",
    "prefix_sessions": "{session}",
    "nodes": "{node}",
    "cluster_sessions": "{session}",
}


def observe(meter: Meter, audits: Sequence[SharedAudit]) -> None:
    """Makes a gauge of each figure. A collection reads each audit once per gauge (`SharedAudit.figures`)."""
    for name, about in ABOUT.items():
        otel_name = f"inbound_audit.{name.replace('_', '.')}"
        meter.create_observable_gauge(otel_name, [_callback(name, audits)], UNITS[name], about)


def _callback(name: str, audits: Sequence[SharedAudit]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:
        for audit in audits:
            for figure in audit.figures():
                if figure.name == name:
                    yield Observation(figure.value, dict(figure.labels))

    return read
