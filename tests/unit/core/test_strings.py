"""The hash of texts, by the vectors of its authors."""

from __future__ import annotations

import pytest
from tests.support import inner

K0, K1 = 0x0706050403020100, 0x0F0E0D0C0B0A0908
# `vectors_sip128` of the reference implementation: the key is 00 01 ... 0f, the texts are "", 00, 00 01, ...
VECTORS = [
    "a3817f04ba25a8e66df67214c7550293",
    "da87c1d86b99af44347659119b22fc45",
    "8177228da4a45dc7fca38bdef60affe4",
    "9c70b60c5267a94e5f33b6b02985ed51",
    "f88164c12d9c8faf7d0f6e7c7bcd5579",
    "1368875980776f8854527a07690e9627",
    "14eeca338b208613485ea0308fd7a15e",
    "a1f1ebbed8dbc153c0b84aa61ff08239",
]


@pytest.mark.parametrize("size", range(len(VECTORS)))
def test_the_vectors_of_the_reference(size: int) -> None:
    words = inner.sip128(bytes(range(size)), K0, K1)
    assert b"".join(word.to_bytes(8, "little") for word in words).hex() == VECTORS[size]


def test_a_text_is_an_ipv6_address_under_the_fixed_key() -> None:
    assert inner.text_address(b"example") == (*inner.sip128(b"example", K0, K1), 6)


def test_texts_that_differ_have_different_addresses() -> None:
    texts = [b"", b"\x00", b"a", b"A", b"a\x00", *(b"x" * n for n in range(7, 40))]
    assert len({inner.text_address(text) for text in texts}) == len(texts)
