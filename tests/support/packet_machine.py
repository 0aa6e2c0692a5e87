"""A classic BPF machine in a few lines, and packets for it: what a program of `listeners.packet_filter` does."""

from __future__ import annotations

import ipaddress
import struct

from inbound_audit.listeners.packet_filter import MAX_INSTRUCTIONS, Program

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NETWORK = 0xFFF00000  # SKF_NET_OFF


def packet_from(source: Address) -> bytes:
    """The header of an IP packet."""
    if source.version == 4:
        return struct.pack("!BxHxxxxBxxx4s4s", 0x45, 40, 64, source.packed, bytes(4))
    return struct.pack("!IHBB16s16s", 0x60000000, 20, 6, 64, source.packed, bytes(16))


def check(program: Program) -> None:
    """What the kernel demands of a program: a length, fields of their sizes, and jumps to instructions; the last one
    returns."""
    assert 0 < len(program) <= MAX_INSTRUCTIONS
    assert program[-1].code == 0x06
    for at, (code, if_true, if_false, k) in enumerate(program):
        assert 0 <= if_true <= 255
        assert 0 <= if_false <= 255
        assert 0 <= k < 1 << 32
        if code == 0x05:
            assert at + 1 + k < len(program)
        else:
            assert at + 1 + max(if_true, if_false) < len(program) or code == 0x06


def accepts(program: Program, packet: bytes) -> bool:
    """Whether the packet is let through. A load beyond its end drops it."""
    a = at = steps = 0
    while True:
        code, if_true, if_false, k = program[at]
        at, steps = at + 1, steps + 1
        if code == 0x06:
            assert steps < 200, "a search of too many steps"
            return k != 0
        if code in (0x20, 0x30):
            begin, size = k - _NETWORK, 4 if code == 0x20 else 1
            if begin + size > len(packet):
                return False
            a = int.from_bytes(packet[begin : begin + size], "big")
        elif code == 0x00:
            a = k
        elif code == 0x74:
            a >>= k
        elif code == 0x35:
            at += if_true if a >= k else if_false
        elif code == 0x05:
            at += k
        else:
            assert code == 0x01, f"an instruction {code:#x}"
