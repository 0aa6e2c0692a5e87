"""The readers for programs that are no Python: the C header and the LuaJIT module count what the owners count.

Most files here are written by hand, as docs/bytes.md draws them, around the bytes of trees that the core has made: so
that page is held to what it says, and an owner can be as strange as a test wants it. The others are real shared audits.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import ipaddress
import itertools
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.readers.test_readers import arena_base
from tests.support.forking import UNDER_ASAN
from tests.support.waiting import PATIENCE, eventually

import inbound_audit
from inbound_audit import InboundAudit, Listener, Session
from inbound_audit._ipcount import NodeTrees
from inbound_audit.cluster.agent import MIN_SUMMED
from inbound_audit.readers import header, lua_module
from inbound_audit.shared import View, directory_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="owners' files are locked as only Linux can")

EXAMPLES = Path(__file__).parents[2] / "examples" / "foreign"
PACKAGES = str(Path(inbound_audit.__file__).parents[1])  # that are under test, wherever they were built

GRAIN = 65536
LAYOUT, BYTE_ORDER = 2, 0x01020304
OWNER = struct.Struct("=QIIQIIQQ")  # magic, layout, byte order, stride, trees, pid, started, looked
SECTION = struct.Struct("=QQQQQQIIIIII64s64sIIqqqIIIIIIQ")
SESSIONS, WINDOW, REMOTE_WINDOW = 0, 1, 4  # kinds of a section
OWNER_MAGIC, SECTION_MAGIC = 0x72656E776F6169, 0x7464756169
TREES_AT = 24

# ---- the programs that read


C_DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include "inbound_audit.h"
int main(void)
{
    char line[256], verb[16], one[128], two[128];
    ia_handle *audit = NULL;
    ia_error err = IA_OK;
    while (fgets(line, sizeof line, stdin) != NULL) {
        const int words = sscanf(line, "%15s %127s %127s", verb, one, two);
        if (words < 1)
            return 2;
        if (strcmp(verb, "root") == 0 && words == 2) {
            ia_close(audit);
            audit = NULL;
            printf("%d\n", setenv("INBOUND_AUDIT_SHM", one, 1));
        } else if (strcmp(verb, "open") == 0 && words == 2) {
            ia_close(audit);
            audit = ia_open(one, FLAGS, &err);
            printf(audit != NULL ? "%d\n" : "error %d\n", (int)err);
        } else if (strcmp(verb, "refresh") == 0) {
            printf("%d\n", (int)ia_refresh(audit));
        } else if (strcmp(verb, "owners") == 0) {
            printf("%d\n", (int)audit->owners);
        } else {
            const int64_t n = strcmp(verb, "total") == 0 ? ia_total(audit, one) : ia_count_text(audit, one, two);
            printf(n >= 0 ? "%lld\n" : "error %lld\n", (long long)n);
        }
        fflush(stdout);
    }
    ia_close(audit);
    return 0;
}
"""

LUA_DRIVER = """
local ia, ffi = require("inbound_audit"), require("ffi")
local view
local function number_of(damaged)
  for _, owner in ipairs(view:owners()) do
    damaged = owner.damaged and 5 or damaged
  end
  return damaged
end
ffi.cdef("int setenv(const char *name, const char *value, int overwrite);")
local verbs = {
  root = function(path)
    if view then view:close() end
    view = nil
    return tostring(ffi.C.setenv("INBOUND_AUDIT_SHM", path, 1))
  end,
  open = function(name) view = ia.open(name); return number_of(0) end,
  refresh = function() view:refresh(); return number_of(0) end,
  owners = function() return #view:owners() end,
  listeners = function()
    local names = {}
    for _, owner in ipairs(view:owners()) do
      for _, listener in ipairs(owner.listeners) do
        names[#names + 1] = listener.service .. ":" .. listener.name .. ":" .. listener.total
      end
    end
    return table.concat(names, " ")
  end,
  total = function(service) return view:total(service) end,
  count = function(service, cidr) return view:count(cidr, service) end,
}
for line in io.lines() do
  local verb, one, two = line:match("^(%S+) ?(%S*) ?(%S*)$")
  local ok, answer = pcall(verbs[verb], one, two)
  io.write(ok and "" or "error ", tostring(answer), "\\n")
  io.flush()
end
if view then view:close() end
"""

LUPA = """
import importlib, sys
importlib.import_module(sys.argv[1]).LuaRuntime().execute(open(sys.argv[2]).read())
"""

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
C_READERS = {"c": "0", "c-mapped": "IA_MAP", "c-pread": "IA_PREAD"}
LUA_READERS = ("luajit", "lupa.luajit21", "lupa.luajit20")
DAMAGED = "5"


def environment(*, core: bool = False) -> dict[str, str]:
    """For a program; one without the core goes without what `make sanitize` loads into every process."""
    kept = {name: value for name, value in os.environ.items() if core or name != "LD_PRELOAD"}
    if UNDER_ASAN:  # tests see the signal that ends a reader
        kept["ASAN_OPTIONS"] += ":handle_sigbus=0"
    return {**kept, "PYTHONPATH": PACKAGES, "LUA_PATH": f"{lua_module().parent}/?.lua;./?.lua"}


class Reader:
    """A process that answers a line for a line."""

    def __init__(self, command: list[str], *, core: bool = False, **options: object) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(command, text=True, env=environment(core=core), **pipes, **options)

    def ask(self, *lines: str) -> list[str]:
        answers = []
        for start in range(0, len(lines), 200):  # fewer than a pipe holds
            part = lines[start : start + 200]
            self.process.stdin.write("".join(f"{line}\n" for line in part))
            self.process.stdin.flush()
            answers += [self.process.stdout.readline().rstrip("\n") for _ in part]
        return answers

    def one(self, line: str) -> str:
        return self.ask(line)[0]

    def number(self, line: str) -> int:
        return int(self.one(line))

    def end(self) -> tuple[int, str]:
        """How it ended, and its complaints."""
        _, complaints = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, complaints


Start = Callable[..., Reader]


