"""The files of the page: small, without anything from elsewhere, and without a way for data to become HTML or code."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import inbound_audit

STATIC = Path(inbound_audit.__file__).parent / "web" / "static"
FILES = sorted(STATIC.iterdir())
MODULES = [file for file in FILES if file.suffix == ".js"]
MAX_BYTES = 150_000
NAMESPACE = "http://www.w3.org/2000/svg"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def tags() -> Tags:
    return Tags((STATIC / "index.html").read_text())


def test_all_files_together_are_small() -> None:
    assert {file.suffix for file in FILES} == {".html", ".css", ".js"}
    assert sum(file.stat().st_size for file in FILES) < MAX_BYTES


def test_the_page_has_nothing_inline(tags: Tags) -> None:
    assert not tags.of("style")
    assert all("src" in script for script in tags.of("script"))
    names = {name for _, attributes in tags.found for name in attributes}
    assert not [name for name in names if name == "style" or name.startswith("on")]


def test_each_module_is_there_and_is_asked_for_at_once_after_the_first_paint(tags: Tags) -> None:
    assert [script["src"] for script in tags.of("script")] == ["/static/start.js"]
    (listed,) = re.findall(r"MODULES = \[(.*?)\]", (STATIC / "start.js").read_text(), re.DOTALL)
    named = {f"{name}.js" for name in re.findall(r'"([^"]+)"', listed)}
    assert named | {"start.js"} == {file.name for file in MODULES}
    imported = {name for file in MODULES for name in re.findall(r'from "\./([^"]+)"', file.read_text())}
    assert imported <= {file.name for file in MODULES}


def test_each_element_that_a_module_looks_for_is_in_the_page(tags: Tags) -> None:
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {name for file in MODULES for name in re.findall(r'\$\("([^"]+)"\)', file.read_text())}
    assert wanted <= set(ids)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.name)
def test_no_data_becomes_html_or_code(file: Path) -> None:
    text = file.read_text()
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|setHTML|srcdoc"
    assert not re.findall(ways, text)
    assert "://" not in text.replace(NAMESPACE, "")
