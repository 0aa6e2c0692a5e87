"""`inbound-audit show`, `top` and `ps`: what they say of processes that count, and that they only look."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.command_line import COMMAND, environment, run
from tests.support.grammar import CASES
from tests.support.sharing import Workers
from tests.support.strategies import addresses
from tests.support.terminals import Terminal
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import PrefixCounter
from inbound_audit.__main__ import main
from inbound_audit.cli.prefixes import network_of, within
from inbound_audit.cli.ps import _date
from inbound_audit.text import age

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts are shared on Linux alone")

GAP = " " * 25
NAME = "mail"

OWNER = """
import threading
from inbound_audit import InboundAudit

audit = InboundAudit(shared=name, capacity=1 << 26)
kept = []

def open_sessions(service, name, hosts):
    listener = audit.listener(service, name)
    kept.extend(listener.session(host) for host in hosts)

def churn():
    listener = audit.listener("SMTP", "churn")
    while True:
        for last in range(256):
            with listener.session(f"198.51.100.{last}"), listener.session(f"2001:db8:1::{last:x}"):
                pass
"""


class Owner:
    """A process that counts."""

    def __init__(self, name: str = NAME) -> None:
        self._crew = Workers()
        self._worker = self._crew(f"name = {name!r}\n{OWNER}")

    @property
    def pid(self) -> int:
        return self._worker.pid

    def open(self, *hosts: str, service: str = "SMTP", listener: str = "mx") -> None:
        self._worker.do("open_sessions(*what)", what=(service, listener, hosts))

    def churn(self) -> None:
        self._worker.do("threading.Thread(target=churn, daemon=True).start()")

    def stop(self) -> None:
        """Stops it, wherever it is, for good."""
        self._worker.freeze()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._worker.kill()
        self._worker.await_end()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *exc: object) -> None:
        self._crew.close()


@pytest.fixture(autouse=True)
def shm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of the test's own, on a file system in memory."""
    directory = tempfile.mkdtemp(dir="/dev/shm")
    monkeypatch.setenv("INBOUND_AUDIT_SHM", directory)
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture
def owners() -> Iterator[tuple[Owner, Owner]]:
    """Two processes that count in two services, with several listeners, in both families."""
    with Owner() as first, Owner() as second:
        first.open(*["10.0.0.103"] * 4, *["10.0.0.180"] * 8)
        first.open(*["10.0.0.180"] * 6, "2001:db8::7", listener="backup")
        first.open("192.0.2.1", service="ECStream")
        second.open(*["10.0.0.176"] * 13, "2001:db8::7")
        second.open("192.0.2.1", "2001:db8:0:1::1", service="ECStream", listener="ec")
        yield first, second


def answer(*arguments: str) -> str:
    """What a command that succeeds writes, and nothing beside it."""
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def rows(*arguments: str) -> list[tuple[int, str]]:
    """The rows of `show`."""
    heading, *lines = answer("show", "--reference", *arguments).splitlines()
    assert heading.startswith("lazy, snapped cidrtree ")
    return [(int(count), prefix) for count, prefix in map(str.split, lines)]


# ---- show


def test_the_tree_of_all_processes_is_printed_as_the_reference_prints_it(owners: tuple[Owner, Owner]) -> None:
    assert answer("show", NAME, "--reference") == (
        "lazy, snapped cidrtree 'SMTP', view 'global'\n"
        f"     31{GAP}10.0.0.0/24\n"
        f"      4{GAP}10.0.0.103/32\n"
        f"     27{GAP}10.0.0.176/29\n"
        f"     13{GAP}10.0.0.176/32\n"
        f"     14{GAP}10.0.0.180/32\n"
        f"      2{GAP}2001:db8::7/128\n"
    )