class Programs:
    """Compiles and writes each program once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def compiled(self, source: str, name: str, *options: str) -> Path:
        """`make sanitize` checks each of them."""
        gcc = shutil.which("gcc")
        if gcc is None:
            pytest.skip("there is no gcc")
        out = self.directory / name
        if not out.exists():
            text = self.directory / f"{name}.c"
            text.write_text(source)
            command = [gcc, "-std=gnu99", "-O2", "-g", "-Wall", "-Wextra", "-Werror", f"-I{header().parent}", *options]
            command += SANITIZERS if UNDER_ASAN else []
            done = subprocess.run(
                [*command, "-o", str(out), str(text)], env=environment(), capture_output=True, text=True, check=False
            )
            if "cannot find -l" in done.stderr or "cannot find lib" in done.stderr:
                pytest.skip("this gcc has no sanitizers")
            assert done.returncode == 0, done.stderr
        return out

    def command(self, kind: str, *, checked: bool = False) -> list[str]:
        """Of the reader of that kind; `checked` is under sanitizers."""
        if kind in C_READERS:
            options = SANITIZERS if checked else []
            return [
                str(self.compiled(C_DRIVER, f"{kind}{'-checked' * checked}", f"-DFLAGS={C_READERS[kind]}", *options))
            ]
        script = self.directory / "driver.lua"
        if not script.exists():  # another process may be about to read it
            script.write_text(LUA_DRIVER)
        if kind.startswith("lupa"):
            pytest.importorskip(kind)
            return [sys.executable, "-c", LUPA, kind, str(script)]
        found = shutil.which(kind)
        if found is None:
            pytest.skip(f"there is no {kind}")
        return [found, str(script)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("programs"))


class Pool:
    """Readers that run, of each kind as many as one test needs at once; the next test takes them over."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.free: dict[tuple[str, bool], list[Reader]] = {}

    def take(self, kind: str, checked: bool) -> Reader:
        free = self.free.setdefault((kind, checked), [])
        reader = free.pop() if free else Reader(self.programs.command(kind, checked=checked))
        assert reader.one(f"root {os.environ.get('INBOUND_AUDIT_SHM', '/dev/shm')}") == "0"
        return reader

    def give_back(self, kind: str, checked: bool, reader: Reader) -> None:
        assert reader.process.poll() is None, reader.end()
        self.free[kind, checked].append(reader)

    def end(self) -> None:
        readers = [reader for free in self.free.values() for reader in free]
        try:
            for reader in readers:
                assert reader.end() == (0, "")
        finally:
            for reader in readers:
                reader.process.kill()
                reader.process.wait()


@pytest.fixture(scope="module")
def pool(programs: Programs) -> Iterator[Pool]:
    pool = Pool(programs)
    yield pool
    pool.end()


@pytest.fixture
def start(pool: Pool) -> Iterator[Start]:
    """Hands out readers; none of them may die."""
    taken: list[tuple[str, bool, Reader]] = []

    def start(kind: str, *, checked: bool = False) -> Reader:
        reader = pool.take(kind, checked)
        taken.append((kind, checked, reader))
        return reader

    yield start
    for kind, checked, reader in taken:
        pool.give_back(kind, checked, reader)


every_reader = pytest.mark.parametrize("kind", [*C_READERS, *LUA_READERS])
some_readers = pytest.mark.parametrize("kind", ["c", "c-pread", "luajit", "lupa.luajit21"])

# ---- files by hand


class Window(NamedTuple):
    """What the header of a section says of a window of time."""

    number: int = 0
    newest: int = 0
    base: int = 0
    interval: int = 0
    slots: int = 0
    slot: int = 0
    sign: int = 0
    level4: int = 0
    level6: int = 0
    folded: int = 0


def label_sum(service: bytes, name: bytes, kind: int, window: Window) -> int:
    """FNV-1a over what never changes of whose tree it is."""
    values = [*service, len(service), *name, len(name), kind, *window[3:7]]
    total = 2166136261
    for value in values:
        total = (total ^ value) * 16777619 % 2**32
    return total


def section(
    listener: Listener,
    session: Session,
    kind: int = SESSIONS,
    service: str | None = None,
    name: str | None = None,
    window: Window = Window(),  # noqa: B008
) -> bytes:
    """A listener's tree as it stands in a file; or as if it were a window's, or another listener's."""
    bytes_ = ctypes.string_at(arena_base(session), listener.memory)
    _, *roots_and_hosts = struct.unpack_from("=5Q", bytes_)
    names = (listener.service_type if service is None else service, listener.name if name is None else name)
    one, two = (text.encode() for text in names)
    limit = len(bytes_) // 16
    whose = (len(one), len(two), one, two, label_sum(one, two, kind, window), kind)
    head = SECTION.pack(0, *roots_and_hosts, SECTION_MAGIC, LAYOUT, BYTE_ORDER, limit, limit, *whose, *window)
    return head.ljust(4096, b"\0") + bytes_[4096:]


class File:
    """An owner's file, and its lock: the owner lives until `die`."""

    def __init__(self, directory: Path, sections: list[bytes], name: str | None = None) -> None:
        self.path = directory / (name or f"{random.getrandbits(64):016x}.owner")
        self.stride = -(-max(map(len, sections), default=1) // GRAIN) * GRAIN
        whole = OWNER.pack(
            OWNER_MAGIC, LAYOUT, BYTE_ORDER, self.stride, len(sections), os.getpid(), 1_700_000_000_000_000, 0
        )
        whole = whole.ljust(GRAIN, b"\0") + b"".join(one.ljust(self.stride, b"\0") for one in sections)
        self.path.write_bytes(whole)
        self.path.chmod(0o600)
        self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(self.fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))  # F_OFD_SETLK

    def section_at(self, number: int) -> int:
        return GRAIN + number * self.stride

    def write(self, at: int, form: str, value: int) -> None:
        os.pwrite(self.fd, struct.pack(f"={form}", value), at)

    def die(self) -> None:
        os.close(self.fd)
        self.fd = -1


@functools.cache
def hosts_of(seed: int, number: int) -> list[str]:
    """Both families, far and near: every shape of a node. `number` is that of a listener."""
    rng = random.Random(f"{seed} {number}")
    hosts = [str(ipaddress.IPv4Address(rng.getrandbits(32))) for _ in range(300)]
    hosts += [str(ipaddress.IPv6Address(rng.getrandbits(128))) for _ in range(300)]
    for size in (2, 4, 7, 12, 25, 60, 200, 256):
        third = rng.randrange(256)
        hosts += [f"10.7.{third}.{last}" for last in rng.sample(range(256), size)]
        hosts += [f"2001:db8:{size:x}::{third:x}:{last:x}" for last in rng.sample(range(256), size)]
        hosts += [f"2001:db8:{size:x}:{last:x}00::1" for last in rng.sample(range(256), size)]
    return hosts + hosts[:50]


