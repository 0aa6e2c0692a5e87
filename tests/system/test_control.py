"""The socket of each process of a shared audit: its requests, their senders, and that no client can block it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import NAME, Worker, names_of_threads, open_sockets, owner_files, request_one
from tests.support.waiting import PATIENCE, eventually, until_it_suffices

from inbound_audit import InboundAudit
from inbound_audit.errors import SharedStateError
from inbound_audit.series import requests
from inbound_audit.shared import View, directory_of
from inbound_audit.shared.control import MAX_REQUEST, client, file_of, path_of, server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared mode needs Linux")

as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user: needs root")

JOIN = (
    "from inbound_audit import InboundAudit\n"
    "audit = InboundAudit(shared=NAME, capacity=1 << 24)\n"
    "audit.series.define('failures', 'ip', 3600, 2)\n"
)
SIZE = {"interval": 3600, "num_windows": 2}
ADD = {"do": "add", "series": "failures", **SIZE, "key": "192.0.2.7", "count": 5}
KNOWN = {"do": "known", "series": "failures"}


def id_of(pid: int) -> str:
    with View(NAME, pid=pid) as view:
        return view.owners[0].id


def ask(worker: Worker, request: dict[str, object], timeout: float = PATIENCE) -> dict[str, Any]:
    with View(NAME, pid=worker.pid) as view:
        return request_one(view.place, view.owners[0].id, request, timeout)


def count_of(worker: Worker, key: str = "192.0.2.7") -> object:
    """In all processes."""
    return worker.do("audit.series.count('failures', key, 0, 1)", key=key)


def sockets() -> list[str]:
    directory = Path(directory_of(NAME))
    return sorted(path.name for path in directory.glob("*.control")) if directory.exists() else []


def names_of_owners() -> list[str]:
    return [f"{Path(path).stem}.control" for path in owner_files()]


@contextlib.contextmanager
def connected(worker: Worker) -> Iterator[socket.socket]:
    with View(NAME) as view, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path_of(view.place, id_of(worker.pid)))
        connection.settimeout(PATIENCE)  # not before: it would not wait where others are before us
        yield connection


def everything(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


# ---- what can be asked


def test_a_process_adds_to_its_own_counts(hire):
    one, other = hire.hire(2, JOIN)
    assert ask(one, ADD) == {"ok": True}
    assert ask(one, {**ADD, "count": -2}) == {"ok": True}
    assert count_of(other) == 3
    one.kill()
    eventually(lambda: count_of(other) == 0, "the end of what it counted")


def test_what_is_added_to_defines_the_series(hire):
    worker = hire(JOIN)
    assert ask(worker, {**ADD, "series": "new", "key": "2001:db8::1"})["ok"]
    assert worker.do("audit.series.defined('new')[:4]") == ("new", "ip", 3600, 2)
    assert ask(worker, {**ADD, "series": "texts", "type": "string", "key": "no address"})["ok"]
    assert worker.do("audit.series.count('texts', 'no address')") == 5
    refused = ask(worker, {**ADD, "interval": 60})
    assert not refused["ok"]
    assert "interval is 3600, not 60" in refused["error"]


def test_remove_is_about_one_process(hire):
    one, other = hire.hire(2, JOIN + "audit.series.add('failures', '192.0.2.7', 4)")
    assert ask(one, {"do": "remove", "series": "failures", "key": "192.0.2.7"}) == {"ok": True, "defined": True}
    assert count_of(other) == 4
    assert ask(one, {"do": "remove", "series": "other", "key": "192.0.2.7"}) == {"ok": True, "defined": False}
    wrong = {"do": "remove", "series": "failures", "key": "192.0.2.7", "interval": 60, "num_windows": 2}
    assert ask(other, wrong) == {"ok": True, "defined": False}
    assert count_of(one) == 4


def test_loaded_rows_are_added_and_noted_together(hire):
    worker = hire(JOIN)
    assert ask(worker, KNOWN) == {
        "ok": True,
        "marks": {},
        "defined": {"type": "ip", **SIZE},
    }
    now = time.time_ns() // 1000
    rows = [
        [now, "192.0.2.7", 4],
        [now - 3_600_000_000, "192.0.2.7", 2],
        [now, "2001:db8::1", -1],
        [now - 9 * 3_600_000_000, "192.0.2.7", 9],
        [now, "no address", 1],
    ]
    load = {"do": "load", "series": "failures", **SIZE, "rows": rows, "marks": {f"{77:016x}": 12}}
    answer = ask(worker, load)
    assert (answer["added"], answer["out_of_view"], answer["failed"]) == (3, 1, 1)
    assert "no address" in answer["why"]
    assert count_of(worker) == 6
    assert worker.do("audit.series.count('failures', '192.0.2.7', 1)") == 2
    assert count_of(worker, "::/0") == -1
    assert ask(worker, KNOWN)["marks"] == {f"{77:016x}": 12}
    assert ask(worker, {"do": "known", "series": "nobody's"}) == {"ok": True, "marks": {}, "defined": None}


OF = b'"interval": 3600, "num_windows": 2,'
ZEROS = b"0" * 5000

MALFORMED = {
    "nothing": b"\n",
    "no JSON": b"add failures\n",
    "no object": b"[1]\n",
    "two": b'{"do": "known", "series": "x"} {}\n',
    "two lines": b'{"do": "known", "series": "x"}\n{}\n',
    "deep": b"[" * 50000 + b"\n",
    "no UTF-8": b'{"do": "known", "series": "\xff"}\n',
    "NaN": b'{"do": "add", "count": NaN}\n',
    "do nothing": b"{}\n",
    "do what": b'{"do": "eval", "series": "x"}\n',
    "do a list": b'{"do": ["add"]}\n',
    "a field too many": b'{"do": "known", "series": "x", "path": "/etc/passwd"}\n',
    "a field too few": b'{"do": "remove", "series": "failures"}\n',
    "no text": b'{"do": "known", "series": ["x"]}\n',
    "half a letter": b'{"do": "known", "series": "\\ud800"}\n',
    "no number": b'{"do": "add", "series": "f", "interval": true, "num_windows": 2, "key": "::1", "count": 1}\n',
    "a part": b'{"do": "add", "series": "f", "interval": 1.5, "num_windows": 2, "key": "::1", "count": 1}\n',
    "huge": b'{"do": "add", "series": "f", "interval": 1, "num_windows": 2, "key": "::1", "count": 1' + ZEROS + b"}\n",
    "too many": b'{"do": "add", "series": "f", "interval": 60, "num_windows": 99999, "key": "::1", "count": 1}\n',
    "add nothing": b'{"do": "add", "series": "failures", ' + OF + b' "key": "::1", "count": 0}\n',
    "rows": b'{"do": "load", "series": "failures", ' + OF + b' "rows": [[1]], "marks": {}}\n',
    "marks": b'{"do": "load", "series": "failures", ' + OF + b' "rows": [], "marks": {"x": 1}}\n',
    "key": b'{"do": "remove", "series": "failures", "key": "192.0.2.0/24"}\n',
    "type": b'{"do": "add", "series": "f", "type": "x", "interval": 60, "num_windows": 2, "key": "::1", "count": 1}\n',
}  # fmt: skip


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_request_is_answered_and_changes_nothing(line):
    with InboundAudit() as audit:
        audit.series.define("failures", "ip", 3600, 2)
        audit.series.add("failures", "192.0.2.7")
        answer = json.loads(requests.handle(audit, line))
        assert answer["ok"] is False
        assert set(answer) == {"ok", "error"}
        assert "Error: " not in answer["error"]  # that was foreseen
        assert audit.series.names == ("failures",)
        assert audit.series.count("failures", "0.0.0.0/0", 0, 1) == 1


scalars = (
    st.sampled_from(["add", "remove", "known", "load", "failures", "192.0.2.7", "string", "\ud800", "\0"])
    | st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text()
)  # fmt: skip
values = scalars | st.lists(scalars | st.lists(scalars, max_size=4)) | st.dictionaries(st.text(), scalars, max_size=3)
names = ["do", "series", "interval", "num_windows", "key", "count", "rows", "marks", "type", "x"]
fields = st.dictionaries(st.sampled_from(names), values)


@given(st.binary() | fields.map(lambda request: json.dumps(request).encode()))
def test_any_bytes_get_one_line(line):
    with InboundAudit() as audit:
        audit.series.define("failures", "ip", 3600, 2)
        answer = requests.handle(audit, line)
        assert answer.endswith(b"\n")
        assert answer.count(b"\n") == 1
        assert isinstance(json.loads(answer)["ok"], bool)


def test_a_fault_of_ours_is_reported_on_both_sides(caplog):
    def fail(name: str) -> None:
        raise ZeroDivisionError("surprise")

    broken: Any = SimpleNamespace(series=SimpleNamespace(state_store=lambda: SimpleNamespace(known=fail)))
    answer = json.loads(requests.handle(broken, json.dumps(KNOWN).encode()))
    assert answer == {"ok": False, "error": "ZeroDivisionError: surprise"}
    assert "surprise" in caplog.text


# ---- whose it is


def test_the_socket_is_its_users_alone(hire):
    worker = hire("import os\nos.umask(0)\n" + JOIN)
    assert sockets() == names_of_owners() == [file_of(id_of(worker.pid))]
    found = os.stat(f"{directory_of(NAME)}/{sockets()[0]}")
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_the_users_that_may_send_requests(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert [uid for uid in (0, 1, 1233, 1234, 1235, 65534) if server.may_request(uid)] == [0, 1234]


AS_ANOTHER = """
import os, sys, socket
os.setgid(12345)
os.setuid(12345)
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
try:
    connection.sendall(sys.argv[2].encode() + b"\\n")
