"""`inbound-audit policyd`, asked by a real Postfix whose clients are counted by a milter."""

from __future__ import annotations

import signal
import smtplib
import sys
import tempfile
from pathlib import Path

import pytest
from tests.support.milters import MilterProcess, PolicydProcess
from tests.support.postfix import Postfix, needs_postfix
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Debian's Postfix")

SCRIPT = """
require("msys.core")
local policy = {}
function policy:validate_rcptto(msg, str, ac, vctx)
  local conn = msys.core.VCTX_CONN
  vctx:set_code(550, vctx:get(conn, "protocol_name") .. " " .. vctx:get(conn, "helo_name") .. " " .. str)
  return msys.core.VALIDATE_DONE
end
msys.registerModule("policy", policy)
"""


def client(postfix: Postfix) -> smtplib.SMTP:
    return smtplib.SMTP(*postfix.plain, local_hostname="client.example", timeout=PATIENCE)


@needs_postfix
def test_postfix_asks_about_clients_that_a_milter_counts(place: Path, tmp_path: Path) -> None:
    script = tmp_path / "policy.lua"
    script.write_text(SCRIPT)
    with tempfile.TemporaryDirectory(prefix="policyd-") as directory:
        Path(directory).chmod(0o755)
        counted, asked = f"unix:{directory}/milter", f"unix:{directory}/policy"
        main = f"smtpd_milters = {counted}\nsmtpd_recipient_restrictions = check_policy_service {asked}"
        open_to_all = ("--shared", "mail", "--socket-mode", "666")
        with Postfix(main) as postfix, MilterProcess(*open_to_all, "--limit", "/32=100", listen=counted):
            with PolicydProcess(*open_to_all, "--limit", "/32=1", listen=asked) as policyd:
                with client(postfix) as first:
                    first.ehlo()
                    first.mail("a@example.net")
                    assert first.rcpt("b@example.com")[0] == 250
                    with client(postfix) as second:
                        second.ehlo()
                        second.mail("a@example.net")
                        code, text = second.rcpt("b@example.com")
                        assert (code, b"connection limit exceeded" in text) == (421, True)
                        second.close()
                policyd.tell(signal.SIGTERM)
                assert policyd.end() == 0
            with PolicydProcess(*open_to_all, "--policy", str(script), listen=asked), client(postfix) as one:
                one.ehlo()
                one.mail("a@example.net")
                code, text = one.rcpt("b@example.com")
                assert (code, b"ESMTP client.example b@example.com" in text) == (550, True)
