"""The server of `inbound-audit guard`: what a reload that fails leaves."""

from __future__ import annotations

import pytest

from inbound_audit.cli import service
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.guard_server import GuardServer


class Routes:
    """What stands for the server of a forwarder: where later connections go."""

    to = "forwarder"

    def route_to_python(self) -> None:
        self.to = "Python"

    def route(self) -> None:
        self.to = "forwarder"


def test_a_policy_that_can_not_be_used_leaves_the_old_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = Routes()

    def fails() -> None:
        assert routes.to == "Python"
        raise Failure("no room")

    monkeypatch.setattr(service.Service, "_load", lambda self, settings: fails)
    server = object.__new__(GuardServer)
    monkeypatch.setattr(server, "_sessions", routes, raising=False)
    use = server._load(object())  # type: ignore[arg-type]
    with pytest.raises(Failure, match="no room"):
        use()
    assert routes.to == "forwarder"
