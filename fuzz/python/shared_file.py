"""The file of another process of a shared audit, with any bytes in it: every reader ends, with a count or an error.

An input is patches of a file that an owner has written: each is an offset, a size and bytes. The readers are the view
of the command line, with its walks, and the LuaJIT reader. Afterwards the file is as it was, and gives the same counts
as before. The target `c_reader` has the reader in C.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import tempfile
from pathlib import Path

from inbound_audit import InboundAudit
from inbound_audit.errors import SharedStateError
from inbound_audit.readers import lua_module
from inbound_audit.shared import View

logging.getLogger("inbound_audit").setLevel(logging.CRITICAL)
directory = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
os.environ["INBOUND_AUDIT_SHM"] = directory.name

GRAIN = 65536
PATCH = struct.Struct("<HBB")  # offset in units of four bytes, where it counts from, size
STARTS = (0, GRAIN, GRAIN + 4096, 3 * GRAIN)
CIDRS = ("10.0.0.0/8", "10.1.2.0/23", "10.1.2.3", "2001:db8::/32", "2001:db8::7", "0.0.0.0/0", "::/0")


def write_file() -> tuple[int, bytes]:
    """A file as an owner writes it, made anew after its owner has ended; the lock of a live owner is held."""
    with InboundAudit(shared="fuzz", capacity=1 << 16) as audit:
        smtp, control = audit.listener("SMTP", name="mx"), audit.listener("Control")
        held = [smtp.session(f"10.1.{i % 4}.{i}") for i in range(40)]
        held += [control.session(f"2001:db8::{i % 3}:{i:x}") for i in range(40)]
        (path,) = Path(directory.name).rglob("*.owner")
        whole = path.read_bytes()
        for session in held:
            session.close()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, whole, 0)
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    fcntl.fcntl(fd, getattr(fcntl, "F_OFD_SETLK", 37), lock)
    return fd, whole


file, intact = write_file()


def counts() -> list[int]:
    """What the view counts. Raises SharedStateError for a walk over damaged bytes."""
    with View("fuzz") as view:
        found = [view.inbound_session_count(cidr, service) for cidr in CIDRS for service in ("SMTP", "Control")]
        assert all(count >= 0 for count in found)
        for service in ("SMTP", "Control"):
            try:
                assert len(view.top(3, service_type=service, prefixlen=(24, 56))) <= 3
                assert all(count > 0 for count, _ in view.tree(service))
            except SharedStateError as error:
                assert str(error)
        for owner in view.owners:
            assert owner.damaged or owner.listeners is not None
    return found


def lua_counts() -> list[int] | None:
    """What the LuaJIT reader counts; None without LuaJIT."""
    if reader is None:
        return None
    return list(reader(str(next(Path(directory.name).iterdir()))).values())


def start_reader() -> object:
    try:
        from lupa import luajit21
    except ImportError:
        return None
    script = """local path, cidrs = ... local ia = dofile(path) return function(where)
        local opened, view = pcall(ia.open, where)
        local found, at = {}, 0
        if not opened then assert(type(view) == "string", view) return found end
        for _, cidr in ipairs(cidrs) do for _, service in ipairs({"SMTP", "Control"}) do
            local count = view:count(cidr, service)
            at = at + 1 found[at] = tonumber(count) or -1
        end end
        view:close() return found end"""
    lua = luajit21.LuaRuntime()
    return lua.execute(script, str(lua_module()), lua.table_from(CIDRS))


reader = start_reader()
whole_counts = counts()


def run(data: bytes) -> None:
    at, touched = 0, []
    while at + PATCH.size <= len(data):
        offset, start, size = PATCH.unpack_from(data, at)
        at += PATCH.size
        patch = data[at : at + 1 + size % 64]
        at += len(patch)
        where = STARTS[start % 4] + 4 * offset % (GRAIN // 2)
        if patch and where + len(patch) <= len(intact):
            os.pwrite(file, patch, where)
            touched.append((where, len(patch)))
    try:
        counts()
        lua = lua_counts()
        assert lua is None or all(count >= -1 for count in lua)
    finally:
        for where, length in touched:
            os.pwrite(file, intact[where : where + length], where)
    if not data:
        assert counts() == whole_counts
        assert sum(whole_counts) > 0
        assert lua is None or lua == whole_counts
