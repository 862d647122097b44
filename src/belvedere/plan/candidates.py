"""The settings that a plan tries, best first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from belvedere.catalog.gpus import Gpu
from belvedere.catalog.models import CatalogModel
from belvedere.errors import UsageError
from belvedere.images.geometry import ProcessorGeometry
from belvedere.plan.accounting import Accounting
from belvedere.plan.architecture import Architecture
from belvedere.plan.budget import limited_geometry
from belvedere.plan.hardware import Hardware
from belvedere.plan.quantization import (
    FORMATS,
    NONE,
    Format,
    checkpoint_format,
    find_format,
    unsupported_reason,
)
from belvedere.plan.request import DEFAULT_SEQUENCES, Pins, Workload, read_dtype
from belvedere.plan.settings import Dtype, EngineSettings
from belvedere.plan.units import GIB

__all__ = [
    "PIXEL_LADDER",
    "base_settings",
    "batched_tokens_default",
    "context_lengths",
    "formats",
    "natural_pixels",
    "pick_dtype",
    "pick_utilization",
    "pixel_limits",
    "rungs",
    "seen_geometry",
    "sequences_default",
]

PIXEL_LADDER = (1_003_520, 768_000, 512_000, 256_000)
"""Image areas tried, largest first, when the images do not fit at full size."""

CONTEXTS = (131072, 65536, 32768, 16384, 8192)
CPU_UTILIZATION = 0.5
CONTEXT_BYTES = GIB // 2
"""What starting CUDA takes before the engine looks at the free memory; an estimate."""


def batched_tokens_default(gpu: Gpu) -> int:
    """``--max-num-batched-tokens`` of vLLM's OpenAI server (``engine/arg_utils.py:2923``)."""
    if gpu.memory_cuda_bytes >= 160 * GIB:
        return 16384
    if gpu.memory_cuda_bytes >= 70 * GIB and "a100" not in gpu.name.lower():
        return 8192
    return 2048


def sequences_default(gpu: Gpu) -> int:
    """``--max-num-seqs`` of vLLM's OpenAI server (``engine/arg_utils.py:2923``)."""
    large = gpu.memory_cuda_bytes >= 70 * GIB and "a100" not in gpu.name.lower()
    return 1024 if large else 256


def pick_dtype(architecture: Architecture, gpu: Gpu, pins: Pins) -> Dtype:
    """The pinned dtype, or bfloat16 where the card has it, else float16.

    Raises:
        UsageError: bfloat16 is pinned on a card without it.
    """
    pinned = read_dtype(pins.dtype)
    if pinned == "bfloat16" and not gpu.bf16:
        raise UsageError(
            f"--dtype bfloat16: {gpu.name} has no bfloat16 (compute capability "
            f"{gpu.capability / 10:.1f}).",
            remedy="Use --dtype half.",
        )
    if pinned is not None:
        return cast("Dtype", pinned)
    native = "bfloat16" if architecture.native_dtype == "float32" else architecture.native_dtype
    return native if gpu.bf16 or native == "float16" else "float16"


def pick_utilization(hardware: Hardware, pins: Pins, rules: Accounting) -> float:
    """The pinned share, or the engine's default, or less where less is free now.

    vLLM refuses to start when less than its share is free (``v1/worker/utils.py:761``).

    Raises:
        UsageError: the pinned share, or anything at all, is more than is free.
    """
    wanted = pins.gpu_memory_utilization
    default = CPU_UTILIZATION if hardware.gpu.kind == "cpu" else rules.default_utilization
    share = default if wanted is None else wanted
    if hardware.free_bytes is None:
        return share
    usable = max(0, hardware.free_bytes - CONTEXT_BYTES)
    free_share = math.floor(100 * usable / hardware.gpu.memory_cuda_bytes) / 100
    if free_share < (0.01 if wanted is None else wanted):
        raise UsageError(
            f"{hardware.gpu.name}: only {usable / GIB:.2f} GiB are free now, a share of "
            f"{free_share:g} of the card.",
            remedy="End the processes that hold the memory, or ask for a smaller share.",
        )
    return min(share, free_share)


def formats(model: CatalogModel, gpu: Gpu, pins: Pins) -> list[Format]:
    """Weight formats to try: the pinned one, the checkpoint's own, or 16 bit, fp8, then 4 bit.

    4 bit is tried unasked only where a converted checkpoint is known.

    Raises:
        UsageError: the pinned format is unknown, contradicts the checkpoint, or the card lacks it.
    """
    stored = checkpoint_format(model.config)
    if pins.quantization is not None:
        return [_pinned_format(find_format(pins.quantization), stored, gpu)]
    if stored is not NONE:
        return [stored]
    if gpu.kind == "cpu":
        return [NONE]
    tried = [NONE, FORMATS["fp8"]]
    tried += [FORMATS[name] for name in ("awq", "gptq") if name in model.checkpoints][:1]
    return [fmt for fmt in tried if unsupported_reason(fmt, gpu) is None]


