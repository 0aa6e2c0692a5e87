"""Snapshots: what is accepted is what `encode` writes, byte for byte; anything else is damaged, with a reason.

The first byte of an input says whether its size and digest are set right first: else hardly any input would be read
beyond them.
"""

from __future__ import annotations

import hashlib
import struct

from inbound_audit.persist.format import _DIGEST, _HEAD, Damaged, decode, encode

SIZE_AT = struct.calcsize("=8sII")


def run(data: bytes) -> None:
    file = data[1:]
    if data[:1] > b"\x40":
        file = sealed(file)
    try:
        snapshot = decode(file)
    except Damaged as error:
        assert str(error)
        return
    pieces, digest = encode(snapshot)
    assert b"".join(pieces) == file, "a snapshot that is accepted is one that is written"
    assert digest == file[-_DIGEST:]
    assert snapshot.series.interval > 0
    assert snapshot.series.num_windows > 0
    assert snapshot.series.name.encode("utf-8") in file


def sealed(file: bytes) -> bytes:
    """The same with its own size and digest."""
    if len(file) < _HEAD.size:
        return file
    whole = len(file) + _DIGEST
    body = file[:SIZE_AT] + struct.pack("=Q", whole) + file[SIZE_AT + 8 :]
    return body + hashlib.blake2b(body, digest_size=_DIGEST).digest()
