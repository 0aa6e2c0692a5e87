"""A drawing as PNG, on a light background, with the library Pillow and its own font."""

from __future__ import annotations

import io

from inbound_audit.drawing.colours import COLOURS
from inbound_audit.drawing.shapes import Drawing, Text

HALO = 2


def png(drawing: Drawing) -> bytes:
    """One file, of as many pixels as the drawing has. Raises ModuleNotFoundError without Pillow. O(pixels + shapes)."""
    from PIL import Image, ImageDraw, ImageFont

    ground = COLOURS["background"].light
    image = Image.new("RGB", (drawing.width, drawing.height), ground)
    draw = ImageDraw.Draw(image)
    sizes = {shape.size for shape in drawing.shapes if isinstance(shape, Text)}
    fonts = {size: ImageFont.load_default(size) for size in sizes}
    for shape in drawing.shapes:
        colour = COLOURS[shape.fill].light
        if isinstance(shape, Text):
            draw.text(
                (shape.x, shape.y), shape.text, colour, fonts[shape.size], anchor="ls",
                stroke_width=HALO if shape.halo else 0.3 if shape.bold else 0,
                stroke_fill=ground if shape.halo else colour,
            )  # fmt: skip
        elif shape.width > 0 and shape.height > 0:
            left, top = round(shape.x), round(shape.y)
            right, bottom = round(shape.x + shape.width) - 1, round(shape.y + shape.height) - 1
            box = (left, top, max(left, right), max(top, bottom))
            draw.rectangle(box, fill=None if shape.outline else colour, outline=colour if shape.outline else None)
    found = io.BytesIO()
    image.save(found, "PNG", optimize=True)
    return found.getvalue()
