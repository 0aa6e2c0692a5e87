"""What `serve` gives up: each test tries what is forbidden, from inside of a policy hook of the running server."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.command_line import COMMAND, Serve, run
from tests.support.listening import Peer
from tests.support.milters import MilterProcess
from tests.support.ports import low_port
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.cli import landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="privileges of Linux")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
with_landlock = pytest.mark.skipif(landlock.version() < landlock.MIN_VERSION, reason="this kernel has no Landlock")

USER = "nobody"

PROGRAM = """
import ctypes, json, os, socket, subprocess, sys
from inbound_audit.cli import policies, worker, workers
from inbound_audit.policy.base import Policy

TRIES = {tries}

def attempt(what):
    try:
        return repr(eval(what))
    except Exception as error:
        return type(error).__name__

class Tries(Policy):
    def validate_ehlo(self, ac, text):
        # What standard error is, was opened before.
        found = {{name: attempt(what) for name, what in TRIES.items()}}
        print("TRIED " + json.dumps(found), file=sys.stderr, flush=True)
        return super().validate_ehlo(ac, text)

policies.Policies.make = lambda self, audit=None: Tries()
from inbound_audit.__main__ import main
sys.exit(main())
"""


def tried(server: Serve, address: tuple[str, int]) -> dict[str, str]:
    """What came of each attempt in the process that accepts a connection."""
    with contextlib.closing(Peer(*address)) as peer:
        assert peer.line().startswith(b"220")
        assert peer.ask(b"HELO x").startswith(b"250")
        found: dict[str, str] = json.loads(server.complaint("TRIED ").partition("TRIED ")[2])
        server.complaints.clear()
        return found


def serving(tries: dict[str, str], *options: str, **more: Any) -> Serve:
    return Serve(*options, command=(sys.executable, "-c", PROGRAM.format(tries=tries)), **more)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(path / "shm"))
    (path / "shm").mkdir()
    (path / "shm").chmod(0o1777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


# ---- Landlock


@with_landlock
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_only_what_is_needed_can_be_opened(place: Path, workers: tuple[str, ...]) -> None:
    secret, beside = place / "secret", place / "other"
    secret.write_text("x")
    beside.mkdir()
    (place / "policies").mkdir()
    (place / "policies" / "list").write_text("a list")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        tries = {
            "read": f"open({str(secret)!r}).read()",
            "list": f"os.listdir({str(place)!r})",
            "write": f"open({str(beside / 'new')!r}, 'w')",
            "truncate": f"os.truncate({str(secret)!r}, 0)",
            "remove": f"os.unlink({str(secret)!r})",
            "shadow": "open('/etc/shadow').read()",
            "run": "subprocess.call(['/bin/true'])",
            "connect": f"socket.create_connection(('127.0.0.1', {port}))",
            "bind": "socket.create_server(('127.0.0.1', 0))",
            "signal": f"os.kill({os.getpid()}, 0)",
            "mail": f"open({str(place / 'mail' / 'x')!r}, 'w').write('12')",
            "state": f"open({str(place / 'state' / 'x')!r}, 'w').write('12')",
            "shared": f"open({str(place / 'shm' / 'inbound_audit-locked' / 'x')!r}, 'w').write('12')",
            "policy": f"open({str(place / 'policies' / 'list')!r}).read()",
            "policy's directory": f"open({str(place / 'policies' / 'new')!r}, 'w')",
            "library": "__import__('wave').__name__",
        }
        options = (
            *workers, "--shared", "locked", "--state", str(place / "state"), "--maildir", str(place / "mail"),
            "--tls-cert", str(certificate(place / "policies")),
        )  # fmt: skip
        with serving(tries, *options) as server:
            found = tried(server, server.addresses[0])
        with serving(tries, *options, "--no-landlock") as server:
            without = tried(server, server.addresses[0])
    allowed = {"mail": "2", "state": "2", "shared": "2", "policy": "'a list'", "library": "'wave'"}
    assert {name: found.pop(name) for name in allowed} == allowed
    abi = landlock.version()
    newer = {"truncate": 3, "connect": 4, "bind": 4, "signal": 6}
    refused = {name for name in found if abi >= newer.get(name, 1)}
    assert {name: found[name] for name in refused} == dict.fromkeys(refused, "PermissionError")
    assert "PermissionError" not in {without[name] for name in ("read", "list", "write", "run", "connect", "signal")}


def certificate(directory: Path) -> Path:
    """A certificate and its key in one file."""
    trustme = pytest.importorskip("trustme")
    path = directory / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return path


@with_landlock
def test_a_reload_and_a_message_work_behind_landlock(place: Path) -> None:
    policy = place / "policy.lua"
    script = """
