"""Runs one Python target: python -m fuzz.python_target NAME [OPTION...]

The options are libFuzzer's, and atheris mutates the inputs. With ``--replay`` in their place the target runs over its
corpus once, without atheris.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

MAX_S = 3.0
"""Seconds of processor time that one input may take: what atheris has instrumented runs three times as long."""


def replay(name: str) -> int:
    """Runs a target over its corpus. Returns the number of inputs."""
    target = importlib.import_module(f"fuzz.python.{name}")
    paths = sorted((CORPUS / name).iterdir())
    for path in paths:
        try:
            target.run(path.read_bytes())
        except BaseException:
            print(f"{path}:", file=sys.stderr)
            raise
    return len(paths)


def fuzz(name: str, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["inbound_audit", "aiosmtpd"]):
        target = importlib.import_module(f"fuzz.python.{name}")

    def run(data: bytes) -> None:
        began = time.thread_time()
        target.run(data)
        took = time.thread_time() - began
        if took > MAX_S:
            raise TimeoutError(f"one input takes {took:.1f} s")

    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[2:] == ["--replay"]:
        print(f"{replay(sys.argv[1])} executions")
    else:
        fuzz(sys.argv[1], sys.argv[2:])
