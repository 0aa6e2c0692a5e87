"""Imports point one way: `_core` <- `_ipcount` <- services <- shared <- persist <- audit ... <- lua ... <- cli."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.tooling

PACKAGE = Path(__file__).parents[2] / "src" / "inbound_audit"
CORE = PACKAGE / "_core"

# From the ground up. A room imports from the layers below its own and, in the middle layer, from its neighbours.
LAYERS = (
    {"errors"},
    {"_ipcount"},
    {"services", "descriptor", "nodes", "shedding", "text"},
    {"process", "regular_file", "output_file", "picture"},
    {"log_limiter", "ration", "inquiries"},
    {"shared", "address_lists"},
    {"persist"},
    {"overrides"},
    {"policy", "audit", "series"},
    {"lua", "sieve", "listeners", "readers"},
    {"policy.load"},  # a policy by its suffix, in any language
    {"__init__"},  # the front door: lower rooms that imported from it would import themselves
    {"cluster", "metrics", "drawing", "feed"},  # the command line alone needs these, and those of the next layer
    {"replay", "watch", "web"},
    {"cli"},
    {"__main__"},
)
NEIGHBOURS = LAYERS[8]
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}


def room_of(path: Path) -> str:
    """The top-level room that a file lies in: ``lua`` for ``lua/policy.py``. `policy.load` is a room of its own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts) if ".".join(parts) in RANK else parts[0]


def imported_names(path: Path) -> Iterator[str]:
    """Each import as an absolute dotted name, those inside of functions and of ``if TYPE_CHECKING`` too."""
    here = ("inbound_audit", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def rooms_used(path: Path) -> set[str]:
    """The other rooms that a file imports from; a name of the package itself comes through the front door."""
    ours = [name.split(".")[1:] for name in imported_names(path) if name.split(".")[0] == "inbound_audit"]
    rooms = {".".join(rest[:2]) if ".".join(rest[:2]) in RANK else rest[0] if rest else "" for rest in ours}
    return {room if room in RANK else "__init__" for room in rooms} - {room_of(path)}


def source_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=source_id)
def test_a_room_imports_only_from_below(path: Path) -> None:
    room = room_of(path)
    wrong = {used for used in rooms_used(path) if RANK[used] >= RANK[room] and not {used, room} <= NEIGHBOURS}
    assert not wrong


def test_neighbours_do_not_import_in_a_circle() -> None:
    uses = {path.stem: rooms_used(path) & NEIGHBOURS for path in PACKAGE.glob("*.py") if path.stem in NEIGHBOURS}
    assert uses
    TopologicalSorter(uses).prepare()  # raises CycleError, which names the circle


def test_the_extension_knows_no_room_above_it() -> None:
    """It may import the errors, which it raises; everything else that it needs of Python is handed to it."""
    for path in [PACKAGE.parent / "_ipcount.pyx", *(PACKAGE / "_ext").glob("*.pxi")]:
        imports = re.findall(r"^\s*(?:from|import) (inbound_audit\S*)(?: import|$)", path.read_text(), re.MULTILINE)
        assert set(imports) <= {"inbound_audit.errors"}


def test_the_core_is_listed_from_the_ground_up() -> None:
    """The table in ``_core/__init__.pxd`` is the order; a room of the core cimports only from the rooms before it."""
    order = re.findall(r"^#   (\w+)  ", (CORE / "__init__.pxd").read_text(), re.MULTILINE)
    assert sorted(order) == sorted(path.stem for path in CORE.glob("*.pxd") if path.stem != "__init__")
    for at, room in enumerate(order):
        cimports = re.findall(r"^\s*(?:from|cimport) (\S+)", (CORE / f"{room}.pxd").read_text(), re.MULTILINE)
        known = {f"inbound_audit._core.{below}" for below in order[:at]}
        assert [name for name in cimports if name not in known and not name.startswith(("libc.", "posix."))] == []


@pytest.mark.parametrize("path", sorted(CORE.glob("*.pxd")), ids=source_id)
def test_the_core_cannot_raise_or_touch_python(path: Path) -> None:
    """The compiler proves it, as long as each signature says it."""
    endings = re.findall(r"^cdef inline [^:]+\)([^:()]*):", path.read_text(), re.MULTILINE)
    assert set(endings) <= {" noexcept nogil"}


def test_the_import_is_light() -> None:
    libraries = ("lupa", "lark", "click", "rich", "aiosmtpd", "re2", "importlib.metadata", "asyncio")
    ours = ("inbound_audit.cluster", "inbound_audit.metrics", "inbound_audit.feed", "inbound_audit.drawing")
    heavy = (*libraries, "prometheus_client", "opentelemetry", "textual", "starlette", "uvicorn", "PIL", *ours)
    code = f"import sys, inbound_audit\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_each_room_of_the_core_has_a_unit_test_of_its_name() -> None:
    """The rooms whose names end in ``model`` hold structures alone."""
    tests = {path.stem.removeprefix("test_") for path in (Path(__file__).parents[1] / "unit").rglob("test_*.py")}
    assert {path.stem for path in CORE.glob("*.pxd")} - tests == {"__init__", "model", "gate_model", "forward_model"}


def test_each_file_of_tests_has_a_name_of_its_own() -> None:
    """pytest imports them by their names alone: of two equal ones the second is not run."""
    names = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
