"""Scripts in the dialect of Lua: rewritten line for line, compiled, and run in the sandbox with a bound on its steps.

The translation of any text ends, keeps each line where it is and changes no text without an operator of the dialect. A
script that is a policy has a verdict; one that is none is refused with a reason; neither stops the process.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from inbound_audit import InboundAudit, LuaPolicy
from inbound_audit.errors import PolicyError
from inbound_audit.lua.dialect import DialectError, tokenize, translate

MAX_STEPS = 20_000
MAX_MEMORY = 16 << 20
RUNS = 0x38  # bits of the first byte: an eighth of random inputs runs

logging.getLogger("inbound_audit").setLevel(logging.CRITICAL)
audit = InboundAudit(capacity=1 << 20)
listener = audit.listener("SMTP")
directory = tempfile.TemporaryDirectory()
path = Path(directory.name) / "policy.lua"
HOOK = b"local mod = {} function mod:validate_connect(ac, vctx) %s\nend msys.registerModule('m', mod)\n"


def run(data: bytes) -> None:
    """The first byte says whether the rest is a whole script or the body of a hook, and whether it runs, which takes a
    thousand times as long as the translation."""
    if not data:
        return
    script = data[1:] if data[0] % 2 else HOOK % data[1:]
    check_translation(script.decode("latin-1"))
    if data[0] & RUNS != RUNS:
        return
    path.write_bytes(script)
    try:
        policy = LuaPolicy(path, max_steps=MAX_STEPS, max_memory=MAX_MEMORY)
    except PolicyError as error:
        assert str(error)
        return
    try:
        with listener.session("192.0.2.7:25") as ac:
            verdict = policy.validate_connect(ac)
            assert isinstance(verdict.text, str)
            policy.end_session(ac)
    finally:
        policy.close()


def check_translation(source: str) -> None:
    tokens = tokenize(source)
    assert "".join(token.text for token in tokens) == source, "no character is lost"
    try:
        translation = translate(source)
    except DialectError as error:
        assert str(error)[0].isdigit(), error
        return
    lines = source.count("\n")
    assert translation.plain.count("\n") == lines
    assert translation.counted.count("\n") == lines + 1
    signs = {token.text for token in tokens if token.kind == "sign"}
    if not signs & {"!=", "&", "|", "^^", "<<", ">>", "\\", "~"} and not source.startswith("#"):
        assert translation.plain == source, "a script without the dialect's operators stays as it is"