class Crowd:
    """Private audits as owners of one directory, each with several listeners and services."""

    def __init__(self, directory: Path, seed: int, owners: int = 2) -> None:
        self.directory = directory / "inbound_audit-mail"
        self.directory.mkdir(mode=0o700)
        self.audits = [InboundAudit() for _ in range(owners)]
        self.files = []
        self.sessions = []
        self.rng = random.Random(seed)
        numbers = itertools.count()
        for audit in self.audits:
            sections = []
            for service, name in (("SMTP", "mx"), ("SMTP", "submission"), ("Control", "ö" * 32)):
                listener = audit.listener(service, name=name)
                sessions = [listener.session(host) for host in hosts_of(seed, next(numbers))]
                self.sessions += sessions
                sections.append(section(listener, sessions[0]))
            self.files.append(File(self.directory, sections))

    def prefixes(self, n: int) -> list[str]:
        found = []
        for _ in range(n):
            host = ipaddress.ip_address(self.rng.choice(self.sessions).remote_ip)
            if self.rng.random() < 0.1:
                host = type(host)(self.rng.getrandbits(host.max_prefixlen))
            length = self.rng.randint(0, host.max_prefixlen)
            if self.rng.random() < 0.5:
                length = host.max_prefixlen - self.rng.choice((0, 0, 1, 3, 7, 8, 8))
            text = str(host)
            if host.version == 4 and self.rng.random() < 0.1:
                text, length = f"::ffff:{host}", length + 96
            found.append(f"{text}/{length}")
        return found

    def count(self, service: str, cidr: str) -> int:
        return sum(audit.inbound_session_count(cidr, service) for audit in self.audits)

    def total(self, service: str) -> int:
        return sum(audit.total(service) for audit in self.audits)

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        for audit in self.audits:
            audit.close()
        for file in self.files:
            if file.fd >= 0:
                file.die()


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    crowd = Crowd(tmp_path, seed=5)
    yield crowd
    crowd.close()


def questions(crowd: Crowd, n: int) -> tuple[list[str], list[str]]:
    """Lines for a reader, and what it has to answer."""
    asked = [(service, cidr) for cidr in crowd.prefixes(n) for service in ("SMTP", "Control", "inbound_cidr")]
    lines = [f"count {service} {cidr}" for service, cidr in asked]
    return lines, [str(crowd.count(service, cidr)) for service, cidr in asked]


# ---- counts


@every_reader
def test_counts_are_those_of_the_owners(crowd: Crowd, start: Start, kind: str) -> None:
    reader = start(kind)
    assert reader.ask("open mail", "owners") == ["0", "2"]
    lines, expected = questions(crowd, 1000)
    assert reader.ask(*lines) == expected
    assert len(set(expected)) > 50
    for service in ("SMTP", "Control", "inbound_cidr"):
        assert reader.number(f"total {service}") == crowd.total(service) > 0
    assert reader.ask("total ECStream", "count Nobody 10.0.0.0/8") == ["0", "0"]


@every_reader
def test_prefixes_as_text(crowd: Crowd, start: Start, kind: str) -> None:
    reader = start(kind)
    reader.one(f"open {crowd.directory}")
    bad = [
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/8x",
        "::/129",
        ":/0",
        "/24",
        "x",
        "10.0.0.0/8/8",
    ]
    bad += ["10.0.0.0/99999999999999999999", "1" * 100, "010.0.0.0/8", "10.0.0.0/+8", "::1%lo", "localhost"]
    for cidr in bad:
        assert reader.one(f"count SMTP {cidr}").startswith("error"), cidr
    good = [
        "10.7.1.2",
        "10.0.0.0/8",
        "::/0",
        "0.0.0.0/0",
        "::ffff:10.7.0.0/112",
        "::ffff:0:0/95",
        "::ffff:0:0/96",
        "2001:DB8::/32",
    ]
    assert [reader.number(f"count SMTP {cidr}") for cidr in good] == [crowd.count("SMTP", cidr) for cidr in good]


@every_reader
def test_a_stopped_writer_in_mid_update_delays_no_reader(crowd: Crowd, start: Start, kind: str) -> None:
    reader = start(kind)
    reader.one("open mail")
    for file in crowd.files:
        for number in range(3):
            file.write(file.section_at(number), "Q", 77)
    lines, expected = questions(crowd, 30)
    assert reader.ask(*lines) == expected


@every_reader
def test_the_dead_are_not_counted_and_the_new_are(crowd: Crowd, start: Start, kind: str) -> None:
    reader = start(kind)
    reader.one("open mail")
    first, second = (audit.total("SMTP") for audit in crowd.audits)
    crowd.files[0].die()
    assert reader.number("total SMTP") == first + second  # not refreshed yet
    assert reader.ask("refresh", "total SMTP", "owners") == ["0", str(second), "1"]
    third = crowd.audits[0].listener("SMTP", name="mx")
    one = section(third, next(session for session in crowd.sessions if session.listener is third))
    file = File(crowd.directory, [one, one])
    crowd.files.append(file)
    file.write(TREES_AT, "I", 1)
    assert reader.ask("refresh", "total SMTP") == ["0", str(second + third.total)]
    file.write(TREES_AT, "I", 2)  # a listener that is new
    assert reader.number("total SMTP") == second + third.total
    assert reader.ask("refresh", "total SMTP", "owners") == ["0", str(second + 2 * third.total), "2"]
    for alive in crowd.files[1:]:
        alive.die()
    assert reader.ask("refresh", "total SMTP", "owners") == ["0", "0", "0"]


@every_reader
def test_a_file_that_grows_is_read_to_its_end(crowd: Crowd, start: Start, kind: str) -> None:
    """An owner asks for memory while its tree grows: the section ends where the file does, until it does not."""
    reader = start(kind)
    file = crowd.files[0]
    whole = file.path.read_bytes()
    last = file.section_at(2)
    os.ftruncate(file.fd, last + 4096)
    for at in (8, 16):
        file.write(last + at, "Q", 0)
    reader.one("open mail")
    assert reader.number("total Control") == crowd.audits[1].total("Control")
    os.pwrite(file.fd, whole[last:], last)
    lines, expected = questions(crowd, 50)
    assert reader.ask(*lines) == expected


