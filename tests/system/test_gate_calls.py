"""Each call to the system that a gate makes fails once: it does not begin, and says why; or it goes on."""

from __future__ import annotations

from tests.support.gate_calls import MARKS, outcome

pytestmark = MARKS

SCRIPT = """
def begin(case):
    "Whether the fault happened while a gate was opened or while it was closed."
    before, tasks = descriptors(), len(os.listdir("/proc/self/task"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        library.arm(case)
        try:
            with Gate(listener, limits, [listening], threads=2) as gate:
                works(gate, listening.getsockname()[1])
        except (OSError, RuntimeError) as error:
            assert case.cause.lower() in str(error).lower(), (case, error)
        hit = library.disarm()
    assert descriptors() <= before and audit.total() == 0, case
    eventually(lambda: len(os.listdir("/proc/self/task")) <= tasks, "that the system lists no thread that has ended")
    return hit

done = {}
for call in ("dup", "stat", "sockopt", "thread", "socket"):
    for what in ERRORS[call].split():
        n = 1
        while begin(Case(call, n, what)):
            n += 1
        done[call] = n - 1

# What a thread asks each second about its sockets.
for what in ERRORS["stat"].split():
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(listener, limits, [listening]) as gate:
        library.arm(Case("stat", 1, what))
        eventually(lambda: library.seen().get("stat", 0) > 2, "a check that fails, and the next")
        library.disarm()
        assert gate.left == 0
        works(gate, listening.getsockname()[1])
print(json.dumps(done))
"""


def test_each_call_of_a_gate_fails_once() -> None:
    calls = outcome(SCRIPT)
    assert calls["dup"] >= 1
    assert calls["thread"] == 2
    assert calls["stat"] >= 1
