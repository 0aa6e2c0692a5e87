"""Whether a pattern matches, in one walk through the text: all ways to match are followed at once.

That is why no pattern is slow on any text. Sets of positions in the pattern that were met are kept, so that a text
like those before costs a look-up a character.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from inbound_audit.errors import PolicyError
from inbound_audit.sieve.regex import At, Chars, Either, Node, Ranges, Repeat, Sequence

MOST_STEPS = 500
"""Instructions of a pattern; ``{n}`` writes its item out n times."""
MOST_SUBJECT = 2048
"""Characters of a text that is matched."""
MOST_KEPT = 200
"""Sets of positions that are kept."""

Symbol: TypeAlias = str
_END, _LAST_NEWLINE = "", "\n\n"  # no single characters: behind the text, and a line feed that ends it

_Before: TypeAlias = Literal["nothing", "word", "other"]


class Split(NamedTuple):
    """Goes on in two places."""

    first: int
    second: int


Step: TypeAlias = Chars | At | Split | None
"""One instruction; None: the pattern has matched."""


class _State:
    """Positions that are reached after some text, and what its last character was."""

    __slots__ = ("before", "edges", "positions")

    def __init__(self, positions: frozenset[int], before: _Before) -> None:
        self.positions = positions
        self.before = before
        self.edges: dict[Symbol, _State | None] = {}


class Automaton:
    """A pattern made ready. Any thread may ask; what two threads find out at once is the same.

    Raises PolicyError when the pattern is too large.
    """

    def __init__(self, pattern: Node) -> None:
        self._steps: list[Step] = []
        self._add(pattern)
        self._steps.append(None)
        self._kept: dict[tuple[frozenset[int], _Before], _State] = {}
        self._first = _State(frozenset([0]), "nothing")

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere. Raises PolicyError for a text that is too long. O(text)."""
        if len(text) > MOST_SUBJECT:
            raise PolicyError(f"a text of more than {MOST_SUBJECT} characters is not matched")
        state = self._first
        last = len(text) - 1
        for at, char in enumerate(text):
            symbol = _LAST_NEWLINE if at == last and char == "\n" else char
            following = state.edges[symbol] if symbol in state.edges else self._follow(state, symbol)
            if following is None:
                return True
            state = following
        return (state.edges[_END] if _END in state.edges else self._follow(state, _END)) is None

    def _follow(self, state: _State, symbol: Symbol) -> _State | None:
        """The state after one more character; None when the pattern has matched before it."""
        char = symbol[:1]
        reached = self._reached(state, symbol)
        if reached is None:
            following = None
        else:
            going = [at + 1 for at, ranges in reached if char and _within(ord(char), ranges)]
            following = self._state(frozenset([*going, 0]), _kind(char))
        if len(self._kept) < MOST_KEPT:
            state.edges[symbol] = following
        return following

    def _state(self, positions: frozenset[int], before: _Before) -> _State:
        found = self._kept.get((positions, before))
        if found is None:
            found = _State(positions, before)
            if len(self._kept) < MOST_KEPT:
                self._kept[positions, before] = found
        return found

    def _reached(self, state: _State, symbol: Symbol) -> list[tuple[int, Ranges]] | None:
        """The instructions that want a character, with what they want; None when there is a match already."""
        found: list[tuple[int, Ranges]] = []
        seen = set(state.positions)
        waiting = list(seen)
        while waiting:
            at = waiting.pop()
            step = self._steps[at]
            following: tuple[int, ...] = ()
            if step is None:
                return None
            if isinstance(step, Chars):
                found.append((at, step.ranges))
            elif isinstance(step, Split):
                following = step
            elif _holds(step, state.before, symbol):
                following = (at + 1,)
            for position in following:
                if position not in seen:
                    seen.add(position)
                    waiting.append(position)
        return found

    # ---- from nodes to instructions

    def _append(self, step: Step) -> int:
        if len(self._steps) >= MOST_STEPS:
            raise PolicyError(f"a pattern of more than {MOST_STEPS} steps; {{n}} counts n times")
        self._steps.append(step)
        return len(self._steps) - 1

    def _add(self, node: Node) -> None:
        if isinstance(node, Sequence):
            for item in node.items:
                self._add(item)
        elif isinstance(node, Either):
            self._add_either(node)
        elif isinstance(node, Repeat):
            self._add_repeat(node)
        else:
            self._append(node)

    def _add_either(self, node: Either) -> None:
        ends = []
        for item in node.items[:-1]:
            split = self._append(None)
            self._add(item)
            ends.append(self._append(None))
            self._steps[split] = Split(split + 1, len(self._steps))
        self._add(node.items[-1])
        for end in ends:
            self._steps[end] = Split(len(self._steps), len(self._steps))

    def _add_repeat(self, node: Repeat) -> None:
        for _ in range(node.least):
            before = len(self._steps)
            self._add(node.item)
            if len(self._steps) == before:
                return  # an empty item, however often
        if node.most is None:
            split = self._append(None)
            self._add(node.item)
            self._append(Split(split, split))
            self._steps[split] = Split(split + 1, len(self._steps))
            return
        splits = []
        for _ in range(node.most - node.least):
            splits.append(self._append(None))
            self._add(node.item)
        for split in splits:
            self._steps[split] = Split(split + 1, len(self._steps))


def _within(code: int, ranges: Ranges) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _kind(char: str) -> _Before:
    return "word" if char == "_" or (char.isascii() and char.isalnum()) else "other"


def _holds(step: At, before: _Before, symbol: Symbol) -> bool:
    if step.place == "start":
        return before == "nothing"
    if step.place == "end":
        return symbol == _END
    if step.place == "last line":
        return symbol in (_END, _LAST_NEWLINE)
    edge = (before == "word") != (symbol != _END and _kind(symbol[:1]) == "word")
    return edge == (step.place == "edge")
