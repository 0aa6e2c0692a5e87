"""Regular expressions for msys.pcre: RE2, whose time grows with the length of the text alone."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from inbound_audit.errors import PolicyError

_REFERENCE = re.compile(rb"\$(\$|\d|\{\d+\})")


class PatternError(Exception):
    """A pattern that RE2 can't compile."""


@lru_cache(maxsize=256)
def _compile(pattern: bytes) -> Any:
    try:
        import re2
    except ImportError:
        raise PolicyError("msys.pcre needs google-re2: pip install 'inbound-audit[sieve]'") from None
    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1  # Lua's strings are bytes
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        shown = reason.decode("utf-8", "backslashreplace") if isinstance(reason, bytes) else str(reason)
        raise PatternError(f"{pattern.decode('utf-8', 'backslashreplace')!r}: {shown}") from None


def match(subject: bytes, pattern: bytes) -> tuple[bytes, bytes] | None:
    """The spans of all groups (``"0 5 -1 -1"``) and the numbers of the named ones (``"name=1"``); None without a match.

    Raises PatternError; PolicyError if google-re2 is not installed. O(bytes of the subject), as all functions here.
    """
    compiled = _compile(pattern)
    found = compiled.search(subject)
    if found is None:
        return None
    spans = b" ".join(b"%d %d" % found.span(group) for group in range(compiled.groups + 1))
    names = b" ".join(_bytes(name) + b"=%d" % number for name, number in compiled.groupindex.items())
    return spans, names


def split(subject: bytes, pattern: bytes) -> bytes:
    """The spans of what lies between the matches."""
    spans, at = [], 0
    for found in _compile(pattern).finditer(subject):
        first, last = found.span()
        if last > first:
            spans.append(b"%d %d" % (at, first))
            at = last
    return b" ".join([*spans, b"%d %d" % (at, len(subject))])


def replace(subject: bytes, pattern: bytes, replacement: bytes) -> bytes:
    """The subject with each match replaced. ``$0`` to ``$9`` and ``${10}`` are groups, ``$$`` is a dollar sign."""

    def expand(found: Any) -> bytes:
        def group(reference: re.Match[bytes]) -> bytes:
            if reference[1] == b"$":
                return b"$"
            number = int(reference[1].strip(b"{}"))
            return (found.group(number) or b"") if number <= compiled.groups else b""

        return _REFERENCE.sub(group, replacement)

    compiled = _compile(pattern)
    return bytes(compiled.sub(expand, subject))


def _bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()
