"""What every test runs under: how hard Hypothesis tries, and which build of the core is being tested."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.support.sharing import Workers
from tests.support.timing import Clock

import inbound_audit._ipcount as core

# No deadline: two busy cores make any single example slow now and then, and no test here measures time.
settings.register_profile("default", deadline=None, max_examples=60, stateful_step_count=40)
settings.register_profile("thorough", deadline=None, max_examples=2000, stateful_step_count=100)
# A debug or sanitizer build checks itself at every step: fewer examples find the same memory errors.
settings.register_profile("checked", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])

# `make debug` and `make sanitize` name the directory that the core has to come from.
BUILD_UNDER_TEST = os.environ.get("INBOUND_AUDIT_CORE")

settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "checked" if BUILD_UNDER_TEST else "default"))


def pytest_configure() -> None:
    # A shell that starts a job in the background has it ignore what ^C sends, and so would all processes that tests end
    # like that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A sanitizer run that tested the release build by mistake would pass and mean nothing.
    if BUILD_UNDER_TEST and Path(BUILD_UNDER_TEST) not in Path(core.__file__).parents:
        pytest.exit(f"the core under test is {core.__file__}, not the one in {BUILD_UNDER_TEST}", returncode=3)


def pytest_report_header() -> str:
    return f"core: {core.__file__}"


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
    """Makes processes that do what they are told (`tests.support.sharing`)."""
    workers = Workers()
    try:
        yield workers
    finally:
        workers.close()


@pytest.fixture
def clock() -> Clock:
    """A clock that the test sets."""
    return Clock()