local p = {}
function p:validate_connect(ac, vctx) if msys.audit ~= nil and %s then return vctx.DISCONNECT end return 0 end
msys.registerModule("p", p)
"""
    policy.write_text(script % "false")
    with Serve("--policy", str(policy), "--maildir", str(place / "mail")) as server:
        with contextlib.closing(Peer(*server.addresses[0])) as peer:
            assert peer.line().startswith(b"220")
            for line in (b"HELO x", b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>"):
                assert peer.ask(line).startswith(b"250")
            assert peer.ask(b"DATA").startswith(b"354")
            assert peer.ask(b"text\r\n.").startswith(b"250")
        server.tell(signal.SIGHUP)
        server.event("reloaded")
    assert len(list((place / "mail" / "new").iterdir())) == 1


@with_landlock
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_lists_in_a_directory_of_the_policy_are_read_behind_landlock(place: Path, workers: tuple[str, ...]) -> None:
    for name in ("policies", "lists"):
        (place / name).mkdir()
    policy, listed = place / "policies" / "policy.lua", place / "lists" / "list.txt"
    listed.write_text("127.0.0.1\n")
    policy.write_text(f"""
msys.cidr.define("l", {{type = "rbldnsd", source = {str(listed)!r}}})
local p = {{}}
function p:validate_connect(ac, vctx)
  if msys.cidr.query("l", ac.remote_ip) then return vctx:disconnect(554, "listed") end
end
msys.registerModule("p", p)
""")
    options = ("--policy", str(policy), "--policy-dir", str(place / "lists"), "--shared", "listed", *workers)
    with (
        Serve(*options, listen=("127.0.0.1:0",)) as server,
        contextlib.closing(Peer(*server.addresses[0])) as peer,
    ):
        assert peer.line() == b"554 listed\r\n"


def test_a_kernel_that_lets_no_file_change_its_directory_restricts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 of Landlock (Linux 5.13 to 5.18) would refuse each message of a Maildir."""

    def call(number: int, *arguments: object) -> int:
        assert arguments == (None, 0, 1), "only the version may be asked for"
        return 1

    monkeypatch.setattr(landlock, "_call", call)
    assert landlock.version() == 1
    assert not landlock.restrict(["/"], ["/"])


# ---- another user


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: values.split() for name, _, values in (line.partition(":") for line in lines)}


@as_root
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_low_port_is_bound_and_nothing_is_left_of_root(place: Path, workers: tuple[str, ...]) -> None:
    account, group, port = pwd.getpwnam(USER), grp.getgrnam("mail"), low_port()
    if port is None:
        pytest.skip("no port below 1024 is free")
    (place / "root-only").write_text("x")
    (place / "root-only").chmod(0o600)
    tries = {
        "read": f"open({str(place / 'root-only')!r}).read()",
        "root": "os.setuid(0)",
        "group": "os.setgroups([0])",
        "owner": f"os.chown({str(place / 'mail')!r}, 0, 0)",
        "chroot": "os.chroot('/')",
        "mail": f"open({str(place / 'mail' / 'x')!r}, 'w').write('12')",
    }
    options = ("--user", USER, "--group", group.gr_name, "--state", str(place / "state"), "--no-landlock")
    options = (*options, "--maildir", str(place / "mail"), "--shared", "dropped", *workers)
    with serving(tries, *options, listen=[f"127.0.0.1:{port}"]) as server:
        found = tried(server, server.addresses[0])
        assert found.pop("mail") == "2"
        assert found == dict.fromkeys(found, "PermissionError")
        serving_pids = server.workers if workers else [server.pid]
        for pid in {server.pid, *serving_pids}:
            of = status(pid)
            assert set(of["Uid"]) == {str(account.pw_uid)}
            assert set(of["Gid"]) == {str(group.gr_gid)}
            assert set(map(int, of["Groups"])) == set(os.getgrouplist(USER, group.gr_gid))
            assert of["NoNewPrivs"] == ["1"]
            kept = 0 if pid in serving_pids else 1 << 10  # the supervisor binds again for each new worker
            assert {int(of[name][0], 16) for name in ("CapPrm", "CapEff")} == {kept}
            assert int(of["CapInh"][0], 16) == int(of["CapAmb"][0], 16) == 0
        if workers:
            os.kill(serving_pids[0], signal.SIGKILL)
            replacement = server.event("restarted")["pid"]
            assert set(status(replacement)["Uid"]) == {str(account.pw_uid)}
            assert int(status(replacement)["CapEff"][0], 16) == 0
        for path in (place / "mail", place / "mail" / "new", place / "state", place / "shm" / "inbound_audit-dropped"):
            assert (path.stat().st_uid, path.stat().st_gid) == (account.pw_uid, group.gr_gid)
        server.stopped()


