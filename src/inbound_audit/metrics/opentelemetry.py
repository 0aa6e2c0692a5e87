"""For OpenTelemetry: the figures of shared audits as gauges of a meter, by its API alone. The program that exports
them has the SDK.

    observe(metrics.get_meter("inbound_audit"), [SharedAudit("mail")])

Names follow its semantic conventions: ``inbound_audit.prefix.sessions`` in place of ``inbound_audit_prefix_sessions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from inbound_audit.metrics.figures import ABOUT, SharedAudit
from inbound_audit.process import ProcessLock

UNITS = {
    "up": "1",
    "processes": "{process}",
    "damaged_processes": "{process}",
    "sessions": "{session}",
    "served": "1",
    "events": "{event}",
    "prefix_sessions": "{session}",
    "nodes": "{node}",
    "cluster_sessions": "{session}",
}


def observe(meter: Meter, audits: Sequence[SharedAudit]) -> None:
    """Makes a gauge of each figure. A collection reads each audit once."""
    collection = _Collection(audits)
    for name, about in ABOUT.items():
        otel_name = f"inbound_audit.{name.replace('_', '.')}"
        meter.create_observable_gauge(otel_name, [collection.callback(name)], UNITS[name], about)


class _Collection:
    """The figures of a collection, which asks each gauge once: a gauge that is asked again belongs to the next one.

    Lock rule: `_lock` is held while the audits are read and figures are taken.
    """

    def __init__(self, audits: Sequence[SharedAudit]) -> None:
        self._audits = audits
        self._lock = ProcessLock()
        self._left: dict[str, list[Observation]] = {}

    def callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(options: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                if name not in self._left:
                    self._left = {each: [] for each in ABOUT}
                    for figure in chain.from_iterable(audit.figures() for audit in self._audits):
                        self._left[figure.name].append(Observation(figure.value, dict(figure.labels)))
                return self._left.pop(name)

        return read
