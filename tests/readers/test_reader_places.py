"""The readers in C and Lua find the directory that Python finds, and trust whom it trusts."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.places import mounts_are_possible, run_inside

from inbound_audit.readers import header, lua_module

pytestmark = [
    pytest.mark.readers,
    pytest.mark.skipif(not mounts_are_possible(), reason="needs root, and a /run of its own (unshare, mount)"),
]

C_PROGRAM = """
#include <stdio.h>
#include "inbound_audit.h"
int main(int n, char **arguments)
{
    ia_error why;
    ia_handle *h = ia_open(arguments[1], 0, &why);
    char *path = ia__directory("mail");
    (void)n;
    puts(path);
    puts(h != NULL ? "open" : why == IA_REFUSED || why == IA_SYSTEM ? "refused" : "absent");
    free(path);
    ia_close(h);
    return 0;
}
"""

LUA_PROGRAM = """
local ia = require("inbound_audit")
local good, why = pcall(ia.open, arg[1])
print(ia.directory_of("mail"))
print(good and "open" or tostring(why):find("does not exist", 1, true) and "absent" or "refused")
"""

SITUATIONS = """
def status_of(name):
    try:
        with View(name):
            return "open"
    except SharedStateError as error:
        return "absent" if "does not exist" in str(error) else "refused"

def agree(*directories, environment={}, path=None):
    '''As root, as the user, and as a member of the group. With a path, root is shown any user's.'''
    for path_and_mode in directories:
        make(*path_and_mode)
    os.environ.update(environment)

    def compare():
        expected = [find_directory("mail"), status_of("mail")]
        for command in COMMANDS:
            done = subprocess.run([*command, "mail"], capture_output=True, text=True)
            found = done.stdout.split()
            if expected[1] == "absent":  # then each names a place where it would be
                found[0] = expected[0]
            assert found == expected, (command, os.getuid(), directories, done, expected)
        if os.getuid() == 0:
            for command in COMMANDS if expected[1] == "refused" and os.path.isdir(expected[0]) else ():
                done = subprocess.run([*command, expected[0]], capture_output=True, text=True)
                safe = not os.stat(expected[0]).st_mode & 7
                assert (done.stdout.split()[1] == "open") == safe, (command, directories, done)

    for uid, groups in ((0, ()), (NOBODY, ()), (OTHER, (GROUP,))):
        as_user(uid, compare, groups)
    for variable in environment:
        del os.environ[variable]
    subprocess.run("rm -rf /run/* /dev/shm/*", shell=True, check=True)

RUN, SHM = "/run/inbound_audit", "/dev/shm/inbound_audit-mail"
MAIL = RUN + "/inbound_audit-mail"
agree()
for uid in (0, NOBODY, OTHER):
    for mode in (0o700, 0o770, 0o777):
        agree((SHM, uid, mode))
        agree((SHM, uid, mode, GROUP))
    for parent in (0, NOBODY, OTHER):
        agree((RUN, parent, 0o755), (MAIL, uid))
        agree((RUN, parent, 0o755), (MAIL, uid, 0o3770, GROUP))
        agree((RUN, parent, 0o755), (MAIL, uid), (SHM, 0))
        agree((RUN, parent, 0o755), (MAIL, uid), (SHM, NOBODY))
        agree((RUN, parent, 0o755), (MAIL, 0), (SHM, uid, 0o3770, GROUP))
    agree((RUN, 0, 0o1777), (MAIL, uid))
    agree((RUN, 0, 0o775), (MAIL, uid))
A = ("/run/a", 0, 0o755)
agree(A, (A[0] + "/inbound_audit-mail", NOBODY), environment={"RUNTIME_DIRECTORY": "b::/run/a:/run/c"})
agree((SHM, NOBODY), environment={"RUNTIME_DIRECTORY": "b"})
agree((SHM, NOBODY), environment={"RUNTIME_DIRECTORY": "", "INBOUND_AUDIT_SHM": ""})
agree(A, environment={"RUNTIME_DIRECTORY": "/run/b", "INBOUND_AUDIT_SHM": "/run/a"})
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users reach, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def commands(reachable: Path) -> list[list[str]]:
    """How to start each reader."""
    for source in (header(), lua_module()):
        shutil.copy(source, reachable)
    (reachable / "place.c").write_text(C_PROGRAM)
    (reachable / "place.lua").write_text(LUA_PROGRAM)
    found = []
    if gcc := shutil.which("gcc"):
        command = [gcc, "-std=gnu99", "-Wall", "-Wextra", "-Werror", "-o", "place", "place.c"]
        subprocess.run(command, cwd=reachable, check=True)
        found.append([f"{reachable}/place"])
    if luajit := shutil.which("luajit"):
        found.append(["env", f"LUA_PATH={reachable}/?.lua", luajit, f"{reachable}/place.lua"])
    if not found:
        pytest.skip("there is neither gcc nor luajit")
    return found


def test_all_readers_find_the_same_directory(commands: list[list[str]]) -> None:
    run_inside(f"COMMANDS = {commands!r}\n{SITUATIONS}")