def test_the_tree_is_indented_for_people(owners: tuple[Owner, Owner]) -> None:
    first, _ = owners
    assert answer("show", NAME).splitlines() == [
        "mail: 33 open SMTP sessions in 2 processes",
        "     31  10.0.0.0/24",
        "      4    10.0.0.103/32",
        "     27    10.0.0.176/29",
        "     13      10.0.0.176/32",
        "     14      10.0.0.180/32",
        "      2  2001:db8::7/128",
    ]
    assert answer("show", NAME, "10.0.0.128/25", "--from", str(first.pid)).splitlines() == [
        f"mail: 19 open SMTP sessions in process {first.pid}",
        "     14  10.0.0.128/25",
        "     14    10.0.0.180/32",
    ]
    assert answer("show", NAME, "--service", "Control") == "mail: 0 open Control sessions in 2 processes\n"


def test_from_is_the_view_of_one_process(owners: tuple[Owner, Owner]) -> None:
    first, second = owners
    assert answer("show", NAME, "--reference", "--from", str(second.pid)) == (
        f"lazy, snapped cidrtree 'SMTP', view '{second.pid}'\n     13{GAP}10.0.0.176/32\n      1{GAP}2001:db8::7/128\n"
    )
    assert rows(NAME, "10.0.0.0/8", "--from", str(first.pid))[0] == (18, "10.0.0.0/8")


def test_a_service_is_chosen(owners: tuple[Owner, Owner]) -> None:
    assert rows(NAME, "--service", "ECStream") == [(2, "192.0.2.1/32"), (1, "2001:db8:0:1::1/128")]
    assert answer("show", NAME, "--service", "inbound_cidr") == answer("show", NAME).replace("SMTP", "inbound_cidr")
    assert rows(NAME, "--service", "Control") == []


def test_a_service_type_of_the_processes_own_is_known() -> None:
    with Owner() as owner:
        owner.open("192.0.2.1", service="LMTP")
        assert rows(NAME, "--service", "LMTP") == [(1, "192.0.2.1/32")]


@pytest.mark.parametrize(
    ("cidr", "expected"),
    [
        ("10.0.0.0/24", "31 10.0.0.0/24, 4 10.0.0.103/32, 27 10.0.0.176/29, 13 10.0.0.176/32, 14 10.0.0.180/32"),
        ("10.9.9.9/8", "31 10.0.0.0/8, 31 10.0.0.0/24, 4 10.0.0.103/32, 27 10.0.0.176/29, 13 10.0.0.176/32, "
                       "14 10.0.0.180/32"),
        ("10.0.0.128/255.255.255.128", "27 10.0.0.128/25, 27 10.0.0.176/29, 13 10.0.0.176/32, 14 10.0.0.180/32"),
        ("10.0.0.176/30", "13 10.0.0.176/30, 13 10.0.0.176/32"),
        ("10.0.0.103", "4 10.0.0.103/32"),
        ("::ffff:10.0.0.103", "4 10.0.0.103/32"),
        ("192.0.2.0/24", "0 192.0.2.0/24"),
        ("10.0.0.1", "0 10.0.0.1/32"),
        ("::/0", "2 ::/0, 2 2001:db8::7/128"),
        ("[2001:db8::]/32", "2 2001:db8::/32, 2 2001:db8::7/128"),
        ("2001:db8::7%eth0", "2 2001:db8::7/128"),
        ("localhost", "0 127.0.0.1/32"),
        ("localhost/128", "0 ::1/128"),
    ],
)  # fmt: skip
def test_a_prefix_comes_first_with_its_count(owners: tuple[Owner, Owner], cidr: str, expected: str) -> None:
    found = ", ".join(f"{count} {prefix}" for count, prefix in rows(NAME, cidr))
    assert found == expected


@given(st.lists(addresses, min_size=1, max_size=60), st.data())
def test_within_a_prefix_is_what_a_filter_finds(hosts: list[Any], data: st.DataObject) -> None:
    counter = PrefixCounter(capacity=1 << 20)
    for host in hosts:
        counter.add(host)
    tree = counter.tree()
    length = st.one_of(st.integers(0, 128), st.sampled_from([int(row[1].partition("/")[2]) for row in tree]))
    host = data.draw(st.sampled_from(tree))[1].partition("/")[0]
    network = ipaddress.ip_network(f"{host}/{min(data.draw(length), 32 if '.' in host else 128)}", strict=False)

    def inside(prefix: str) -> bool:
        row = ipaddress.ip_network(prefix)
        return row.version == network.version and row.subnet_of(network) and row != network  # type: ignore[arg-type]

    assert within(tree, network) == [row for row in tree if inside(row[1])]
    found = within(tree, network)
    if (exact := counter.count(str(network))) and found:
        assert found[0][0] <= exact


