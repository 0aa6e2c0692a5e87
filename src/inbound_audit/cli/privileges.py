"""What `serve` gives up: root, all privileges but one port below 1024, and files that it does not need.

The order: change the root, become the user and keep one capability, which binds ports below 1024; bind; give up that
capability as well; restrict the files. The supervisor keeps the capability, since it starts workers that bind again.
"""

from __future__ import annotations

import contextlib
import grp
import importlib
import logging
import os
import pkgutil
import pwd
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import inbound_audit
from inbound_audit.cli import landlock
from inbound_audit.cli.decision_log import file_of
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.sockets import Endpoint
from inbound_audit.descriptor import make_directory
from inbound_audit.errors import SharedStateError
from inbound_audit.lua.world import room
from inbound_audit.persist import default_directory
from inbound_audit.regular_file import real_path
from inbound_audit.shared import directory_of, find_directory

logger = logging.getLogger("inbound_audit.serve")

_PR_SET_KEEPCAPS = 8
_CAPABILITY_VERSION_3 = 0x20080522
_NET_BIND_SERVICE = 1 << 10

_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/localtime", "/etc/ssl/openssl.cnf",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/proc/self", "/dev/urandom",
)  # fmt: skip
"""What libraries read when they are first used: other libraries, time zones, the names of users and groups."""


def become_user(settings: Settings) -> Settings:
    """Changes the root and the user, as `--chroot`, `--user` and `--group` say. To be called before anything is bound.

    Directories for state, messages and shared counts that are not there are made for the user. Returns the settings
    with the paths as they are now. Raises Failure.
    """
    if settings.user is None and settings.chroot is None:
        return settings
    if os.geteuid() != 0 or settings.user is None:
        raise Failure("--user and --chroot: only root can become another user or change its root")
    try:
        account = pwd.getpwnam(settings.user)
        gid = account.pw_gid if settings.group is None else grp.getgrnam(settings.group).gr_gid
    except KeyError as error:
        raise Failure(f"--user and --group: {error.args[0]}") from None
    groups = os.getgrouplist(settings.user, gid)
    try:
        # The group by its number: in a changed root it has no name.
        group = None if settings.group is None else str(gid)
        settings = replace(settings, state=settings.state or default_directory(), group=group)
        _load_everything()
        root = settings.chroot
        if root is not None:
            if settings.source is not None:
                settings = replace(settings, source=settings.source.within(root))
            os.chroot(root)
            os.chdir("/")
        for path in _own_directories(settings, account.pw_uid):
            _make_for(account.pw_uid, gid, path)
        _become(account, gid, groups, _NET_BIND_SERVICE)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise Failure(f"cannot become {settings.user}: {reason(error)}{where}") from None
    return settings


def become_reader(uid: int) -> None:
    """Becomes a user with all of its groups and no privilege, for what only reads. Raises Failure."""
    try:
        account = pwd.getpwuid(uid)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        _load_everything()
        _become(account, account.pw_gid, groups, 0)
    except KeyError:
        raise Failure(f"--user: the user {uid} has no name, so its groups are not known") from None
    except OSError as error:
        raise Failure(f"cannot become {account.pw_name}: {reason(error)}") from None


def _become(account: pwd.struct_passwd, gid: int, groups: list[int], capabilities: int) -> None:
    """Raises OSError."""
    landlock.prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    _set_capabilities(capabilities)
    landlock.prctl(landlock.PR_SET_NO_NEW_PRIVS, 1)
    os.environ["HOME"] = account.pw_dir


def restrict(settings: Settings) -> None:
    """Gives up what was kept to bind, and all files that are not needed. Called once everything is bound, before any
    thread starts. Raises Failure."""
    try:
        if settings.user is not None:
            _set_capabilities(0)
        if settings.landlock and sys.platform == "linux":
            writable = list(_own_directories(settings, os.geteuid()))
            for path in writable:
                try:
                    _make_for(-1, -1, path)
                except OSError as error:  # later it would be out of reach, which is not why
                    _raise_if_needed(settings, path, error)
            ports = [one.port for one in settings.to if isinstance(one, Endpoint)]
            landlock.restrict(_readable(settings), [*writable, "/dev/null"], ports)
    except OSError as error:
        raise Failure(f"cannot restrict this process: {reason(error)}; --no-landlock leaves out Landlock") from None


def _own_directories(settings: Settings, uid: int) -> Iterator[str]:
    """The directories that a user's process writes to. Raises Failure and OSError."""
    yield settings.state or default_directory()
    if settings.maildir is not None:
        yield os.path.abspath(settings.maildir)
    if (log := _log_directory(settings)) is not None:
        yield log
    if settings.shared is not None:
        try:
            path = find_directory(settings.shared, str(uid))
            yield path if _belongs_to(uid, path) else directory_of(settings.shared)
        except SharedStateError as error:
            raise Failure(f"--shared: {error}") from None


def _log_directory(settings: Settings) -> str | None:
    path = settings.decision_log and file_of(settings.decision_log)
    return os.path.dirname(os.path.abspath(path)) if path else None


def _raise_if_needed(settings: Settings, path: str, error: OSError) -> None:
    """Raises Failure if `serve` can't do without a directory that could not be made. State may never be kept."""
    if settings.maildir is not None and path == os.path.abspath(settings.maildir):
        raise Failure(f"--maildir {settings.maildir}: {reason(error)}") from None
    if path == _log_directory(settings):
        raise Failure(f"--decision-log {settings.decision_log}: {reason(error)}") from None
    if path != (settings.state or default_directory()):
        raise Failure(f"--shared: {path}: {reason(error)}") from None
    if settings.state is not None:
        logger.warning("--state %s: no state can be kept there: %s", path, reason(error))


def _belongs_to(uid: int, path: str) -> bool:
    try:
        return os.stat(path).st_uid == uid
    except FileNotFoundError:
        return False


def _load_everything() -> None:
    """Imports what is otherwise imported when it is needed: later the files may be out of reach."""
    for module in pkgutil.walk_packages(inbound_audit.__path__, "inbound_audit."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(module.name)
    for name in ("encodings.idna", "encodings.latin_1", "email.header", "lupa.luajit21"):
        importlib.import_module(name)
    for file in Path(inbound_audit.__path__[0], "lua").glob("*.lua"):
        room(file.stem)


def _make_for(uid: int, gid: int, path: str) -> None:
    """Makes a directory for a user alone. One that is there stays as it is."""
    for parent in reversed(Path(path).parents):
        if make_directory(parent, 0o755):
            parent.chmod(0o755)  # whatever the umask is: the user must reach what lies in it
    if make_directory(path):
        os.chown(path, uid, gid, follow_symlinks=False)


def _readable(settings: Settings) -> Iterator[str]:
    """The policy and its directories, the certificate, the configuration file, and the libraries of Python, which are
    loaded when they are needed."""
    config = None if settings.source is None else settings.source.path
    for path in filter(None, (settings.policy, settings.tls_cert, settings.tls_key, config)):
        yield os.path.dirname(os.path.abspath(path))
        yield str(real_path(path).parent)
    yield from settings.policy_dir
    yield os.path.dirname(os.__file__)
    yield from filter(os.path.isabs, sys.path[1:])  # the first is the directory of the program, or the current one
    yield str(Path(inbound_audit.__file__).parent)
    yield from _SYSTEM


def _set_capabilities(kept: int) -> None:
    """Keeps no other capability (capset(2)). Raises OSError."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0)
    landlock.c_function("capset", header, data)