@every_reader
def test_what_is_no_owners_file_is_left_alone(crowd: Crowd, start: Start, kind: str) -> None:
    reader = start(kind)
    here = crowd.directory
    for name in ("notes", "0123456789abcde.owner", "0123456789abcdef.owner.old", "0123456789ABCDEF.owner", ".owner"):
        crowd.files.append(File(here, [], name))
    (here / f"{1:016x}.owner").mkdir()
    os.mkfifo(here / f"{2:016x}.owner")
    (here / f"{3:016x}.owner").symlink_to(crowd.files[0].path)
    (here / f"{4:016x}.owner").write_bytes(crowd.files[0].path.read_bytes())  # nobody's: it has no lock
    (here / f"{5:016x}.owner").hardlink_to(crowd.files[0].path)  # one owner's, by another name
    assert reader.ask("open mail", "owners") == ["0", "2"]
    assert reader.number("total SMTP") == crowd.total("SMTP")


# ---- sections of windows of time


# Of a section in the first place of the file, each by itself: no checksum is that of another one's.
LABELS = [
    (GRAIN + 64, "I", 5),
    (GRAIN + 68, "I", 1),
    (GRAIN + 72, "B", ord("s")),
    (GRAIN + 136, "B", ord("M")),
    (GRAIN + 200, "I", 0),
    *[(GRAIN + at, "I", value) for at in (204, 232, 236, 240, 244) for value in (9, 1 << 31)],
]

HOUR = Window(number=8, newest=8, interval=3600, slots=2, level4=32, level6=128)


class Mixed:
    """An owner's file in which the sessions of a listener stand among windows that have the same tree.

    Some are called what no window is called: who looks at names alone counts those, too.
    """

    def __init__(self, crowd: Crowd) -> None:
        self.audit = crowd.audits[0]
        listener = self.audit.listener("SMTP", name="mx")
        session = next(session for session in crowd.sessions if session.listener is listener)
        others = [
            section(listener, session, WINDOW, "connections", "3600,2", HOUR),
            section(listener, session, WINDOW, "SMTP", "mx", HOUR._replace(slot=1, number=7)),
            section(listener, session, WINDOW, "strings", "ö" * 32, HOUR._replace(sign=1)),
            section(listener, session, WINDOW, "inbound_cidr", "", HOUR),
            section(listener, session, 2**32 - 1, "SMTP", "mx"),
            section(listener, session, REMOTE_WINDOW, "SMTP", "mx", HOUR),
        ]
        mine = section(listener, session)
        self.total = listener.total
        for owner in crowd.files:
            owner.die()
        self.file = File(crowd.directory, [others[0], mine, *others[1:], mine])
        crowd.files.append(self.file)


@pytest.fixture
def mixed(crowd: Crowd) -> Mixed:
    return Mixed(crowd)


@every_reader
def test_windows_of_time_are_not_counted(mixed: Mixed, start: Start, kind: str) -> None:
    reader = start(kind)
    assert reader.ask("open mail", "owners") == ["0", "1"]
    for service in ("SMTP", "inbound_cidr"):
        assert reader.number(f"total {service}") == 2 * mixed.total > 0
        assert reader.number(f"count {service} 0.0.0.0/0") + reader.number(f"count {service} ::/0") == 2 * mixed.total
    for service in ("connections", "strings", "series", "Control"):
        assert reader.ask(f"total {service}", f"count {service} 0.0.0.0/0") == ["0", "0"]
    if kind not in C_READERS:
        assert reader.one("listeners") == f"SMTP:mx:{mixed.total} SMTP:mx:{mixed.total}"
    assert reader.one("refresh") == "0"
    mixed.file.write(mixed.file.section_at(1) + 8, "Q", 0)
    mixed.file.write(mixed.file.section_at(1) + 16, "Q", 0)
    assert reader.number("total SMTP") == mixed.total


@every_reader
def test_windows_that_come_and_go_are_not_counted(mixed: Mixed, start: Start, kind: str) -> None:
    """One more section is no reason to count it, nor is what is written to it while the reader looks on."""
    reader = start(kind)
    mixed.file.write(TREES_AT, "I", 1)
    assert reader.ask("open mail", "total SMTP") == ["0", "0"]
    for trees, total in ((2, 1), (3, 1), (7, 1), (8, 2)):
        mixed.file.write(TREES_AT, "I", trees)
        assert reader.ask("refresh", "total SMTP") == ["0", str(total * mixed.total)]
    for number in (0, 2, 3, 4, 5, 6):
        mixed.file.write(mixed.file.section_at(number), "Q", 77)
        mixed.file.write(mixed.file.section_at(number) + 208, "q", -(1 << 62))
    assert reader.ask("refresh", "total SMTP") == ["0", str(2 * mixed.total)]


@every_reader
@pytest.mark.parametrize(("at", "form", "value"), [(GRAIN + 64, "I", 64), (GRAIN + 68, "I", 65), *LABELS])
def test_a_damaged_header_is_that_of_the_owner_whatever_it_counts(
    mixed: Mixed, start: Start, kind: str, at: int, form: str, value: int
) -> None:
    reader = start(kind)
    mixed.file.write(at, form, value)
    assert reader.ask("open mail", "owners", "total SMTP") == [DAMAGED, "1", "0"]


@every_reader
@pytest.mark.parametrize(("at", "form", "value"), [(40, "Q", 5), (48, "I", LAYOUT + 1), (52, "I", 0)])
def test_another_layout_of_a_window_is_an_error(
    mixed: Mixed, start: Start, kind: str, at: int, form: str, value: int
) -> None:
    reader = start(kind)
    mixed.file.write(mixed.file.section_at(2) + at, form, value)
    assert reader.one("open mail").startswith("error")


# ---- what is not as it should be


@every_reader
@pytest.mark.parametrize(
    ("at", "form", "value"),
    [(0, "Q", 0), (0, "Q", OWNER_MAGIC + 1), (8, "I", LAYOUT + 1), (12, "I", 0x04030201), (12, "I", 0)],
    ids=["no magic", "magic", "layout", "order", "no order"],
)
@pytest.mark.parametrize("inside", [False, True], ids=["owner", "section"])
def test_another_layout_is_an_error_and_no_guess(
    crowd: Crowd, start: Start, kind: str, at: int, form: str, value: int, inside: bool
) -> None:
    reader, late = start(kind), start(kind)
    late.one("open mail")
    file = crowd.files[1]
    where = file.section_at(1) + 40 if inside else 0
    file.write(where + at, form, value)
    assert reader.one("open mail").startswith("error")
    if kind in C_READERS:
        expected = "0" if inside else "4"  # a section that was met is not looked at again
        assert late.one("refresh") == expected
    else:
        late.one("refresh")
    if not inside:
        assert all(answer.startswith("error") for answer in late.ask("total SMTP", "count SMTP 10.0.0.0/8"))
    file.die()
    assert reader.ask("open mail", "owners") == ["0", "1"]
    for one in (reader, late):
        assert one.ask("refresh", "total SMTP") == ["0", str(crowd.audits[0].total("SMTP"))]


