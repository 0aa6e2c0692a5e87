"""The grammar of a console's commands, which lark parses word by word: a word is a keyword or a value (`values`).

Words are split as a shell splits them; in a list of series also at commas and parentheses. The parser tells after each
word what can follow: that is what errors say and what completion offers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from lark import Lark, Token, Transformer
from lark.exceptions import VisitError
from lark.lexer import PatternStr

from inbound_audit.cli.console.values import VALUES, Span, date
from inbound_audit.errors import did_you_mean

GRAMMAR = """
start: PREFIX? _command
_command: show_ip | show_all | count_cidr | add | subtract | delete_ip | load | shared_list | shared_show
        | show_available | show_count | help | quit | exit
show_ip: "show" "ip" ADDRESS
show_all: "show" "all"
count_cidr: "count_cidr" CIDR SERIES PARAMETERS START END
add: "add" SERIES PARAMETERS KEY INCREMENT
subtract: "subtract" SERIES PARAMETERS KEY INCREMENT
delete_ip: "delete_ip" KEY SERIES PARAMETERS
load: "load" SERIES FILE?
shared_list: "cluster" "shared" "list"
shared_show: "cluster" "shared" "show" "inbound_cidr" ("from" NODE)?
show_available: "show" "available"
show_count: "show" "count" "for" CIDR "in" (names | union) PARAMETERS? _part*
names: NAME ("," NAME)*
union: "union" "(" NAME ("," NAME)* ")"
_part: since | on | from_to | order | cidrsize | threshold | limit | aggregate
since: "since" date
on: "on" date
from_to: "from" date "to" date
order: "order" "by" COLUMN
cidrsize: "cidrsize" LENGTH ("to" LENGTH)?
threshold: "threshold" MINIMUM
limit: "limit" ROWS
aggregate: "aggregate" [daily]
daily: "daily"
date: DATE+
help: "help" COMMAND*
quit: "quit"
exit: "exit"
"""

USAGE = {
    "show_ip": "inbound_audit show ip ADDRESS[/MASK]",
    "show_all": "inbound_audit show all",
    "count_cidr": "inbound_audit count_cidr CIDR SERIES PARAMETERS START END",
    "add": "inbound_audit add SERIES PARAMETERS KEY INCREMENT",
    "subtract": "inbound_audit subtract SERIES PARAMETERS KEY INCREMENT",
    "delete_ip": "inbound_audit delete_ip KEY SERIES PARAMETERS",
    "load": "inbound_audit load SERIES [FILE]",
    "shared_list": "cluster shared list",
    "shared_show": "cluster shared show inbound_cidr [from NODE]",
    "show_available": "show available",
    "show_count": "show count for CIDR in SERIES[, SERIES ...]|union(SERIES, ...) [PARAMETERS] [since DATE|on DATE|"
    "from DATE to DATE] [order by count|cidr] [cidrsize LENGTH [to LENGTH]] [threshold MINIMUM] [limit ROWS] "
    "[aggregate [daily]]",
    "help": "help [COMMAND]",
    "quit": "quit",
    "exit": "exit",
}
"""The form of each command, by its rule in the grammar."""

END = "$END"


class WrongSyntax(ValueError):
    """A malformed command. `usage`: the forms that may have been meant."""

    def __init__(self, text: str, usage: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.usage = tuple(usage)

    def __str__(self) -> str:
        """All in one line."""
        return super().__str__() + (f" (usage: {' | '.join(self.usage)})" if self.usage else "")


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


PARSER = Lark(GRAMMAR + "%declare " + " ".join(VALUES), parser="lalr")
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
        found: Command = _Values().transform(line.tree())
    except (VisitError, ValueError) as error:  # a VisitError has the ValueError of a method
        raise WrongSyntax(str(getattr(error, "orig_exc", error)), line.usage()) from None
    return found


def expected(words: Sequence[str]) -> tuple[list[str], list[str], str]:
    """What can follow these words: keywords and the names of values; and the last series that the words name."""
    try:
        line = _Line(words)
    except WrongSyntax:
        return [], [], ""
    keywords = [KEYWORDS[name] for name in line.expected if name in KEYWORDS]
    keywords = [word for word in keywords if word.isidentifier() and word not in line.keywords_of_parts]
    return sorted(keywords), [name for name in line.expected if name in VALUES], line.series


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
                for piece in _pieces(word, self.expected):
                    if not self._feed(piece):
                        raise self._unexpected(piece)

    def _expect(self) -> None:
        self.expected: list[str] = sorted(self._parser.accepts())  # type: ignore[no-untyped-call]

    def _feed(self, word: str) -> bool:
        """Takes the word as a keyword or a value. False if it is neither here."""
        found = next((name for name in self.expected if KEYWORDS.get(name) == word.lower()), None)
        found = found or next((name for name in self.expected if name in VALUES and _why_not(name, word) is None), None)
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

    def tree(self) -> Any:
        return self._parser.feed_eof()  # type: ignore[no-untyped-call]

    def incomplete(self) -> WrongSyntax:
        after = f" after {self._done[-1]!r}" if self._done else ""
        return WrongSyntax(f"{self._choices(examples=True)} is missing{after}", self.usage())

    def _unexpected(self, word: str) -> WrongSyntax:
        values = [name for name in self.expected if name in VALUES and name != "PREFIX"]
        keywords = [KEYWORDS[name] for name in self.expected if name in KEYWORDS]
        if len(values) == 1 and not keywords:
            why = _why_not(values[0], word) or ""
            why = why if why.startswith(repr(word)) else f"{word!r}: {why}"
            return WrongSyntax(f"{values[0]}: {why}", self.usage())
        hint = did_you_mean(word, keywords)
        if not self._done or (len(self._done) == 1 and _is_prefix(self._done[0])):
            return WrongSyntax(f"{word!r} is not a command{hint or '; help lists all'}")
        if self.expected == [END]:
            return WrongSyntax(f"{word!r} is an extra word", self.usage())
        verb = "can follow" if END in self.expected else "is expected after"
        return WrongSyntax(f"{word!r}: {self._choices()} {verb} {self._done[-1]!r}{hint}", self.usage())

    def _choices(self, *, examples: bool = False) -> str:
        """``'a', 'b' or VALUE``."""
        names = [name for name in self.expected if name not in (END, "PREFIX")]
        texts = sorted(repr(KEYWORDS[name]) for name in names if name in KEYWORDS)
        texts += [f"{name} ({VALUES[name].example})" if examples else name for name in names if name in VALUES]
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"

    def usage(self) -> list[str]:
        """The forms that begin with the most words of this line."""
        return [USAGE[rule] for rule in rules_for(self._done, whole=False)] if self._done else []


def rules_for(words: Iterable[str], *, whole: bool = True) -> list[str]:
    """The commands that begin with these words, all of them, or with as many of them as any does (at least one)."""
    given = [word.lower() for word in words]
    given = given[1:] if given and _is_prefix(given[0]) else given
    common = {rule: _common(given, usage.removeprefix("inbound_audit ").split()) for rule, usage in USAGE.items()}
    least = len(given) if whole else max(1, *common.values())
    return [rule for rule, number in common.items() if number >= least]


def _common(given: Sequence[str], usage: Sequence[str]) -> int:
    """The number of words that both begin with."""
    pairs = list(zip(given, usage, strict=False))
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(pairs))


def _pieces(word: str, expected: Iterable[str]) -> Iterator[str]:
    """The parts of a word in a list of series; elsewhere the word itself."""
    lists = {"NAME", "COMMA", "LPAR", "RPAR"} & set(expected)
    return iter(re.findall(r"[(),]|[^(),]+", word) if lists and word else [word])


def _is_prefix(word: str) -> bool:
    return _why_not("PREFIX", word) is None


def _why_not(name: str, word: str) -> str | None:
    """Why the word is not such a value; None if it is one."""
    try:
        VALUES[name].read(word)
    except ValueError as error:
        return str(error)
    return None


_PARTS: dict[str, Callable[[list[Any]], dict[str, Any]]] = {
    "since": lambda spans: {"time": (spans[0].start, None)},
    "on": lambda spans: {"time": (spans[0].start, spans[0].end)},
    "from_to": lambda spans: {"time": (spans[0].start, spans[1].end)},
    "order": lambda columns: {"order": columns[0]},
    "cidrsize": lambda lengths: {"cidrsize": (lengths[0], lengths[-1])},
    "threshold": lambda rows: {"threshold": rows[0]},
    "limit": lambda rows: {"limit": rows[0]},
    "aggregate": lambda daily: {"daily": daily != [None]},
}
"""The optional parts of `show count`, each as an argument of its function."""


class _Values(Transformer[Token, Any]):
    """The parser's tree to a `Command`."""

    def __default_token__(self, token: Token) -> Any:
        return VALUES[token.type].read(str(token))

    def __default__(self, rule: Any, children: list[Any], meta: Any) -> Any:
        if rule in _PARTS:
            return _PARTS[rule](children)
        parts: dict[str, Any] = {}
        for name, value in (item for part in children if isinstance(part, dict) for item in part.items()):
            if name in parts:
                raise ValueError(f"{name} is given twice")
            parts[name] = value
        return Command(str(rule), "", tuple(one for one in children if not isinstance(one, dict)), parts)

    def start(self, children: list[Any]) -> Command:
        *instance, command = children
        return cast("Command", command._replace(instance=instance[0] if instance else ""))

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
