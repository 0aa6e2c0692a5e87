"""Requests to a process of a shared audit: each gets one answer, and no request makes the process fail.

An answer is a line with one JSON object. What is refused has a reason; an error that the program did not foresee is
logged with its traceback, and is a finding. The client reads each answer, and any line in the place of an answer.
"""

from __future__ import annotations

import json
import logging

from inbound_audit import InboundAudit
from inbound_audit.errors import SharedStateError
from inbound_audit.series.requests import handle
from inbound_audit.shared.control import client

MAX_SERIES = 64  # then the audit is made anew: each takes address space

audit: InboundAudit | None = None


class Unforeseen(logging.Handler):
    """An error with a traceback is a finding."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            raise AssertionError("a request ends in an error that was not foreseen") from record.exc_info[1]


logging.getLogger("inbound_audit").handlers[:] = [Unforeseen()]
logging.getLogger("inbound_audit").propagate = False


def target() -> InboundAudit:
    global audit
    if audit is not None and len(audit.series.names) > MAX_SERIES:
        audit.close()
        audit = None
    if audit is None:
        audit = InboundAudit(capacity=1 << 20)
        audit.series.define("known", "ip", 60, 6)
        audit.series.define("texts", "string", 60, 6)
    return audit


def run(data: bytes) -> None:
    answer = handle(target(), data)
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1
    read = json.loads(answer)
    assert isinstance(read["ok"], bool)
    assert read["ok"] or read["error"], "a refusal has a reason"
    assert client._parsed(bytearray(answer)) == read
    other = client._parsed(bytearray(data))
    assert isinstance(other, (dict, SharedStateError))
