"""Networks of a test's own: each host in a namespace, and a router that can drop what goes from one to another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest


class Networks:
    """Namespaces of `number` hosts. Skips the test where they can't be made."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._name = f"inbound-audit-{os.getpid()}"
        self._cut: list[tuple[int, int]] = []
        why = why_not()
        if why is not None:
            pytest.skip(why)
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.close()
            pytest.skip(f"network namespaces can't be made: {error.stderr.strip()}")

    def command(self, at: int) -> list[str]:
        """What stands before a command that runs on that host."""
        return ["ip", "netns", "exec", f"{self._name}-{at}"]

    def address(self, at: int) -> str:
        return f"10.77.{at}.2"

    def cut(self, one: int, other: int) -> None:
        """From now on nothing comes from the one to the other."""
        if (one, other) not in self._cut:
            self._cut.append((one, other))
            self._rule("add", one, other)

    def split(self, some: Sequence[int], others: Sequence[int]) -> None:
        """From now on nothing comes from the ones to the others, or back."""
        for one in some:
            for other in others:
                self.cut(one, other)
                self.cut(other, one)

    def heal(self) -> None:
        while self._cut:
            self._rule("del", *self._cut.pop())

    def loopback(self, at: int, state: str) -> None:
        """Takes the loopback interface of that host ``"down"`` or ``"up"``."""
        _batch(f"-n {self._name}-{at}", [f"link set lo {state}"])

    def close(self) -> None:
        for name in (*(f"{self._name}-{at}" for at in range(self._number)), self._name):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _rule(self, verb: str, one: int, other: int) -> None:
        _batch(f"-n {self._name}", [f"rule {verb} from {self.address(one)} to {self.address(other)} blackhole"])

    def _make(self) -> None:
        names = [f"{self._name}-{at}" for at in range(self._number)]
        _batch("", [f"netns add {name}" for name in (self._name, *names)])
        for at, name in enumerate(names):
            _batch(f"-n {self._name}", [f"link add v{at} type veth peer name e0 netns {name}"])
            _batch(f"-n {self._name}", [f"addr add 10.77.{at}.1/24 dev v{at}", f"link set v{at} up"])
            address = f"addr add {self.address(at)}/24 dev e0"
            route = f"route add default via 10.77.{at}.1"
            _batch(f"-n {name}", ["link set lo up", address, "link set e0 up", route])
        forward = ["ip", "netns", "exec", self._name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        subprocess.run(forward, capture_output=True, text=True, check=True)
        self.cut(0, 0)  # whether the kernel has rules
        self.heal()


def why_not() -> str | None:
    """Why no networks can be made here, as far as that is known without trying."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root's rights on Linux, for network namespaces"
    if shutil.which("ip") is None:
        return "needs ip (Debian: iproute2)"
    return None


def _batch(options: str, lines: Sequence[str]) -> None:
    """One process of `ip` for several commands."""
    command = ["ip", *options.split(), "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
