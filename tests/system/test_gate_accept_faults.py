"""What becomes of a connection when `accept4` or the `send` of its reply fails: one defined outcome for each error."""

from __future__ import annotations

from tests.support.gate_calls import MARKS, outcome

pytestmark = MARKS

FAILING = """
OVER, BUSY = b"421 4.7.0 connection limit exceeded\\r\\n", b"421 4.7.0 too busy, try again later\\r\\n"
done = []

@contextlib.contextmanager
def failing(call, n, what, **options):
    "A gate whose n-th call fails. It goes on with the next peers; at the end nothing is counted or open."
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with Gate(listener, limits, [listening], **options) as gate:
            port = listening.getsockname()[1]
            library.arm(Case(call, n, what))
            yield gate, port
            assert library.disarm(), ("not reached", call, n, what)
            if not gate.left:
                check(gate, port)
            assert gate._closed_twice == 0
        assert gate.opened == gate.accepted + gate.refused + gate.queue_full
    assert audit.total() == 0
    listener._check()
    eventually(lambda: descriptors() <= before, f"the end of descriptors after {call} {n} {what}")
    done.append(f"{call} {n} {what}")

def check(gate, port):
    opened, figures = gate.opened, (gate.accepted, gate.refused)
    assert audit.total() == 0
    with connect(port):
        taken = take_all(gate, 1)
        assert told(port) in (OVER, b"")
        eventually(lambda: audit.total() == 1, "the end of the refused session")
        end(taken)
    assert gate.opened == opened + 2
    assert (gate.accepted, gate.refused) == (figures[0] + 1, figures[1] + 1)

def told(port):
    "What a peer is told before the end. A reset may come before all else."
    try:
        with connect(port) as peer:
            return said(peer)
    except ConnectionResetError:
        return b""

def figures(gate):
    return gate.opened, gate.accepted, gate.refused, gate.failures, gate.left
"""

ACCEPT = (
    FAILING
    + """
# The connection still waits in the kernel: it is let in by the next call. An interruption is no failure.
for what in ("EINTR", "ECONNABORTED", "EPROTO", "ENETUNREACH", "ENOBUFS", "ENOMEM", "EPERM"):
    for threads in (1, 2):
        failures = what != "EINTR"
        with failing("accept", 1, what, threads=threads) as (gate, port), connect(port):
            taken = take_all(gate, 1)
            eventually(lambda: figures(gate) == (1, 1, 0, failures, 0), f"its figures after {what}: {figures(gate)}")
            assert audit.total() == 1
            end(taken)

# No descriptor is left: the spare one accepts, and the peer is refused without a count.
for what in ("EMFILE", "ENFILE"):
    with failing("accept", 1, what) as (gate, port), connect(port) as peer:
        assert said(peer) == BUSY
        eventually(lambda: figures(gate) == (0, 0, 0, 1, 0), f"a failure: {figures(gate)}")
        assert audit.total() == 0

# The call that finds that none waits any more fails for want of a descriptor, too: nothing is lost.
for what in ("EMFILE", "ENFILE", "EINTR", "EAGAIN"):
    with failing("accept", 2, what) as (gate, port), connect(port):
        taken = take_all(gate, 1)
        eventually(lambda: library.seen().get("accept", 0) >= 2, "the second call")
        eventually(lambda: figures(gate) == (1, 1, 0, 0, 0), f"no failure: {figures(gate)}")
        end(taken)

# The listening socket is none any more: the gate leaves it, and waits for no other.
for what in ("EBADF", "EINVAL", "ENOTSOCK"):
    with failing("accept", 1, what) as (gate, port), connect(port):
        eventually(lambda: figures(gate) == (0, 0, 0, 0, 1), f"a socket that was left: {figures(gate)}")
print(json.dumps(done))
"""
)

SEND = (
    FAILING
    + """
ERRORS = ("EPIPE", "ECONNRESET", "EAGAIN", "ENOBUFS", "EINTR", "EBADF", "short")
for linger in ("close", "abort", "drain"):
    for what in ERRORS:
        half = what == "short" and linger != "abort"
        # Over the limit.
        with failing("send", 1, what, linger=linger) as (gate, port), connect(port) as first:
            taken = take_all(gate, 1)
            assert told(port) == (OVER[:len(OVER) // 2] if half else b""), what
            eventually(lambda: audit.total() == 1, "the end of the refused session")
            assert figures(gate) == (2, 1, 1, 0, 0)
            end(taken)
        # The queue is full.
        with failing("send", 1, what, linger=linger, backlog=1) as (gate, port), connect(port):
            eventually(lambda: gate.waiting == 1, "one that waits")
            gate.limits = None
            assert told(port) == (BUSY[:len(BUSY) // 2] if half else b""), what
            eventually(lambda: audit.total() == 1, "the end of the refused session")
            assert (gate.opened, gate.accepted, gate.queue_full) == (2, 1, 1)
            gate.limits = limits
            end(take_all(gate, 1))

# What waits when the gate is closed.
for what in ERRORS:
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gate = Gate(listener, None, [listening])
        with connect(listening.getsockname()[1]) as peer:
            eventually(lambda: gate.waiting == 1, "one that waits")
            library.arm(Case("send", 1, what))
            gate.close()
            assert library.disarm()
            words = said(peer)
            assert words == b"" or (what == "short" and words[:4] == b"421 " and b"\\n" not in words), (what, words)
    assert audit.total() == 0
    eventually(lambda: descriptors() <= before, "the end of descriptors")
    done.append(f"close {what}")
print(json.dumps(done))
"""
)


def test_a_failed_accept_loses_no_connection_but_one_without_a_descriptor() -> None:
    assert len(outcome(ACCEPT)) == 7 * 2 + 2 + 4 + 3


def test_a_reply_that_can_t_be_sent_is_a_refusal_all_the_same() -> None:
    assert len(outcome(SEND)) == 3 * 7 * 2 + 7
