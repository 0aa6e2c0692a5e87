"""The PROXY header that a forwarder sends."""

from __future__ import annotations

import socket
import sys

import pytest
from tests.support import forwarding
from tests.support.forwarding import fronted
from tests.support.gates import said

from inbound_audit.listeners.forward import Forwarder, resolve
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a forwarder needs Linux")

audit, listener, no_held_port = forwarding.audit, forwarding.listener, forwarding.no_held_port  # fixtures


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_proxy_header_comes_first(listener, version):
    from inbound_audit.listeners import proxy

    with fronted(listener, send_proxy=version) as front:
        client, server = front.pair("127.0.0.7")
        with client, server:
            client.sendall(b"EHLO")
            client.shutdown(socket.SHUT_WR)
            got = said(server)
            name, port = client.getsockname()
            if version == "v1":
                assert got == f"PROXY TCP4 {name} 127.0.0.1 {port} {front.port}\r\nEHLO".encode()
            else:
                header = proxy._second_version(got[:16], got[16:28])
                assert (str(header.src_addr), header.src_port, str(header.dst_addr), header.dst_port) == (
                    name,
                    port,
                    "127.0.0.1",
                    front.port,
                )
                assert got[28:] == b"EHLO"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_client_without_an_address_is_unknown(tmp_path, listener, version):
    with (
        socket.socket(socket.AF_UNIX) as bound,
        socket.create_server(("127.0.0.1", 0)) as server,
        Forwarder(listener, resolve(*server.getsockname()), send_proxy=version) as forwarder,
        socket.socket(socket.AF_UNIX) as client,
    ):
        bound.bind(str(tmp_path / "front"))
        bound.listen()
        with Gate(listener, None, [bound]) as gate:
            gate.forward_to(forwarder)
            client.connect(str(tmp_path / "front"))
            with server.accept()[0] as served:
                client.sendall(b"x")
                client.shutdown(socket.SHUT_WR)
                header = b"PROXY UNKNOWN\r\n" if version == "v1" else b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
                assert said(served) == header + b"x"
