"""What a user asks of a plan: the workload, and the settings that are already decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from belvedere.errors import UsageError
from belvedere.images.geometry import ProcessorGeometry, Size
from belvedere.plan.accounting import DEFAULT_VERSION
from belvedere.plan.calibration import Calibration
from belvedere.plan.settings import KV_DTYPE_BYTES
from belvedere.plan.vision import MEDIA_WRAP_TOKENS

__all__ = ["Pins", "Workload", "read_dtype", "read_limits"]

DEFAULT_IMAGE = Size(1920, 1080)
DEFAULT_SEQUENCES = 16

_DTYPES = {
    "auto": None,
    "half": "float16",
    "float16": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float": "float32",
    "float32": "float32",
}


@dataclass(frozen=True, slots=True)
class Workload:
    """One request, and how many run at once.

    `image` is the size of the screenshots or photos, `images` how many each request holds;
    `video` is frame size and frames. `concurrency` is None where the user does not say;
    `images_asked` and `text_asked` say whether the user named images and lengths at all; what was
    not named gives way to a pinned context.
    """

    image: Size = DEFAULT_IMAGE
    images: int = 1
    video: tuple[Size, int] | None = None
    prompt_tokens: int = 512
    output_tokens: int = 512
    concurrency: int | None = None
    images_asked: bool = False
    text_asked: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--images", self.images, 0),
            ("--prompt-tokens", self.prompt_tokens, 0),
            ("--output-tokens", self.output_tokens, 1),
            ("--concurrency", self.concurrency, 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name} {value} is too small.", remedy=f"Give at least {least}.")

    def vision_tokens(self, geometry: ProcessorGeometry | None) -> int:
        """Vision tokens of one request under `geometry`, with the markers around each item."""
        if geometry is None:
            return 0
        tokens = self.images * (geometry.image.tokens(self.image) + MEDIA_WRAP_TOKENS)
        if self.video is not None:
            size, frames = self.video
            tokens += geometry.video.tokens(size, frames) + MEDIA_WRAP_TOKENS
        return tokens

    def request_tokens(self, geometry: ProcessorGeometry | None, context: int | None = None) -> int:
        """Tokens of one request with its answer; unnamed text is cut to a given `context`."""
        vision = self.vision_tokens(geometry)
        text = self.prompt_tokens + self.output_tokens
        if context is not None and not self.text_asked:
            text = max(1, min(text, context - vision))
        return vision + text

    def videos(self) -> int:
        return 0 if self.video is None else 1


@dataclass(frozen=True, slots=True)
class Pins:
    """Settings the user has fixed; None leaves the choice to the plan. Names are vLLM's.

    A parser called ``none`` is none. `max_clip_pixels` is the largest video, frames times area.
    """

    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    enforce_eager: bool | None = None
    max_pixels: int | None = None
    max_clip_pixels: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    engine_version: str = DEFAULT_VERSION
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        for name in (
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "max_pixels",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} {value} is not positive.", remedy="Give 1 or more.")
        share = self.gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            raise UsageError(
                f"--gpu-memory-utilization {share} is not a share of the memory.",
                remedy="Give more than 0 and at most 1.",
            )
        if self.kv_cache_dtype not in (None, "auto", *KV_DTYPE_BYTES):
            raise UsageError(
                f"--kv-cache-dtype {self.kv_cache_dtype!r} is not known.",
                remedy="Choose one of: auto, " + ", ".join(KV_DTYPE_BYTES) + ".",
            )
        read_dtype(self.dtype)
        self._check_batch()

    def _check_batch(self) -> None:
        tokens, seqs = self.max_num_batched_tokens, self.max_num_seqs
        if tokens is not None and seqs is not None and tokens < seqs:
            raise UsageError(
                f"--max-num-batched-tokens {tokens} is less than --max-num-seqs {seqs}; "
                "every running request needs at least one token a step."
            )


def read_dtype(name: str | None) -> str | None:
    """Our name of a ``--dtype`` value; None for ``auto``.

    Raises:
        UsageError: unknown.
    """
    if name is None:
        return None
    if name.lower() not in _DTYPES:
        raise UsageError(
            f"--dtype {name!r} is not known.",
            remedy="Choose one of: auto, bfloat16, float16 (half), float32 (float).",
        )
    return _DTYPES[name.lower()]


def read_limits(text: str | None) -> dict[str, int]:
    """``--limit-mm-per-prompt`` as vLLM takes it: ``{"image": 3, "video": 0}``, or ``image=3``.

    Raises:
        UsageError: neither form, an unknown kind, or a negative number.
    """
    if text is None:
        return {}
    limits: dict[str, int] = {}
    for kind, value in _limit_pairs(text):
        count = value.get("count", 1) if isinstance(value, dict) else value
        if kind not in ("image", "video"):
            raise UsageError(f"--limit-mm-per-prompt: {kind!r} is not image or video.")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise UsageError(f"--limit-mm-per-prompt: {kind} {count!r} is not a number of items.")
        limits[kind] = count
    return limits


def _limit_pairs(text: str) -> list[tuple[str, object]]:
    try:
        parsed = json.loads(text)
        if isinstance(parsed, dict):
            return list(parsed.items())
    except ValueError:
        pairs = [part.partition("=") for part in text.split(",")]
        if all(sep and value.strip().isdigit() for _, sep, value in pairs):
            return [(kind.strip(), int(value)) for kind, _, value in pairs]
    raise UsageError(
        f"--limit-mm-per-prompt {text!r} is not understood.",
        remedy='Write it like \'{"image": 3, "video": 0}\'.',
    )
