"""`inbound-audit guard`: mistakes in its options name what to write."""

from __future__ import annotations

import pytest

from inbound_audit.cli import run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Missing option '--to'"),
        (["--to", ":25"], "write the server's ADDRESS:PORT"),
        (["--to", "127.0.0.1:0"], "write the server's ADDRESS:PORT"),
        (["--to", "unix:relative"], "write an absolute path"),
        (["--to", "127.0.0.1:25", "--tls-passthrough", "--refusal", "http"], "excludes --refusal http"),
        (["--to", "127.0.0.1:25", "--send-proxy", "v3"], "'v3' is not one of"),
        (["--to", "127.0.0.1:25", "--idle", "0s"], "--idle"),
        (["--to", "127.0.0.1:25", "--threads", "65"], "from 1 to 64"),
        (["--to", "no.such.host.invalid:25"], "--to no.such.host.invalid:25"),
    ],
)
def test_a_mistake_says_what_to_write(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guard", "--listen", "127.0.0.1:0", *options]) in (1, 2)
    assert words in capsys.readouterr().err
