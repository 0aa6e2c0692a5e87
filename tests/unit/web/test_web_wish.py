"""Changes that a browser wishes: what is read of them, and which a person has to confirm."""

from __future__ import annotations

import json

import pytest

from inbound_audit.web.wish import Wish, read_wish


def test_what_is_read() -> None:
    body = b'{"action": "deny", "prefix": "192.0.2.0/24", "for_s": 60, "why": "a flood"}'
    assert read_wish(body) == Wish("deny", "192.0.2.0/24", 60.0, "a flood")
    assert read_wish(b'{"action": "lift", "prefix": "2001:DB8::7", "for_s": null}') == Wish("lift", "2001:db8::7/128")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "write the change as a JSON object"),
        (b"[" * 9000, "write the change as a JSON object"),
        (b"\xff", "write the change as a JSON object"),
        (b"[]", "such as"),
        (b'{"prefix": "192.0.2.7"}', "such as"),
        (b'{"action": "drop", "prefix": "192.0.2.7"}', "write one of deny, allow, lift"),
        (b'{"action": "deny", "prefix": "192.0.2.7/24"}', "write 192.0.2.0/24"),
        (b'{"action": "deny", "prefix": "example.com"}', "example.com"),
        (b'{"action": "deny", "prefix": 7}', "prefix: 7.0: has the wrong type"),
        (b'{"action": "deny", "prefix": "192.0.2.7", "for_s": true}', "for_s: true: has the wrong type"),
        (b'{"action": "deny", "prefix": "192.0.2.7", "confirm": 1}', "confirm: 1.0: has the wrong type"),
        (b'{"action": "deny", "prefix": "192.0.2.7", "for": 7}', "did you mean 'for_s'"),
    ],
)
def test_what_is_no_change(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_wish(body)


def test_a_number_too_large_is_infinite() -> None:
    digits = b"9" * 4000
    assert read_wish(b'{"action": "deny", "prefix": "192.0.2.7", "for_s": %s}' % digits).for_s == float("inf")


@pytest.mark.parametrize(
    ("action", "prefix", "needed"),
    [
        ("deny", "192.0.2.0/24", False),
        ("deny", "127.0.0.0/8", True),
        ("deny", "127.9.0.0/16", True),
        ("deny", "::/64", True),
        ("deny", "0.0.0.0/0", True),
        ("deny", "::/0", True),
        ("allow", "127.0.0.0/8", False),
        ("allow", "::/0", True),
        ("lift", "::/0", False),
        ("lift", "127.0.0.1", False),
    ],
)
def test_which_changes_a_person_confirms(action: str, prefix: str, needed: bool) -> None:
    wish = read_wish(json.dumps({"action": action, "prefix": prefix}).encode())
    assert bool(wish.needs_confirmation) == needed
