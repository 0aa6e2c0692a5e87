"""What the compiler made of the hot functions: they call no Python, and the small ones are inlined."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tooling

ROOT = Path(__file__).parents[2]

# Room and function, as they are named in the generated C.
HOT = {
    "path": ["descend", "shift_counts"],
    "trie": ["count_prefix", "bound_prefix", "add_in", "remove_in"],
    "seek": ["branch_below", "seek_host"],
    "node": ["find", "sum_below", "matches", "put", "erase"],
    "sums": ["tree_sum", "tree_bound", "tree_count", "sum_trees", "listener_count"],
    "lengths": ["bound_path", "first_over"],
    "query": ["query_sessions", "query_listener", "query_absolute"],
    "prefix": ["parse_cidr", "parse_absolute"],
    "address_text": ["parse_ipv4", "parse_ipv6", "format_address"],
    "ranges": ["lookup"],
    "overrides": ["first_of", "find_in", "fill_map"],
    "decision": ["search_maps", "note_denial"],
    "limits": ["overruled", "note_over", "passed_limit", "next_over", "count_in_network", "passes_over_time"],
    "clock": ["window_number"],
    "arena": ["alloc", "split", "release", "arena_renew", "arena_trim"],
    "coalesce": ["coalesce"],
    "window": ["now_of", "ring_now", "window_count", "range_count", "tree_for", "rotate", "advance", "trim"],
    "sliding": ["add_parts", "left_at_least"],
    "fold": ["coarsen", "too_many", "fold_next", "fold_some", "make_room", "add_bounded", "move_bounded"],
    "series_query": ["find_series", "find_monitor", "query_events", "query_key"],
    "series_change": ["add_signed", "change", "series_add", "record_event", "move_connection"],
    "strings": ["address_of_text"],
    "session": ["add_session", "show_session", "remove_session"],
    "reply": ["write_reply"],
    "gate_queue": ["push", "pop"],
    "gate_connection": ["count_connection", "is_over", "refuse", "send_away", "receive"],
    "gate_drain": ["drain", "go_on_draining"],
    "gate_sockets": ["check_lane", "keeps_socket"],
    "gate_lane": ["accept_batch", "goes_on", "accept_without_room", "serve_event", "run_lane"],
    "forward_header": ["write_header"],
    "forward_flow": ["carry", "move", "find_target", "serve_flow", "end_flow", "begin_flow"],
    "forward": ["take_arrived", "take_turns", "serve_time", "run_mover"],
}
PYTHON = re.compile(r"\b(Py[A-Z]\w+|__Pyx_(?!RefNanny)\w+|Py_\w+)")


# Room and function: small ones that the hot functions call in each step.
INLINED = {
    "bits": ["high_bits"],
    "address": ["mask", "width", "compare"],
    "seqlock": ["read_begin", "read_stood", "read_end", "write_open", "write_close", "try_lock", "unlock"],
    "layout": ["header", "block", "reach_of"],
    "node": [
        "entry",
        "child_of",
        "count_of",
        "tag_of",
        "unit_of",
        "is_node",
        "byte_at",
        "differ",
        "keys_of",
        "matches",
    ],
    "path": ["fits_suffix", "shift_counts"],
    "trie": ["trie_count", "trie_bound"],
    "trees": ["trees_of", "find_service"],
    "query": ["peer_of"],
    "window": ["slot_of", "in_view", "window_count"],
    "fold": ["coarsen", "length_of"],
}


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """A folder with the generated C and the object file of the release build, whose symbols are not stripped."""
    out = tmp_path_factory.mktemp("build")
    env = {name: value for name, value in os.environ.items() if not name.startswith("INBOUND_AUDIT_")}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", out, "--build-temp", out]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def generated(build: Path) -> str:
    (found,) = build.rglob("_ipcount.c")
    return found.read_text()


@pytest.fixture(scope="module")
def symbols(build: Path) -> set[str]:
    """The functions that have code of their own, as ``5_core_4node_find``."""
    (found,) = build.rglob("_ipcount.o")
    listed = subprocess.run(["nm", found], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r" t \w*inbound_audit_(5_core_\w+)", listed))


def body(source: str, room: str, name: str) -> str:
    """The definition of one core function, comments taken out."""
    start = re.search(
        rf"^static CYTHON_INLINE [^;{{]*__pyx_f_13inbound_audit_5_core_{len(room)}{room}_{name}\([^;{{]*\) {{$",
        source,
        re.MULTILINE,
    )
    assert start, f"{room}.{name} is not in the generated C"
    text = source[start.end() : source.index("\n}\n", start.end())]
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in HOT.items() for name in names])
def test_no_python_is_inside(generated, room, name):
    assert not PYTHON.findall(body(generated, room, name))


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in INLINED.items() for name in names])
def test_a_small_function_is_inlined(generated, symbols, room, name):
    assert body(generated, room, name)  # it exists under that name
    assert f"5_core_{len(room)}{room}_{name}" not in symbols


def test_the_symbols_are_those_of_the_build(symbols):
    """A large function has code of its own, so the test above can fail."""
    assert "5_core_4trie_trie_add" in symbols


def test_the_lock_and_the_fences_are_where_they_are_said_to_be(generated):
    for name in ("tree_count", "tree_sum"):
        text = body(generated, "sums", name)
        assert "read_begin" in text
        assert "read_end" in text
    for name in ("count_prefix", "sum_below"):
        room = "trie" if name == "count_prefix" else "node"
        assert "ia_exchange" not in body(generated, room, name)


@pytest.mark.parametrize(
    ("room", "name", "order", "times"),
    [
        ("node", "put", "ia_publish", 2),
        ("trie", "insert", "ia_publish", 1),
        ("trie", "cut", "ia_publish", 1),
        ("trie", "count_prefix", "ia_acquire", 1),
        ("trie", "bound_prefix", "ia_acquire", 1),
        ("trie", "go_down", "ia_acquire", 1),
        ("seek", "branch_below", "ia_acquire", 2),
        ("seek", "seek_host", "ia_acquire", 3),
        ("seek", "outermost", "ia_acquire", 1),
        ("node", "matches", "ia_acquire", 1),
        ("node", "next_key", "ia_acquire", 1),
    ],
)
def test_what_leads_to_other_bytes_is_published_and_acquired(generated, room, name, order, times):
    """ThreadSanitizer can't show this: relaxed accesses would be atomic, too."""
    assert len(re.findall(rf"\b{order}\(", body(generated, room, name))) == times


def test_counting_in_windows_takes_no_lock(generated):
    """And the time is not read while a lock is held: the clock may be Python's, which waits for the GIL."""
    for room, name in [("window", "range_count"), ("window", "window_count"), ("series_query", "query_key")]:
        assert not re.search("lock_(wait|at)", body(generated, room, name))
    for name in ("change", "move_event", "remove_key"):
        text = body(generated, "series_change", name)
        assert re.search("lock_(wait|at)", text)
        assert "now_of" not in text
    again = body(generated, "series_change", "lock_at")
    assert re.findall("lock_wait|unlock|now_of", again) == ["lock_wait", "unlock", "now_of", "lock_wait"]