except BrokenPipeError:
    pass
try:
    print(connection.recv(1000))
except ConnectionResetError:
    print(b"")
"""


@as_root
def test_another_user_gets_no_word(hire, place):
    worker = hire(JOIN)
    path = f"{directory_of(NAME)}/{sockets()[0]}"
    command = [sys.executable, "-c", AS_ANOTHER, path, json.dumps(ADD)]
    shut = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PermissionError" in shut.stderr
    for open_now in (place, directory_of(NAME), path):  # somebody has opened all doors
        os.chmod(open_now, 0o777)
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "b''\n"
    assert count_of(worker) == 0
    os.chmod(directory_of(NAME), 0o700)
    assert ask(worker, KNOWN)["ok"]


@as_root
def test_a_user_without_permission_reads_why(hire, place, monkeypatch):
    worker = hire(JOIN)
    with View(NAME) as view:
        owner_id = id_of(worker.pid)
        for open_now in (place, directory_of(NAME)):
            os.chmod(open_now, 0o755)
        os.seteuid(12345)
        try:
            with pytest.raises(SharedStateError, match="another user"):
                request_one(view.place, owner_id, KNOWN)
        finally:
            os.seteuid(0)


# ---- no client blocks it


def test_silent_and_slow_clients_delay_no_other(hire):
    one = hire(JOIN)
    before = open_sockets(one.pid)
    with contextlib.ExitStack() as held:
        slow = held.enter_context(connected(one))
        slow.sendall(b'{"do": ')
        silent = [held.enter_context(connected(one)) for _ in range(3 * server.MAX_CONNECTIONS)]
        assert ask(one, ADD)["ok"]
        assert everything(silent[0]) == b""  # it was let go for others
        # Who comes is seen, and who goes.
        other = hire(JOIN + "audit.series.add('failures', '192.0.2.7')")
        eventually(lambda: count_of(one) == 6, "the sight of another")
        other.kill()
        eventually(lambda: count_of(one) == 5, "the sight of its end")
        assert open_sockets(one.pid) <= before + server.MAX_CONNECTIONS + 1
    eventually(lambda: open_sockets(one.pid) <= before, "the end of all connections")


def test_a_silent_client_is_disconnected(hire):
    worker = hire("from inbound_audit.shared.control import server\nserver.DEADLINE_S = 0.05\n" + JOIN)
    with connected(worker) as connection:
        assert everything(connection) == b""
    with connected(worker) as connection:
        with contextlib.suppress(BrokenPipeError):  # it may be over already
            connection.sendall(b'{"do": "known", ')
        assert everything(connection) == b""
    worker.do(f"server.DEADLINE_S = {PATIENCE}")
    assert ask(worker, KNOWN)["ok"]


def test_a_request_may_come_in_pieces_and_is_bounded(hire):
    worker = hire(JOIN)
    with connected(worker) as connection:
        for byte in json.dumps(ADD).encode() + b"\n":
            connection.sendall(bytes([byte]))
        assert json.loads(everything(connection)) == {"ok": True}
    with connected(worker) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                connection.sendall(b"x" * 65536)
        assert everything(connection) == b""
    with View(NAME) as view, pytest.raises(SharedStateError, match="bytes"):
        request_one(view.place, id_of(worker.pid), {**KNOWN, "x": "x" * MAX_REQUEST})
    assert count_of(worker) == 5


def test_a_client_that_does_not_read_the_answer_is_disconnected(hire):
    """It is larger than what the system keeps for a reader."""
    worker = hire(f"from inbound_audit.shared.control import server\nserver.DEADLINE_S = {PATIENCE}\n" + JOIN)
    worker.do("audit.series.state_store().note_loaded('failures', {log: 1 for log in range(1, 30000)})")
    before = open_sockets(worker.pid)
    with connected(worker) as connection:
        eventually(lambda: open_sockets(worker.pid) > before, "its side of the connection")
        worker.do("server.DEADLINE_S = 0.2")  # of the answer alone: a request may take long to come
        connection.sendall(json.dumps(KNOWN).encode() + b"\n")
        assert connection.recv(1, socket.MSG_PEEK) == b"{"
        worker.do(f"server.DEADLINE_S = {PATIENCE}")  # of those that come now
        assert len(ask(worker, KNOWN)["marks"]) == 29999
        eventually(lambda: open_sockets(worker.pid) == before, "its end")


def test_a_request_whose_client_is_gone_is_not_carried_out(hire):
    worker = hire(JOIN)
    path_holder = View(NAME)
    owner_id = id_of(worker.pid)
    worker.freeze()
    with pytest.raises(SharedStateError, match=r"did not answer within 0\.2 s"):
        request_one(path_holder.place, owner_id, ADD, 0.2)
    worker.thaw()
    path_holder.close()
    assert ask(worker, KNOWN)["ok"]  # it comes behind the other
    assert count_of(worker) == 0


def test_a_stopped_process_among_others(hire):
    crew = hire.hire(3, JOIN)
    with View(NAME) as view:
        crew[1].freeze()

        def attempt(limit_s: float) -> bool:
            """Whether the others had time enough to answer."""
            answers, failures = client.request_owners(view.place, view.owners, KNOWN, limit_s)
            assert f"process {crew[1].pid} did not answer within {limit_s:g} s" in failures
            assert answers.keys() <= {id_of(crew[0].pid), id_of(crew[2].pid)}
            return len(answers) == 2 and len(failures) == 1

        until_it_suffices(attempt, 0.5)
        crew[1].thaw()


class Impostor:
    """Answers on a socket in a directory with what bytes it likes."""

    def __init__(self, directory: Path, answer: bytes | None, *, close: bool = True) -> None:
        self.fd = os.open(directory, os.O_RDONLY)
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(path_of(self, "0" * 16))
        self.door.listen()
        self._held: list[socket.socket] = []
        self.thread = threading.Thread(target=self._run, args=(answer, close))
        self.thread.start()

    def _run(self, answer: bytes | None, close: bool) -> None:
        connection, _ = self.door.accept()
        connection.recv(65536)
        with contextlib.suppress(OSError):
            connection.sendall(answer or b"")
        if close:
            connection.close()
        else:
            self._held.append(connection)

    def close(self) -> None:
        self.thread.join()
        for connection in (self.door, *self._held):
            connection.close()
        os.close(self.fd)


@pytest.mark.parametrize(
    ("answer", "close", "why"),
    [
        (b"", True, "without an answer"),
        (b'{"ok": true', True, "without an answer"),
        (b"[]\n", True, "malformed answer"),
        (b'{"ok": 1}\n', True, "malformed answer"),
        (b"[" * 100000 + b"\n", True, "malformed answer"),
        (b"\xff\n", True, "malformed answer"),
        (b"", False, "did not answer"),
        (b" " * (client.MAX_ANSWER + 65536 * 2), True, "without an end"),
    ],
)
def test_a_process_that_answers_nonsense(tmp_path, answer, close, why):
    impostor = Impostor(tmp_path, answer, close=close)
    try:
        with pytest.raises(SharedStateError, match=why):
            request_one(impostor, "0" * 16, KNOWN, 0.5 if not close else PATIENCE)
    finally:
        impostor.close()


def test_no_process_is_attached(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(SharedStateError, match="accepts no requests, or has just ended"):
            request_one(SimpleNamespace(fd=fd), "0" * 16, KNOWN, PATIENCE)
    finally:
        os.close(fd)


# ---- it comes and goes with the owner's file


def test_it_goes_with_its_owner(hire):
    crew = hire.hire(4, JOIN)
    assert sockets() == names_of_owners()
    assert len(sockets()) == 4
    crew[0].do("audit.close()")
    assert len(sockets()) == 3
    crew[1].do("import sys, threading\nthreading.Timer(0.05, lambda: None)\n")
    crew[2].kill()
    eventually(lambda: sockets() == names_of_owners() and len(sockets()) == 2, "the end of the dead one's")
    crew[1].kill()
    crew[3].kill()
    for worker in crew[1:]:
        worker.await_end()
    assert len(sockets()) >= 1  # its owner was killed
    last = hire(JOIN)
    eventually(lambda: sockets() == names_of_owners() == [file_of(id_of(last.pid))], "its socket alone")


def test_it_goes_when_python_exits_and_when_the_audit_is_collected(place):
    exits = f"from inbound_audit import InboundAudit\naudit = InboundAudit(shared={NAME!r})\n"
    subprocess.run([sys.executable, "-c", exits], check=True)
    assert sockets() == []
    audit = InboundAudit(shared=NAME)
    assert len(sockets()) == 1
    assert len(names_of_threads()) >= 2
    del audit
    gc.collect()
    eventually(lambda: sockets() == [], "its end")
    eventually(lambda: names_of_threads() == [], "the end of both threads")


def test_a_socket_whose_owner_is_gone_is_removed_and_nothing_else(hire):
    worker = hire(JOIN)
    directory = Path(directory_of(NAME))
    for name in ("0123456789abcdef.control", "0123456789abcdef.controls", "mine.control"):
        (directory / name).touch()
    with View(NAME) as view:
        view.refresh()
    eventually(lambda: not (directory / "0123456789abcdef.control").exists(), "its removal")
    assert sorted(sockets()) == sorted([*names_of_owners(), "mine.control"])
    assert (directory / "0123456789abcdef.controls").exists()
    assert ask(worker, KNOWN)["ok"]


@pytest.mark.parametrize("what", ["*", "*.control", "*.owner", ""])
def test_names_that_another_program_removes_come_back(hire, what):
    worker = hire(JOIN)
    before = sockets()
    directory = Path(directory_of(NAME))
    if what:
        for path in directory.glob(what):
            path.unlink()
    else:
        directory.rename(directory.with_name("away"))
    eventually(lambda: owner_files() and sockets() == names_of_owners(), "a new socket")
    assert (sockets() == before) == (what == "*.control")
    assert ask(worker, ADD)["ok"]


def test_a_long_path(monkeypatch, place, hire):
    deep = place / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(deep))
    worker = hire(JOIN)
    assert len(f"{directory_of(NAME)}/{sockets()[0]}") > 108
    assert ask(worker, ADD)["ok"]
    assert count_of(worker) == 5


def test_two_audits_of_one_process_are_asked_apart(place):
    with InboundAudit(shared=NAME) as one, InboundAudit(shared=NAME) as two, View(NAME) as view:
        for audit in (one, two):
            audit.series.define("failures", "ip", 3600, 2)
            audit.series.add("failures", "192.0.2.7")
        assert len(view.owners) == 2
        for owner in view.owners:
            assert request_one(view.place, owner.id, ADD, PATIENCE)["ok"]
        assert one.series.count("failures", "192.0.2.7") == 12
        two.series.remove_item("failures", "192.0.2.7")
        assert one.series.count("failures", "192.0.2.7") == 0


# ---- forks


@pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")
def test_a_child_has_no_part_in_its_parents_socket(hire):
    parent = hire(JOIN)
    child = parent.fork()
    assert ask(parent, ADD)["ok"]
    assert child.do("[t.name for t in __import__('threading').enumerate() if 'control' in t.name]") == []
    assert len(sockets()) == 1
    child.do("session = audit.listener().session('192.0.2.1')")
    eventually(lambda: len(sockets()) == 2, "the child's own")
    child.do("audit.series.define('failures', 'ip', 3600, 2)")
    assert ask(child, {**ADD, "count": 1})["ok"]
    assert count_of(parent) == 6
    parent.kill()
    eventually(lambda: sockets() == names_of_owners() and len(sockets()) == 1, "the end of the parent's")
    assert ask(child, KNOWN)["ok"]
    assert count_of(child) == 1


IN_THE_MIDDLE = (
    JOIN
    + """
