"""What a fork waits for in a gate or a forwarder. It knows of them only that they can be held and let go."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inbound_audit._ipcount import NativeForwarder, NativeGate


class Batches:
    """What a fork waits for: that no thread of it is in the middle of a batch. Each fork of a thread, also one that
    a signal handler makes in the middle of another, gives back what it has taken itself."""

    def __init__(self, gate: NativeGate | NativeForwarder) -> None:
        self._gate = weakref.ref(gate)
        self._of_thread = threading.local()

    def acquire(self) -> None:
        gate = self._gate()
        held = self._of_thread.__dict__.setdefault("held", [])
        held.append(gate if gate is not None and gate._hold() else None)

    def release(self) -> None:
        gate = self._of_thread.held.pop()
        if gate is not None:
            gate._let_go()
