"""A classic BPF program that drops the packets of given networks, and the sockets that it is attached to. Linux.

A listening socket that has such a program gives it each packet that comes for it: when the program returns 0, the
packet is dropped as if the network had lost it. So a peer whose SYN is dropped tries again a few times, and its
`connect` times out; the server neither answers nor wakes up.

    mark                    LD #MARK, LDX #token: whose program this is. It has no effect
    version                 the upper half of the first byte of the IP header: 4 or 6, as a socket may get both
    words of the source     IPv4: one, IPv6: up to four. A binary search over the ranges of that word, which ends in
                            "drop", "pass", or in the search over the next word

A conditional jump reaches 255 instructions, an unconditional one any: where a half of a search is longer, the
conditional one skips an unconditional one. All jumps go forward, so the program ends; `MAX_INSTRUCTIONS` is the
kernel's bound. A word costs 32 comparisons at most, since each halves the ranges.

An IPv6 packet from an IPv4-mapped address does not exist: the kernel drops it before (`ip6_rcv_core`).
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from inbound_audit._ipcount import parse_prefix

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS of linux/bpf_common.h."""

MARK = 0x73686564
"""The first word of each program of ours."""

# linux/bpf_common.h
LD_WORD, LD_BYTE, LD_CONSTANT, LDX_CONSTANT = 0x20, 0x30, 0x00, 0x01
SHIFT_RIGHT, JUMP, JUMP_IF_AT_LEAST, RETURN = 0x74, 0x05, 0x35, 0x06

_NETWORK = (1 << 32) - 0x100000  # SKF_NET_OFF: offsets from it are those in the IP header
_SOURCE = {4: _NETWORK + 12, 6: _NETWORK + 8}
_BITS = {4: 32, 6: 128}
_MAX_JUMP = 255

# asm-generic/socket.h
_ATTACH, _DETACH, _GET = 26, 27, 26


class Instruction(NamedTuple):
    """As `struct sock_filter`: `if_true` and `if_false` are how many instructions a conditional jump skips."""

    code: int
    if_true: int
    if_false: int
    k: int


Program = list[Instruction]
Range = tuple[int, int]
"""The first and the last address, as numbers."""

_DROP: Program = [Instruction(RETURN, 0, 0, 0)]
_PASS: Program = [Instruction(RETURN, 0, 0, 0xFFFFFFFF)]


class Ranges(NamedTuple):
    """Addresses of both families as ranges that are sorted and apart from one another."""

    ipv4: list[Range]
    ipv6: list[Range]


def ranges_of(networks: Iterable[str]) -> Ranges:
    """The addresses of networks; IPv4-mapped ones are IPv4. Raises CidrError. O(n log n)."""
    found = Ranges([], [])
    for network in networks:
        version, packed, length = parse_prefix(network)
        host_bits = 8 * len(packed) - length
        first = int.from_bytes(packed, "big") >> host_bits << host_bits
        (found.ipv4 if version == 4 else found.ipv6).append((first, first | ((1 << host_bits) - 1)))
    return Ranges(_merged(found.ipv4), _merged(found.ipv6))


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def _without(ranges: Iterable[Range], spared: Sequence[Range]) -> list[Range]:
    """The addresses of `ranges` that are not in `spared`."""
    left: list[Range] = []
    for first, last in ranges:
        before = max(0, bisect_right(spared, (first, first)) - 1)
        for spared_first, spared_last in islice(spared, before, None):
            if spared_first > last:
                break
            if spared_last < first:
                continue
            if spared_first > first:
                left.append((first, spared_first - 1))
            first = spared_last + 1
        if first <= last:
            left.append((first, last))
    return left


# ---- programs