import threading
from inbound_audit.series import requests
began, goes_on, plain = threading.Event(), threading.Event(), requests._known
def wait(audit, request):
    began.set()
    goes_on.wait()
    return plain(audit, request)
requests.COMMANDS["known"] = requests.COMMANDS["known"]._replace(handle=wait)
"""
)


@pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork")
def test_forked_while_a_request_is_carried_out(hire):
    """Nobody waits for it, neither parent nor child; and it is answered."""
    parent = hire(IN_THE_MIDDLE)
    with connected(parent) as connection:
        connection.sendall(json.dumps(KNOWN).encode() + b"\n")
        parent.do("began.wait()")
        child = parent.fork()
        child.do("audit.series.add('failures', '192.0.2.7', 3)")
        assert ask(child, {**ADD, "count": 1})["ok"]
        assert count_of(parent) == 4
        parent.do("goes_on.set()")
        assert json.loads(everything(connection))["ok"]
    assert ask(parent, ADD)["ok"]
    assert parent.do("[t.is_alive() for t in threading.enumerate() if t.name == 'inbound_audit control']") == [True]


STOPPED = (
    JOIN
    + """
import os, threading
from inbound_audit.process import shared_lock
from inbound_audit.shared.control import server
server.DEADLINE_S = 3600
plain, stopped = server._Connection.has_gone, threading.Event()
def stop(caller):
    server._Connection.has_gone = plain
    server.control_server._thread.stop()
    os.read(server.control_server._thread._pipe[0].number, 64)  # it came with the request
    stopped.set()
    return plain(caller)
