"""Lines of decision logs, as `why` and looks read them: any bytes are lines about a client or are left out, and can be
shown."""

from __future__ import annotations

import io
import json

from inbound_audit.cli.why import _about, _report
from inbound_audit.feed.decision_lines import decisions
from inbound_audit.feed.refusals import refusal_of

CLIENTS = ("192.0.2.7", "2001:db8::7")
LINE = json.dumps(
    {"time": "now", "client": CLIENTS[0], "done": "refused", "by": "limit", "count": 2, "most": 1}
).encode()


def run(data: bytes) -> None:
    for client in CLIENTS:
        found = list(_about(io.BytesIO(data), client))
        assert len(found) <= data.count(b"\n") + 1
        shown = _report(client, [], None, found).plain.encode().decode().split("\n")
        assert len(shown) == 1 + len(found), "each is one line on the terminal"
        assert all(line.isprintable() for line in shown), "no terminal obeys it"
        again = json.dumps(found, allow_nan=False).encode()
        assert json.loads(again) == found
    for line in decisions(data.split(b"\n")):
        refusal = refusal_of(line)
        if refusal is not None:
            members = vars(refusal[1])
            json.dumps(members, allow_nan=False).encode()
            assert all(value.isprintable() for value in members.values() if isinstance(value, str))
    after = list(_about(io.BytesIO(data + b"\n" + LINE), CLIENTS[0]))
    assert after[-1] == json.loads(LINE), "a line that was written afterwards is found"
