"""Pictures as drawings: where shapes lie, what they say, and the files that are made of them."""

from __future__ import annotations

import io
import itertools
import random
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_audit import PrefixCounter
from inbound_audit.drawing.address_map import MIN_SIDE
from inbound_audit.drawing.bars import bars
from inbound_audit.drawing.colours import COLOURS, SCALES, STEPS, Scale
from inbound_audit.drawing.figure import MAX_WIDTH, MIN_WIDTH, figure
from inbound_audit.drawing.png import png
from inbound_audit.drawing.shapes import Drawing, Rectangle, Text
from inbound_audit.drawing.svg import STYLE, inline, svg
from inbound_audit.picture import Picture, picture_of_counter

SVG = "{http://www.w3.org/2000/svg}"


def picture(*hosts: str, rows: int = 200, within: str | None = None) -> Picture:
    counter = PrefixCounter(capacity=1 << 24)
    for host in hosts:
        counter.add(host)
    return picture_of_counter(counter, rows, within=within)


def rectangles(drawing: Drawing) -> list[Rectangle]:
    return [shape for shape in drawing.shapes if isinstance(shape, Rectangle)]


def texts(drawing: Drawing) -> list[str]:
    return [shape.text for shape in drawing.shapes if isinstance(shape, Text)]


def titled(drawing: Drawing, title: str) -> Rectangle:
    return next(shape for shape in rectangles(drawing) if shape.title.startswith(title) and not shape.outline)


CROWD = [f"198.51.100.{n % 256}" for n in range(400)] + [f"203.0.113.{n}" for n in range(16, 32)]
SCAN = [f"2001:db8:{n * 977 % 65536:x}::1" for n in range(100)]


def test_the_map_is_left_and_the_icicle_is_right() -> None:
    drawing = figure(picture(*CROWD, *SCAN), "mail: open sessions", "100 in all")
    assert {"mail: open sessions", "100 in all", "IPv4: 416 sessions", "IPv6: 100 sessions"} <= set(texts(drawing))
    crowd, scan = titled(drawing, "198.51.100.0/24: 400"), titled(drawing, "2001:db8::/32: 100")
    assert crowd.x < drawing.width / 2 < scan.x + scan.width
    assert crowd.width == crowd.height >= MIN_SIDE


def test_a_family_without_rows_is_left_out() -> None:
    alone = figure(picture(*SCAN), "")
    assert titled(alone, "2001:db8::/32").width > 0.9 * alone.width
    assert not any(text.startswith("IPv4") for text in texts(alone))
    assert not any(text.startswith("IPv6") for text in texts(figure(picture("192.0.2.7"), "")))
    assert "No sessions." in texts(figure(picture(), "mail"))


def test_the_busiest_places_have_their_names_beside_them() -> None:
    labels = texts(figure(picture(*CROWD), ""))
    assert {"198.51.100.0/24: 400", "203.0.113.16/28: 16"} <= set(labels)


def test_what_is_too_small_is_drawn_as_one_square_that_says_what_most_of_it_is() -> None:
    drawing = figure(picture(*CROWD, "198.51.7.7"), "")
    assert titled(drawing, "198.51.0.0/17: 401; of these 198.51.100.0/24: 400")
    assert not any(shape.title.startswith("198.51.100.7") for shape in rectangles(drawing))


def test_the_colour_of_a_square_is_its_number_and_what_is_larger_is_pale() -> None:
    hosts = [f"{first}.{second}.0.1" for first in range(64, 96) for second in range(0, 256, 8)]
    drawing = figure(picture(*CROWD, *hosts, rows=16), "")
    square, larger = titled(drawing, "198.51.100.0/24: 400"), titled(drawing, "64.0.0.0/6: 128")
    assert larger.width == 16 * square.width
    assert (square.fill, larger.fill) == ("count7", "count5-pale")