def program_of(dropped: Ranges, spared: Ranges, token: int = 0) -> Program:
    """Drops packets from `dropped`, but for those from `spared`. It may be longer than `MAX_INSTRUCTIONS`.

    O(n log n) in the ranges of `dropped`, and in those of `spared` that lie among them.
    """
    families = {
        version: _words(_without(one, other), version, _BITS[version])
        for version, one, other in ((4, dropped.ipv4, spared.ipv4), (6, dropped.ipv6, spared.ipv6))
    }
    version = [Instruction(LD_BYTE, 0, 0, _NETWORK), Instruction(SHIFT_RIGHT, 0, 0, 4)]
    mark = [Instruction(LD_CONSTANT, 0, 0, MARK), Instruction(LDX_CONSTANT, 0, 0, token)]
    return mark + version + _search([(0, _PASS), (4, families[4]), (5, _PASS), (6, families[6]), (7, _PASS)])


def _words(ranges: list[Range], version: int, bits: int) -> Program:
    """Looks at the last `bits` bits of the source address, of which `ranges` are."""
    if not ranges:
        return _PASS
    shift = bits - 32
    whole = (1 << shift) - 1
    parts: dict[int, list[Range]] = {}  # of the words in which a range begins or ends
    found: list[tuple[int, int, Program]] = []
    for first, last in ranges:
        word, last_word = first >> shift, last >> shift
        if first & whole or (word == last_word and last & whole != whole):
            parts.setdefault(word, []).append((first & whole, last & whole if word == last_word else whole))
            word += 1
        if word <= last_word and last & whole != whole:
            parts.setdefault(last_word, []).append((0, last & whole))
            last_word -= 1
        if word <= last_word:
            found.append((word, last_word, _DROP))
    found += [(word, word, _words(some, version, shift)) for word, some in parts.items()]
    regions: list[tuple[int, Program]] = []
    begin = 0
    for word, last_word, program in sorted(found, key=lambda one: one[0]):
        if word > begin:
            regions.append((begin, _PASS))
        regions.append((word, program))
        begin = last_word + 1
    if begin < 1 << 32:
        regions.append((begin, _PASS))
    return [Instruction(LD_WORD, 0, 0, _SOURCE[version] + (_BITS[version] - bits) // 8), *_search(regions)]


def _search(regions: Sequence[tuple[int, Program]]) -> Program:
    """Goes on with the program of the last region that begins at or before what was loaded."""
    if len(regions) == 1:
        return regions[0][1]
    middle = len(regions) // 2
    low, high = _search(regions[:middle]), _search(regions[middle:])
    if len(low) <= _MAX_JUMP:
        return [Instruction(JUMP_IF_AT_LEAST, len(low), 0, regions[middle][0]), *low, *high]
    far = Instruction(JUMP, 0, 0, len(low))
    return [Instruction(JUMP_IF_AT_LEAST, 0, 1, regions[middle][0]), far, *low, *high]


# ---- sockets


def attach(listening: socket.socket, program: Program) -> None:
    """Replaces the program of a socket. Raises OSError: ENOMEM if it is longer than the system allows a socket
    (net.core.optmem_max), EPERM if the program of the socket is locked."""
    code = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    address, _ = code.buffer_info()
    listening.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(program), address))


def detach(connection: socket.socket) -> None:
    """Takes the program off a socket, if it has one: a connection has that of the listening socket it came from.
    Raises OSError."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def attached_to(listening: socket.socket) -> tuple[int, int] | None:
    """The mark and the token of a socket's program, both 0 if another made it; None without one. Raises OSError."""
    room = ctypes.create_string_buffer(8 * MAX_INSTRUCTIONS)
    size = ctypes.c_uint32(MAX_INSTRUCTIONS)  # in instructions
    library = ctypes.CDLL(None, use_errno=True)
    if library.getsockopt(listening.fileno(), socket.SOL_SOCKET, _GET, room, ctypes.byref(size)):
        number = ctypes.get_errno()
        if number == errno.EACCES:  # a program of eBPF
            return 0, 0
        raise OSError(number, os.strerror(number))
    if size.value == 0:
        return None
    (code, _, _, mark), (next_code, _, _, token) = islice(struct.iter_unpack("=HBBI", room.raw), 2)
    ours = (code, mark, next_code) == (LD_CONSTANT, MARK, LDX_CONSTANT)
    return (mark, token) if ours else (0, 0)
