"""The engine settings that a plan decides, and the split of a model over GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from belvedere.plan.quantization import NONE, Format

__all__ = ["DTYPE_BYTES", "KV_DTYPE_BYTES", "Dtype", "EngineSettings", "Split"]

Dtype = Literal["bfloat16", "float16", "float32"]

DTYPE_BYTES: dict[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}

KV_DTYPE_BYTES: dict[str, int] = {
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
}
"""Values of ``--kv-cache-dtype`` besides ``auto``, which follows the model's dtype."""


@dataclass(frozen=True, slots=True)
class Split:
    """One replica's division: each layer over `tensor` GPUs, the layers over `pipeline` stages."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline

    def __str__(self) -> str:
        if self.pipeline == 1:
            return f"tensor_parallel={self.tensor}"
        return f"tensor_parallel={self.tensor} pipeline_parallel={self.pipeline}"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """A complete set of settings of one replica.

    Limits are items per prompt; `max_pixels` is None for models without images, `max_clip_pixels`
    (frames times area) where the processor's own bound on videos holds.
    """

    dtype: Dtype
    kv_cache_dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    enforce_eager: bool
    image_limit: int
    video_limit: int
    max_pixels: int | None
    max_clip_pixels: int | None = None
    quantization: Format = NONE
    split: Split = Split()

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight that is not quantised."""
        return DTYPE_BYTES[self.dtype]

    @property
    def kv_element_bytes(self) -> int:
        return KV_DTYPE_BYTES.get(self.kv_cache_dtype, self.weight_bytes)