@every_reader
@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        *[(16, "Q", stride) for stride in (0, 4096, 1 << 33, (1 << 33) + GRAIN, 1 << 63)],
        *[(24, "I", trees) for trees in (4, 4097, 0xFFFFFFFF)],
        *[(GRAIN + 64, "I", size) for size in (0, 64, 0xFFFFFFFF)],
        *[(GRAIN + 68, "I", size) for size in (65, 0xFFFFFFFF)],
        *LABELS,
    ],
)
def test_an_owner_that_says_what_cannot_be_is_not_counted(
    crowd: Crowd, start: Start, kind: str, at: int, form: str, value: int
) -> None:
    reader = start(kind)
    crowd.files[1].write(at, form, value)
    assert reader.ask("open mail", "owners") == [DAMAGED, "2"]
    assert reader.number("total SMTP") == crowd.audits[0].total("SMTP")
    assert reader.ask("refresh", "total SMTP") == [DAMAGED, str(crowd.audits[0].total("SMTP"))]


@every_reader
def test_a_root_that_leads_nowhere_counts_nothing(crowd: Crowd, start: Start, kind: str) -> None:
    """A unit is believed as far as the file goes, whatever the file says of how far that is."""
    reader = start(kind)
    reader.one("open mail")
    file = crowd.files[1]
    lines, _ = questions(crowd, 20)
    # A unit of zeros is a host 0.0.0.0 or ::, so prefixes with that host are left out.
    lines = [line for line in lines if int(ipaddress.ip_network(line.split()[2], strict=False).network_address)]
    file_end = len(file.path.read_bytes()) - file.section_at(2)
    left = [str(crowd.audits[0].inbound_session_count(*reversed(line.split()[1:]))) for line in lines]
    for number in range(3):
        file.write(file.section_at(number) + 60, "I", 0xFFFFFFFF)
    for unit in (file_end // 16 - 1, file_end // 16, 1 << 28, (1 << 29) - 1):
        for tag in (0, 2, 3, 4, 5, 6, 7):
            for number in range(3):
                for root in (8, 16):
                    file.write(file.section_at(number) + root, "Q", 5 << 32 | tag << 29 | unit)
            assert reader.ask(*lines) == left


@every_reader
@pytest.mark.parametrize("size", [0, 10, GRAIN - 1, GRAIN, GRAIN + 100])
def test_a_file_that_was_cut_short(crowd: Crowd, start: Start, kind: str, size: int) -> None:
    """Who reads with pread loses no more than the counts of that owner; who maps has to look first."""
    reader, late = start(kind), start(kind)
    late.one("open mail")
    os.ftruncate(crowd.files[1].fd, size)
    left = crowd.audits[0].total("SMTP")
    if kind not in ("c", "c-mapped"):
        assert late.number("total SMTP") == left + (size > GRAIN) * crowd.audits[1].listener("SMTP", name="mx").total
        assert late.number("count SMTP 0.0.0.0/1") == crowd.audits[0].inbound_session_count("0.0.0.0/1", "SMTP")
    assert late.ask("refresh", "total SMTP") == [DAMAGED, str(left)]
    assert reader.ask("open mail", "total SMTP") == [DAMAGED, str(left)]


@pytest.mark.parametrize("kind", ["c", "c-mapped"])
def test_a_reader_is_killed_when_the_file_it_maps_is_truncated(crowd: Crowd, programs: Programs, kind: str) -> None:
    """That is what the header says of it, and why it has IA_PREAD."""
    reader = Reader(programs.command(kind))
    reader.one("open mail")
    os.ftruncate(crowd.files[1].fd, GRAIN)
    assert reader.one("total SMTP") == ""
    assert reader.end()[0] == -7  # SIGBUS


def flip(rng: random.Random, bytes_: mmap.mmap, sections: list[tuple[int, int]]) -> None:
    """One byte, where it matters: a root, a node, now and then a header. Sections are (begin, end)."""
    start, end = rng.choice(sections)
    at = start + rng.choice((rng.randrange(40), rng.randrange(4096, end - start), rng.randrange(4096, 16384)))
    if rng.random() < 0.03:
        at = rng.choice((rng.randrange(48), start + rng.randrange(SECTION.size)))
    bytes_[at] = rng.choice((rng.randrange(256), bytes_[at] ^ 1 << rng.randrange(8), 255, 0))


def flip_and_ask(
    reader: Reader, path: Path, sections: list[tuple[int, int]], lines: list[str], expected: list[str]
) -> None:
    """Ten thousand flips of an owner's file. Whatever is answered, something is; and it is right when the bytes are."""
    rng = random.Random(6)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as bytes_:
        intact = bytes(bytes_)
        for done in range(1, 2001):
            for _ in range(5):
                flip(rng, bytes_, sections)
            answers = reader.ask(*rng.sample(lines, 4), "total SMTP")
            assert all(answer.startswith("error") or int(answer) >= 0 for answer in answers)
            if rng.random() < 0.1:
                assert reader.one("refresh")
            if done % 20 == 0:
                bytes_[:] = intact
                # What was met with a damaged stride is at odds with the one that is right: the first look lets it go.
                assert reader.ask("refresh", "refresh")[1] == "0"
            if done % 200 == 0:
                assert reader.ask(*lines) == expected


@pytest.mark.parametrize("kind", ["c-mapped", "c-pread", "luajit", "lupa.luajit21"])
def test_ten_thousand_flips_crash_no_reader(crowd: Crowd, start: Start, kind: str) -> None:
    """The C reader runs under sanitizers."""
    reader = start(kind, checked=kind in C_READERS)
    reader.one("open mail")
    file = crowd.files[0]
    sections = [(file.section_at(number), file.section_at(number + 1)) for number in range(3)]
    flip_and_ask(reader, file.path, sections, *questions(crowd, 200))


# ---- the directory


@some_readers
def test_directories_that_are_refused(crowd: Crowd, start: Start, kind: str, tmp_path: Path) -> None:
    reader = start(kind)
    (tmp_path / "inbound_audit-link").symlink_to(crowd.directory)
    (tmp_path / "inbound_audit-file").touch()
    for mode in (0o701, 0o704, 0o702, 0o777):
        (tmp_path / f"inbound_audit-m{mode:o}").mkdir()
        (tmp_path / f"inbound_audit-m{mode:o}").chmod(mode)
    for name in ("link", "file", "nobody", "m701", "m704", "m702", "m777", ".", "..", ".x", "-x", "a" * 64, "ä", "a:b"):
        assert reader.one(f"open {name}").startswith("error"), name
    (tmp_path / f"inbound_audit-{'a' * 63}").mkdir(mode=0o700)
    (tmp_path / "inbound_audit-9._-").mkdir(mode=0o2770)
    assert reader.ask(f"open {'a' * 63}", "total SMTP", "open 9._-", "owners") == ["0"] * 4


@pytest.fixture
def open_space() -> Iterator[Path]:
    """A directory that other users reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        space = Path(name)
        if not all(parent.stat().st_mode & 0o001 for parent in space.resolve().parents):
            pytest.skip(f"{space} is not to be reached by other users")
        space.chmod(0o755)
        yield space


@pytest.mark.parametrize("kind", ["c", "c-mapped", "c-pread", "luajit"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_directories_of_others(
    open_space: Path, programs: Programs, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of the group may read, and no other user: root has to name the owner."""
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(open_space))
    command = []
    for part in [*programs.command(kind), str(lua_module())]:
        reachable = Path(part).parent == programs.directory or part == str(lua_module())
        command.append(shutil.copy(part, open_space) if reachable else part)
    crowd = Crowd(open_space, seed=7)
    crowd.directory.chmod(0o2770)
    os.chown(crowd.directory, 4711, 4712)
    for file in crowd.files:
        os.chown(file.path, 4711, 4712)
        file.path.chmod(0o640)
    answers = {}
    for who, user, groups in (("root", 0, [0]), ("owner", 4711, []), ("member", 4713, [4712]), ("stranger", 4714, [])):
        reader = Reader(command[:-1], cwd=open_space, user=user, group=user, extra_groups=groups)
        answers[who] = reader.ask("open mail")[0] == "0" and reader.number("total SMTP")
        assert reader.end() == (0, "")
    total = crowd.total("SMTP")
    crowd.close()
    assert answers == {"root": False, "owner": total, "member": total, "stranger": False}