def _pinned_format(fmt: Format, stored: Format, gpu: Gpu) -> Format:
    if stored is not NONE and fmt is not stored:
        raise UsageError(
            f"--quantization {fmt.name} contradicts the checkpoint, which is stored as "
            f"{stored.name}.",
            remedy="Leave the flag out, or give the 16-bit checkpoint.",
        )
    reason = unsupported_reason(fmt, gpu)
    if reason is not None:
        raise UsageError(f"--quantization {fmt.name}: {reason}.")
    return fmt


def natural_pixels(workload: Workload, geometry: ProcessorGeometry) -> int:
    """The area at which no image of the workload is shrunk by the limit."""
    return geometry.image.resized(workload.image).pixels


def pixel_limits(
    workload: Workload, geometry: ProcessorGeometry | None, pins: Pins
) -> list[int | None]:
    """Image area limits to try, largest first: the images' own size, then the ladder below it."""
    if geometry is None:
        return [None]
    if pins.max_pixels is not None:
        return [pins.max_pixels]
    natural = natural_pixels(workload, geometry)
    return [natural, *(step for step in PIXEL_LADDER if step < natural)]


def context_lengths(needed: int, architecture: Architecture, pins: Pins) -> list[int]:
    """Context lengths to try, longest first; the last is the least that the workload needs."""
    if pins.max_model_len is not None:
        return [pins.max_model_len]
    longest = architecture.text.max_position
    least = min(longest, -(-needed // 1024) * 1024)
    steps = [longest, *CONTEXTS] if longest < CONTEXTS[0] else list(CONTEXTS)
    return [length for length in dict.fromkeys(steps) if least < length <= longest] + [least]


def base_settings(
    model: CatalogModel,
    architecture: Architecture,
    workload: Workload,
    pins: Pins,
    hardware: Hardware,
    rules: Accounting,
) -> EngineSettings:
    """The settings that do not depend on what fits; the rest is filled in by the search."""
    gpu = hardware.gpu
    dtype = pick_dtype(architecture, gpu, pins)
    kv_dtype = pins.kv_cache_dtype or "auto"
    images = architecture.vision is not None and model.geometry is not None
    limits = pins.limits
    seqs = pins.max_num_seqs or workload.concurrency or DEFAULT_SEQUENCES
    batched = pins.max_num_batched_tokens or max(batched_tokens_default(gpu), seqs)
    return EngineSettings(
        dtype=dtype,
        kv_cache_dtype=dtype if kv_dtype == "auto" else kv_dtype,
        max_model_len=pins.max_model_len or 0,
        max_num_seqs=min(seqs, batched),
        max_num_batched_tokens=batched,
        gpu_memory_utilization=pick_utilization(hardware, pins, rules),
        enforce_eager=gpu.kind == "cpu" or bool(pins.enforce_eager),
        image_limit=limits.get("image", workload.images) if images else 0,
        video_limit=limits.get("video", workload.videos()) if images else 0,
        max_pixels=None,
        max_clip_pixels=pins.max_clip_pixels if images else None,
    )


def rungs(
    base: EngineSettings,
    tried: list[Format],
    pixels: list[int | None],
    pins: Pins,
) -> Iterator[EngineSettings]:
    """Weight format, image area and graphs, best first, without layout and context length.

    Full-size images count more than the last bit of the weights: fp8 comes before shrinking
    images, shrinking before 4 bit, and eager execution, which costs only speed, before both.
    """
    fine = [fmt for fmt in tried if fmt.weight_bits >= 8]
    coarse = [fmt for fmt in tried if fmt.weight_bits < 8]
    for group in (fine, coarse):
        for limit in pixels:
            for fmt in group:
                for eager in _eager(base, pins):
                    yield replace(base, quantization=fmt, max_pixels=limit, enforce_eager=eager)


def _eager(base: EngineSettings, pins: Pins) -> tuple[bool, ...]:
    if base.enforce_eager:
        return (True,)
    return (False,) if pins.enforce_eager is not None else (False, True)


def seen_geometry(model: CatalogModel, settings: EngineSettings) -> ProcessorGeometry | None:
    """The processor as the settings limit it."""
    if model.geometry is None:
        return None
    return limited_geometry(model.geometry, settings)
