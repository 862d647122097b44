"""Which size the model sees of an image, and the image at that size."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from belvedere.errors import InvalidRequest
from belvedere.images import vips
from belvedere.images.geometry import ImageGeometry, Size, VideoGeometry
from belvedere.images.pixels import Pixels

__all__ = ["capped", "narrowed", "resize", "seen_clip_size", "seen_size"]

_SETTLING_STEPS = 4
_FRAME_TOKENS = 768
"""Bound on one frame in Qwen's own code (qwen-vl-utils), and in transformers from 5.22 on."""
_SMALL_PX = 650_000
"""Up to this area Pillow takes 2 ms more than libvips, and one value in a thousand is off by a
level from the processors' own; with libvips one in fifty. Small models are sure of less than that.
"""
_FAR = 12
"""Beyond it, libvips' fixed-point weights no longer sum to one: white becomes 254."""


def narrowed(
    geometry: ImageGeometry, min_pixels: int | None = None, max_pixels: int | None = None
) -> ImageGeometry:
    """The model's geometry within a request's own area bounds.

    A `max_pixels` above the model's own changes nothing: "at most" still holds.

    Raises:
        InvalidRequest: the bounds exclude every size that the model takes.
    """
    low = max(geometry.min_pixels, min_pixels or 1)
    high = min(geometry.max_pixels, max_pixels or geometry.max_pixels)
    if low > high:
        raise InvalidRequest(
            f"min_pixels {min_pixels!r} and max_pixels {max_pixels!r} leave no image size.",
            remedy=f"This model takes {geometry.min_pixels} to {geometry.max_pixels} pixels.",
        )
    return ImageGeometry(geometry.patch_size, geometry.merge_size, low, high)


def capped(size: Size, max_side_px: int | None) -> Size:
    """`size` scaled down so that its longer side is at most `max_side_px`."""
    longest = max(size.width, size.height)
    if max_side_px is None or longest <= max_side_px:
        return size
    scale = max_side_px / longest
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def seen_size(size: Size, geometry: ImageGeometry, model: ImageGeometry) -> Size:
    """The size chosen by `geometry`, such that `model`'s own processor leaves it as it is."""
    size = geometry.resized(size)
    for _ in range(_SETTLING_STEPS):
        if (again := model.resized(size)) == size:
            break
        size = again
    return size


def seen_clip_size(
    size: Size,
    frames: int,
    model: VideoGeometry,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Size:
    """The size of each of `frames` frames that `model`'s own processor leaves as it is.

    Args:
        model: with bounds for the whole clip.
        min_pixels, max_pixels: a request's own bounds, for each frame.

    Raises:
        InvalidRequest: the bounds exclude every size that the model takes.
    """
    steps = round(frames / model.temporal_patch_size) * model.temporal_patch_size
    frame_px = min(_FRAME_TOKENS * model.factor**2, model.max_pixels // frames)
    low = max(model.min_pixels, steps * (min_pixels or 1))
    high = min(frames * frame_px, steps * (max_pixels or frame_px))
    if low > high:
        raise InvalidRequest(
            f"min_pixels {min_pixels!r} and max_pixels {max_pixels!r} leave no size for {frames} "
            "frames.",
            remedy=f"Frames of this model have {model.min_pixels // steps} to {frame_px} pixels "
            "then; fewer frames may have more.",
        )
    size = replace(model, min_pixels=low, max_pixels=high).resized(size, frames)
    for _ in range(_SETTLING_STEPS):
        if (again := model.resized(size, frames)) == size:
            break
        size = again
    return size


def resize(pixels: Pixels, size: Size) -> Pixels:
    """Bicubic with antialiasing, as torchvision does it for Hugging Face's processors.

    libvips shrinks large images as far as it is exact. The rest is Pillow's: when enlarging,
    libvips starts from another pixel grid, and far shrinking adds up its rounding, until it
    refuses.
    """
    if pixels.size == (size.width, size.height):
        return pixels
    factors = pixels.width / size.width, pixels.height / size.height
    is_large = pixels.width * pixels.height > _SMALL_PX
    if is_large and min(factors) >= 1 and max(factors) <= _FAR:
        return vips.shrink(pixels, size.width, size.height)
    resized = pixels.to_pillow().resize((size.width, size.height), Image.Resampling.BICUBIC)
    return Pixels.from_pillow(resized)
