"""The GPUs and the memory of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from belvedere.catalog.gpus import Gpu, custom_gpu, find_gpu
from belvedere.errors import UnknownName

__all__ = ["MachineGpu", "available_memory_bytes", "cpu", "machine_gpus"]

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MachineGpu:
    """One GPU of this machine as NVML sees it now."""

    index: int
    name: str
    gpu: Gpu
    total_bytes: int
    free_bytes: int


def machine_gpus() -> tuple[MachineGpu, ...]:
    """The machine's GPUs in NVML order; empty where there is no NVIDIA driver."""
    import pynvml  # nvidia-ml-py; loads the driver library, so only when asked

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def _read(pynvml: object, index: int) -> MachineGpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)  # type: ignore[attr-defined]  # untyped library
    name = pynvml.nvmlDeviceGetName(handle)  # type: ignore[attr-defined]  # untyped library
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # type: ignore[attr-defined]  # untyped library
    capability = pynvml.nvmlDeviceGetCudaComputeCapability(handle)  # type: ignore[attr-defined]  # untyped library
    text = name.decode() if isinstance(name, bytes) else str(name)
    gpu = _known(text, int(memory.total), (int(capability[0]), int(capability[1])))
    return MachineGpu(index, text, gpu, int(memory.total), int(memory.free))


def _known(name: str, total_bytes: int, capability: tuple[int, int]) -> Gpu:
    """The catalogue's card where the name and, within 2 %, the memory agree."""
    try:
        gpu = find_gpu(name)
    except UnknownName:
        return replace(custom_gpu(total_bytes, name), compute_capability=capability)
    if abs(gpu.memory_nvml_bytes - total_bytes) > 0.02 * total_bytes:
        return replace(custom_gpu(total_bytes, name), compute_capability=capability)
    return gpu


def cpu() -> Gpu:
    """This machine's processor, with the memory of the machine."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return replace(find_gpu("cpu"), memory_nvml_bytes=total, memory_cuda_bytes=total)


def available_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """What programs can still take of this machine's memory without swapping.

    Linux's ``MemAvailable``, capped by what the control group has left; the whole memory where
    neither is told. Both count the cache of files as free: it makes way for programs.
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10
    with suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text()) - _file_cache_bytes(cgroup)
        free = min(free, max(0, limit - max(0, used)))
    return free


def _file_cache_bytes(cgroup: Path) -> int:
    """Pages of files that the group is charged with: much of what it has ever read or written."""
    with suppress(OSError, ValueError):
        lines = (cgroup / "memory.stat").read_text().splitlines()
        sizes = {name: int(size) for name, size in (line.split() for line in lines)}
        return sizes.get("active_file", 0) + sizes.get("inactive_file", 0)
    return 0
