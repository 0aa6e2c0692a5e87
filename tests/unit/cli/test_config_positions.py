"""The line of each key: found by a scan of the text, and the same keys and lists that the parser finds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.toml import paths_of, quoted, written

from inbound_audit.cli.config.positions import Path, lines_of, parse

TEXT = '''# a comment
shared = "mail" # "[x]"
a."b.c" . 'd' = 5
[serve]
listen = [ # the first
  ":25", """x
]""", [1,
 2], {q = 1, r."s" = [3]},
]
at = 1979-05-27 07:32:00
limit = { "/24" = 100, x = "}", y = 'it"s' }
[[net]]
p = """"quoted"""""
[net.sub]
w = \'\'\'
[no] = "table" \'\'\'\'\'
[[net]]
p = 2
[[net.deep]]
[[net.deep]]
z = "\\"]"
[ "a b" . c ]
f = 1.5
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("shared",), 2), (("a",), 3), (("a", "b.c", "d"), 3), (("serve",), 4), (("serve", "listen"), 5),
        (("serve", "listen", 0), 6), (("serve", "listen", 1), 6), (("serve", "listen", 2), 7),
        (("serve", "listen", 2, 1), 8), (("serve", "listen", 3, "r", "s", 0), 8), (("serve", "at"), 10),
        (("serve", "limit", "y"), 11), (("net", 0), 12), (("net", 0, "p"), 13), (("net", 0, "sub"), 14),
        (("net", 0, "sub", "w"), 15), (("net", 1), 17), (("net", 1, "p"), 18), (("net", 1, "deep", 0), 19),
        (("net", 1, "deep", 1, "z"), 21), (("a b", "c"), 22), (("a b", "c", "f"), 23),
    ],
)  # fmt: skip
def test_a_key_has_its_line(path: Path, line: int) -> None:
    assert lines_of(TEXT)[path] == line


def test_carriage_returns_change_nothing() -> None:
    assert lines_of(TEXT.replace("\n", "\r\n")) == lines_of(TEXT)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), NAMES, st.sampled_from(["#", "[", '"""', "'''", "\n", "="]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
STYLES = st.sampled_from(["value", "dotted", "table", "tables", "lines", "block"])


@st.composite
def documents(draw: Any) -> str:
    """Pairs after a table are its own, wherever they stand."""
    lines = ["# begin"]
    for name in draw(st.lists(NAMES, max_size=5)):
        key, value = quoted(name), written(draw(VALUES))
        match draw(STYLES):
            case "value":
                lines.append(f"{key} = {value} # end")
            case "dotted":
                lines.append(f"{key} . {quoted('in')} = {value}")
            case "lines":
                lines.append(f"{key} = [\n# one\n{value},\n\n{value}]")
            case "block":
                lines.append(f'{key} = """\n[no] = 1\n"""')
            case "table":
                lines.append(f'["top".{key}]\n"x" = {value}')
            case _:
                lines.append(f'[["many".{key}]]\n[["many".{key}]]\n"x" = {value}')
    return "\n".join(lines)


@given(documents())
def test_the_same_keys_as_the_parser_each_on_a_line_that_has_it(text: str) -> None:
    try:
        parsed = parse(text)
    except ValueError:  # a name that stands twice
        return
    found, lines = lines_of(text), text.split("\n")
    assert set(found) == set(paths_of(parsed))
    for path, line in found.items():
        assert isinstance(path[-1], int) or quoted(path[-1]) in lines[line - 1]