# ---- real owners

OWNER_PROGRAM = """
import random, sys, time
from inbound_audit import InboundAudit
audit = InboundAudit(shared="mail", capacity=64 << 20)
kept = []
print("joined", flush=True)
for line in sys.stdin:
    verb, *words = line.split()
    if verb == "open":
        service, name, *hosts = words
        listener = audit.listener(service, name=name)
        kept += [listener.session(host) for host in hosts]
    elif verb == "close":
        while kept:
            kept.pop().close()
    elif verb == "roam":
        pause = float(words[0])
        print("done", flush=True)
        rng = random.Random(1)
        while True:
            session = rng.choice(kept)
            if session.version == 4:
                session.rebind(f"10.9.{rng.randrange(4)}.{rng.randrange(256)}")
            else:
                session.rebind(f"2001:db8:9::{rng.randrange(999):x}:{rng.randrange(3)}")
            listener.session(f"172.16.{rng.randrange(256)}.{rng.randrange(256)}").close()
            if pause:
                time.sleep(pause)
    print("done", flush=True)
"""


class Owner(Reader):
    """A process that counts in the shared audit "mail"."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-W", "error", "-c", OWNER_PROGRAM], core=True)
        assert self.process.stdout.readline() == "joined\n"

    def open(self, service: str, name: str, hosts: list[str]) -> None:
        assert self.one(" ".join(["open", service, name, *hosts])) == "done"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Owner]]:
    """Starts owners; they end with the test."""
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    started: list[Owner] = []

    def start() -> Owner:
        started.append(Owner())
        return started[-1]

    yield start
    for owner in started:
        owner.kill()


def addresses(rng: random.Random, n: int) -> list[str]:
    near = [f"10.7.{rng.randrange(3)}.{rng.randrange(256)}" for _ in range(n)]
    near += [f"2001:db8::{rng.randrange(3):x}:{rng.randrange(512):x}" for _ in range(n)]
    near += [str(ipaddress.IPv4Address(rng.getrandbits(32))) for _ in range(n)]
    return near + [str(ipaddress.IPv6Address(rng.getrandbits(128))) for _ in range(n)]


def shared_questions(rng: random.Random, n: int) -> tuple[list[str], list[str]]:
    """Lines for a reader, and what `View` answers to them."""
    with View("mail") as view:
        rows = [row for service in ("SMTP", "Control") for row in view.tree(service)]
        assert len(rows) > 500
        asked = [(service, rng.choice(rows)[1]) for _ in range(n) for service in ("SMTP", "Control", "inbound_cidr")]
        asked += [("SMTP", f"{host}/{rng.randint(0, 32)}") for host in addresses(rng, n) if "." in host]
        answers = [str(view.inbound_session_count(cidr, service)) for service, cidr in asked]
        totals = [str(view.total(service)) for service in ("SMTP", "Control")]
    return [f"count {service} {cidr}" for service, cidr in asked] + ["total SMTP", "total Control"], answers + totals


@every_reader
def test_shared_audits_are_read_as_the_view_reads_them(owners: Callable[[], Owner], start: Start, kind: str) -> None:
    rng = random.Random(8)
    reader = start(kind)
    assert reader.one("open mail").startswith("error")
    crowd = [owners() for _ in range(3)]
    for owner in crowd:
        owner.open("SMTP", "mx", addresses(rng, 300))
        owner.open("SMTP", "submission", addresses(rng, 50))
    crowd[0].open("Control", "default", addresses(rng, 100))
    assert reader.ask("open mail", "owners") == ["0", "3"]
    lines, expected = shared_questions(rng, 200)
    assert reader.ask(*lines) == expected

    crowd[1].kill()
    eventually(lambda: reader.ask("refresh", "owners")[1] == "2", "the end of a dead owner")
    lines, expected = shared_questions(rng, 200)
    assert reader.ask(*lines) == expected

    crowd[0].open("SMTP", "late", addresses(rng, 20))
    assert reader.one("refresh") == "0"
    crowd[2].open("SMTP", "mx", addresses(rng, 5000))  # the file grows; nobody looks again
    lines, expected = shared_questions(rng, 200)
    assert reader.ask(*lines) == expected

    assert crowd[2].one("close") == "done"  # gives its pages back
    crowd[2].open("SMTP", "mx", addresses(rng, 10))
    lines, expected = shared_questions(rng, 200)
    assert reader.ask(*lines) == expected


@every_reader
def test_windows_of_a_shared_audit_are_passed_over(
    start: Start, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    rng = random.Random(12)
    reader = start(kind)
    with InboundAudit(shared="mail", capacity=64 << 20, monitors=["300,6", "1800,4"], monitor_bytes=64 << 20) as audit:
        audit.series.define("SMTP", "ip", 300, 3, max_bytes=1 << 20)
        mx = audit.listener("SMTP", name="mx")
        audit.series.define("ö" * 32, "string", 300, 3, max_bytes=1 << 20)
        sessions = [
            listener.session(host) for listener in (mx, audit.listener("Control")) for host in addresses(rng, 99)
        ]
        assert reader.ask("open mail", "owners") == ["0", "1"]
        for session in sessions:
            session.record_reception()
            session.record_rejection(3)
            audit.series.add("SMTP", session, 5)
            audit.series.add("SMTP", session, -9)
            audit.series.add("ö" * 32, session.remote_ip)
        for _ in range(2):
            lines, expected = shared_questions(rng, 50)
            assert reader.ask(*lines) == expected
            assert reader.one("refresh") == "0"  # the trees of what was taken away have come
        if kind not in C_READERS:
            assert reader.one("listeners") == "SMTP:mx:396 Control:default:396"
        for session in sessions:
            session.close()
        assert reader.ask("total SMTP", "total Control") == ["0", "0"]


@every_reader
@pytest.mark.parametrize("kept", [False, True], ids=["nodes", "nodes and their sum"])
def test_other_nodes_of_a_cluster_are_passed_over(
    start: Start, kind: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count this host; so does the view of SMTP. As many nodes as an agent keeps a sum for have one here."""
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    rng = random.Random(13)
    reader = start(kind)
    with InboundAudit(shared="mail", capacity=64 << 20) as audit:
        trees = NodeTrees(audit)
        names = [f"mx{at}" for at in range(2, 2 + (MIN_SUMMED if kept else 2))]
        trees.add("mx2").set_word(1, 7)
        mx = audit.listener("SMTP", name="mx")
        sessions = [mx.session(host) for host in addresses(rng, 99)]
        trees.sum = kept
        records = trees.difference(trees.said())
        for name in names:
            trees.add(name).set_many(records)
        asked = [(service, f"{host}/24") for host in addresses(rng, 30) for service in ("SMTP", "inbound_cidr")]
        expected = [str(audit.inbound_session_count(cidr, "SMTP")) for _, cidr in asked]
        assert audit.total("inbound_cidr") == (1 + len(names)) * 396
        assert audit.total() == 396
        assert reader.ask("open mail", "owners") == ["0", "1"]
        for _ in range(2):
            assert reader.ask(*(f"count {service} {cidr}" for service, cidr in asked)) == expected
            assert reader.ask("total SMTP", "total inbound_cidr", "refresh") == ["396", "396", "0"]
            trees.add("mx3").empty()
        if kind not in C_READERS:
            assert reader.one("listeners") == "SMTP:mx:396"
        with View("mail") as view:
            assert (view.total(), view.total("inbound_cidr")) == (396, len(names) * 396)
        for session in sessions:
            session.close()