@as_root
def test_the_user_reaches_its_directories_whatever_the_umask_is(place: Path) -> None:
    account, before = pwd.getpwnam(USER), os.umask(0o077)
    try:
        with Serve("--user", USER, "--state", str(place / "a/b/c/state"), "--maildir", str(place / "d/e/f/mail")):
            made = [place / "a/b/c/state", place / "d/e/f/mail"]
            assert [(path.stat().st_uid, path.stat().st_mode & 0o777) for path in made] == [(account.pw_uid, 0o700)] * 2
            for above in ("a", "a/b", "a/b/c", "d", "d/e", "d/e/f"):
                assert ((place / above).stat().st_uid, (place / above).stat().st_mode & 0o777) == (0, 0o755)
    finally:
        os.umask(before)


@as_root
@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--shared", "logged")])
def test_the_decision_log_of_another_user_is_rotated(place: Path, workers: tuple[str, ...]) -> None:
    """Behind Landlock, too, where the kernel has it; root renames the file, as logrotate does."""
    account, path = pwd.getpwnam(USER), place / "logs" / "decisions.log"
    options = ("--user", USER, "--state", str(place / "state"), "--limit", "/0=0", "--decision-log", str(path))
    with Serve(*options, *workers, listen=["127.0.0.1:0"]) as server:

        def is_logged() -> bool:
            with contextlib.closing(Peer(*server.addresses[0])) as peer:
                assert peer.rest().startswith(b"421 ")
            return path.exists() and path.read_text().endswith("}\n")

        eventually(is_logged, "a line")
        path.rename(place / "logs" / "decisions.log.1")
        eventually(is_logged, "a line in a new file")
        path.unlink()
        server.tell(signal.SIGHUP)
        eventually(path.exists, "the file")
        eventually(is_logged, "a line in it")
        found = path.stat()
        assert (found.st_uid, found.st_mode & 0o777 & ~0o640) == (account.pw_uid, 0)
        server.stopped()
    assert not [line for line in server.complaints if "decision log" in line]


@as_root
def test_a_directory_of_logs_that_the_user_can_t_write_to_is_named(place: Path) -> None:
    (place / "logs").mkdir()
    options = ("--user", USER, "--state", str(place / "state"), "--decision-log", str(place / "logs" / "new"))
    done = run("serve", "--listen", "127.0.0.1:0", *options)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert f"--decision-log {place}/logs/new: permission denied" in line


@as_root
def test_without_a_group_it_is_the_users_own(place: Path) -> None:
    account = pwd.getpwnam(USER)
    with Serve("--user", USER, "--state", str(place / "state")) as server:
        of = status(server.pid)
        assert set(of["Gid"]) == {str(account.pw_gid)}
        assert set(map(int, of["Groups"])) == set(os.getgrouplist(USER, account.pw_gid))


@as_root
def test_a_policy_in_lua_is_reloaded_by_another_user(place: Path) -> None:
    """Though the files of Python may be out of the user's reach."""
    policy = place / "policy.lua"
    policy.write_text('local p = {}\nfunction p:validate_connect() return 0 end\nmsys.registerModule("p", p)\n')
    policy.chmod(0o644)
    with Serve("--user", USER, "--policy", str(policy), "--state", str(place / "state")) as server:
        server.tell(signal.SIGHUP)
        server.event("reloaded")
        with contextlib.closing(Peer(*server.addresses[0])) as peer:
            assert peer.line().startswith(b"220")


@as_root
def test_in_a_changed_root_nothing_else_is_there(place: Path) -> None:
    jail = place / "jail"
    jail.mkdir()
    (jail / "policy.lua").write_text(
        'local p = {}\nfunction p:validate_connect() return 0 end\nmsys.registerModule("p", p)\n'
    )
    options = ("--user", USER, "--chroot", str(jail), "--state", "/state", "--maildir", "/mail")
    tries = {
        "root": "sorted(os.listdir('/'))",
        "passwd": "open('/etc/passwd')",
        "up": "os.listdir('/../..')",
        "cwd": "os.getcwd()",
    }
    with serving(tries, *options, "--no-landlock") as server:
        found = tried(server, server.addresses[0])
    inside = "['mail', 'policy.lua', 'state']"
    assert found == {"root": inside, "passwd": "FileNotFoundError", "up": found["up"], "cwd": "'/'"}
    assert sorted(eval(found["up"])) == ["mail", "policy.lua", "state"]
    assert (jail / "mail").stat().st_uid == pwd.getpwnam(USER).pw_uid
    (jail / "inbound-audit.toml").write_text('policy = "/policy.lua"\n')
    with Serve(*options, "--config", str(jail / "inbound-audit.toml")) as server:
        assert os.readlink(f"/proc/{server.pid}/root") == str(jail)
        server.tell(signal.SIGHUP)
        assert server.event("reloaded")["policy"].startswith("/policy.lua")
        (jail / "inbound-audit.toml").write_text('limit = {"/24,/48" = 7}\n')
        server.tell(signal.SIGHUP)
        assert server.event("reloaded", 1)["policy"] == "/24,/48=7"
        with contextlib.closing(Peer(*server.addresses[0])) as peer:
            assert peer.line().startswith(b"220")
        server.stopped()


