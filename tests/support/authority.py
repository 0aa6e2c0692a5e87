"""An authority of a test's own, which signs certificates of nodes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trustme


class Authority:
    """Signs certificates, whose common name is the name of a node."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._authority = trustme.CA()
        place.mkdir()
        self.file = place / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def files(
        self, name: str, file: str = "", before: datetime | None = None, after: datetime | None = None
    ) -> dict[str, str]:
        """Settings with a new certificate of that name, valid not before and not after these moments. It takes the
        place of the last one in the files called `file`, which are else called as the node is."""
        made = self._authority.issue_cert("127.0.0.1", common_name=name, not_before=before, not_after=after)
        chain, key = self._place / f"{file or name}.pem", self._place / f"{file or name}.key"
        made.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        return {"tls_cert": str(chain), "tls_key": str(key), "tls_ca": str(self.file)}
