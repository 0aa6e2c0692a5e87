"""The certificate of a node: its common name is the node's name, and the cluster's authority has signed it."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

from inbound_audit.errors import ClusterError, cause_of
from inbound_audit.regular_file import named_regular


def check_certificate(chain: str, key: str, authority: str, node: str) -> None:
    """Raises ClusterError, which says what to do, if other nodes would not take this certificate as that node's."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        with named_regular(authority) as checked:
            client.load_verify_locations(checked)
    except ssl.SSLError:
        raise ClusterError(f"--tls-ca {authority}: not a PEM certificate") from None
    except OSError as error:
        raise ClusterError(f"--tls-ca {authority}: {cause_of(error)}") from None
    name = _name_in_handshake(client, _server(chain, key), chain, authority)
    if name != node:
        raise ClusterError(
            f"--tls-cert {chain}: its common name is {name!r}, and this node is {node!r}: other nodes would drop its "
            f"frames. Give --node {name}, or a certificate of that name"
        )


def _server(chain: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with named_regular(chain) as checked, named_regular(key) as checked_key:
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(checked, checked_key, password=lambda: b"")
    except ssl.SSLError as error:
        why = error.reason or error
        raise ClusterError(
            f"--tls-cert {chain} --tls-key {key}: not a certificate and its unencrypted key ({why})"
        ) from None
    except OSError as error:
        raise ClusterError(f"--tls-cert {chain} --tls-key {key}: {cause_of(error)}") from None
    return context


def _name_in_handshake(client: ssl.SSLContext, server: ssl.SSLContext, chain: str, authority: str) -> object:
    """The common name that a client sees: a handshake in memory checks signatures and dates as another node does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (ours, theirs, ours, theirs):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ClusterError(f"--tls-cert {chain} --tls-ca {authority}: {error.verify_message}") from None
    subject: Any = (ours.getpeercert() or {}).get("subject", ())
    return next((value for names in subject for field, value in names if field == "commonName"), None)
