"""Patterns of policy scripts, matched by RE2: the time grows with the text alone, whatever the pattern."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, TypeAlias

from inbound_audit.errors import PolicyError

try:
    import re2
except ModuleNotFoundError as error:  # an extra, like the libraries of the listeners
    message = "patterns need google-re2: pip install 'inbound-audit[sieve]'"
    raise ModuleNotFoundError(message, name="re2") from error

Pattern: TypeAlias = Any
"""A compiled pattern of RE2, which ships no types: `search` returns a match or None."""

MAX_MEMORY = 1 << 20
"""Bytes that a pattern may take, compiled and while it is matched."""

MAX_PATTERN = 8192
"""Characters of a pattern: compiling takes time as well."""
MAX_WORK = 1 << 21
"""Bytes of a text times the steps of a pattern: where RE2 can't keep its states, each byte meets each step."""

_PARTS_OF_A_GLOB = re.compile(r"\\(?P<escaped>.)|(?P<many>\*)|(?P<one>\?)|(?P<plain>.)", re.DOTALL)


# Keys are mostly constant and made once; those that are not come from a few values again and again.
@lru_cache(maxsize=256)
def regex(pattern: str, ignore_case: bool = False) -> Pattern:
    """A regular expression in RE2's syntax. Raises PolicyError. O(pattern)."""
    _check_length(pattern)
    return _compiled(pattern, ignore_case)


@lru_cache(maxsize=256)
def glob(pattern: str, ignore_case: bool = False) -> Pattern:
    """A pattern of ``:matches`` (RFC 5228, 2.7.1): ``*`` is any text, ``?`` one character. Raises PolicyError."""
    _check_length(pattern)
    return _compiled(rf"(?s)\A{_PARTS_OF_A_GLOB.sub(_as_regex, pattern)}\z", ignore_case)


def _check_length(pattern: str) -> None:
    if len(pattern) > MAX_PATTERN:
        raise PolicyError(f"pattern {pattern[:40]!r}: has more than {MAX_PATTERN} characters")


def _as_regex(part: re.Match[str]) -> str:
    if part["many"]:
        return ".*"
    escaped: str = "." if part["one"] else re2.escape(part["escaped"] or part["plain"])
    return escaped


def search(pattern: Pattern, text: str) -> Any:
    """The first match, or None. Raises PolicyError for a text that is too long for the pattern."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size * pattern.programsize > MAX_WORK:
        raise PolicyError(f"a text of {size} bytes is too long for a pattern of {pattern.programsize} steps")
    return pattern.search(text)


def _compiled(pattern: str, ignore_case: bool) -> Pattern:
    options = re2.Options()
    options.case_sensitive = not ignore_case
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = " ".join(error.args[0].decode(errors="replace").split())  # it quotes the pattern, line feeds and all
        raise PolicyError(f"pattern {pattern[:40]!r}: {reason}") from None