@pytest.mark.parametrize("cidr", [words[0] for words, _, _ in CASES if words and isinstance(words[0], str)], ids=ascii)
def test_what_the_core_takes_is_a_prefix(cidr: str) -> None:
    check_network(cidr)


@given(addresses, st.integers(0, 128), st.sampled_from(["{}", "{}/{}", "[{}]/{}", "[{}/{}]", "{}%1/{}", "[{}%eth0]"]))
@example(ipaddress.IPv6Address("::ffff:0:0"), 96, "{}/{}")
@example(ipaddress.IPv6Address("::ffff:1.2.3.4"), 95, "[{}]/{}")
def test_a_prefix_is_the_one_that_the_core_counts(host: Any, length: int, form: str) -> None:
    check_network(form.format(host, length))


def check_network(cidr: str) -> None:
    """Hosts at and around both ends of what the text means are counted in it exactly if they are."""
    counter = PrefixCounter(capacity=1 << 20)
    try:
        counter.count(cidr)
    except ValueError:
        return
    network = network_of(cidr)
    for end in (network.network_address, network.broadcast_address):
        for host in {max(int(end) - 1, 0), int(end), min(int(end) + 1, 2**network.max_prefixlen - 1)}:
            counter.clear()
            counter.add(type(end)(host))
            # 6 in 4: an address of the one family may be one of the other there.
            assert counter.count(cidr) == counter.count(str(network)), (cidr, network, type(end)(host))
            if network.version == 4 or type(end)(host).ipv4_mapped is None:  # type: ignore[union-attr]
                assert counter.count(cidr) == (type(end)(host) in network)


def test_show_as_json(owners: tuple[Owner, Owner]) -> None:
    first, _ = owners
    found = json.loads(answer("show", NAME, "--json"))
    assert set(found) == {"audit", "service_type", "from", "node", "cidr", "count", "tree"}
    assert (found["audit"], found["service_type"], found["from"], found["cidr"]) == (NAME, "SMTP", None, None)
    assert found["count"] == 33
    assert found["tree"][0] == {"prefix": "10.0.0.0/24", "count": 31}
    assert len(found["tree"]) == 6
    text = answer("show", NAME, "10.0.0.177/29", "--json", "--from", str(first.pid), "--service", "inbound_cidr")
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "audit": NAME, "service_type": "inbound_cidr", "from": first.pid, "node": None, "cidr": "10.0.0.176/29",
        "count": 14,
        "tree": [{"prefix": "10.0.0.176/29", "count": 14}, {"prefix": "10.0.0.180/32", "count": 14}],
    }  # fmt: skip
    assert json.loads(answer("show", NAME, "192.0.2.0/24", "--json"))["tree"] == [
        {"prefix": "192.0.2.0/24", "count": 0}
    ]
    assert json.loads(answer("show", NAME, "--service", "Control", "--json"))["tree"] == []


