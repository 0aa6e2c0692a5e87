"""Simulated traffic for as long as it takes: python -m tests.support.soaking STEPS [SEED]

`tests/support/soak.pyx` says what a step is. One thread, one process; `make soak` builds what it needs.
"""

from __future__ import annotations

import secrets
import sys
import time

from tests.support import soak

BLOCK = 1 << 21
WIDTH = 40


def progress(done: int, steps: int, began: float) -> str:
    share = done / steps
    passed = time.monotonic() - began
    left = passed / share - passed if share else 0.0
    bar = "#" * round(WIDTH * share)
    return f"\r[{bar:{WIDTH}}] {100 * share:5.1f} %  {done:,} steps, {passed:,.0f} s, {left:,.0f} s left "


def main(steps: int, seed: int) -> int:
    print(f"seed {seed}", flush=True)
    traffic, began, done = soak.Traffic(seed), time.monotonic(), 0
    while done < steps:
        block = min(BLOCK, steps - done)
        try:
            traffic.run(block)
        except AssertionError as error:
            print(f"\nseed {seed}, {error}")
            return 1
        done += block
        if sys.stdout.isatty() or done == steps:
            print(progress(done, steps, began), end="", flush=True)
    print(f"\nno difference; {traffic.refused:,} sessions found a tree full, {traffic.coarse:,} counts were folded")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(float(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)))
