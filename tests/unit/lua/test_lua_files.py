"""Which files a script may read: those in the policy's directory and in the directories named for it, and no others."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from tests.support.lua_support import Bench
from tests.support.sieve_support import PATIENT_MS

from inbound_audit import LuaPolicy

SECRET = "secret = no list"
OUTSIDE = "lies outside of the policy's directory and of those of search (serve --policy-dir)"


@pytest.fixture
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a module, a list, and a file that is neither, outside of the policy's."""
    directory = tmp_path_factory.mktemp("far")
    (directory / "module.lua").write_text("return 'far'")
    (directory / "list.txt").write_text("192.0.2.0/24\n")
    (directory / "secret").write_text(SECRET)
    return directory


def names_of(bench: Bench, far: Path) -> list[str]:
    """Names that lead out of the policy's directory."""
    (bench.directory / "link").symlink_to(far)
    (bench.directory / "secret").symlink_to(far / "secret")
    (bench.directory / "loop").symlink_to("loop")
    up = os.path.relpath(far, bench.directory)
    return [
        f"{far}/secret", f"{up}/secret", f"./{up}/secret", "link/secret", "secret", "link/../secret", "loop",
        f"file://{far}/secret", "/proc/self/environ", "/proc/self/root/etc/passwd", "/etc/passwd", "/dev/zero",
        "/dev/stdin", "/nonexistent", "..", "link", "secret\\0",
    ]  # fmt: skip


def test_a_list_outside_of_the_directories(bench: Bench, far: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for name in names_of(bench, far):
        error = bench.fails(f"msys.cidr.define('l', {{type = 'rbldnsd', source = '{name}'}})")
        assert error.endswith(OUTSIDE), (name, error)
        assert error.startswith("policy.lua:3: ")
    assert SECRET not in caplog.text


def test_a_module_outside_of_the_directories(bench: Bench, far: Path) -> None:
    for name in names_of(bench, far):
        if name.startswith("file:"):
            continue
        path = name if name.startswith("/") else f"{bench.directory}/{name}"
        error = bench.fails(f"package.path = '{path}' require('x')")
        assert OUTSIDE in error, (name, error)
        assert error.startswith("policy.lua:3: module 'x' not found: ")
    for module in ("link.secret", "link.module", f"{os.path.relpath(far, bench.directory)}/module", f"{far}/module"):
        error = bench.fails(f"require('{module}')")
        assert "not found" in error, module
        assert SECRET not in error


def test_directories_that_are_named_are_searched(bench: Bench, far: Path) -> None:
    names_of(bench, far)
    assert bench.say("require('module')", search=[far]) == "far"
    for source in (f"{far}/list.txt", "link/list.txt", f"file://{far}/list.txt"):
        define = f"msys.cidr.define('l', {{type = 'rbldnsd', source = '{source}'}})"
        assert bench.say("msys.cidr.query('l', '192.0.2.7')", define, search=[far]) == "127.0.0.2"


def test_links_inside_of_the_directory_are_followed(bench: Bench) -> None:
    bench.write("data/list.txt", "192.0.2.0/24\n")
    (bench.directory / "current").symlink_to("data")
    define = "msys.cidr.define('l', {type = 'rbldnsd', source = 'current/../current/list.txt'})"
    assert bench.say("msys.cidr.query('l', '192.0.2.7')", define) == "127.0.0.2"


def test_a_module_that_is_no_regular_file_is_not_found(bench: Bench) -> None:
    os.mkfifo(bench.directory / "pipe.lua")
    (bench.directory / "folder.lua").mkdir()
    for module in ("pipe", "folder"):
        assert f"module '{module}' not found" in bench.fails(f"require('{module}')")


def test_a_policy_that_is_named_by_a_relative_path(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("policies/data/list.txt", "192.0.2.0/24\n")
    bench.write("policies/module.lua", "return 'beside'")
    bench.write(
        "policies/policy.lua",
        """
        msys.cidr.define("l", {type = "rbldnsd", source = "data/list.txt"})
        msys.registerModule("m", {validate_connect = function(self, ac, vctx)
            msys.cidr.reload("l")
            vctx:set_code(250, require("module") .. " " .. msys.cidr.query("l"))
        end})
        """,
    )
    for path in ("policies/policy.lua", "./policies/../policies/policy.lua"):
        monkeypatch.chdir(bench.directory)
        policy = LuaPolicy(path, **bench.kind._asdict(), max_hook_ms=PATIENT_MS)
        monkeypatch.chdir("/")  # as a daemon does
        assert policy.validate_connect(bench.session()).text == "beside 127.0.0.2"


def test_directories_that_are_named_by_relative_paths(bench: Bench, far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(far.parent)
    policy = bench.hook("vctx:set_code(250, require('module'))", search=[far.name])
    monkeypatch.chdir("/")
    assert policy.validate_connect(bench.session()).text == "far"


def test_a_path_of_modules_is_bounded(bench: Bench) -> None:
    for path in ("('a/?;'):rep(101)", "('?'):rep(5000)", "('a/'):rep(5000)"):
        error = bench.fails(f"package.path = {path} require('xy')")
        assert "package.path has at most 100 places and 8192 characters" in error
    assert "a path has at most 4096 characters" in bench.fails("package.path = ('a/'):rep(3000) require('x')")
    define = "msys.cidr.define('l', {type = 'rbldnsd', source = ('a/'):rep(3000)})"
    assert "a path has at most 4096 characters" in bench.fails(define)