def test_a_reader_that_leaves_is_no_traceback() -> None:
    hosts = random.Random(1)
    with Owner() as owner:
        owner.open(*(str(ipaddress.IPv4Address(hosts.getrandbits(32))) for _ in range(20000)))
        with subprocess.Popen([*COMMAND, "show", NAME], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(PATIENCE) == 1
            assert process.stderr.read() == b""
        counted = [int(line.split()[0]) for line in answer("show", NAME).splitlines()[1:] if line.endswith("/32")]
        assert sum(counted) == 20000
        assert json.loads(answer("show", NAME, "--json"))["count"] == 20000


# ---- top


def test_the_busiest_prefixes(owners: tuple[Owner, Owner]) -> None:
    heading, titles, *lines = answer("top", NAME).splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  mail  SMTP 33 open  2 processes", heading)
    assert titles.split() == ["count", "share", "prefix"]
    assert [line.split() for line in lines] == [["31", "93.9%", "10.0.0.0/24"], ["2", "6.1%", "2001:db8::/56"]]


def test_the_busiest_of_other_lengths_and_services(owners: tuple[Owner, Owner]) -> None:
    lines = answer("top", NAME, "-n", "2", "--prefixlen", "32,128").splitlines()[2:]
    assert [line.split()[::2] for line in lines] == [["14", "10.0.0.180/32"], ["13", "10.0.0.176/32"]]
    heading, _, *lines = answer("top", NAME, "--service", "ECStream", "-n", "1").splitlines()
    assert "ECStream 3 open" in heading
    assert [line.split()[::2] for line in lines] == [["2", "192.0.2.0/24"]]


def test_top_as_json(owners: tuple[Owner, Owner]) -> None:
    text = answer("top", NAME, "--json", "-n", "1", "--prefixlen", "29,48")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "audit": NAME, "service_type": "SMTP", "total": 33, "processes": 2, "damaged": 0, "prefixlen": [29, 48],
        "top": [{"prefix": "10.0.0.176/29", "count": 27}], "shed": [],
    }  # fmt: skip


# ---- ps


