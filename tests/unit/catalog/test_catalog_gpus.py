"""GPU facts: figures, names, and what the machine reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from belvedere.catalog import find_gpu, load_gpus
from belvedere.catalog.gpus import custom_gpu
from belvedere.catalog.machine import _known, available_memory_bytes, cpu, machine_gpus
from belvedere.errors import UnknownName

GIB = 1 << 30

# name, NVML MiB, CUDA GiB, capability, bandwidth GB/s, dense fp16, fp8, fp4 TFLOPS
FIGURES = [
    ("T4", 15360, 14.56, 75, 320, 65.1, 0, 0),
    ("L4", 23034, 22.03, 89, 300, 121, 242, 0),
    ("A10G", 23028, 22.06, 86, 600, 70, 0, 0),
    ("L40S", 46068, 44.42, 89, 864, 362.05, 733, 0),
    ("RTX 3090", 24576, 23.68, 86, 936.2, 71.2, 0, 0),
    ("RTX 4090", 24564, 23.52, 89, 1008, 165.2, 330.3, 0),
    ("A100-40GB", 40960, 39.38, 80, 1555, 312, 0, 0),
    ("A100-80GB SXM", 81920, 79.15, 80, 2039, 312, 0, 0),
    ("H100 PCIe", 81559, 79.18, 90, 2000, 756.5, 1513, 0),
    ("H100 SXM", 81559, 79.18, 90, 3350, 989.4, 1978.9, 0),
    ("H200", 143771, 139.80, 90, 4800, 989.4, 1978.9, 0),
    ("B200", 183359, 178.35, 100, 8000, 2250, 4500, 9000),
    ("GB200", 189471, 184.32, 100, 8000, 2500, 5000, 10000),
]


@pytest.mark.parametrize("row", FIGURES, ids=[row[0] for row in FIGURES])
def test_figures(row: tuple[str, int, float, int, float, float, float, float]) -> None:
    gpu = find_gpu(row[0])
    assert gpu.memory_nvml_bytes == row[1] << 20
    assert gpu.memory_cuda_bytes / GIB == pytest.approx(row[2], abs=0.001)
    assert gpu.memory_cuda_bytes < gpu.memory_nvml_bytes
    assert (gpu.capability, gpu.bandwidth_gb_s) == (row[3], row[4])
    assert (gpu.fp16_tflops, gpu.fp8_tflops, gpu.fp4_tflops) == row[5:]
    assert gpu.source and gpu.memory_cuda_source


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("l4", "L4"),
        ("a100-40", "A100-40GB"),
        ("A100-80", "A100-80GB SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("h100", "H100 SXM"),
        ("h100_pcie", "H100 PCIe"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("gb200", "GB200"),
        ("cpu", "CPU"),
    ],
)
def test_names(typed: str, name: str) -> None:
    assert find_gpu(typed).name == name


@pytest.mark.parametrize("typed", ["", "200", "A100-60", "V100", "L"])
def test_unknown_names_are_not_guessed(typed: str) -> None:
    with pytest.raises(UnknownName, match="nearest known"):
        find_gpu(typed)


@pytest.mark.parametrize(
    ("name", "bf16", "language", "vision"),
    [
        ("T4", False, "TRITON_ATTN", "TORCH_SDPA"),
        ("L4", True, "FLASH_ATTN", "FLASH_ATTN"),
        ("H100", True, "FLASH_ATTN", "FLASH_ATTN"),
        ("B200", True, "FLASHINFER", "FLASH_ATTN"),
    ],
)
def test_what_a_card_can(name: str, bf16: bool, language: str, vision: str) -> None:
    gpu = find_gpu(name)
    assert gpu.bf16 is bf16
    assert gpu.attention_backends[0] == language
    assert gpu.vision_attention_backend == vision


def test_names_are_unique() -> None:
    names = [name.lower() for gpu in load_gpus() for name in {gpu.name, *gpu.aliases}]
    assert len({n.lower() for n in names}) >= len(load_gpus())
    for gpu in load_gpus():
        assert find_gpu(gpu.name) == gpu
        assert all(find_gpu(alias) == gpu for alias in gpu.aliases)


def test_the_machine_without_a_driver_has_no_gpus() -> None:
    for entry in machine_gpus():  # where there is one, its figures are real
        assert 0 <= entry.free_bytes <= entry.total_bytes


def test_a_machine_card_is_the_catalogues_only_if_its_memory_agrees() -> None:
    assert _known("NVIDIA L4", 23034 << 20, (8, 9)).name == "L4"
    other = _known("NVIDIA L4", 48 * GIB, (8, 9))
    assert (other.name, other.memory_cuda_bytes) == ("NVIDIA L4", 48 * GIB)
    unknown = _known("NVIDIA RTX 9999", 64 * GIB, (12, 0))
    assert (unknown.capability, unknown.attention_backends[0]) == (120, "FLASH_ATTN")


def test_the_cpu_has_this_machines_memory() -> None:
    processor = cpu()
    assert processor.kind == "cpu" and processor.memory_cuda_bytes > GIB // 4
    assert processor.bf16 and processor.attention_backends == ()


MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "current", "stat", "free"),
    [
        (100 * MIB, 60 * MIB, None, 40 * MIB),
        (
            100 * MIB,
            99 * MIB,
            f"anon {20 * MIB}\nactive_file {30 * MIB}\ninactive_file {45 * MIB}\n",
            76 * MIB,
        ),
        (100 * MIB, 101 * MIB, "anon 5\n", 0),
    ],
)
def test_a_control_groups_file_cache_is_free_memory(
    tmp_path: Path, limit: int, current: int, stat: str | None, free: int
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{current}\n")
    if stat is not None:
        (tmp_path / "memory.stat").write_text(stat)
    assert available_memory_bytes(tmp_path) == free


def test_a_control_group_without_a_limit_caps_nothing(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    assert available_memory_bytes(tmp_path) > MIB


def test_a_custom_card_has_only_memory() -> None:
    card = custom_gpu(12 * GIB)
    assert card.kind == "cuda" and card.memory_cuda_bytes == 12 * GIB and card.bf16
