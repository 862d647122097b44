"""The size at which a model sees an image or a video, exactly as its own processor chooses it.

Two families share one rule with different grids: Qwen2-VL and Qwen2.5-VL merge 2x2 patches of 14
pixels (one token per 28x28 pixels), Qwen3-VL and MAI-UI 2x2 patches of 16 (one per 32x32).

Sources: `smart_resize` in ``models/qwen2_vl/image_processing_qwen2_vl.py`` and
``models/qwen3_vl/video_processing_qwen3_vl.py`` of transformers 5.23 (the tests compare with both).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from belvedere.errors import ImageTooLarge, ModelFolderError, NotSupported, UsageError

__all__ = [
    "MAX_ASPECT_RATIO",
    "ImageGeometry",
    "ProcessorGeometry",
    "Size",
    "VideoGeometry",
    "resize_clip",
    "resize_image",
]

MAX_ASPECT_RATIO = 200
"""Long side over short side; the processors refuse anything beyond it."""

IMAGE_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor", "Qwen3VLImageProcessor")
"""Processor classes (less a ``Fast`` or ``Pil`` ending) that follow the rule of this module."""

_IMAGE_DEFAULTS = (56 * 56, 28 * 28 * 1280)
_VIDEO_DEFAULTS = {"frame": (128 * 28 * 28, 28 * 28 * 768), "clip": (128 * 32 * 32, 32 * 32 * 768)}


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels, both positive."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UsageError(f"An image of {self.width}x{self.height} pixels has no pixels.")

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def resize_image(size: Size, *, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """The grid-aligned size closest to `size` with an area within the two bounds.

    Sides are multiples of `factor` (patch size x merge size), rounded half to even. The area can
    pass a bound by less than one row or column of the grid where `factor` or the ratio forces it.

    Raises:
        ImageTooLarge: the long side is more than `MAX_ASPECT_RATIO` times the short one.
    """
    return _fit(size, frames=1, steps=1, factor=factor, bounds=(min_pixels, max_pixels))


def resize_clip(
    size: Size,
    frames: int,
    *,
    factor: int,
    temporal_patch_size: int,
    min_pixels: int,
    max_pixels: int,
) -> Size:
    """The size of every frame of a Qwen3-VL clip; the bounds are for all frames together.

    Raises:
        ImageTooLarge: extreme aspect ratio.
        UsageError: fewer frames than `temporal_patch_size`.
    """
    if frames < temporal_patch_size:
        raise UsageError(
            f"A video of {frames} frame(s) is too short.",
            remedy=f"Send at least {temporal_patch_size} frames.",
        )
    if size.width < factor or size.height < factor:
        scale = max(factor / size.height, factor / size.width)
        size = Size(int(size.width * scale), int(size.height * scale))
    steps = round(frames / temporal_patch_size) * temporal_patch_size
    return _fit(size, frames=frames, steps=steps, factor=factor, bounds=(min_pixels, max_pixels))


def _fit(size: Size, *, frames: int, steps: int, factor: int, bounds: tuple[int, int]) -> Size:
    _check_ratio(size)
    width, height = round(size.width / factor) * factor, round(size.height / factor) * factor
    low, high = bounds
    if steps * width * height > high:
        beta = math.sqrt((frames * size.height * size.width) / high)
        width = max(factor, math.floor(size.width / beta / factor) * factor)
        height = max(factor, math.floor(size.height / beta / factor) * factor)
    elif steps * width * height < low:
        beta = math.sqrt(low / (frames * size.height * size.width))
        width = math.ceil(size.width * beta / factor) * factor
        height = math.ceil(size.height * beta / factor) * factor
    return Size(width, height)


def _check_ratio(size: Size) -> None:
    ratio = max(size.width, size.height) / min(size.width, size.height)
    if ratio > MAX_ASPECT_RATIO:
        raise ImageTooLarge(
            f"The image is {size}: one side is {ratio:.0f} times the other.",
            remedy=f"At most {MAX_ASPECT_RATIO} times is accepted; crop the image.",
        )


def _check_bounds(min_pixels: int, max_pixels: int) -> None:
    if not 1 <= min_pixels <= max_pixels:
        text = f"min_pixels {min_pixels!r} and max_pixels {max_pixels!r} are not a range."
        raise UsageError(text, remedy="Give 1 <= min_pixels <= max_pixels.")


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """How a model's processor sizes one image. `min_pixels` and `max_pixels` are areas."""

    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        _check_bounds(self.min_pixels, self.max_pixels)

    @property
    def factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        return self.patch_size * self.merge_size

    def resized(self, size: Size) -> Size:
        """What the model sees of an image of `size`; see `resize_image`."""
        return resize_image(
            size, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels
        )

    def tokens(self, size: Size) -> int:
        """Language-model tokens of an image of (original) `size`."""
        return self.resized(size).pixels // self.factor**2

    def patches(self, size: Size) -> int:
        """Vision-tower patches of an image of (original) `size`."""
        return self.tokens(size) * self.merge_size**2

    def with_max_pixels(self, max_pixels: int) -> ImageGeometry:
        """The same processor under another area limit.

        A limit below the processor's minimum lowers that to the largest grid within the limit:
        left higher, the processor would enlarge images past the limit.
        """
        grid = max_pixels // self.factor**2 * self.factor**2
        low = max(1, min(self.min_pixels, grid))
        return replace(self, max_pixels=max_pixels, min_pixels=low)