def table(text: str) -> list[list[str]]:
    """The rows of `ps` as words; dates and ages are left out."""
    return [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\w+", "", line).split() for line in text.splitlines()]


def test_the_processes_are_listed_with_their_totals(owners: tuple[Owner, Owner]) -> None:
    first, second = owners
    titles, *processes, total = table(answer("ps", NAME))
    assert titles == ["pid", "since", "age", "sessions", "listeners"]
    assert sorted(" ".join(words) for words in processes) == sorted(
        [
            f"{first.pid} 20 SMTP mx 12, SMTP backup 7, ECStream mx 1",
            f"{second.pid} 16 SMTP mx 14, ECStream ec 2",
        ]
    )
    assert " ".join(total) == "total 2 processes 36 SMTP 33, ECStream 3"


def test_ps_as_json(owners: tuple[Owner, Owner]) -> None:
    first, second = owners
    text = answer("ps", NAME, "--json")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert (found["audit"], found["total"]) == (NAME, 36)
    by_pid = {owner["pid"]: owner for owner in found["owners"]}
    assert set(by_pid) == {first.pid, second.pid}
    one = by_pid[second.pid]
    assert set(one) == {"id", "pid", "started", "sessions", "listeners", "shed", "damaged"}
    assert one["shed"] == []
    assert re.fullmatch(r"[0-9a-f]{16}", one["id"])
    assert one["damaged"] is None
    assert one["listeners"] == [
        {"service_type": "SMTP", "name": "mx", "sessions": 14},
        {"service_type": "ECStream", "name": "ec", "sessions": 2},
    ]
    assert one["sessions"] == 16
    assert one["started"] >= by_pid[first.pid]["started"]


def test_a_terminal_obeys_no_name_that_a_process_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with Owner() as owner:
        owner.open("192.0.2.1", listener="\x1b[2J\r\n\u202e")
        owner.open("192.0.2.1", listener="entrée")
        text = answer("ps", NAME)
        assert "SMTP \\x1b[2J\\r\\n\\u202e 1, SMTP entrée 1" in text
        assert len(text.splitlines()) == 3
        monkeypatch.setenv("PYTHONIOENCODING", "ascii")
        assert "SMTP entr\\xe9e 1" in answer("ps", NAME)


def test_dates_and_ages() -> None:
    assert [age(seconds) for seconds in (-5, 0, 59.9, 60, 3600, 7384, 86400, 90061)] == [
        "0s", "0s", "59s", "1m0s", "1h0m", "2h3m", "1d0h", "1d1h",
    ]  # fmt: skip
    assert re.fullmatch(r"2023-11-1\d \d\d:\d\d:\d\d", _date(1.7e9))
    assert _date(2.0**64 / 1e6) == _date(-1e30) == "?"


def test_no_process_counts(owners: tuple[Owner, Owner]) -> None:
    for owner in owners:
        owner.kill()
    assert answer("ps", NAME) == "no process is attached to 'mail'\n"
    assert json.loads(answer("ps", NAME, "--json")) == {"audit": NAME, "total": 0, "owners": []}
    assert "0 open  0 processes" in answer("top", NAME)
    done = run("show", NAME, "10.0.0.0/8")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == ["mail: 0 open SMTP sessions in 0 processes", "      0  10.0.0.0/8"]
    assert done.stderr == b"no process is attached to 'mail'\n"
    assert run("show", NAME).stdout == b"mail: 0 open SMTP sessions in 0 processes\n"


# ---- processes in every state


def files_of(shm: Path, name: str = NAME) -> list[Path]:
    return sorted((shm / f"inbound_audit-{name}").glob("*.owner"))


def test_a_busy_process_is_shown() -> None:
    with Owner() as calm, Owner() as busy:
        calm.open("192.0.2.1", "2001:db8::1")
        busy.open("192.0.2.1")
        busy.churn()
        for _ in range(2):
            assert rows(NAME, "192.0.2.0/24") == [(2, "192.0.2.0/24"), (2, "192.0.2.1/32")]
            found = rows(NAME)
            assert (2, "192.0.2.1/32") in found
            assert (1, "2001:db8::1/128") in found
            top = json.loads(answer("top", NAME, "--json"))
            assert {"prefix": "192.0.2.0/24", "count": 2} in top["top"]
            assert 3 <= json.loads(answer("ps", NAME, "--json"))["total"] <= 5


def test_a_stopped_process_counts_on() -> None:
    """Stopped at any moment of a change: what is not being changed is counted, and no reader waits for the process."""
    for _ in range(3):
        with Owner() as owner:
            owner.open("192.0.2.1", "2001:db8::1")
            owner.churn()
            owner.stop()
            assert rows(NAME, "192.0.2.0/24") == [(1, "192.0.2.0/24"), (1, "192.0.2.1/32")]
            assert (1, "2001:db8::1/128") in rows(NAME)
            assert json.loads(answer("ps", NAME, "--json"))["owners"][0]["pid"] == owner.pid
            assert {"prefix": "192.0.2.0/24", "count": 1} in json.loads(answer("top", NAME, "--json"))["top"]


def test_a_killed_process_takes_its_sessions_with_it(owners: tuple[Owner, Owner]) -> None:
    first, second = owners
    first.kill()
    assert rows(NAME, "10.0.0.0/24") == [(13, "10.0.0.0/24"), (13, "10.0.0.176/32")]
    assert [owner["pid"] for owner in json.loads(answer("ps", NAME, "--json"))["owners"]] == [second.pid]
    done = run("show", NAME, "--from", str(first.pid))
    assert done.returncode == 1
    assert str(first.pid) in done.stderr.decode()


def scribble(file: Path, at: int, data: bytes) -> None:
    with open(file, "r+b") as stream:
        stream.seek(at)
        stream.write(data)


def test_a_damaged_process_is_listed_with_the_reason(shm: Path) -> None:
    with Owner() as sound:
        sound.open("192.0.2.1")
        there = set(files_of(shm))
        with Owner() as damaged:
            damaged.open("192.0.2.1")
            (file,) = set(files_of(shm)) - there
            scribble(file, 0, b"nonsense")
            _, well, ill, total = answer("ps", NAME).splitlines()
            assert well.split()[0] == str(sound.pid)
            assert ill.split()[:4] == ["?"] * 4
            assert f"{file.name}: does not begin with the mark of an owner's file" in ill
            assert " ".join(total.split()) == "total 2 processes 1 SMTP 1 1 damaged"
            found = json.loads(answer("ps", NAME, "--json"))
            assert found["total"] == 1
            assert found["owners"][1] == {
                "id": file.stem, "pid": None, "started": None, "sessions": None, "listeners": [],
                "shed": [], "damaged": "does not begin with the mark of an owner's file",
            }  # fmt: skip
            for command in ("show", "top"):
                done = run(command, NAME)
                assert done.returncode == 0
                assert b"      1  " in done.stdout
                assert done.stderr.count(b"\n") == 1
                assert file.name.encode() in done.stderr
                assert b"not counted" in done.stderr
            assert b"1 process  1 damaged" in run("top", NAME).stdout
            for command in ("show", "top"):
                warning = json.loads(run(command, NAME, "--json").stderr)
                assert warning["level"] == "warning"
                assert file.name in warning["message"]
            # The process may mend its file.
            scribble(file, 0, b"iaowner\0"[::-1] if sys.byteorder == "big" else struct.pack("<Q", 0x72656E776F6169))
            assert rows(NAME) == [(2, "192.0.2.1/32")]


def test_what_a_process_says_of_itself_may_be_any_number(shm: Path) -> None:
    with Owner() as owner:
        owner.open("192.0.2.1")
        owner.stop()
        scribble(files_of(shm)[0], 28, b"\xff" * 12)
        _, row, _ = answer("ps", NAME).splitlines()
        assert row.split() == [str(2**32 - 1), "?", "0s", "1", "SMTP", "mx", "1"]
        assert json.loads(answer("ps", NAME, "--json"))["owners"][0]["pid"] == 2**32 - 1
        assert rows(NAME, "--from", str(2**32 - 1)) == [(1, "192.0.2.1/32")]


# ---- they only look


def state(directory: Path) -> object:
    """What there is to be seen of a directory, its files, and which locks are held on them."""
    numbers = {f"{file.stat().st_ino}" for file in directory.iterdir()}
    # Of a list that changes while it is read, a line may be missing.
    locks = {line.split(":", 1)[1] for _ in range(5) for line in Path("/proc/locks").read_text().splitlines()}
    seen = [directory, *sorted(directory.iterdir())]
    return [
        *[
            (file, file.stat().st_ino, file.stat().st_mode, file.stat().st_nlink, file.stat().st_mtime_ns)
            for file in seen
        ],
        *[file.read_bytes() for file in seen[1:] if file.is_file()],
        sorted(line for line in locks if any(f":{number} " in line for number in numbers)),
    ]


@pytest.mark.parametrize("alive", [True, False])
def test_a_look_changes_nothing(shm: Path, alive: bool) -> None:
    with Owner() as stays, Owner() as dies:
        stays.open("192.0.2.1")
        dies.open("192.0.2.2")
        for owner in (dies, stays):
            owner.stop()  # a running process would remove the files of a dead one
        dies.kill()
        if not alive:
            stays.kill()
        (shm / "inbound_audit-mail" / "0123456789abcdef.owner").write_bytes(b"of no process")
        (shm / "inbound_audit-mail" / "something else").symlink_to("nowhere")
        (shm / "inbound_audit-mail" / "something else").unlink()
        before = state(shm / "inbound_audit-mail")
        assert len(files_of(shm)) == 3
        for arguments in (["show", NAME], ["show", NAME, "::/0", "--json"], ["top", NAME], ["ps", NAME]):
            done = run(*arguments)
            assert done.returncode == 0
            assert b"192.0.2.2" not in done.stdout
        with watching("--json") as watch:
            ticks = [json.loads(watch.line()) for _ in range(2)]
            assert [tick["total"] for tick in ticks] == [alive, alive]
            assert state(shm / "inbound_audit-mail") == before
        assert state(shm / "inbound_audit-mail") == before
        assert os.listdir(shm) == ["inbound_audit-mail"]


def test_who_looks_is_no_owner(owners: tuple[Owner, Owner]) -> None:
    with watching("--json") as watch:
        assert json.loads(watch.line())["processes"] == 2
        assert len(json.loads(answer("ps", NAME, "--json"))["owners"]) == 2


# ---- watch


class Watch:
    """`inbound-audit top mail --watch` with its output in a pipe."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "top", NAME, "--watch", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it complained of."""
        assert self.process.stderr
        return self.process.wait(PATIENCE), self.process.stderr.read()


@contextlib.contextmanager
def watching(*arguments: str) -> Iterator[Watch]:
    watch = Watch(*arguments)
    try:
        yield watch
    finally:
        watch.process.kill()
        watch.process.communicate()


def test_a_watch_without_a_terminal_is_a_block_a_second(owners: tuple[Owner, Owner]) -> None:
    first, _ = owners
    with watching("-n", "1") as watch:
        block = [watch.line() for _ in range(4)]
        assert "SMTP 33 open  2 processes" in block[0]
        assert block[2].split() == ["31", "93.9%", "10.0.0.0/24"]
        assert block[3] == "\n"
        first.kill()
        eventually(lambda: "SMTP 14 open  1 process\n" in watch.line(), "the sum without the dead")
        watch.process.send_signal(signal.SIGINT)
        assert watch.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_in_json_is_an_object_a_second(owners: tuple[Owner, Owner], number: signal.Signals) -> None:
    _, second = owners
    with watching("--json", "--service", "ECStream") as watch:
        first = json.loads(watch.line())
        assert (first["total"], first["processes"]) == (3, 2)
        second.open("192.0.2.200", service="ECStream")
        eventually(lambda: json.loads(watch.line())["top"][0] == {"prefix": "192.0.2.0/24", "count": 3}, "the new one")
        watch.process.send_signal(number)
        assert watch.end() == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_watch_ends_when_its_reader_leaves(owners: tuple[Owner, Owner], arguments: Sequence[str]) -> None:
    with watching(*arguments) as watch:
        watch.line()
        assert watch.process.stdout
        watch.process.stdout.close()
        assert watch.end() == (0, "")
        watch.process.stdout = None


def test_a_watch_outlasts_those_whom_it_watches(shm: Path) -> None:
    """Also if the directory was removed and made anew."""
    with Owner() as owner:
        owner.open("192.0.2.1")
        with watching("--json") as watch:
            assert json.loads(watch.line())["total"] == 1
            owner.kill()
            eventually(lambda: json.loads(watch.line())["processes"] == 0, "no process")
            shutil.rmtree(shm / "inbound_audit-mail")
            assert json.loads(watch.line())["processes"] == 0
            with Owner() as another:
                another.open("192.0.2.1", "192.0.2.2")
                eventually(lambda: json.loads(watch.line())["total"] == 2, "the new sessions")


def test_on_a_terminal_the_table_is_live(owners: tuple[Owner, Owner]) -> None:
    first, second = owners
    with Terminal("top", NAME, "--watch") as terminal:
        terminal.shows("SMTP 33 open  2 processes")
        terminal.shows("10.0.0.0/24")
        terminal.shows("\x1b[36m     31\x1b[0m")
        first.open("198.51.100.1")
        terminal.shows("SMTP 34 open  2 processes")
        terminal.shows("198.51.100.0/24")
        second.kill()
        terminal.shows("SMTP 20 open  1 process")
        assert "\x1b[1A" in terminal.shown  # it is written over
        terminal.type(b"\x03")
        assert terminal.end() == 0
        assert "\x1b[?25h" in terminal.shown.rpartition("\x1b[?25l")[2]  # the cursor is there again
        assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x1b"])
def test_a_key_ends_a_live_table(owners: tuple[Owner, Owner], key: bytes) -> None:
    with Terminal("top", NAME, "--watch") as terminal:
        terminal.shows("SMTP 33 open  2 processes")
        terminal.type(b"x\x1b[A")  # an arrow key begins with an Escape
        owners[0].open("198.51.100.1")
        terminal.shows("SMTP 34 open  2 processes")
        terminal.type(key)
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.leader) == terminal.before
        assert "\x1b[?25h" in terminal.shown.rpartition("\x1b[?25l")[2]


