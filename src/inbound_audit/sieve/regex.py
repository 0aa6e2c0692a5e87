"""Patterns of ``:regex`` and ``:matches``, read into nodes.

Perl's syntax as far as it can be matched in time that grows with the text alone: what looks around or back can't, and
is refused, and so is a possessive quantifier, which asks how a text was matched and not whether. Classes are ASCII's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, NoReturn, TypeAlias, Union

from inbound_audit.errors import PolicyError

MOST_GROUPS = 50
"""How deep groups may stand in one another."""
MOST_REPEATS = 1000
"""The largest number in ``{}``."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
Place: TypeAlias = Literal["start", "end", "last line", "edge", "no edge"]

_LAST = 0x10FFFF
_SHOWN_MOST = 60


class Chars(NamedTuple):
    """One character out of these ranges of code points, which are sorted and apart."""

    ranges: Ranges


class At(NamedTuple):
    """Nothing, in a certain place."""

    place: Place


class Sequence(NamedTuple):
    items: tuple[Node, ...]


class Either(NamedTuple):
    items: tuple[Node, ...]


class Repeat(NamedTuple):
    """`most` is None for no bound."""

    item: Node
    least: int
    most: int | None


Node: TypeAlias = Union[Chars, At, Sequence, Either, Repeat]  # noqa: UP007  Python 3.10 evaluates it


def merged(ranges: list[tuple[int, int]]) -> Ranges:
    """The same code points in ranges that are sorted and apart."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def other(ranges: Ranges) -> Ranges:
    """All code points that are not in there."""
    found, start = [], 0
    for low, high in ranges:
        if low > start:
            found.append((start, low - 1))
        start = high + 1
    if start <= _LAST:
        found.append((start, _LAST))
    return tuple(found)


def _of(*spans: str) -> Ranges:
    return merged([(ord(span[0]), ord(span[-1])) for span in spans])


ANY: Ranges = ((0, _LAST),)
_DIGITS, _BLANKS, _WORD = _of("09"), _of("\t\r", " "), _of("09", "AZ", "_", "az")
_CLASSES = {"d": _DIGITS, "s": _BLANKS, "w": _WORD, "h": _of("\t", " ")}
_CLASSES |= {name.upper(): other(ranges) for name, ranges in _CLASSES.items()}
_POSIX = {
    "alpha": _of("AZ", "az"),
    "digit": _DIGITS,
    "alnum": _of("09", "AZ", "az"),
    "upper": _of("AZ"),
    "lower": _of("az"),
    "space": _BLANKS,
    "blank": _of("\t", " "),
    "punct": _of("!/", ":@", "[`", "{~"),
    "print": _of(" ~"),
    "graph": _of("!~"),
    "cntrl": _of("\x00\x1f", "\x7f"),
    "xdigit": _of("09", "AF", "af"),
    "word": _WORD,
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_PLACES: dict[str, Place] = {"b": "edge", "B": "no edge", "A": "start", "z": "end", "Z": "last line"}


def glob(pattern: str, ignore_case: bool = False) -> Node:
    """A pattern of ``:matches``: ``*`` is any text, ``?`` any character, a backslash takes the meaning of the next."""
    items: list[Node] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            items.append(Repeat(Chars(ANY), 0, None))
        elif char == "?":
            items.append(Chars(ANY))
        else:
            if char == "\\" and at + 1 < len(pattern):
                at += 1
            items.append(_literal(pattern[at], ignore_case))
        at += 1
    return Sequence((At("start"), *items, At("end")))


def regex(pattern: str, ignore_case: bool = False) -> Node:
    """A pattern of ``:regex``. Raises PolicyError, which names the character where it can't be read."""
    return _Reader(pattern, ignore_case).whole()


def _folded(ranges: Ranges) -> Ranges:
    """The same, and the other case of ASCII's letters among them."""
    swapped = []
    for first, last, shift in ((ord("A"), ord("Z"), 32), (ord("a"), ord("z"), -32)):
        for low, high in ranges:
            if low <= last and high >= first:
                swapped.append((max(low, first) + shift, min(high, last) + shift))
    return merged([*ranges, *swapped])


def _single(char: str) -> Ranges:
    return ((ord(char), ord(char)),)


def _literal(char: str, ignore_case: bool) -> Chars:
    return Chars(_folded(_single(char)) if ignore_case else _single(char))


