"""LuaJIT in a process that may not execute what it has written: policies run, interpreted, and the process lives."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the restrictions are Linux's"
)

# Exit code 77: the kernel does not have the restriction.
RESTRICT = """
import ctypes, struct, sys

libc = ctypes.CDLL(None, use_errno=True)

def mdwe():
    if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
        sys.exit(77)

def seccomp(action):
    mprotect = {"x86_64": 10, "aarch64": 226}[__import__("platform").machine()]
    program = b"".join(struct.pack("=HBBI", *line) for line in [
        (0x20, 0, 0, 0),             # the number of the system call
        (0x15, 0, 3, mprotect),
        (0x20, 0, 0, 16 + 2 * 8),    # the low half of its third argument
        (0x45, 0, 1, 4),             # PROT_EXEC
        (0x06, 0, 0, action),
        (0x06, 0, 0, 0x7FFF0000),    # allowed
    ])
    keep = ctypes.create_string_buffer(program)
    filter = struct.pack("@HP", len(program) // 8, ctypes.addressof(keep))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter, 0, 0):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        sys.exit(77)

def nothing():
    pass
"""

SCRIPT = """
local mod = {}
function mod:validate_connect(ac, vctx)
  local sum = 0
  for i = 1, 10000 do
    sum = sum + ac:inbound_session_count("/24")
  end
  vctx:set_code(250, tostring(sum))
end
msys.registerModule("m", mod)
"""

RUN = """
import logging, signal, os
signal.signal(signal.SIGCHLD, lambda *_: print("SIGCHLD"))
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from inbound_audit import InboundAudit, LuaPolicy
for kind in ("luajit21", "luajit20"):
    policy = LuaPolicy(sys.argv[1], lua=kind, max_hook_ms=60_000)
    with InboundAudit() as audit, audit.listener().session("192.0.2.7") as ac:
        print(kind, policy.ffi, *(policy.validate_connect(ac).text for _ in range(3)))
    policy.close()
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child is left")
"""

RESTRICTIONS = ["mdwe()", "seccomp(0x00050001)", "seccomp(0x80000000)"]  # EPERM, and one that kills the process
WARNING = "this process may not execute memory that it has written"


def run(restriction: str, script: object) -> list[str]:
    code = f"{RESTRICT}\n{restriction}\n{RUN}"
    done = subprocess.run([sys.executable, "-c", code, str(script)], capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip("the kernel does not have this restriction")
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout.splitlines()


@pytest.fixture
def script(tmp_path: object) -> object:
    path = tmp_path / "policy.lua"  # type: ignore[operator]
    path.write_text(SCRIPT)
    return path


ANSWERS = ["luajit21 True 10000 10000 10000", "luajit20 True 10000 10000 10000", "no child is left"]


@pytest.mark.parametrize("restriction", RESTRICTIONS)
def test_a_policy_runs_where_nothing_can_be_compiled(restriction: str, script: object) -> None:
    first, *answers = run(restriction, script)
    assert first.startswith(WARNING)
    assert answers == ANSWERS


def test_nothing_is_said_where_it_can(script: object) -> None:
    assert run("nothing()", script) == ANSWERS
