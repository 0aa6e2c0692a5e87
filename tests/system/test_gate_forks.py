"""A gate in the middle of a fork: what a signal handler does there, and what a child has, whatever the parent does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.faults import environment
from tests.support.forking import UNDER_ASAN
from tests.support.sharing import rounds
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux"),
    pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork"),
]

ROOT = Path(__file__).parents[2]

BEGIN = """
import ctypes, faulthandler, os, signal, socket, sys, threading, time
faulthandler.dump_traceback_later(PATIENCE, exit=True)
libc = ctypes.CDLL(None)

def act(when):
    for action in actions.get(when, []):
        action()
actions = {}
# Registered before the package's own: they run while it holds the gate, as a signal handler may.
os.register_at_fork(before=lambda: act("before"))
os.register_at_fork(after_in_parent=lambda: act("parent"), after_in_child=lambda: act("child"))

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate
from tests.support.gates import connect, end, said
from tests.support.waiting import eventually

def sockets_of(pid):
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            pass  # the descriptor of the listing
    return sorted(name for name in found if name.startswith(("socket:", "anon_inode:")))

audit = InboundAudit(capacity=1 << 24)
""".replace("PATIENCE", str(PATIENCE))


def run(script: str, **environ: str) -> str:
    """What a script has printed. It ends with a traceback of all threads if it hangs."""
    command = [sys.executable, "-c", BEGIN + script]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment(), **environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- in the middle of a fork

ACTIONS = {
    "close": "gate.close()",
    "exchange": "setattr(gate, 'limits', Limits({'/32': 5}))",
    "take": "kept.extend(gate.take())",
    "get": "kept.extend(gate.get())",
    "wait": "gate._wait(0.001)",
    "report": "gate.report(last=True)",
    "read": "(gate.opened, gate.waiting, gate.closed, gate.fileno(), repr(gate))",
    "fork": "fork_again()",
    "close another": "other.close()",
    "open another": "kept.append(Gate(audit.listener('SMTP'), None, [second]))",
}


@pytest.mark.parametrize("when", ["before", "parent", "child"])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_signal_handler_may_use_a_gate(when: str, action: str) -> None:
    out = run(f"""
listening, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
other = Gate(audit.listener("SMTP"), None, [second], threads=2)
gate = Gate(audit.listener("SMTP"), Limits({{"/32": 3}}), [listening], threads=2)
kept = []
peers = [connect(listening.getsockname()[1]) for _ in range(2)]
eventually(lambda: gate.waiting == 2, "two that wait")

def fork_again():
    actions.clear()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

actions[{when!r}] = [lambda: {ACTIONS[action]}]
pid = os.fork()
if pid == 0:
    os._exit(0 if gate.closed and gate.take() == [] and audit.total() == 0 else 1)
assert os.waitpid(pid, 0)[1] == 0
actions.clear()
closed = {action!r} == "close" and {when!r} != "child"
assert gate.closed == closed
if closed:
    for peer in peers:
        assert said(peer) == b"421 4.3.2 service is shutting down\\r\\n"
    assert audit.total() == 0
else:
    for each in [each for each in kept if not isinstance(each, Gate)] + gate.take():
        end([each])
    with connect(listening.getsockname()[1]):
        end(gate.get(60))
    gate.close()
assert gate.opened == gate.accepted + gate.refused + gate.queue_full
print("done")
""")
    assert out == "done\n"


# ---- what a child has

FORKS = {"Python's": "os.fork()", "another": "libc.fork()"}


@pytest.mark.parametrize("fork", FORKS)
def test_a_child_of_a_closing_gate_has_nothing_of_it(fork: str) -> None:
    out = run(f"""
for _ in range({rounds(4, 50)}):
    listening = socket.create_server(("127.0.0.1", 0), backlog=600)
    gate = Gate(audit.listener("SMTP"), None, [listening], threads=2)
    port = listening.getsockname()[1]
    peers = [connect(port) for _ in range(400)]
    eventually(lambda: gate.waiting == 400, "all of them")
    closing = threading.Thread(target=gate.close)
    closing.start()
    while not gate.closed:
        pass
    pid = {FORKS[fork]}
    if pid == 0:
        libc.pause()  # without a word of the package
    closing.join()
    listening.close()
    # The child has copies of what Python has: of the peers, and of the socket that listens.
    eventually(lambda: len(sockets_of(pid)) <= 402, sockets_of(pid))
    for peer in peers:
        assert said(peer) == b"421 4.3.2 service is shutting down\\r\\n"
        peer.close()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert audit.total() == 0