def test_a_prefix_fills_the_map_whose_numbers_are_those_of_its_parts() -> None:
    within = "198.51.100.0/24"
    drawing = figure(picture(*CROWD, rows=2000, within=within), "", within=within)
    seven = titled(drawing, "198.51.100.7: 2")
    assert seven.width > 10 * MIN_SIDE
    assert {str(n) for n in range(256)} <= set(texts(drawing))
    halves = figure(picture(*CROWD, within="198.51.100.0/23"), "", within="198.51.100.0/23")
    ground = next(shape for shape in rectangles(halves) if shape.fill == "ground")
    assert sorted((ground.width / ground.height, 1)) in ([0.5, 1], [1, 2])


def test_boxes_of_ipv6_are_as_wide_as_their_counts_and_hang_below_what_they_are_in() -> None:
    drawing = figure(picture(*["2001:db8::1"] * 3, "2a00::1"), "")
    whole, three, one = (titled(drawing, name) for name in ("2000::/4", "2001:db8::1", "2a00::1"))
    assert three.x == whole.x
    assert three.y == one.y > whole.y
    assert three.width == pytest.approx(0.75 * whole.width, abs=2)
    assert one.width == pytest.approx(0.25 * whole.width, abs=2)


def test_colours_may_be_those_of_refusals() -> None:
    taken = picture("192.0.2.7", "198.51.100.7", "2001:db8::7")
    refused = [40 if row.prefix == "192.0.2.7/32" else 0 for row in taken.rows]
    drawing = figure(taken, "", refused=refused, scale="refusals")
    assert titled(drawing, "192.0.2.7: 1, 40 refused").fill == f"refusals{STEPS - 1}"
    assert titled(drawing, "198.51.100.7").fill == "nothing"
    assert "30 or more refusals in a /14" in texts(drawing)


hosts = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"),
    st.tuples(st.integers(0x2000, 0x3FFF), st.integers(0, 0xFFFF)).map("{0[0]:x}:{0[1]:x}::1".format),
)


@given(st.lists(hosts, max_size=40), st.integers(2, 60), st.integers(MIN_WIDTH, 1200), st.sampled_from(SCALES))
def test_each_shape_lies_within_the_drawing(addresses: list[str], rows: int, width: int, scale: str) -> None:
    taken = picture(*addresses, rows=rows)
    drawing = figure(taken, "mail", "about", refused=range(len(taken.rows)), scale=scale, width=width)
    assert drawing.width == width
    for shape in drawing.shapes:
        assert shape.fill in COLOURS
        assert 0 <= shape.x <= width
        assert 0 <= shape.y <= drawing.height
        if isinstance(shape, Rectangle):
            assert shape.width > 0
            assert shape.height > 0
            assert shape.x + shape.width <= width
            assert shape.y + shape.height <= drawing.height


def test_legends_are_below_what_they_are_of_and_their_texts_lie_on_no_other() -> None:
    taken = picture(*CROWD, *SCAN, *(f"{first}.{first}.{first}.1" for first in range(1, 200)), rows=80)
    for width in (MIN_WIDTH, 360, 500, 640, 1024, 2000):
        drawing = figure(taken, "", width=width)
        floor = max(shape.y + shape.height for shape in rectangles(drawing) if shape.title)
        legend = [shape for shape in drawing.shapes if isinstance(shape, Text) and shape.y > floor]
        assert {"1", "3", "10"} <= {text.text for text in legend}
        assert "in a larger prefix" in " ".join(text.text for text in legend)
        lines: dict[float, list[Text]] = {}
        for text in legend:
            lines.setdefault(text.y, []).append(text)
        for line in lines.values():
            ends = sorted((text.x, text.x + text.width) for text in line)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise([*ends, (width, width)]))


@given(st.sampled_from(SCALES), st.integers(0, 10**12))
def test_a_scale_has_few_colours_and_larger_numbers_are_further_on(name: str, most: int) -> None:
    scale = Scale(name, most)
    steps = [scale.step(bound) for bound in scale.bounds]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS - 1
    assert scale.bounds[0] == 1
    assert scale.bounds[-1] <= max(1, most)
    assert scale.step(max(1, most)) == STEPS - 1
    assert scale.fill(0) == "nothing"


