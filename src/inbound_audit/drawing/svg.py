"""A drawing as SVG: it loads nothing and runs nothing, and every text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Literal

from inbound_audit.drawing.colours import COLOURS
from inbound_audit.drawing.shapes import Drawing, Rectangle, Shape, Text

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _colours(mode: Literal["light", "dark"]) -> str:
    names = "".join(f".{name}{{--c:{getattr(colour, mode)}}}" for name, colour in COLOURS.items())
    return f"{names}svg .h{{stroke:{getattr(COLOURS['background'], mode)}}}"


STYLE = (
    "svg rect,svg text{fill:var(--c)}svg .o{fill:none;stroke:var(--c)}svg text{font-family:system-ui,sans-serif}"
    "svg .b{font-weight:600}svg .h{paint-order:stroke;stroke-width:3px;stroke-linejoin:round}"
    f"{_colours('light')}@media(prefers-color-scheme:dark){{{_colours('dark')}}}"
)
"""The colours of shapes, as a style sheet. They follow what the reader prefers."""


def svg(drawing: Drawing) -> str:
    """One file. O(shapes)."""
    attributes = f'xmlns="http://www.w3.org/2000/svg" width="{drawing.width}" height="{drawing.height}"'
    ground = '<rect class="background" width="100%" height="100%"/>'
    return _svg(drawing, attributes, f"<style>{STYLE}</style>{ground}") + "\n"


def inline(drawing: Drawing) -> str:
    """For a page of HTML, whose style sheet has `STYLE`."""
    return _svg(drawing, 'class="drawing"', "")


def _svg(drawing: Drawing, attributes: str, first: str) -> str:
    label = _text(drawing.title)
    head = f'<svg {attributes} viewBox="0 0 {drawing.width} {drawing.height}" role="img" aria-label="{label}">'
    return f"{head}<title>{label}</title>{first}{''.join(_pieces(drawing.shapes))}</svg>"


def _pieces(shapes: Iterable[Shape]) -> Iterator[str]:
    for shape in shapes:
        yield _line(shape) if isinstance(shape, Text) else _rectangle(shape)


def _rectangle(shape: Rectangle) -> str:
    box = f'x="{shape.x:.6g}" y="{shape.y:.6g}" width="{shape.width:.4g}" height="{shape.height:.4g}"'
    name = shape.fill + " o" * shape.outline
    inside = f"><title>{_text(shape.title)}</title></rect>" if shape.title else "/>"
    return f'<rect class="{name}" {box}{inside}'


def _line(shape: Text) -> str:
    name = shape.fill + " b" * shape.bold + " h" * shape.halo
    at = f'x="{shape.x:.6g}" y="{shape.y:.6g}" font-size="{shape.size:g}"'
    return f'<text class="{name}" {at}>{_text(shape.text)}</text>'


def _text(text: str) -> str:
    """What XML has no letter for is shown as such."""
    return escape(_NOT_IN_XML.sub("\ufffd", text))
