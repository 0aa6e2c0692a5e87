"""Where it was measured: what matters for a figure, and nothing that names a host or a path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SHOWN = ("lupa", "aiosmtpd", "py-radix", "pytricia", "pysubnettree", "Cython")


def describe(machine_info: Mapping[str, Any]) -> list[str]:
    """pytest-benchmark's `machine_info` as lines of text."""
    cpu = machine_info.get("cpu", {})
    model, count = cpu.get("brand_raw", "unknown processor"), cpu.get("count", "?")
    return [
        f"{model}, {count} of them, {machine_info['machine']}",
        f"{machine_info['python_implementation']} {machine_info['python_version']}, {machine_info['system']}",
        ", ".join(f"{name} {found}" for name in SHOWN if (found := _version(name))),
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
