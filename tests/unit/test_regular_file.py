"""Files that a user names: what is no regular file is neither waited for nor read, and a call that fails is named."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.failing_calls import Failing

from inbound_audit.cli import privileges
from inbound_audit.cli.agent import _joined
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.tls import Certificate
from inbound_audit.cluster.certificates import check_certificate
from inbound_audit.cluster.engine import EngineSettings
from inbound_audit.errors import ClusterError, PolicyError, SharedStateError
from inbound_audit.lua.sources import Sources
from inbound_audit.regular_file import MAX_SETTING_BYTES, Directories, read_regular
from inbound_audit.shared.places import ROOT_VARIABLE, directory_of, find_directory

# ---- what is no regular file


class Pem:
    """A certificate of the node mx1, its key, and the authority."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        made = authority.issue_cert("mx1", common_name="mx1")
        self.chain, self.key, self.authority = (str(directory / name) for name in ("chain", "key", "authority"))
        made.cert_chain_pems[0].write_to_path(self.chain)
        made.private_key_pem.write_to_path(self.key)
        authority.cert_pem.write_to_path(self.authority)

    def check(self, **others: str) -> None:
        check_certificate(*({**vars(self), **others}[name] for name in ("chain", "key", "authority")), "mx1")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    return Pem(tmp_path_factory.mktemp("pem"))


def of_redis(option: str, path: str) -> object:
    engine = pytest.importorskip("inbound_audit.cluster.redis_engine", reason="needs the extra cluster-redis")
    files = {"tls_cert": path, "tls_key": path} if option != "tls_ca" else {"tls_ca": path}
    return engine.connection(EngineSettings("eu", "mx1", join=("rediss://127.0.0.1",), **files))


READERS: dict[str, Callable[[str, Pem], object]] = {
    "--join-file": lambda path, pem: _joined(path),
    "--password-file": lambda path, pem: EngineSettings("eu", "mx1", password_file=path).password(),
    "--tls-ca": lambda path, pem: pem.check(authority=path),
    "--tls-cert": lambda path, pem: pem.check(chain=path),
    "--tls-key": lambda path, pem: pem.check(key=path),
    "--tls-ca of redis": lambda path, pem: of_redis("tls_ca", path),
    "--tls-cert of redis": lambda path, pem: of_redis("tls_cert", path),
    "--tls-cert of serve": lambda path, pem: Certificate(path, None).load(),
    "--tls-key of serve": lambda path, pem: Certificate(pem.chain, path).load(),
    "a script": lambda path, pem: Sources(path).main(),
    "a list": lambda path, pem: read_regular(path, MAX_SETTING_BYTES),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "large", "missing"])
def test_what_is_no_regular_file_is_not_waited_for(kind: str, reader: str, tmp_path: Path, pem: Pem) -> None:
    path, words = tmp_path / "file", "is not a regular file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate((1 << 26) + 1)
        words = "is larger than"
    else:
        words = "(?i)no such file or directory"
    with pytest.raises((ClusterError, Failure, PolicyError), match=words) as raised:
        READERS[reader](str(path), pem)
    text = raised.value.format_message() if isinstance(raised.value, Failure) else str(raised.value)
    assert str(path) in text
    assert "[Errno" not in text
    if reader.startswith("--"):
        assert reader.split()[0] in text


def test_files_of_settings_are_read(tmp_path: Path, pem: Pem) -> None:
    pem.check()
    Certificate(pem.chain, pem.key).load()
    path = tmp_path / "file"
    path.write_bytes("tcp/a:1 # ä\r\n\n  tcp/b:2".encode())
    assert _joined(str(path)) == ["tcp/a:1", "tcp/b:2"]
    path.write_bytes(b"secret word \r\nmore")
    assert EngineSettings("eu", "mx1", password_file=str(path)).password() == "secret word "
    path.write_bytes(b"")
    assert EngineSettings("eu", "mx1", password_file=str(path)).password() == ""
    assert _joined(str(path)) == []


# ---- a call that fails


def each_failure(failing: Failing, job: Callable[[], object], errors: tuple[type[Exception], ...]) -> int:
    """Lets the first call fail, then the second, and so on. The job succeeds, or names the cause. Returns how many
    calls failed."""
    while True:
        failing.fails_at, failing.calls = failing.fails_at + 1, 0
        try:
            job()
        except errors as error:
            text = error.format_message() if isinstance(error, Failure) else str(error)
            assert os.strerror(failing.error).lower() in text.lower(), (failing.fails_at, text)
        if failing.calls < failing.fails_at:
            return failing.fails_at - 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["lstat", "readlink"])
def test_a_link_that_can_not_be_read_leads_no_script_outside(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "secret").write_text("secret")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "link").symlink_to(tmp_path / "far")
    directories = Directories(tmp_path / "own" / "policy.lua")
    failing = Failing(monkeypatch, tmp_path, call, number)

    def locate() -> None:
        with pytest.raises(PolicyError, match=f"lies outside|{os.strerror(number)}"):
            directories.locate("link/secret")

    assert each_failure(failing, locate, ()) > 0
    failing.fails_at, failing.calls = 1, 0
    with pytest.raises(PolicyError, match="lies outside"):  # what is outside is the same whatever it is
        directories.locate(str(tmp_path / "far" / "link"))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_module_that_can_not_be_reached_is_no_other_module(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.lua").write_text("return 'first'")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "init.lua").write_text("return 'second'")
    sources = Sources(tmp_path / "policy.lua")
    failing = Failing(monkeypatch, tmp_path, "stat", number)

    def find() -> None:
        assert sources.find("a", sources.templates).text == b"return 'first'"

    assert each_failure(failing, find, (PolicyError,)) > 0


def test_a_certificate_whose_second_name_can_not_be_read(pem: Pem, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(monkeypatch, Path("/proc/self/fd"), "stat", errno.EIO)
    assert each_failure(failing, Certificate(pem.chain, pem.key).load, (Failure,)) == 2


def test_an_audit_that_can_not_be_reached_is_in_no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    failing = Failing(monkeypatch, tmp_path, "lstat", errno.EIO)
    assert each_failure(failing, lambda: directory_of("mail"), (SharedStateError,)) == 1
    failing.fails_at = 0
    assert each_failure(failing, lambda: find_directory("mail"), (SharedStateError,)) > 0


def settings(**given: Any) -> Settings:
    nothing: dict[str, Any] = {field.name: None for field in fields(Settings) if field.default is MISSING}
    return Settings(**{**nothing, "policy_dir": (), "landlock": True, **given})


@pytest.mark.parametrize("call", ["mkdir", "stat", "lstat"])
@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_serve_can_not_make_is_named(
    there: bool, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later, it would be out of reach: not allowed, which is not why."""
    monkeypatch.setattr("inbound_audit.cli.landlock.restrict", lambda *paths: None)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    given = settings(shared="mail", maildir=str(tmp_path / "mail"), state=str(tmp_path / "state"))
    if there:
        privileges.restrict(given)
    failing = Failing(monkeypatch, tmp_path, call, errno.ENOSPC)
    assert each_failure(failing, lambda: privileges.restrict(given), (Failure,)) > 0 or (call, there) == ("stat", False)
