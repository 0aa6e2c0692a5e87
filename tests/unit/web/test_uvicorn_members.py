"""The members of uvicorn that the server overrides and reads are there, and mean what it takes them for.

uvicorn promises nothing about its protocol classes, so `pyproject.toml` bounds its version; whoever lifts the bound
runs this first.
"""

from __future__ import annotations

import ast
import asyncio
import inspect

import pytest
import uvicorn
from tests.support.simulated_loop import SimulatedLoop, simulate
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from inbound_audit.web.server import Connection

PROTOCOL = {
    "connection_lost": ["self", "exc"],
    "connection_made": ["self", "transport"],
    "data_received": ["self", "data"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
}
ATTRIBUTES = {"cycle", "loop", "transport"}


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_method_that_is_overridden_has_its_parameters(name: str) -> None:
    assert list(inspect.signature(getattr(H11Protocol, name)).parameters) == PROTOCOL[name]


def test_a_server_captures_signals_in_a_context() -> None:
    assert list(inspect.signature(uvicorn.Server.capture_signals).parameters) == ["self"]
    assert "with self.capture_signals():" in inspect.getsource(uvicorn.Server.serve)


def test_the_lists_above_name_each_member_that_is_used() -> None:
    tree = ast.parse(inspect.getsource(Connection))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert {name for name in vars(Connection) if callable(getattr(H11Protocol, name, None))} - {"__doc__"} == {
        *PROTOCOL
    }
    assert read - vars(Connection).keys() == ATTRIBUTES - vars(Connection).keys()


def test_the_attributes_of_a_connection_are_there() -> None:
    async def main(loop: SimulatedLoop) -> None:
        async def app(scope: object, receive: object, send: object) -> None: ...

        found = H11Protocol(uvicorn.Config(app, log_config=None), ServerState(), {}, asyncio.get_running_loop())
        assert vars(found).keys() >= ATTRIBUTES
        assert found.cycle is None

    simulate(main)
    assert "response_complete" in inspect.getsource(RequestResponseCycle.__init__)