# ---- windows, read as the page says


class Ring:
    """One owner's ring of a series, out of the bytes of its file; of all addresses together, which is one word."""

    def __init__(self, file: bytes, scope: str, name: str, interval: int, slots: int) -> None:
        self.interval, self.slots = interval, slots
        self.sections: dict[tuple[int, int], tuple[int, int]] = {}  # slot and sign: number, count
        _, layout, _, stride, trees, *_ = OWNER.unpack_from(file)
        assert layout == LAYOUT
        for at in range(GRAIN, GRAIN + trees * stride, stride):
            _, root4, root6, _, _, magic, layout, *rest = SECTION.unpack_from(file, at)
            assert (magic, layout) == (SECTION_MAGIC, LAYOUT)
            *_, one_size, two_size, one, two, total, kind = rest[:9]
            one, two, window = one[:one_size], two[:two_size], Window(*rest[9:])
            assert total == label_sum(one, two, kind, window)
            if (kind, one, two, *window[3:5]) == (WINDOW, scope.encode(), name.encode(), interval, slots):
                assert (window.slot, window.sign) not in self.sections
                self.sections[window.slot, window.sign] = window.number, (root4 >> 32) + (root6 >> 32)
                if (window.slot, window.sign) == (0, 0):
                    self.newest, self.base = window.newest, window.base

    def count(self, seconds: float, window: int) -> int:
        number = max(seconds // self.interval + self.base, self.newest) - window
        found = [self.sections.get((number % self.slots, sign), (None, 0)) for sign in (0, 1)]
        added, taken = (count if held == number else 0 for held, count in found)
        return added - taken


@pytest.mark.parametrize("times", [[1_000_000_000] * 3, range(-2000, 4000, 77), [9000, 9900, 8000, 8100, 8300, 20_000]])
def test_a_count_of_windows_is_made_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: list[int]
) -> None:
    """By a clock that runs on, before 1970 too, and by one that is set back."""
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    now = times[0]
    rng = random.Random(13)
    with InboundAudit(
        shared="mail", capacity=1 << 20, monitors=["300,4"], monitor_bytes=1 << 20, clock=lambda: now
    ) as audit:
        audit.series.define("s", "ip", 60, 5, max_bytes=1 << 20)
        (path,) = Path(directory_of("mail")).glob("*.owner")
        nonzero = 0
        for now in times:
            host = rng.choice(addresses(rng, 1))
            with audit.listener("SMTP").session(host) as session:
                session.record_rejection(rng.randrange(1, 9))
            audit.series.add("s", host, rng.randrange(1, 1000))
            audit.series.add("s", rng.choice(addresses(rng, 1)), -rng.randrange(1, 1000))
            file = path.read_bytes()
            for window in range(5):
                seen = Ring(file, "series", "s", 60, 5).count(now, window)
                assert seen == sum(audit.series.count("s", cidr, window) for cidr in ("0.0.0.0/0", "::/0"))
                nonzero += seen != 0
            for window, scope in enumerate(("connections", "rejections", "receptions", "rejections")):
                seen = Ring(file, scope, "300,4", 300, 4).count(now, window)
                count = getattr(audit, scope)
                assert seen == sum(count(0, cidr, window) for cidr in ("0.0.0.0/0", "::/0"))
        assert nonzero >= len(times)