@as_root
def test_counts_are_shared_with_a_group_in_a_changed_root(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No group has a name there."""
    jail, group = place / "jail", grp.getgrnam("mail")
    monkeypatch.setenv("INBOUND_AUDIT_SHM", "/dev/shm")
    for path in ("proc", "dev", "dev/shm"):
        (jail / path).mkdir(parents=True)
    (jail / "dev/shm").chmod(0o1777)
    if subprocess.run(["mount", "--bind", "/proc", jail / "proc"], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        options = ("--shared", "grouped", "--user", USER, "--group", group.gr_name, "--state", "/state")
        with Serve("--chroot", str(jail), *options):
            found = (jail / "dev/shm/inbound_audit-grouped").stat()
            assert (found.st_gid, found.st_mode & 0o7777) == (group.gr_gid, 0o3770)
    finally:
        subprocess.run(["umount", jail / "proc"], check=True)


@as_root
def test_a_milter_of_another_user_is_reached_by_its_group(place: Path) -> None:
    account, group = pwd.getpwnam(USER), grp.getgrnam("mail")
    (place / "milter").mkdir()
    os.chown(place / "milter", account.pw_uid, 0)
    options = ("--user", USER, "--group", group.gr_name, "--state", str(place / "state"))
    with MilterProcess(*options, listen=f"unix:{place}/milter/socket") as milter:
        found = (place / "milter" / "socket").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (account.pw_uid, group.gr_gid, 0o660)
        of = status(milter.pid)
        assert (set(of["Uid"]), int(of["CapEff"][0], 16)) == ({str(account.pw_uid)}, 0)
        milter.stopped()


@as_root
def test_root_becomes_the_user_whose_audit_it_measures(place: Path) -> None:
    account = pwd.getpwnam(USER)
    command = [*COMMAND, "metrics", "measured", "--user", USER, "--listen", "127.0.0.1:0"]
    with (
        Serve("--user", USER, "--shared", "measured", "--state", str(place / "state")),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            of = status(process.pid)
            assert set(of["Uid"]) == {str(account.pw_uid)}
            assert set(map(int, of["Groups"])) == set(os.getgrouplist(USER, account.pw_gid))
            assert {int(of[name][0], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                assert b'inbound_audit_up{audit="measured"} 1.0' in answer.read()
        finally:
            process.terminate()


@as_root
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--user", "no-such-user"), "no-such-user"),
        (("--user", USER, "--group", "no-such-group"), "no-such-group"),
        (("--user", USER, "--chroot", "/nowhere"), "/nowhere"),
        (("--chroot", "/"), "--chroot needs --user"),
    ],
)
def test_what_cannot_be_become_is_one_line(options: tuple[str, ...], said: str) -> None:
    done = run("serve", "--listen", "127.0.0.1:0", *options)
    assert done.returncode in (1, 2)
    assert done.stderr.count(b"\n") == 1
    assert said in done.stderr.decode()


# ---- memory that may not be executed

NO_EXECUTABLE_MEMORY = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, as MemoryDenyWriteExecute= of systemd where it can
    sys.exit("no MDWE")
from inbound_audit.__main__ import main
sys.exit(main())
"""


def mdwe() -> bool:
    pid = os.fork()
    if pid == 0:
        import ctypes

        os._exit(1 if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) else 0)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(sys.platform != "linux" or not mdwe(), reason="this kernel has no PR_SET_MDWE (Linux 6.3)")
def test_a_policy_runs_where_memory_may_not_be_executed(place: Path) -> None:
    """The loop is hot enough to be compiled; where machine code is refused it is interpreted."""
    policy = place / "policy.lua"
    policy.write_text(
        "local p = {}\nfunction p:validate_connect(ac, vctx)\n  local n = 0\n  for i = 1, 5000 do n = n + i % 7 end\n"
        '  vctx:set_code(421, "n is " .. n)\n  return vctx.DISCONNECT\nend\nmsys.registerModule("p", p)\n'
    )
    expected = sum(i % 7 for i in range(1, 5001))
    command = (sys.executable, "-c", NO_EXECUTABLE_MEMORY)
    with Serve("--policy", str(policy), command=command) as server:
        for _ in range(50):
            with contextlib.closing(Peer(*server.addresses[0])) as peer:
                assert f"n is {expected}".encode() in peer.line()
        server.complaint("LuaJIT interprets policies and does not compile them")