def prefixes(shown: str) -> set[str]:
    return set(re.findall(r"10\.0\.\d+\.0/24", shown))


def test_a_live_table_is_no_longer_than_the_terminal() -> None:
    with Owner() as owner:
        owner.open(*(f"10.0.{third}.1" for third in range(200)))
        with Terminal("top", NAME, "--watch", "-n", "100", rows=10) as terminal:
            terminal.shows("SMTP 200 open")
            terminal.shows("... and 94 more")
            os.kill(terminal.process.pid, signal.SIGTERM)
            assert terminal.end() == 0
            assert prefixes(terminal.shown) == {f"10.0.{third}.0/24" for third in range(6)}  # ties, by address
            assert terminal.shown.rstrip().endswith("\x1b[?25h")


def test_a_terminal_that_can_do_nothing_gets_blocks(owners: tuple[Owner, Owner]) -> None:
    with Terminal("top", NAME, "--watch", extra={"TERM": "dumb"}) as terminal:
        eventually(lambda: terminal.read() and terminal.shown.count("SMTP 33 open") >= 2, "two blocks")
        assert "\x1b" not in terminal.shown
        terminal.type(b"\x03")
        assert terminal.end() == 0


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("command", ["show", "top", "ps"])
def test_colour_is_for_terminals_that_want_it(owners: tuple[Owner, Owner], command: str, wanted: bool) -> None:
    with Terminal(command, NAME, extra={} if wanted else {"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
        colours = {"show": "\x1b[36m     31\x1b[0m", "top": "\x1b[36m     31\x1b[0m", "ps": "\x1b[1m     total"}
        assert ("\x1b[36m" in terminal.shown or "\x1b[1m" in terminal.shown) or not wanted
        assert (colours[command] in terminal.shown) == (wanted or command == "ps")
    assert "\x1b" not in answer(command, NAME)


# ---- mistakes


@pytest.mark.parametrize("command", ["show", "top", "ps", "top --watch"])
@pytest.mark.parametrize("name", ["male", "", "../mail", ".hidden", "a" * 64, "a b", "mail\n"])
def test_a_name_of_no_audit_is_one_line(shm: Path, command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (shm / "inbound_audit-mail").mkdir(mode=0o700)
    (shm / "inbound_audit-\x1b[2J").mkdir(mode=0o700)
    (shm / "inbound_audit-ended").mkdir(mode=0o700)  # empty: no process counts there any more
    (shm / "inbound_audit-mail" / "0123456789abcdef.owner").touch()
    assert main([*command.split(), name]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    if name == "male":
        assert str(shm / "inbound_audit-male") in output.err
        assert "(there is: mail)" in output.err
    else:
        assert repr(name) in output.err or "\\n" in output.err
    assert sorted(os.listdir(shm)) == ["inbound_audit-\x1b[2J", "inbound_audit-ended", "inbound_audit-mail"]


def test_a_place_that_is_not_ours_alone_is_refused(shm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shm / "inbound_audit-mail").mkdir()
    (shm / "inbound_audit-mail").chmod(0o755)
    (shm / "inbound_audit-link").symlink_to("inbound_audit-mail")
    (shm / "inbound_audit-file").write_text("")
    for name in ("mail", "link", "file"):
        for command in ("show", "top", "ps"):
            assert main([command, name]) == 1
            output = capsys.readouterr()
            assert output.out == ""
            assert "refused" in output.err
            assert output.err.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "top", "top --watch", "top --watch --json", "show --json"])
def test_an_unknown_service_is_one_line(owners: tuple[Owner, Owner], command: str) -> None:
    done = run(*command.split(), NAME, "--service", "smpt")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"--service: 'smpt': no such service type; did you mean 'SMTP'?" in done.stderr


@pytest.mark.parametrize("line", ["show mail", "top mail", "ps mail", "top mail --watch", "show mail --json"])
def test_output_that_cannot_be_written_is_one_line(owners: tuple[Owner, Owner], line: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *line.split()], stdout=full, stderr=subprocess.PIPE, timeout=200, env=environment(), check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"inbound-audit: no space left on device\n"


@pytest.mark.parametrize("command", ["show", "top", "ps"])
def test_help_ends_with_examples_and_exit_statuses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    output = capsys.readouterr()
    assert f"Examples:\n  inbound-audit {command} mail" in output.out.replace("\n    ", "\n  ")
    assert "Exit status: 0" in output.out
    assert output.err == ""


def test_other_commands_do_not_load_shared_mode() -> None:
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import sys; from inbound_audit.__main__ import main; main(['--help']); main(['count', '/dev/null'])\n"
            "print(sorted(name for name in sys.modules if name.startswith('inbound_audit.shared')))",
        ],
        capture_output=True, text=True, timeout=200, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
