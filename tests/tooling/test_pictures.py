"""Pictures in README.md and docs/: each is made by `make pictures`, exists, is what its name says, and is small."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_BYTES = {".svg": 200_000, ".png": 250_000}


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "tools" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown() -> list[tuple[Path, Path]]:
    """Each page, and a picture in it."""
    return [
        (page, (page.parent / target).resolve())
        for page in PAGES
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
    ]


def test_the_pictures_are_those_that_the_tool_makes() -> None:
    assert {path.name for path in PICTURES.iterdir()} == set(tool().PICTURES)
    assert "tools/pictures.py" in (ROOT / "Makefile").read_text("utf-8").partition("\npictures:")[2]


def test_each_picture_is_shown_and_the_readme_begins_with_them() -> None:
    found = shown()
    assert {picture for _, picture in found} == set(PICTURES.iterdir())
    readme = [picture.name for page, picture in found if page.name == "README.md"]
    assert set(readme) == set(tool().PICTURES)
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.index("](docs/pictures/") < text.index("```")


@pytest.mark.parametrize("path", sorted(PICTURES.iterdir()), ids=lambda path: path.name)
def test_a_picture_is_of_its_kind_small_and_loads_nothing(path: Path) -> None:
    data = path.read_bytes()
    assert len(data) < MAX_BYTES[path.suffix]
    if path.suffix == ".png":
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        return
    text = data.decode("utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"url\((?!#)|href=\"(?!#)|<script", text)
