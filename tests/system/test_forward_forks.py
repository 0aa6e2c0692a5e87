"""A forwarder and forks: a child has none of its connections, and the parent's go on and end as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.faults import environment
from tests.support.forking import UNDER_ASAN
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="a forwarder needs Linux"),
    pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer's locks don't outlive a fork"),
]

ROOT = Path(__file__).parents[2]

SCRIPT = """
import ctypes, faulthandler, os, socket, sys, threading
faulthandler.dump_traceback_later(PATIENCE, exit=True)
from inbound_audit import InboundAudit
from inbound_audit.listeners.forward import Forwarder, resolve
from inbound_audit.listeners.gate import Gate
from tests.support.gates import connect
from tests.support.waiting import end_of, eventually

def sockets_of():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass  # the descriptor of the listing
    return {one for one in found if one.startswith(("socket:", "pipe:", "anon_inode:"))}

fork = os.fork if sys.argv[1] == "known" else ctypes.PyDLL(None).fork
audit = InboundAudit(capacity=1 << 24)
listener = audit.listener("SMTP")
server = socket.create_server(("127.0.0.1", 0))
bound = socket.create_server(("127.0.0.1", 0))
mine = sockets_of()
forwarder = Forwarder(listener, resolve(*server.getsockname()), threads=2)
gate = Gate(listener, None, [bound])
gate.forward_to(forwarder)
stop = threading.Event()

def load():
    while not stop.is_set():
        with connect(bound.getsockname()[1], "127.0.0.2") as peer, server.accept()[0] as served:
            peer.sendall(b"x" * 70000)
            served.settimeout(PATIENCE)
            got = 0
            while got < 70000:
                got += len(served.recv(70000))

client = connect(bound.getsockname()[1])
served, _ = server.accept()
client.sendall(b"before")
assert served.recv(6) == b"before"
thread = threading.Thread(target=load)
if sys.argv[1] == "known":  # Python makes its own locks anew only in the child of such a fork
    thread.start()
hold, release = os.pipe()
for number in range(20):
    client.sendall(b"x" * 50000)  # a thread of the forwarder is busy
    pid = fork()
    if pid == 0:
        os.close(release)
        closed = forwarder.closed and gate.closed
        own = {os.readlink(f"/proc/self/fd/{one.fileno()}") for one in (client, served, server, bound)}
        # What the threads of the parent had open for its own peers is no forwarder's, and they are here, too.
        ours = [one for one in sockets_of() - mine - own if one.startswith("anon_inode:[eventpoll]")]
        os._exit(0 if closed and not ours and audit.total() == 0 else 3)
    assert end_of(pid) == 0
    assert len(served.recv(50000, socket.MSG_WAITALL)) == 50000
stop.set()
if thread.ident:
    thread.join()  # a child that lives would keep its peers open
pid = fork()
if pid == 0:
    os.close(release)
    os.read(hold, 1)  # lives until the parent lets it go
    os._exit(0)
client.sendall(b"after")
assert served.recv(5) == b"after"
eventually(lambda: audit.total() == forwarder.open == 1, "the end of the other counts")
forwarder.close()
assert audit.total() == 0
for one in (client, served):  # a copy in the child would keep both connections
    try:
        one.recv(1)
        sys.exit("no reset")
    except ConnectionResetError:
        pass
os.close(release)
assert end_of(pid) == 0
gate.close()
print("done")
""".replace("PATIENCE", str(PATIENCE))


@pytest.mark.parametrize("how", ["known", "unknown to Python"])
def test_a_child_has_no_forwarder_and_the_parents_goes_on(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
