"""What a script can pass to the functions of windows, in compiled loops and in threads: an answer each time."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import lua_windows
from tests.support.lua_support import KINDS, Bench
from tests.support.lua_windows import (
    DEFINE,
    ECHO,
    TEXTS,
    Timed,
    ask,
    literal,
)

from inbound_audit import LuaPolicy, Session
from inbound_audit._ipcount import SeriesStore
from inbound_audit.policy.verdict import ACCEPT, Verdict

bench = lua_windows.bench  # fixture


# ---- speed, and what it may not change


def test_loops_that_are_compiled(bench: Timed) -> None:
    """LuaJIT compiles these; the sums are those of Python."""
    policy = bench.policy(
        f"""{DEFINE}
        local mod = {{}}
        function mod:validate_connect(ac, vctx)
            kept = kept or ac
            local sum = 0
            for i = 1, 3000 do
                msys.audit_series.add("s", {{count = i % 7 - 3 ~= 0 and i % 7 - 3 or 1}})
                msys.audit_series.add("s", "192.0.2." .. i % 50)
                msys.audit_series.add("s", kept)
                msys.audit_series.add("t", {{key = "k" .. i % 10, count = 2}})
                sum = sum + msys.audit_series.count("s", "/24") + msys.audit.connections("300,6", "/24")
                if i % 500 == 0 then msys.audit_series.remove_item("s", "192.0.2.49") end
            end
            vctx:set_code(250, tostring(sum))
        end
        msys.registerModule("m", mod)
        """
    )
    bench.session("192.0.2.200")
    assert policy.validate_connect(bench.session("192.0.2.100")) is not ACCEPT
    verdict = policy.validate_connect(bench.session("192.0.2.7"))
    assert policy.errors == 0, policy.last_error
    counts, total = dict.fromkeys(range(256), 0), 0
    for peer, connections in ((100, 2), (7, 3)):
        total = 0
        for i in range(1, 3001):
            counts[peer] += i % 7 - 3 or 1
            counts[i % 50] += 1
            counts[100] += 1
            total += sum(counts.values()) + connections
            if i % 500 == 0:
                counts[49] = 0
    assert verdict.text == lua_number(total)
    assert {n: bench.audit.series.count("s", f"192.0.2.{n}") for n in counts} == counts
    assert [bench.audit.series.count("t", f"k{n}") for n in range(10)] == [1200] * 10


def lua_number(value: int) -> str:
    return f"{value:.14g}"


def test_threads_count_at_once(bench: Timed) -> None:
    """Lua in several threads and Python beside it, on one series; nothing is lost, and the Python clock is asked."""
    policy = bench.policy(
        f"""{DEFINE}
        local mod = {{}}
        function mod:validate_connect(ac, vctx)
            for i = 1, 20 do
                msys.audit_series.add("s", {{count = i % 2 == 0 and -1 or 2}})
                msys.audit_series.add("t", ac.remote_ip)
                if msys.audit.connections("300,6", "/24") < 1 then error("no connection") end
            end
        end
        msys.registerModule("m", mod)
        """
    )

    def work(number: int) -> None:
        for i in range(60):
            with bench.listener.session(f"192.0.2.{number}") as ac:
                policy.validate_connect(ac)
                bench.audit.series.add("s", ac, -1 if i % 2 else 1)

    bench.audit.series.define("s", "ip", 300, 6)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert policy.errors == 0, policy.last_error
    assert [bench.audit.series.count("s", f"192.0.2.{n}") for n in range(5)] == [600] * 5
    assert [bench.audit.series.count("t", f"192.0.2.{n}") for n in range(5)] == [1200] * 5
    assert bench.audit.connections("300,6", "192.0.2.0/24") == 300
    SeriesStore(bench.audit).check()


def test_policies_that_define_are_collected(bench: Timed) -> None:
    policy = bench.policy(ECHO)
    ask(policy, bench.session(), 'msys.audit_series.add("s", {count = -1})')
    bench.policies.clear()
    gone = weakref.ref(policy)
    del policy
    gc.collect()
    assert gone() is None


VALUES = st.one_of(
    st.none(), st.integers(-(2**33), 2**33), st.floats(),
    st.sampled_from([text for text in TEXTS if len(text) < 500]), st.text(max_size=6),
    st.sampled_from(["s", "t", "/24", "192.0.2.7", "192.0.2.0/24", "300,6"]),
)  # fmt: skip


def number_literal(value: object) -> str:
    if isinstance(value, float):
        return "(0/0)" if value != value else f"({value!r})".replace("inf", "1/0")
    return f"({value})" if isinstance(value, int) else literal(value)


@given(name=st.sampled_from(["s", "t"]), key=VALUES, count=VALUES, startv=VALUES, endv=VALUES)
def test_ffi_and_portable_say_the_same(
    pair: tuple[LuaPolicy, LuaPolicy, Session, Session],
    name: str,
    key: object,
    count: object,
    startv: object,
    endv: object,
) -> None:
    by_ffi, portable, ac, twin = pair
    options = ", ".join(
        f"{option} = {number_literal(value)}"
        for option, value in (("key", key), ("cidr", key), ("count", count), ("startv", startv), ("endv", endv))
    )
    for call in (f'audit_series.add("{name}", ', f'audit_series.count("{name}", ', 'audit.connections("300,6", '):
        expression = f"msys.{call}{{{options}}})"
        assert reported(by_ffi, ac, expression) == reported(portable, twin, expression)


def reported(policy: LuaPolicy, ac: Session, expression: str) -> Verdict:
    """A message that shows a key with control characters is no text of a reply, in either policy."""
    verdict = policy.validate_ehlo(ac, expression)
    assert policy.errors == 0 or "in lines without controls" in str(policy.last_error)
    return verdict


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LuaPolicy, LuaPolicy, Session, Session]]:
    benches = [
        Bench(tmp_path_factory.mktemp(name), KINDS[name], monitors=["300,6"], clock=lambda: 1e9)
        for name in ("luajit-ffi", "luajit-portable")
    ]
    by_ffi, portable = (bench.policy(ECHO) for bench in benches)
    yield by_ffi, portable, benches[0].session("192.0.2.7"), benches[1].session("192.0.2.7")
    for bench in benches:
        bench.close()