server._Connection.has_gone = stop
"""
)


def test_what_was_asked_when_its_thread_was_stopped_is_answered_by_the_next(hire):
    """As at a fork, which holds the lock (a scan would start the thread again): the request has come whole, and nothing
    more will come that could wake anybody."""
    worker = hire(STOPPED)
    worker.do("shared_lock.acquire()")
    with connected(worker) as connection:
        connection.sendall(json.dumps(ADD).encode() + b"\n")
        worker.do("stopped.wait()")
        assert count_of(worker) == 0
        worker.do("server.control_server._thread.start()")
        worker.do("shared_lock.release()")
        assert json.loads(everything(connection))["ok"]
    assert count_of(worker) == 5


def test_closed_while_a_request_is_carried_out(hire):
    worker = hire(IN_THE_MIDDLE)
    before = worker.do("len(__import__('os').listdir('/proc/self/fd'))")
    with connected(worker) as connection:
        connection.sendall(json.dumps(KNOWN).encode() + b"\n")
        worker.do("began.wait()")
        worker.do("audit.close()")
        assert sockets() == []
        worker.do("goes_on.set()")
        everything(connection)
    eventually(lambda: worker.do("threading.active_count()") == 1, "the end of its thread")
    assert worker.do("len(__import__('os').listdir('/proc/self/fd'))") < before  # type: ignore[operator]


def test_an_executed_program_gets_no_descriptor_of_ours(hire):
    worker = hire(JOIN + "import subprocess, sys")
    names = worker.do(
        "subprocess.run([sys.executable, '-c', 'import os; print([os.readlink(f\"/proc/self/fd/{fd}\")"
        ' for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")])\'],'
        " close_fds=False, capture_output=True, text=True).stdout"
    )
    assert "socket:" not in str(names)
    assert "eventfd" not in str(names)


# ---- what an audit asks of the others


@pytest.mark.parametrize("key", ["'192.0.2.7'", "('192.0.2.7', 25)", "bytes([192, 0, 2, 7])"])
def test_remove_item_reaches_all_processes(hire, key):
    crew = hire.hire(3, JOIN + "audit.series.add('failures', '192.0.2.7', 4)\naudit.series.add('failures', '::1')")
    assert count_of(crew[0]) == 12
    crew[1].do(f"audit.series.remove_item('failures', {key})")
    assert [count_of(worker) for worker in crew] == [0, 0, 0]
    assert count_of(crew[0], "::/0") == 3
    assert crew[1].do("complaints") == []


def test_two_that_remove_from_each_other_at_once(hire):
    crew = hire.hire(2, JOIN)
    for _ in range(20):
        for worker in crew:
            worker.start("audit.series.add('failures', '192.0.2.7')\naudit.series.remove_item('failures', '192.0.2.7')")
        for worker in crew:
            worker.result()
    crew[0].do("audit.series.remove_item('failures', '192.0.2.7')")
    assert count_of(crew[0]) == 0
    assert [worker.do("complaints") for worker in crew] == [[], []]


def test_the_processes_that_did_not_remove_it_are_named(hire):
    one, other = hire.hire(2, JOIN + "audit.series.add('failures', '192.0.2.7')")
    other.freeze()
    one.do("audit.series.remove_item('failures', '192.0.2.7')")
    other.thaw()
    (complaint,) = one.do("complaints")  # type: ignore[misc]
    assert f"process {other.pid} did not answer" in complaint
    assert count_of(one) == 1


def test_request_others_tells_no_one_where_there_is_no_one(place):
    with InboundAudit(shared=NAME) as audit:
        assert audit._membership
        assert audit._membership.request_others(KNOWN) == []


def test_request_others_without_a_descriptor_left(hire, monkeypatch):
    """A policy that removes an item gets no error of the system; the log has it."""
    (worker,) = hire.hire(1, JOIN)
    with InboundAudit(shared=NAME) as audit:

        def none_left(*_: object) -> None:
            raise OSError(24, os.strerror(24))

        monkeypatch.setattr(client.socket, "socket", none_left)
        assert audit._membership
        assert audit._membership.request_others(KNOWN) == ["no process can be asked: Too many open files"]
        monkeypatch.undo()
        assert audit._membership.request_others(KNOWN) == []
    assert worker.pid
