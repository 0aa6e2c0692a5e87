"""Commands on a pseudo-terminal."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios

from tests.support.command_line import COMMAND, environment
from tests.support.forked_commands import ForkedCommand, may_be_forked
from tests.support.waiting import PATIENCE, eventually

# Ctrl-C goes to those whose terminal it is.
ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A command on a terminal of its own; `shown` is all that it has written there."""

    def __init__(self, *arguments: str, extra: dict[str, str] | None = None, rows: int = 24) -> None:
        self.leader, follower = pty.openpty()
        self.before = termios.tcgetattr(self.leader)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
        env = {**environment(), "TERM": "xterm-256color", **(extra or {})}
        self.process: subprocess.Popen[bytes] | ForkedCommand
        if may_be_forked(env):
            self.process = ForkedCommand(arguments, env, [follower] * 3, terminal=True)
        else:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ON_A_TERMINAL, *COMMAND, *arguments],
                stdin=follower, stdout=follower, stderr=follower, start_new_session=True, env=env,
            )  # fmt: skip
        os.close(follower)
        self.shown = ""

    def read(self) -> bool:
        """Takes what has come; False at the end."""
        while select.select([self.leader], [], [], 0)[0]:
            try:
                data = os.read(self.leader, 65536)
            except OSError:  # Linux reports the end of a terminal as an error
                return False
            self.shown += self._decoder.decode(data)
        return True

    def shows(self, words: str) -> None:
        def there() -> bool:
            self.read()
            return words in self.shown

        eventually(there, f"{words!r} on the terminal")

    def type(self, keys: bytes) -> None:
        os.write(self.leader, keys)

    def end(self) -> int:
        eventually(lambda: not self.read(), "the end of what it shows")
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self.leader)
