"""The certificate for STARTTLS, which is read again while sessions are open."""

from __future__ import annotations

import contextlib
import ssl

from inbound_audit.cli.failure import Failure, reason
from inbound_audit.regular_file import named_regular


class Certificate:
    """A certificate chain and its key on disk; a chain without a key has it in the same file."""

    def __init__(self, chain: str, key: str | None) -> None:
        self._chain = chain
        self._key = key

    def load(self) -> ssl.SSLContext:
        """Reads the files, which may block. Returns a TLS context that presents the certificate.

        Raises Failure if the files can't be read, are no regular ones or too large, or do not belong together.
        """
        names = f"--tls-cert {self._chain}" + (f" --tls-key {self._key}" if self._key else "")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            with contextlib.ExitStack() as opened:
                chain = opened.enter_context(named_regular(self._chain))
                key = opened.enter_context(named_regular(self._key)) if self._key else None
                # Without a password OpenSSL asks the terminal for that of an encrypted key.
                context.load_cert_chain(chain, key, password=lambda: b"")
        except ssl.SSLError as error:
            why = error.reason or error
            raise Failure(f"{names}: not a PEM certificate with its unencrypted key ({why})") from None
        except OSError as error:
            raise Failure(f"{names}: {reason(error)}") from None
        return context
