"""Regular expressions for msys.pcre: RE2, whose time grows with the length of the text alone.

It also grows with the pattern and its groups, and matching is not interrupted: texts, patterns and groups are bounded.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from inbound_audit.errors import PolicyError

_MAX_SUBJECT = 8192  # bytes
_MAX_PATTERN = 1000  # bytes, of a replacement too
_MAX_GROUPS = 32
_MAX_PROGRAM = 1 << 18  # bytes of a compiled pattern
_MAX_RESULT = 1 << 20  # bytes of a text after replacement

_REFERENCE = re.compile(rb"\$(\$|\d|\{\d+\})")


class PatternError(Exception):
    """A pattern that RE2 can't compile."""


@lru_cache(maxsize=256)
def _compile(pattern: bytes) -> Any:
    try:
        import re2
    except ImportError:
        raise PolicyError("msys.pcre needs google-re2: pip install 'inbound-audit[sieve]'") from None
    if len(pattern) > _MAX_PATTERN:
        raise PolicyError(f"msys.pcre: a pattern has at most {_MAX_PATTERN} bytes, not {len(pattern)}")
    options = re2.Options()
    options.max_mem = _MAX_PROGRAM
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1  # Lua's strings are bytes
    try:
        compiled = re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        shown = reason.decode("utf-8", "backslashreplace") if isinstance(reason, bytes) else str(reason)
        raise PatternError(f"{pattern.decode('utf-8', 'backslashreplace')!r}: {shown}") from None
    if compiled.groups > _MAX_GROUPS:
        raise PolicyError(f"msys.pcre: a pattern has at most {_MAX_GROUPS} groups, not {compiled.groups}")
    return compiled


def _ready(subject: bytes, pattern: bytes) -> Any:
    if len(subject) > _MAX_SUBJECT:
        raise PolicyError(f"msys.pcre: a text has at most {_MAX_SUBJECT} bytes, not {len(subject)}")
    return _compile(pattern)


def match(subject: bytes, pattern: bytes) -> tuple[bytes, bytes] | None:
    """The spans of all groups (``"0 5 -1 -1"``) and the numbers of the named ones (``"name=1"``); None without a match.

    Raises PatternError; PolicyError if google-re2 is not installed, or beyond the bounds. O(bytes of the subject), as
    all functions here.
    """
    compiled = _ready(subject, pattern)
    found = compiled.search(subject)
    if found is None:
        return None
    spans = b" ".join(b"%d %d" % found.span(group) for group in range(compiled.groups + 1))
    names = b" ".join(_bytes(name) + b"=%d" % number for name, number in compiled.groupindex.items())
    return spans, names


def split(subject: bytes, pattern: bytes) -> bytes:
    """The spans of what lies between the matches."""
    spans, at = [], 0
    for found in _ready(subject, pattern).finditer(subject):
        first, last = found.span()
        if last > first:
            spans.append(b"%d %d" % (at, first))
            at = last
    return b" ".join([*spans, b"%d %d" % (at, len(subject))])


def replace(subject: bytes, pattern: bytes, replacement: bytes) -> bytes:
    """The subject with each match replaced. ``$0`` to ``$9`` and ``${10}`` are groups, ``$$`` is a dollar sign.

    Raises PolicyError for a result of more than 1 MiB.
    """
    compiled = _ready(subject, pattern)
    if len(replacement) > _MAX_PATTERN:
        raise PolicyError(f"msys.pcre: a replacement has at most {_MAX_PATTERN} bytes, not {len(replacement)}")
    parts = _parts(replacement, compiled.groups)
    size = len(subject)

    def expand(found: Any) -> bytes:
        nonlocal size
        groups = [found.group(), *found.groups(b"")]
        text = b"".join([groups[part] if isinstance(part, int) else part for part in parts])
        size += len(text)
        if size > _MAX_RESULT:
            raise PolicyError(f"msys.pcre.replace: the text would have more than {_MAX_RESULT} bytes")
        return text

    return bytes(compiled.sub(expand, subject))


def _parts(replacement: bytes, groups: int) -> list[bytes | int]:
    """Literal texts and numbers of groups, in their order; a group that the pattern does not have is left out."""
    parts: list[bytes | int] = []
    at = 0
    for reference in _REFERENCE.finditer(replacement):
        parts.append(replacement[at : reference.start()])
        at = reference.end()
        if reference[1] == b"$":
            parts.append(b"$")
        elif (number := int(reference[1].strip(b"{}"))) <= groups:
            parts.append(number)
    return [*parts, replacement[at:]]


def _bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()
