"""Who may read and who may change, by tokens; and which requests a page of another site has sent.

There are no cookies, so a browser adds nothing to the requests of other sites that would permit them anything. What is
left is a page that asks an open server of this machine: by a name of its own that leads here (DNS rebinding), which the
header `Host` shows, or by requests whose answers it cannot read, which `Sec-Fetch-Site` and `Origin` show.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from ipaddress import ip_address

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of each answer."""

MIN_TOKEN, MAX_TOKEN = 16, 256
"""Characters of a token."""

_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{{MIN_TOKEN},{MAX_TOKEN}}}")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::[0-9]{0,5})?")
_LOCAL = ("localhost",)
_OWN_SITE = ("same-origin", "none")


class Refusal(Exception):
    """A request that is not served: the status, and a sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Permission:
    may_change: bool


@dataclass(frozen=True)
class Access:
    """The rules of one server. `open` means that reading needs no token. `hosts` are further names of this server.

    A request without a token may read if `open`; one with `reading` may read; one with `changing` may read and change.
    """

    reading: str | None = field(default=None, repr=False)
    changing: str | None = field(default=None, repr=False)
    open: bool = False
    hosts: Collection[str] = ()

    def check_host(self, host: str | None) -> None:
        """Raises Refusal for a name that is not ours. An address is: no page of another site has it as its origin."""
        found = _HOST.fullmatch(host or "")
        name = found["host"].lower() if found else ""
        if name not in _LOCAL and name not in self.hosts and not _is_address(name):
            raise Refusal(421, f"{name!r} is no name of this server; if it is, write --host {name or 'NAME'}")

    @staticmethod
    def check_form(version: str, headers: Mapping[str, str]) -> None:
        """Raises Refusal for a request that a proxy may read in another way than we do. RFC 9112, 2.3 and 6.1."""
        if version not in ("1.0", "1.1"):
            raise Refusal(505, "write HTTP/1.1")
        if "transfer-encoding" in headers and "content-length" in headers:
            raise Refusal(400, "write Content-Length or Transfer-Encoding, not both")

    def check_site(self, headers: Mapping[str, str], *, changes: bool) -> None:
        """Raises Refusal for a request that a page of another site has sent, as far as its browser says so."""
        if headers.get("sec-fetch-site", "same-origin") not in _OWN_SITE:
            raise Refusal(403, "requests of other sites are refused")
        if changes:
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                raise Refusal(403, "requests of other sites are refused")
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refusal(415, "write the change as application/json")

    def permission(self, authorization: str | None) -> Permission:
        """What a request with that header may do. Raises Refusal. The time it takes says nothing about the tokens."""
        if authorization is None:
            if self.open:
                return Permission(may_change=False)
            raise Refusal(401, "a token is needed: the header Authorization: Bearer TOKEN")
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        # Both are compared, whatever the first comparison says.
        may_change, may_read = (_is_same(given, known) for known in (self.changing, self.reading))
        if scheme.lower() != "bearer" or not (may_change or may_read):
            raise Refusal(401, "the token is not the one of this server")
        return Permission(may_change)


def read_token(text: str) -> str:
    """The token in the text of a file. Raises ValueError."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            f"write one token of {MIN_TOKEN} to {MAX_TOKEN} letters, digits and -._~+/=, such as openssl rand -hex 32 "
            "makes"
        )
    return token


def read_name(text: str) -> str:
    """A name of the server, as `check_host` compares it. Raises ValueError for what no browser sends as a name."""
    name = text.lower()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r}: write the name alone, as browsers send it, without a port: audit.example.net")
    return name


def _is_same(given: bytes, known: str | None) -> bool:
    return compare_digest(given, (known or "").encode()) and known is not None


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name.strip("[]")))
    except ValueError:
        return False