@dataclass(frozen=True, slots=True)
class VideoGeometry:
    """How a model's processor sizes the frames of a video.

    `bounds` says what the pixel bounds are for: each ``frame`` alone (Qwen2-VL, Qwen2.5-VL) or
    the whole ``clip``, frames times area (Qwen3-VL, MAI-UI).
    """

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    bounds: Literal["frame", "clip"]

    def __post_init__(self) -> None:
        _check_bounds(self.min_pixels, self.max_pixels)

    @property
    def factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        return self.patch_size * self.merge_size

    def with_max_pixels(self, max_pixels: int) -> VideoGeometry:
        """The same processor under another upper bound, which raises no size."""
        high = min(self.max_pixels, max_pixels)
        return replace(self, max_pixels=high, min_pixels=min(self.min_pixels, high))

    def resized(self, size: Size, frames: int) -> Size:
        """The size of every frame; see `resize_image` and `resize_clip`."""
        if self.bounds == "frame":
            return resize_image(
                size, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels
            )
        return resize_clip(
            size,
            frames,
            factor=self.factor,
            temporal_patch_size=self.temporal_patch_size,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
        )

    def tokens(self, size: Size, frames: int) -> int:
        """Language-model tokens of `frames` frames; timestamps between them are not counted."""
        steps = math.ceil(frames / self.temporal_patch_size)
        return steps * (self.resized(size, frames).pixels // self.factor**2)

    def patches(self, size: Size, frames: int) -> int:
        """Vision-tower patches of the video."""
        return self.tokens(size, frames) * self.merge_size**2


@dataclass(frozen=True, slots=True)
class ProcessorGeometry:
    """Image and video rules of one model, as its Hugging Face folder states them."""

    image: ImageGeometry
    video: VideoGeometry

    @classmethod
    def from_folder(cls, folder: Path) -> ProcessorGeometry:
        """Read ``preprocessor_config.json`` (or ``processor_config.json``) of a model folder.

        Raises:
            ModelFolderError: no such file, or not a JSON object with usable numbers.
            NotSupported: the processor is of a kind whose rule is not known here.
        """
        image = _read(folder / "preprocessor_config.json")
        video = _read(folder / "video_preprocessor_config.json")
        both = _read(folder / "processor_config.json") or {}
        image, video = _part(both, "image_processor", image), _part(both, "video_processor", video)
        if image is None:
            raise ModelFolderError(
                f"{folder.name!r} has no preprocessor_config.json, so how it resizes images is "
                "unknown.",
                remedy="Copy the file from the model's repository.",
            )
        return cls.from_config(image, video)

    @classmethod
    def from_config(
        cls, image: Mapping[str, Any], video: Mapping[str, Any] | None = None
    ) -> ProcessorGeometry:
        """The same from parsed configs; `video` defaults to `image`, as transformers does."""
        name = str(image.get("image_processor_type") or "Qwen2VLImageProcessor")
        if name.removesuffix("Fast").removesuffix("Pil") not in IMAGE_PROCESSORS:
            raise NotSupported(f"The resize rule of the image processor {name!r} is not known.")
        low, high = _bounds(image, _IMAGE_DEFAULTS)
        patch, merge = _whole(image, "patch_size", 14), _whole(image, "merge_size", 2)
        return cls(ImageGeometry(patch, merge, low, high), _video(video or image, patch, merge))


def _part(both: dict[str, Any], key: str, alone: dict[str, Any] | None) -> dict[str, Any] | None:
    part = both.get(key)
    return part if isinstance(part, dict) and part else alone


def _video(config: Mapping[str, Any], patch: int, merge: int) -> VideoGeometry:
    patch, merge = _whole(config, "patch_size", patch), _whole(config, "merge_size", merge)
    name = config.get("video_processor_type", "Qwen3VL" if patch == 16 else "Qwen2VL")
    unit: Literal["frame", "clip"] = "clip" if str(name).startswith("Qwen3VL") else "frame"
    low, high = _bounds(config, _VIDEO_DEFAULTS[unit])
    return VideoGeometry(patch, merge, _whole(config, "temporal_patch_size", 2), low, high, unit)


def _bounds(config: Mapping[str, Any], defaults: tuple[int, int]) -> tuple[int, int]:
    size = config.get("size")
    size = size if isinstance(size, Mapping) else {}
    low = _whole(config, "min_pixels", _whole(size, "shortest_edge", defaults[0]))
    high = _whole(config, "max_pixels", _whole(size, "longest_edge", defaults[1]))
    return low, high


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelFolderError(f"The processor config has {key} {value!r}, not a positive integer.")
    return value


def _read(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ModelFolderError(f"{path.name!r} cannot be read as JSON.") from exc
    if not isinstance(config, dict):
        raise ModelFolderError(f"{path.name!r} is not a JSON object.")
    return config
