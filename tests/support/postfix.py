"""A Postfix of a test's own: its configuration, queue, data and log in a directory that is removed with it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE, eventually

PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
POSTCONF = shutil.which("postconf", path=PATH)
MILTERTEST = shutil.which("miltertest", path=PATH)

needs_postfix = pytest.mark.skipif(
    POSTCONF is None or os.geteuid() != 0, reason="needs Postfix (Debian: postfix) and root, which its master is"
)
needs_miltertest = pytest.mark.skipif(MILTERTEST is None, reason="needs miltertest (Debian: miltertest)")

MAIN = """
compatibility_level = 3.6
queue_directory = {place}/spool
data_directory = {place}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = {owner}
setgid_group = {group}
maillog_file = {place}/log/mail
maillog_file_prefixes = {place}/log
inet_interfaces = loopback-only
inet_protocols = all
myhostname = mx.example.com
mydestination = example.com
local_recipient_maps =
local_transport = discard:
default_transport = discard:
alias_maps =
alias_database =
mynetworks =
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_peername_lookup = no
{more}
"""

MASTER = """
127.0.0.1:{plain} inet n - n - - smtpd
127.0.0.1:{proxied} inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
discard unix - - n - - discard
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

_QUEUE = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "pid", "private",
    "public", "saved", "trace",
)  # fmt: skip
"""Directories of the queue, which postfix-script makes elsewhere."""


class Postfix:
    """A running Postfix. Mail to example.com is accepted and discarded. `main` is lines of main.cf."""

    def __init__(self, main: str) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="postfix-"))
        try:
            self._place.chmod(0o755)
            self._lay_out()
            self._start(main)
        except BaseException:
            self.close()
            raise

    plain: tuple[str, int]
    """Where it takes SMTP."""

    proxied: tuple[str, int]
    """Where it takes SMTP after a PROXY header."""

    _master: subprocess.Popen[bytes] | None = None

    @property
    def queue(self) -> Path:
        """The directory of its queue, from where it looks for sockets."""
        return self._place / "spool"

    def _lay_out(self) -> None:
        owner = pwd.getpwnam("postfix").pw_uid
        postdrop = grp.getgrnam("postdrop").gr_gid
        for name in ("etc", "log", "spool", "data", *(f"spool/{name}" for name in _QUEUE)):
            (self._place / name).mkdir(mode=0o755)
        for name in ("data", *(f"spool/{name}" for name in _QUEUE if name != "pid")):
            os.chown(self._place / name, owner, -1)
            (self._place / name).chmod(0o700)
        for name, mode in (("public", 0o710), ("maildrop", 0o730)):
            os.chown(self._place / "spool" / name, owner, postdrop)
            (self._place / "spool" / name).chmod(mode)

    def _start(self, main: str) -> None:
        """Its ports must be named: another process may take one of them first, so there are several attempts."""
        for _ in range(5):
            plain, proxied = free_ports(2)
            self.plain, self.proxied = ("127.0.0.1", plain), ("127.0.0.1", proxied)
            daemons = subprocess.check_output([str(POSTCONF), "-dh", "daemon_directory"], text=True).strip()
            etc = self._place / "etc"
            (etc / "main.cf").write_text(
                MAIN.format(place=self._place, daemons=daemons, owner="postfix", group="postdrop", more=main)
            )
            (etc / "master.cf").write_text(MASTER.format(plain=plain, proxied=proxied))
            self._master = subprocess.Popen(
                [f"{daemons}/master", "-c", str(etc), "-d"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            eventually(lambda: self._started or self._ended, "the start of Postfix")
            if self._started:
                return
        raise AssertionError(f"Postfix has not started: {self.log}")

    @property
    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self._place / "log" / "mail").read_text(errors="replace")
        return ""

    @property
    def _started(self) -> bool:
        return f"master[{self._master.pid if self._master else 0}]: daemon started" in self.log

    @property
    def _ended(self) -> bool:
        return self._master is None or self._master.poll() is not None

    def processor_s(self) -> float:
        """Seconds of the processor that its processes have used, those that have ended too."""
        assert self._master is not None
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._master.pid:  # the session
                    ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self._master is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._master.pid, signal.SIGTERM)  # master's group has all of its children
            self._master.wait(PATIENCE)
        shutil.rmtree(self._place, ignore_errors=True)

    def __enter__(self) -> Postfix:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
