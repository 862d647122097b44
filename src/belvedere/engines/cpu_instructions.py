"""Which vector instructions oneDNN may use on this CPU, where its own look at it is deceived.

Some virtual machines show AMX (``amx_tile`` among the CPU's flags) but hide CPUID leaf 0x1D, which
describes the tiles. oneDNN, which computes PyTorch's bfloat16 products, then configures no tiles
and dies of an illegal instruction.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ISA_VARIABLE", "instruction_limits"]

ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's own variable; one that the user set is obeyed."""

_CPUINFO = Path("/proc/cpuinfo")
_TILE_LEAF = 0x1D
_WITHOUT_AMX = "AVX512_CORE_FP16"


def instruction_limits(
    environ: Mapping[str, str] = os.environ, cpuinfo: Path = _CPUINFO
) -> dict[str, str]:
    """Variables that a process with PyTorch needs here; empty on a sound machine."""
    if ISA_VARIABLE in environ:
        return {}
    flags, deepest = _flags_and_deepest_leaf(cpuinfo)
    return {ISA_VARIABLE: _WITHOUT_AMX} if "amx_tile" in flags and deepest < _TILE_LEAF else {}


def _flags_and_deepest_leaf(cpuinfo: Path) -> tuple[frozenset[str], int]:
    """Of the first processor: its flags, and the last basic CPUID leaf that it answers."""
    flags: frozenset[str] = frozenset()
    deepest = _TILE_LEAF
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return flags, deepest
    for line in first.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "flags":
            flags = frozenset(value.split())
        elif name == "cpuid level" and value.isdecimal():
            deepest = int(value)
    return flags, deepest
