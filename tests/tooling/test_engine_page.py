"""What docs/howto/cluster-engines.md says to type makes certificates and users that the engines were tested with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.redis_server import USER

from inbound_audit.cluster.certificates import check_certificate

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "cluster-engines.md").read_text("utf-8")


def test_the_rule_for_a_user_is_the_one_that_was_tested():
    assert USER.format(node="mx1").replace("secret-mx1", "secret") in PAGE.splitlines()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_make_a_certificate_of_the_node(tmp_path):
    commands = re.findall(r"^\$ ((?:openssl|printf) .*)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    check_certificate(*(str(tmp_path / name) for name in ("mx1.pem", "mx1.key", "ca.pem")), "mx1")