print("done")
""")
    assert out == "done\n"


@pytest.mark.parametrize("linger", ["close", "drain"])
@pytest.mark.parametrize("fork", FORKS)
def test_a_child_of_a_flooded_gate_has_nothing_of_it(fork: str, linger: str) -> None:
    """In the middle of a batch, too; and the gate goes on as before."""
    out = run(f"""
listening = socket.create_server(("127.0.0.1", 0), backlog=600)
port = listening.getsockname()[1]
limits = Limits({{"/32": 0}}, exempt=["127.0.0.2"])
gate = Gate(audit.listener("SMTP"), limits, [listening], threads=2, linger={linger!r})
waiting = [connect(port, "127.0.0.2") for _ in range(3)]
eventually(lambda: gate.waiting == 3, "three that wait")
flooding = os.fork()
if flooding == 0:
    listening.close()
    while True:
        with connect(port) as peer:
            peer.sendall(b"x")
eventually(lambda: gate.refused > 10, "a flood")
for _ in range({rounds(40, 2000)}):
    pid = {FORKS[fork]}
    if pid == 0:
        libc.pause()
    eventually(lambda: len(sockets_of(pid)) == 4, sockets_of(pid))  # three peers, and the socket that listens
    os.kill(pid, 9)
    os.waitpid(pid, 0)
os.kill(flooding, 9)
os.waitpid(flooding, 0)
with connect(port) as peer:
    assert said(peer).startswith(b"421")
end(gate.take())
gate.close()
assert audit.total() == 0
print("done")
""")
    assert out == "done\n"


def test_what_a_child_keeps_open_is_not_reported_for_ever() -> None:
    """A socket that is drained while a process is copied, by a fork that runs none of the handlers."""
    out = run("""
listening = socket.create_server(("127.0.0.1", 0))
gate = Gate(audit.listener("SMTP"), Limits({"/32": 0}), [listening], refusal="http")
peer = connect(listening.getsockname()[1])
eventually(lambda: gate.refused, "a refusal")
pid = libc.syscall(SYS_fork) if (SYS_fork := {"x86_64": 57}.get(os.uname().machine)) else os.fork()
if pid == 0:
    libc.pause()
assert said(peer).startswith(b"HTTP/1.1 429")
peer.close()

def watched():
    "How many descriptors the gate's epoll has."
    at = "/proc/self/fd/"
    links = {name: os.readlink(at + name) for name in os.listdir(at) if os.path.lexists(at + name)}
    epolls = [name for name, link in links.items() if "[eventpoll]" in link]
    return [open(f"/proc/self/fdinfo/{name}").read().count("tfd:") for name in epolls]

eventually(lambda: watched() == [2], "that the listening socket and the end are watched alone")
os.kill(pid, 9)
os.waitpid(pid, 0)
gate.close()
print("done")
""")
    assert out == "done\n"


def test_threads_that_fork_at_once_give_back_what_they_have_taken_themselves() -> None:
    out = run(f"""
listening = socket.create_server(("127.0.0.1", 0))
gate = Gate(audit.listener("SMTP"), Limits({{"/32": 3}}), [listening], threads=2)

def fork():
    for _ in range({rounds(30, 1000)}):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        assert not gate._is_held

threads = [threading.Thread(target=fork) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with connect(listening.getsockname()[1]):
    end(gate.get(60))
gate.close()
print("done")
""")
    assert out == "done\n"


@pytest.mark.parametrize("use", ["gate.close()", "del gate", "os.waitpid(os.fork() or os._exit(0), 0)"])
def test_a_child_that_no_handler_has_seen_may_drop_the_gate_and_fork(use: str) -> None:
    out = run(f"""
import warnings
warnings.simplefilter("ignore")
listening = socket.create_server(("127.0.0.1", 0), backlog=600)
port = listening.getsockname()[1]
gate = Gate(audit.listener("SMTP"), Limits({{"/32": 0}}), [listening], threads=2)
flooding = os.fork()
if flooding == 0:
    listening.close()
    while True:
        connect(port).close()
eventually(lambda: gate.refused > 10, "a flood")
for call in ("fork", "system call"):
    for _ in range({rounds(10, 200)}):
        pid = libc.fork() if call == "fork" else libc.syscall(57)
        if pid == 0:
            signal.alarm({int(PATIENCE)})
            {use}
            again = os.fork()
            if again == 0:
                os._exit(0)
            os._exit(os.waitpid(again, 0)[1])
        assert os.waitpid(pid, 0)[1] == 0
    if os.uname().machine != "x86_64":
        break  # there the call has another number
os.kill(flooding, 9)
os.waitpid(flooding, 0)
gate.close()
print("done")
""")
    assert out == "done\n"