class _Reader:
    """Reads one pattern, from left to right."""

    def __init__(self, pattern: str, ignore_case: bool) -> None:
        self._pattern = pattern
        self._ignore_case = ignore_case
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        self._ignore_case |= self._take("(?i)")
        node = self._either()
        if self._at < len(self._pattern):
            self._refuse("a ')' without a '('")
        return node

    def _refuse(self, words: str) -> NoReturn:
        shown = self._pattern if len(self._pattern) <= _SHOWN_MOST else f"{self._pattern[:_SHOWN_MOST]}..."
        raise PolicyError(f"the pattern {shown!r}, character {self._at + 1}: {words}")

    def _next(self) -> str:
        """The next character; an empty text at the end."""
        return self._pattern[self._at : self._at + 1]

    def _take(self, wanted: str) -> bool:
        """Goes beyond a text if it comes next."""
        found = self._pattern.startswith(wanted, self._at)
        self._at += len(wanted) * found
        return found

    def _either(self) -> Node:
        items = [self._sequence()]
        while self._take("|"):
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Either(tuple(items))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._next() not in ("", "|", ")"):
            items.append(self._repeated())
        return Sequence(tuple(items))

    def _repeated(self) -> Node:
        if self._next() in ("*", "+", "?") or self._bounds() is not None:
            self._refuse("nothing that could be repeated")
        item = self._item()
        bounds = self._quantifier()
        if bounds is None:
            return item
        if isinstance(item, At):
            self._refuse("a place can't be repeated")
        if self._next() == "+":
            self._refuse("possessive quantifiers are not available")
        self._take("?")  # lazy or greedy: whether there is a match is the same
        if self._next() in ("*", "+", "?") or self._bounds() is not None:
            self._refuse("a quantifier behind a quantifier; a group between them says what is meant")
        return Repeat(item, *bounds)

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        found = self._bounds()
        if found is None:
            return None
        self._at = self._pattern.index("}", self._at) + 1
        least, most = found
        if max(least, most or 0) > MOST_REPEATS:
            self._refuse(f"more than {MOST_REPEATS} repeats")
        if most is not None and most < least:
            self._refuse("the bounds of a quantifier are the wrong way round")
        return found

    def _bounds(self) -> tuple[int, int | None] | None:
        """The numbers of ``{2}``, ``{2,}`` or ``{2,5}`` if that comes next. As in Perl another brace is a brace."""
        if self._next() != "{":
            return None
        inside, closed, _ = self._pattern[self._at + 1 :].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not _digits(least) or (most and not _digits(most)):
            return None
        return int(least), (int(most) if most else None) if comma else int(least)

    def _item(self) -> Node:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return self._set()
        if char == "\\":
            return self._escape()
        self._at += 1
        if char == ".":
            return Chars(other(_of("\n")))
        if char == "^":
            return At("start")
        return At("last line") if char == "$" else _literal(char, self._ignore_case)

    def _group(self) -> Node:
        self._at += 1
        if self._next() == "?" and not self._take("?:"):
            self._name()
        self._depth += 1
        if self._depth > MOST_GROUPS:
            self._refuse(f"groups stand more than {MOST_GROUPS} deep in one another")
        node = self._either()
        self._depth -= 1
        if not self._take(")"):
            self._refuse("a group that is not closed")
        return node

    def _name(self) -> None:
        """Goes beyond the name of a group, which nobody asks for."""
        for opening, closing in (("?P<", ">"), ("?<", ">"), ("?'", "'")):
            if self._pattern.startswith(opening, self._at):
                name, closed, _ = self._pattern[self._at + len(opening) :].partition(closing)
                if closed and name.isidentifier():
                    self._at += len(opening) + len(name) + 1
                    return
        self._refuse("groups that begin with (? look around, or are not available")

    def _escape(self) -> Node:
        self._at += 1
        char = self._next()
        if char in _PLACES:
            self._at += 1
            return At(_PLACES[char])
        ranges = self._escaped()
        return Chars(_folded(ranges) if self._ignore_case else ranges)

    def _escaped(self) -> Ranges:
        """What stands behind a backslash, in a set or out of it."""
        char = self._next()
        if char in _CLASSES:
            self._at += 1
            return _CLASSES[char]
        if char == "x":
            digits = self._pattern[self._at + 1 : self._at + 3]
            if len(digits) != 2 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                self._refuse("\\x without two hexadecimal digits")
            self._at += 3
            return ((int(digits, 16), int(digits, 16)),)
        if char == "":
            self._refuse("a backslash at the end")
        if char in "123456789gk":
            self._refuse("references back are not available")
        if char.isascii() and char.isalnum() and char not in _CONTROLS:
            self._refuse(f"\\{char} is not available")
        self._at += 1
        return _single(_CONTROLS.get(char, char))

    def _set(self) -> Node:
        self._at += 1
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._next() != "]":
            if self._next() == "":
                self._refuse("a set that is not closed")
            low = self._member()
            if len(low) == 1 and low[0][0] == low[0][1] and self._next() == "-" and self._after() not in ("]", ""):
                self._at += 1
                high = self._member()
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    self._refuse("a range that goes nowhere")
                low = ((low[0][0], high[0][0]),)
            ranges += low
            first = False
        self._at += 1
        found = _folded(merged(ranges)) if self._ignore_case else merged(ranges)
        return Chars(other(found) if negated else found)

    def _after(self) -> str:
        return self._pattern[self._at + 1 : self._at + 2]

    def _member(self) -> Ranges:
        if self._take("[:"):
            name, closed, _ = self._pattern[self._at :].partition(":]")
            ranges = _POSIX.get(name.removeprefix("^"))
            if not closed or ranges is None:
                self._refuse("a class that is not known")
            self._at += len(name) + 2
            return other(ranges) if name.startswith("^") else ranges
        if self._take("\\"):
            if self._next() == "b":
                self._at += 1
                return ((8, 8),)
            return self._escaped()
        char = self._next()
        self._at += 1
        return _single(char)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
