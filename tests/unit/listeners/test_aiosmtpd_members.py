"""The private members of aiosmtpd that listeners use are there, and mean what listeners take them for.

aiosmtpd promises nothing about them, so `pyproject.toml` bounds its version; whoever lifts the bound runs this first.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import aiosmtpd.controller
import aiosmtpd.smtp
import pytest
from aiosmtpd.handlers import Sink

import inbound_audit.listeners

HERE = Path(inbound_audit.listeners.__file__).parent

METHODS = {
    "_call_handler_hook": ["self", "command", "args"],
    "_cb_client_connected": ["self", "reader", "writer"],
    "_create_session": ["self"],
    "_getaddr": ["self", "arg"],
    "_getparams": ["self", "params"],
    "_handle_client": ["self"],
    "_reset_timeout": ["self", "duration"],
    "_set_post_data_state": ["self"],
    "_timeout_cb": ["self"],
    "auth_LOGIN": ["self", "_", "args"],
    "auth_PLAIN": ["self", "_", "args"],
    "challenge_auth": ["self", "challenge", "encode_to_b64", "log_client_response"],
    "handle_exception": ["self", "error"],
    "push": ["self", "status"],
    "smtp_DATA": ["self", "arg"],
    "smtp_STARTTLS": ["self", "arg"],
}
ATTRIBUTES = {
    "_auth_callback",
    "_auth_methods",
    "_call_limit_base",
    "_call_limit_default",
    "_decode_data",
    "_enforce_call_limit",
    "_ehlo_hook_ver",
    "_handle_hooks",
    "_handler_coroutine",
    "_original_transport",
    "_smtp_methods",
    "_timeout_duration",
    "_timeout_handle",
    "_tls_handshake_okay",
    "_tls_protocol",
}
OF_A_CONNECTION = {"_reader", "_writer"}
CONTROLLER = {"_create_server", "_factory_invoked", "_run", "_thread", "_thread_exception", "_trigger_server"}
OF_A_READER = {"_buffer", "_eof", "_maybe_resume_transport", "_transport", "_wait_for_data"}
OF_ASYNCIO = {"_conn_lost", "_drain_waiters", "_ssl_protocol", "_ssl_shutdown_timeout", *OF_A_READER}


@pytest.fixture
def server() -> Any:
    loop = asyncio.new_event_loop()
    yield aiosmtpd.smtp.SMTP(Sink(), hostname="mx.example", loop=loop, command_call_limit=9)
    loop.close()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_parameters(name: str) -> None:
    assert list(inspect.signature(getattr(aiosmtpd.smtp.SMTP, name)).parameters) == METHODS[name]


def test_the_attributes_of_a_server_are_there(server: Any) -> None:
    assert vars(server).keys() >= ATTRIBUTES


def test_the_members_of_the_controller_are_there() -> None:
    controller = aiosmtpd.controller.Controller(Sink(), "127.0.0.1", 0)
    assert {name for name in CONTROLLER if hasattr(controller, name)} == CONTROLLER
    controller.loop.close()


def test_a_reader_is_kept_of_a_connection(server: Any) -> None:
    reader, writer = object(), object()
    server._cb_client_connected(reader, writer)
    assert (server._reader, server._writer) == (reader, writer)


def test_the_members_of_a_reader_are_there() -> None:
    loop = asyncio.new_event_loop()
    reader = asyncio.StreamReader(loop=loop)
    assert {name for name in OF_A_READER if hasattr(reader, name)} == OF_A_READER
    assert isinstance(reader._buffer, bytearray)  # type: ignore[attr-defined]
    loop.close()


def test_without_an_authenticator_the_callback_is_the_one_that_always_fails(server: Any) -> None:
    assert server._auth_callback is aiosmtpd.smtp.login_always_fail
    assert not aiosmtpd.smtp.login_always_fail("PLAIN", b"user", b"password")
    assert {name: mechanism.method.__name__ for name, mechanism in server._auth_methods.items()} == {
        "LOGIN": "auth_LOGIN",
        "PLAIN": "auth_PLAIN",
    }


def test_a_tls_transport_has_what_bounds_its_close() -> None:
    """Python 3.10 has no time-out there; listeners then abort the transport."""
    parameters = inspect.signature(asyncio.sslproto.SSLProtocol.__init__).parameters  # type: ignore[attr-defined]
    if "ssl_shutdown_timeout" in parameters:
        source = inspect.getsource(asyncio.sslproto.SSLProtocol)  # type: ignore[attr-defined]
        assert "self._loop.call_later(\n                self._ssl_shutdown_timeout" in source


def test_without_aiosmtpd_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtpd", None)
    for name in [name for name in sys.modules if name.startswith(("aiosmtpd.", "inbound_audit.listeners.smtp"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'inbound-audit[smtp]'")) as raised:
        importlib.import_module("inbound_audit.listeners.smtp")
    assert raised.value.name == "aiosmtpd"


def _private_names(path: Path) -> set[str]:
    """The private names that a file reads, assigns, overrides, or looks up by `getattr`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Constant(value=str(name)):
                names.add(name)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_the_lists_above_name_each_member_that_is_used(server: Any) -> None:
    controller = aiosmtpd.controller.Controller(Sink(), "127.0.0.1", 0)
    theirs = {*dir(aiosmtpd.smtp.SMTP), *vars(server), *OF_A_CONNECTION}
    used = set[str]().union(*(_private_names(path) for path in HERE.glob("smtp*.py")))
    listed = {name for name in (*METHODS, *ATTRIBUTES, *OF_A_CONNECTION) if name.startswith("_")}
    assert (used - OF_ASYNCIO) & theirs == listed
    assert _private_names(HERE / "smtp.py") & {*dir(controller), *vars(controller)} == CONTROLLER
    assert {name for path in HERE.glob("*.py") for name in _private_names(path)} >= OF_ASYNCIO
    controller.loop.close()
