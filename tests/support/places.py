"""A script with /run and /dev/shm of its own, which it may fill as several users: for tests that root runs."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

NAMESPACE = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]

BEGIN = """
import os, pwd, stat, subprocess, sys, traceback
for place, mode in (("/run", "mode=755"), ("/dev/shm", "mode=1777")):
    subprocess.run(["mount", "-t", "tmpfs", "-o", mode, "tmpfs", place], check=True)
for variable in ("INBOUND_AUDIT_SHM", "RUNTIME_DIRECTORY"):
    os.environ.pop(variable, None)
import inbound_audit.series.requests, inbound_audit.shared.membership
from inbound_audit import InboundAudit
from inbound_audit.errors import SharedStateError
from inbound_audit.shared import View, directory_of, find_directory

NOBODY, OTHER, GROUP = 65534, 4711, 4712

def make(path, uid=0, mode=0o700, gid=None):
    os.mkdir(path)
    os.chown(path, uid, uid if gid is None else gid)
    os.chmod(path, mode)

def status(path):
    found = os.lstat(path)
    return found.st_uid, oct(stat.S_IMODE(found.st_mode))

def as_user(uid, job, groups=()):
    '''Does the job as another user, in a process of its own, and fails if it does.'''
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(list(groups))
            os.setgid(uid)
            os.setuid(uid)
            job()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

def refused(why, job):
    try:
        job()
    except SharedStateError as error:
        assert why in str(error), error
    else:
        raise AssertionError("not refused")

def join_and_count(name="mail", **options):
    '''Joins, counts, and tells where.'''
    with InboundAudit(shared=name, **options) as audit, audit.listener().session("192.0.2.7"):
        place = audit._membership.place.path
        assert audit.total() == 1 and len(os.listdir(place)) == 2, os.listdir(place)
        return place
"""


@functools.cache
def mounts_are_possible() -> bool:
    """Whether this process may have a /run of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/run"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run_inside(script: str) -> str:
    """Runs it after `BEGIN`. Returns its output; an error fails the test."""
    code = BEGIN + textwrap.dedent(script)
    command = [*NAMESPACE, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
