"""The certificate for STARTTLS, and its renewal while sessions are open."""

from __future__ import annotations

import ssl

from inbound_audit.cli.failure import Failure, reason


class Certificate:
    """A certificate chain and its key on disk, and the TLS context that presents it.

    Raises Failure when they cannot be read or do not belong together.
    """

    def __init__(self, chain: str, key: str | None) -> None:
        self._chain = chain
        self._key = key
        self.context = self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))

    def renew(self) -> None:
        """Reads the files anew; handshakes from now on use them. Raises Failure, and then the old ones stay."""
        # Tried on a context of its own first: loading a pair that does not match leaves half of it behind.
        self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        names = f"--tls-cert {self._chain}" + (f" --tls-key {self._key}" if self._key else "")
        try:
            # An encrypted key gets a wrong password: a server must not stop to ask for one.
            context.load_cert_chain(self._chain, self._key, password=lambda: b"")
        except ssl.SSLError as error:
            why = error.reason or error
            raise Failure(f"{names}: no PEM of a certificate and its unencrypted key ({why})") from None
        except OSError as error:
            raise Failure(f"{names}: {reason(error)}") from None
        return context
