"""The grammar of a console's commands, which lark parses word by word: a word is a keyword or a value (`values`).

Words are split as a shell splits them; in a list of series also at commas and parentheses. The parser tells after each
word what can follow: that is what errors say and what completion offers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, cast

from lark import Lark, Token, Transformer
from lark.exceptions import VisitError
from lark.lexer import PatternStr

from inbound_audit.cli.console.values import VALUES, Span, between, date
from inbound_audit.errors import did_you_mean

USAGE = {
    "show_ip": "inbound_audit show ip CIDR",
    "show_all": "inbound_audit show all",
    "count_cidr": "inbound_audit count_cidr CIDR SERIES PARAMETERS START END",
    "add": "inbound_audit add SERIES PARAMETERS KEY INCREMENT",
    "subtract": "inbound_audit subtract SERIES PARAMETERS KEY INCREMENT",
    "delete_ip": "inbound_audit delete_ip KEY SERIES PARAMETERS",
    "load": "inbound_audit load SERIES [FILE]",
    "membership": "cluster membership",
    "shared_list": "cluster shared list",
    "shared_show": "cluster shared show inbound_cidr [from NODE]",
    "show_available": "show available",
    "cache_details": "cache details",
    "help": "help [COMMAND ...]",
    "quit": "quit",
    "exit": "exit",
    "show_count": "show count for CIDR in SERIES[, SERIES ...]|union(SERIES, ...) [PARAMETERS] [since DATE|on DATE|"
    "from DATE to DATE] [order by count|cidr] [cidrsize LENGTH [to LENGTH]] [threshold MINIMUM] [limit ROWS] "
    "[aggregate [daily]]",
}
"""The form of each command, by its rule in the grammar."""

_SHOW_COUNT = """
show_count: "show" "count" "for" CIDR "in" (names | union) [PARAMETERS] _part*
names: NAME ("," NAME)*
union: "union" "(" NAME ("," NAME)* ")"
_part: since | on | from_to | order | cidrsize | threshold | limit | aggregate | daily
since: "since" date
on: "on" date
from_to: "from" date "to" date
order: "order" "by" COLUMN
cidrsize: "cidrsize" LENGTH ("to" LENGTH)?
threshold: "threshold" MINIMUM
limit: "limit" ROWS
aggregate: "aggregate"
daily: "aggregate" "daily"
date: DATE+
"""
"""Its parts may stand in any order, so its form is not its rule."""


def _grammar() -> str:
    """The rules for lark. The form of a command is its rule, with the keywords, which are in small letters, quoted."""
    rules = [f"start: [PREFIX] ({' | '.join(USAGE)})"]
    for rule, usage in USAGE.items():
        if rule != "show_count":
            form = usage.removeprefix("inbound_audit ").replace("[COMMAND ...]", "COMMAND*")
            rules.append(f"{rule}: " + re.sub("[a-z_]+", r'"\g<0>"', form))
    return "\n".join(rules) + _SHOW_COUNT + "%declare " + " ".join(VALUES)


END = "$END"


class WrongSyntax(ValueError):
    """A malformed command. The text says what was expected."""


class Command(NamedTuple):
    """A parsed line: the rule of the grammar, the NAME of ``inbound_audit:NAME`` or "", the values in their order, and
    the optional parts by name."""

    rule: str
    instance: str
    values: tuple[Any, ...]
    parts: dict[str, Any]


class Names(NamedTuple):
    """The series of a query, each counted for itself or all together."""

    names: tuple[str, ...]
    union: bool


PARSER = Lark(_grammar(), parser="lalr")
KEYWORDS = {
    one.name: one.pattern.value.replace("\\", "") for one in PARSER.terminals if isinstance(one.pattern, PatternStr)
}


def split(line: str) -> list[str]:
    """The words of a line, as a shell splits them. Raises WrongSyntax."""
    try:
        return shlex.split(line)
    except ValueError:
        raise WrongSyntax("a quotation mark is not closed") from None


def parse(words: Sequence[str]) -> Command:
    """The command in a line. Raises WrongSyntax with what was expected instead."""
    line = _Line(words)
    if END not in line.expected:
        raise line.incomplete()
    try:
        return cast("Command", _Values().transform(line.tree()))
    except (VisitError, ValueError) as error:  # a VisitError has the ValueError of a method
        raise line.wrong(str(getattr(error, "orig_exc", error))) from None


def expected(words: Sequence[str]) -> tuple[list[str], list[str], str]:
    """What can follow these words: keywords and the names of values; and the last series that the words name."""
    try:
        line = _Line(words)
    except WrongSyntax:
        return [], [], ""
    keywords = [word for word in line.keywords() if word.isidentifier() and word not in line.keywords_of_parts]
    return sorted(keywords), line.values(), line.series


class _Line:
    """The words of a line, fed to the parser. `expected` are the terminals that can follow them."""

    def __init__(self, words: Sequence[str]) -> None:
        self._parser = PARSER.parse_interactive()
        self.series = ""
        self.keywords_of_parts: set[str] = set()
        self._done: list[str] = []
        self._expect()
        for word in words:
            if not self._feed(word):
                for piece in self._pieces(word):
                    if not self._feed(piece):
                        raise self._unexpected(piece)

    def _expect(self) -> None:
        self.expected: list[str] = sorted(self._parser.accepts())  # type: ignore[no-untyped-call]

    def keywords(self) -> list[str]:
        return [KEYWORDS[name] for name in self.expected if name in KEYWORDS]

    def values(self) -> list[str]:
        return [name for name in self.expected if name in VALUES]

    def _feed(self, word: str) -> bool:
        """Takes the word as a keyword or a value. False if it is neither here."""
        found = next((name for name in self.expected if KEYWORDS.get(name) == word.lower()), None)
        found = found or next((name for name in self.values() if _why_not(name, word) is None), None)
        if found is None:
            return False
        if found in ("SERIES", "NAME"):
            self.series = word
        if END in self.expected and found in KEYWORDS:
            self.keywords_of_parts.add(KEYWORDS[found])
        self._parser.feed_token(Token(found, word))
        self._done.append(word)
        self._expect()
        return True

    def _pieces(self, word: str) -> list[str]:
        """The parts of a word in a list of series; elsewhere the word itself."""
        in_list = {"NAME", "COMMA", "LPAR", "RPAR"} & set(self.expected)
        return re.findall(r"[(),]|[^(),]+", word) if in_list and word else [word]

    def tree(self) -> Any:
        return self._parser.feed_eof()  # type: ignore[no-untyped-call]

    def wrong(self, text: str) -> WrongSyntax:
        """With the forms that begin with the most words of this line."""
        usage = " | ".join(USAGE[rule] for rule in rules_for(self._done, whole=False))
        return WrongSyntax(f"{text} (usage: {usage})" if self._done else text)

    def incomplete(self) -> WrongSyntax:
        after = f" after {self._done[-1]!r}" if self._done else ""
        return self.wrong(f"{self._choices(examples=True)} is missing{after}")

    def _unexpected(self, word: str) -> WrongSyntax:
        values, keywords = self.values(), self.keywords()
        if len(values) == 1 and not keywords:
            why = _why_not(values[0], word) or ""
            why = why if why.startswith(repr(word)) else f"{word!r}: {why}"
            return self.wrong(f"{values[0]}: {why}")
        hint = did_you_mean(word, keywords)
        if not self._done or (len(self._done) == 1 and _is_prefix(self._done[0])):
            return WrongSyntax(f"{word!r} is not a command{hint or '; help lists all'}")
        if self.expected == [END]:
            return self.wrong(f"{word!r} is an extra word")
        verb = "can follow" if END in self.expected else "is expected after"
        return self.wrong(f"{word!r}: {self._choices()} {verb} {self._done[-1]!r}{hint}")

    def _choices(self, *, examples: bool = False) -> str:
        """``'a', 'b' or VALUE``."""
        texts = sorted(map(repr, self.keywords()))
        texts += [
            f"{name} ({VALUES[name].example})" if examples else name for name in self.values() if name != "PREFIX"
        ]
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def rules_for(words: Iterable[str], *, whole: bool = True) -> list[str]:
    """The commands that begin with these words, all of them, or with as many of them as any does (at least one)."""
    given = [word.lower() for word in words]
    given = given[1:] if given and _is_prefix(given[0]) else given
    common = {}
    for rule, usage in USAGE.items():
        pairs = zip(given, usage.removeprefix("inbound_audit ").split(), strict=False)
        common[rule] = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    least = len(given) if whole else max(1, *common.values())
    return [rule for rule, number in common.items() if number >= least]


def _is_prefix(word: str) -> bool:
    return _why_not("PREFIX", word) is None


def _why_not(name: str, word: str) -> str | None:
    """Why the word is not such a value; None if it is one."""
    try:
        VALUES[name].read(word)
    except ValueError as error:
        return str(error)
    return None


_PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "since": lambda span: {"time": (span.start, None)},
    "on": lambda span: {"time": (span.start, span.end)},
    "from_to": lambda first, last: {"time": between(first, last)},
    "order": lambda column: {"order": column},
    "cidrsize": lambda first, last=None: {"cidrsize": (first, first if last is None else last)},
    "threshold": lambda minimum: {"threshold": minimum},
    "limit": lambda rows: {"limit": rows},
    "aggregate": lambda: {"daily": False},
    "daily": lambda: {"daily": True},
}
"""The optional parts of `show count`, each as an argument of its function."""


class _Values(Transformer[Token, Any]):
    """The parser's tree to a `Command`."""

    def __default_token__(self, token: Token) -> Any:
        return VALUES[token.type].read(str(token))

    def __default__(self, rule: Any, children: list[Any], meta: Any) -> Any:
        if rule in _PARTS:
            return _PARTS[rule](*children)
        parts: dict[str, Any] = {}
        for name, value in (item for part in children if isinstance(part, dict) for item in part.items()):
            if name in parts:
                raise ValueError(f"{name} is given twice")
            parts[name] = value
        return Command(str(rule), "", tuple(one for one in children if not isinstance(one, dict | None)), parts)

    def start(self, children: list[Any]) -> Command:
        instance, command = children
        return cast("Command", command._replace(instance=instance or ""))

    def names(self, names: list[str]) -> Names:
        return Names(tuple(names), union=False)

    def union(self, names: list[str]) -> Names:
        return Names(tuple(names), union=True)

    def date(self, words: list[str]) -> Span:
        text = " ".join(words)
        try:
            return date(text)
        except ValueError as error:
            keywords = [word for word in KEYWORDS.values() if len(word) > 2]
            hints = [did_you_mean(word, keywords) for word in words[1:]]  # the first word was meant as a date
            raise ValueError(f"DATE: {text!r}: {error}{''.join(hints)}") from None
