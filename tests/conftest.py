"""What every test runs under: how hard Hypothesis tries, and which build of the core is being tested."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.support import forking, sanitizer_reports  # before the package
from tests.support.command_line import Serve
from tests.support.sharing import Workers
from tests.support.timing import Clock
from tests.support.waiting import PATIENCE

import inbound_audit._ipcount as core

# Without deadline and without the check for slow data: both fail on a machine that does other work.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=15, stateful_step_count=25, **UNTIMED)
settings.register_profile("thorough", max_examples=60, stateful_step_count=40, **UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# `make debug` and `make sanitize` name the directory that the core has to come from.
BUILD_UNDER_TEST = os.environ.get("INBOUND_AUDIT_CORE")

TESTS = Path(__file__).parent
TIERS = ("unit", "system", "readers", "tooling")

# Of the system tier: faults, hostile peers and scripts, and bounds. Of the tooling tier: what has to be compiled with
# instruments. They take half of the time of their tiers and fail seldom, so CI runs them after all else (`long`).
LONG = {
    "test_budget_memory",
    "test_call_faults",
    "test_cli_watchdog",
    "test_cluster_engines",
    "test_cluster_faults",
    "test_cluster_hostile",
    "test_console_load",
    "test_framework_workers",
    "test_fuzz",
    "test_gate_accept_faults",
    "test_gate_calls",
    "test_gate_faults",
    "test_hostile_policy",
    "test_lua_bounds",
    "test_lua_hostile",
    "test_power_loss",
    "test_races",
    "test_session_budget",
    "test_shed_serve",
    "test_sieve_bounds",
    "test_simulated_faults",
    "test_soak",
    "test_stopped_writers",
    "test_web_slow",
}

# aiosmtpd gives up a controller whose server has not begun after five seconds.
os.environ.setdefault("AIOSMTPD_CONTROLLER_TIMEOUT", str(PATIENCE))

# What Python reports before a process starts another one.
PROCESS_EVENTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}
running_unit_test = False


def refuse_processes(event: str, _: tuple[object, ...]) -> None:
    """Keeps the unit tier quick: a unit test that starts a process fails."""
    if running_unit_test and event in PROCESS_EVENTS:
        raise AssertionError(f"{event} in a unit test: what starts processes belongs to tests/system")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: of the system and tooling tiers, what CI runs last (tests/conftest.py)")
    # A shell that starts a job in the background has it ignore what ^C sends, and so would all processes that tests end
    # like that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.addaudithook(refuse_processes)
    # A sanitizer run that tested the release build by mistake would pass and mean nothing.
    if BUILD_UNDER_TEST and Path(BUILD_UNDER_TEST) not in Path(core.__file__).parents:
        pytest.exit(f"the core under test is {core.__file__}, not the one in {BUILD_UNDER_TEST}", returncode=3)

    # So would one whose tests of inner functions ran those of another build.
    inner = importlib.util.find_spec("tests.support.inner")
    if forking.UNDER_ASAN and (inner is None or Path(BUILD_UNDER_TEST or "") not in Path(inner.origin or "").parents):
        pytest.exit(f"the inner functions under test are not those in {BUILD_UNDER_TEST}", returncode=3)


def pytest_report_header() -> str:
    return f"core: {core.__file__}"


def tier_of(item: pytest.Item) -> str | None:
    """The folder decides; a test in tests/unit may carry the mark of a slower tier itself."""
    own = next((tier for tier in TIERS if item.get_closest_marker(tier)), None)
    return own or _tier_of_file(item.path)


@functools.cache
def _tier_of_file(path: Path) -> str | None:
    folder = path.relative_to(TESTS).parts[0] if TESTS in path.parents else ""
    return folder if folder in TIERS else None


def pytest_collection_finish() -> None:
    """What pytest knows of thousands of tests is no garbage: tests that collect garbage need not go through it."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Each tier is a mark, too."""
    tier = tier_of(item)
    if tier is not None:
        item.add_marker(tier)
    if item.path.stem in LONG:
        item.add_marker("long")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global running_unit_test
    running_unit_test = item.get_closest_marker("unit") is not None
    try:
        return (yield)
    finally:
        running_unit_test = False


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture(autouse=True)
def left_open() -> Iterator[None]:
    """A socket or file that a test has forgotten fails this test, and not the later one in which it is collected."""
    before = _descriptors()
    yield
    if _descriptors() > before:
        gc.collect()


@pytest.fixture(params=[(), ("--no-gate",)], ids=["gate", "no-gate"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs twice: its servers accept by a gate, where the system has one, and without."""
    monkeypatch.setattr(Serve, "more", request.param)


if forking.UNDER_ASAN:

    @pytest.fixture(autouse=True)
    def report() -> Iterator[None]:
        """What a sanitizer has said of any process fails this test, or one that ran beside it."""
        yield
        found = sanitizer_reports.new_reports()
        assert not found, found


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Shared audits have a directory of this test's own; none of its files is left when the test has let go."""
    root = tempfile.mkdtemp(prefix="sharing-", dir="/dev/shm")
    monkeypatch.setenv("INBOUND_AUDIT_SHM", root)
    try:
        yield Path(root)
    finally:
        shutil.rmtree(root)


@pytest.fixture
def hire(place: Path) -> Iterator[Workers]:
    """Makes processes that follow orders (`tests.support.sharing`)."""
    workers = Workers()
    try:
        yield workers
    finally:
        workers.close()


@pytest.fixture
def clock() -> Clock:
    """A clock that the test sets."""
    return Clock()