def lightness(colour: str) -> float:
    """Of sRGB, by its relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((lightness(one), lightness(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", SCALES)
def test_the_steps_of_a_scale_differ_in_lightness_and_bear_a_text(name: str, mode: str) -> None:
    scale = [getattr(COLOURS[f"{name}{step}"], mode) for step in range(STEPS)]
    values = [lightness(colour) for colour in scale]
    assert values == sorted(values, reverse=mode == "light")
    for step, colour in enumerate(scale):
        over = COLOURS["over-low" if step < STEPS // 2 else "over-high"]
        assert contrast(colour, getattr(over, mode)) >= 3
    for text in ("text", "quiet"):
        assert contrast(getattr(COLOURS[text], mode), getattr(COLOURS["background"], mode)) >= 4.5


HOSTILE = "<script>&\"'</script>\x00\x1b[31m\ud800￿é" * 2


def test_a_file_of_svg_is_well_formed_and_its_texts_are_escaped() -> None:
    drawing = figure(picture(*CROWD, *SCAN), HOSTILE, HOSTILE)
    root = ElementTree.fromstring(svg(drawing))
    assert root.attrib["viewBox"] == f"0 0 {drawing.width} {drawing.height}"
    assert len(list(root.iter(f"{SVG}rect"))) == 1 + len(rectangles(drawing))
    shown = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert len(shown) == len(texts(drawing))
    assert shown[0].startswith("<script>&\"'</script>\ufffd\ufffd[31m\ufffd\ufffdé")
    assert not list(root.iter(f"{SVG}script"))


def test_a_drawing_within_a_page_has_its_colours_from_the_page() -> None:
    drawing = figure(picture(*CROWD), "")
    assert "<style>" not in inline(drawing)
    light, dark = STYLE.split("@media(prefers-color-scheme:dark)")
    for name, colour in COLOURS.items():
        assert f".{name}{{--c:{colour.light}}}" in light
        assert f".{name}{{--c:{colour.dark}}}" in dark


@pytest.mark.parametrize("width", [MIN_WIDTH, 1000])
def test_a_file_of_png_has_the_size_and_the_shapes_of_the_drawing(width: int) -> None:
    image = pytest.importorskip("PIL.Image")
    drawing = figure(picture(*CROWD, *SCAN), HOSTILE, width=width)
    opened = image.open(io.BytesIO(png(drawing)))
    assert (opened.format, opened.size) == ("PNG", (width, drawing.height))
    scan = titled(drawing, "2001:db8::/32: 100")
    middle = opened.getpixel((round(scan.x + scan.width - 4), round(scan.y + scan.height / 2)))
    assert "#{:02x}{:02x}{:02x}".format(*middle) == COLOURS[scan.fill].light


def test_labels_of_bars_do_not_reach_into_each_other_or_over_the_edge() -> None:
    for number in (1, 2, 7, 8, 50, 700):
        drawing = bars([(f"2026-01-01T{hour:02}:00:00", 1 + hour, 1) for hour in range(number)])
        labels = [shape for shape in drawing.shapes if isinstance(shape, Text)][1:]
        assert labels[0].x == 0
        ends = [after.x for after in labels[1:]] + [drawing.width]
        assert all(label.x + label.width <= end for label, end in zip(labels, ends, strict=True))


def test_bars_are_as_high_as_their_numbers_and_say_them() -> None:
    drawing = bars([("one", 10, 5), ("other", 1000, 0), ("none", 0, 0)])
    found = [(shape.title, shape.fill) for shape in rectangles(drawing)]
    assert found == [("one: 10, 5 refused", "all"), ("one: 10, 5 refused", "refused"), ("other: 1,000", "all")]
    heights = [shape.height for shape in rectangles(drawing)]
    assert heights == pytest.approx([heights[2] / 100, heights[2] / 200, heights[2]])
    assert "1,000" in texts(drawing)


def test_a_large_picture_makes_a_small_file() -> None:
    draw = random.Random(7)
    crowd = [f"{draw.randrange(1, 224)}.{draw.randrange(256)}.7.7" for _ in range(3000)]
    drawing = figure(picture(*crowd, *SCAN, rows=2000), "mail", width=MAX_WIDTH // 8)
    assert len(svg(drawing)) < 200_000