@pytest.mark.parametrize("kind", ["c", "luajit"])
def test_the_command_line_shows_the_same(owners: Callable[[], Owner], start: Start, kind: str) -> None:
    pytest.importorskip("click")
    pytest.importorskip("rich")
    rng = random.Random(11)
    for _ in range(2):
        owners().open("SMTP", "mx", addresses(rng, 100))
    reader = start(kind)
    reader.one("open mail")
    for cidr in ("10.7.0.0/16", "10.7.1.0/24", "10.7.2.128/25", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1:0/112"):
        command = [sys.executable, "-m", "inbound_audit", "show", "mail", cidr, "--json"]
        done = subprocess.run(command, env=environment(core=True), capture_output=True, text=True, check=True)
        assert reader.number(f"count SMTP {cidr}") == json.loads(done.stdout)["count"] > 0


@every_reader
def test_beside_a_writer_that_never_rests(owners: Callable[[], Owner], start: Start, kind: str) -> None:
    """Sixty sessions move about in a network that they never leave. Of a move that stands still in the middle, a reader
    may have seen the first half: one more, and never one less. (Who makes system calls is given time between two.)"""
    owner = owners()
    owner.open("SMTP", "mx", [f"10.9.{i % 4}.{i}" for i in range(60)] + [f"2001:db8:9::{i:x}:1" for i in range(60)])
    reader = start(kind)
    reader.one("open mail")
    assert owner.one(f"roam {0 if kind in ('c', 'c-mapped') else 0.0002}") == "done"
    for cidr in ("10.9.0.0/16", "10.9.0.0/22", "2001:db8:9::/48", "2001:db8::/32"):
        seen = [int(answer) for answer in reader.ask(*[f"count SMTP {cidr}"] * 3000)]
        assert set(seen) <= {60, 61}
        eventually(lambda: reader.number(f"count SMTP {cidr}") == 60)  # noqa: B023


@pytest.mark.parametrize("kind", ["c-mapped", "c-pread", "luajit"])
def test_flips_in_a_shared_audit_crash_no_owner(owners: Callable[[], Owner], start: Start, kind: str) -> None:
    rng = random.Random(9)
    reader = start(kind, checked=kind in C_READERS)
    owners().open("SMTP", "mx", addresses(rng, 300))
    owners().open("SMTP", "mx", addresses(rng, 300))
    lines, expected = shared_questions(rng, 50)
    reader.one("open mail")
    path = sorted(Path(directory_of("mail")).glob("*.owner"))[0]
    flip_and_ask(reader, path, [(GRAIN, path.stat().st_size)], lines, expected)


@pytest.mark.parametrize("kind", ["c-pread", "luajit"])
def test_shared_files_that_are_cut_short(owners: Callable[[], Owner], start: Start, kind: str) -> None:
    rng = random.Random(10)
    reader = start(kind)
    cut = owners()
    cut.open("SMTP", "mx", addresses(rng, 100))
    (path,) = Path(directory_of("mail")).glob("*.owner")
    owners().open("SMTP", "mx", addresses(rng, 100))
    reader.one("open mail")
    assert reader.number("total SMTP") == 800
    os.kill(cut.process.pid, signal.SIGSTOP)  # when it finds out, it counts in a new file
    os.truncate(path, GRAIN)
    assert reader.ask("total SMTP", "refresh", "total SMTP") == ["400", DAMAGED, "400"]


# ---- the examples, and the header itself


def test_the_examples_count(owners: Callable[[], Owner], programs: Programs) -> None:
    owners().open("SMTP", "mx", ["192.0.2.7", "192.0.2.9", "198.51.100.1", "2001:db8::7"])
    owners().open("SMTP", "mx", ["192.0.2.7"])
    commands = [[str(programs.compiled((EXAMPLES / "count.c").read_text(), "count"))]]
    if shutil.which("luajit"):
        commands.append(["luajit", str(EXAMPLES / "count.lua")])
    for command in commands:

        def say(*words: str, command: list[str] = command) -> tuple[str, int, str]:
            done = subprocess.run([*command, *words], env=environment(), capture_output=True, text=True, check=False)
            return done.stdout, done.returncode, done.stderr

        assert say("mail", "192.0.2.0/24", "SMTP") == ("3\n", 0, "")
        assert say("mail", "192.0.2.7") == ("2\n", 0, "")
        assert say("mail", "2001:db8::/32", "inbound_cidr") == ("1\n", 0, "")
        assert say("mail", "0.0.0.0/0", "Control") == ("0\n", 0, "")
        for words, status in ((("mail", "nonsense"), 1), (("nobody", "::/0"), 1), (("mail",), 2)):
            out, code, complaints = say(*words)
            assert (out, code) == ("", status)
            assert complaints.count("\n") == 1


def test_the_lua_module_may_be_loaded_twice() -> None:
    luajit = pytest.importorskip("lupa.luajit21")
    script = "local name = ...; local one = dofile(name); local two = dofile(name); return one ~= two"
    assert luajit.LuaRuntime().execute(script, str(lua_module()))


@pytest.mark.tooling
@pytest.mark.parametrize(
    "command",
    [
        ["gcc", "-std=gnu99"],
        ["gcc", "-std=c99", "-D_POSIX_C_SOURCE=200809L"],
        ["gcc", "-std=gnu17", "-O3"],
        ["g++", "-x", "c++", "-std=c++17"],
        ["g++", "-x", "c++", "-std=c++20"],
        ["clang", "-std=gnu99"],
        ["clang++", "-x", "c++", "-std=c++17"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
@pytest.mark.parametrize("unused", [False, True], ids=["example", "alone"])
def test_no_compiler_warns(command: list[str], unused: bool, tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    source = tmp_path / "alone.c"
    source.write_text('#include "inbound_audit.h"\n')
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-pedantic", "-Werror"]
    here = ["-I", str(header().parent), "-c", str(source if unused else EXAMPLES / "count.c"), "-o", os.devnull]
    done = subprocess.run([*command, *warnings, *here], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
