"""The certificate for STARTTLS, and its renewal while sessions are open."""

from __future__ import annotations

import ssl

from inbound_audit.cli.failure import Failure, reason


class Certificate:
    """A certificate chain and its key on disk, and the TLS context that presents it.

    Raises Failure if they can't be read or do not belong together.
    """

    def __init__(self, chain: str, key: str | None) -> None:
        self._chain = chain
        self._key = key
        self.context = self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))

    def renew(self) -> None:
        """Reads the files again, for later handshakes. Raises Failure; the old certificate then stays in use."""
        # Loaded into another context first: a pair that does not match would leave half of itself in this one.
        self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        names = f"--tls-cert {self._chain}" + (f" --tls-key {self._key}" if self._key else "")
        try:
            # Without this OpenSSL asks the terminal for the password of an encrypted key.
            context.load_cert_chain(self._chain, self._key, password=lambda: b"")
        except ssl.SSLError as error:
            why = error.reason or error
            raise Failure(f"{names}: not a PEM certificate with its unencrypted key ({why})") from None
        except OSError as error:
            raise Failure(f"{names}: {reason(error)}") from None
        return context
