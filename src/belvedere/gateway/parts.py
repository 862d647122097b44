"""The pictures of a request, part by part, as its engine gets them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from blake3 import blake3

from belvedere.errors import BelvedereError, InvalidRequest
from belvedere.gateway.clip import clip, frame_kwargs, frames_url
from belvedere.gateway.state import Gateway
from belvedere.gateway.wire import (
    ChatCompletionRequest,
    ImagePart,
    ImageUrl,
    ImageUrlPart,
    VideoPart,
    VideoUrl,
    VideoUrlPart,
)
from belvedere.images.geometry import Size, VideoGeometry
from belvedere.images.limits import ImageLimits
from belvedere.images.prepared import FrameTime, PixelOptions, PreparedImage
from belvedere.images.resize import capped, seen_clip_size
from belvedere.images.video import Fit, Frame, VideoLimits, VideoOptions, sample
from belvedere.router.replica import Model
from belvedere.router.work import Piece

__all__ = ["PreparedPart", "check_count", "prepare_parts"]

_AnyVideo = VideoPart | VideoUrlPart
_AnyPart = ImagePart | ImageUrlPart | _AnyVideo
_BYTES_PER_PIXEL = 4
_USUAL_FACTOR_PX = 32


@dataclass(frozen=True, slots=True)
class PreparedPart:
    """One part of one message: where it stands, and its images.

    A video has become its frames, in the order of time.
    """

    message_index: int
    part_index: int
    images: tuple[PreparedImage, ...]

    @property
    def _is_clip(self) -> bool:
        """Whether its frames go to the engine as the video that they are."""
        frame = self.images[0].frame
        return frame is not None and frame.step_s is not None

    def pieces(self, model: Model) -> list[Piece]:
        """For the router: one an image, one for a whole clip."""
        pieces = [Piece(_digest(image), _vision_tokens(image, model), 1) for image in self.images]
        if not self._is_clip:
            return pieces
        digest = blake3(b"\0".join(piece.digest for piece in pieces)).digest()
        return [Piece(digest, sum(piece.tokens for piece in pieces), 1)]

    def beside(self) -> dict[str, Any]:
        """What the engine gets beside the messages."""
        return {"media_io_kwargs": frame_kwargs(self.images)} if self._is_clip else {}

    def for_engine(self) -> list[dict[str, Any]]:
        """What the engine gets in the part's place: images, frames with their time before them.

        The time is written as Qwen3-VL's processor does.
        """
        if self._is_clip:
            return [{"type": "video_url", "video_url": {"url": frames_url(self.images)}}]
        parts: list[dict[str, Any]] = []
        for image in self.images:
            if image.frame is not None:
                parts.append({"type": "text", "text": f"<{image.frame.time_s:.1f} seconds>"})
            parts.append({"type": "image_url", "image_url": {"url": image.data_url()}})
        return parts


async def prepare_parts(
    gateway: Gateway, model: Model, request: ChatCompletionRequest, salt: bytes
) -> list[PreparedPart]:
    """Every image and video of `request`, all at once; `salt` keeps tenants' caches apart.

    Raises:
        InvalidRequest: too many of them, or any for a text model.
        ImageError: one of them; `param` names the part.
        MissingExtra: a video, and PyAV is not installed.
    """
    found = [
        (message_index, part_index, part)
        for message_index, message in enumerate(request.messages)
        if isinstance(message.content, list)
        for part_index, part in enumerate(message.content)
        if isinstance(part, _AnyPart)
    ]
    check_count(gateway, model, len(found))
    videos = sum(isinstance(part, _AnyVideo) for _, _, part in found)
    if videos > 1:  # vLLM is told the times of one video, beside the messages
        model = replace(model, video=None)
    tasks = [asyncio.ensure_future(_prepare(gateway, model, salt, *one)) for one in found]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def check_count(gateway: Gateway, model: Model, count: int) -> None:
    """Raises `InvalidRequest` for too many images, or any for a text model."""
    if count and model.takes_images is False:
        raise InvalidRequest(
            f"The model {model.name!r} takes text only, and the request has an image.",
            remedy="Serve a vision-language model, or leave the image out.",
            param="messages",
        )
    limit = gateway.settings.max_images_per_request
    if count > limit:
        raise InvalidRequest(
            f"The request has {count} images; at most {limit} are allowed.",
            remedy="Send fewer, or raise MAX_IMAGES_PER_REQUEST.",
            param="messages",
        )


async def _prepare(
    gateway: Gateway, model: Model, salt: bytes, message_index: int, part_index: int, part: _AnyPart
) -> PreparedPart:
    try:
        if isinstance(part, _AnyVideo):
            images = await _prepare_video(gateway, model, salt, part)
        else:
            images = (await _prepare_image(gateway, model, salt, part),)
    except BelvedereError as exc:
        exc.param = exc.param or f"messages.{message_index}.content.{part_index}.{part.type}"
        raise
    return PreparedPart(message_index, part_index, images)


async def _prepare_image(
    gateway: Gateway, model: Model, salt: bytes, part: ImagePart | ImageUrlPart
) -> PreparedImage:
    if isinstance(part, ImagePart):
        reference, detail = part.image, None
    elif isinstance(part.image_url, ImageUrl):
        reference, detail = part.image_url.url, part.image_url.detail
    else:
        reference, detail = part.image_url, None
    options = PixelOptions(part.max_pixels, part.min_pixels, detail)
    return await gateway.pipeline.prepare(
        reference, geometry=model.geometry, options=options, salt=salt
    )


async def _prepare_video(
    gateway: Gateway, model: Model, salt: bytes, part: _AnyVideo
) -> tuple[PreparedImage, ...]:
    data = await gateway.pipeline.read(_video_reference(part))
    settings = gateway.settings
    limits = VideoLimits(fps=settings.video_fps, max_frames=settings.max_video_frames)
    wanted = VideoOptions(part.fps, part.max_frames)
    memory_bytes = len(data) + 2 * limits.max_frames * limits.max_frame_px * _BYTES_PER_PIXEL
    fit = None if model.video is None else _fit_to(model.video, part, settings.max_image_size)
    job = partial(sample, data, wanted, limits, ImageLimits(), fit)
    frames = await gateway.pipeline.run(memory_bytes, job)
    if model.video is not None and len(frames) > 1:
        return await gateway.pipeline.run(0, partial(clip, frames, model.video))
    options = PixelOptions(part.max_pixels, part.min_pixels)
    return await _prepare_frames(gateway, model, salt, frames, options)


def _fit_to(video: VideoGeometry, part: _AnyVideo, max_side_px: int | None) -> Fit:
    def fit(size: Size, frames: int) -> Size:
        smaller = capped(size, max_side_px)
        return seen_clip_size(smaller, frames, video, part.min_pixels, part.max_pixels)

    return fit


def _video_reference(part: _AnyVideo) -> str:
    if isinstance(part, VideoPart):
        return part.video
    return part.video_url.url if isinstance(part.video_url, VideoUrl) else part.video_url


async def _prepare_frames(
    gateway: Gateway, model: Model, salt: bytes, frames: Sequence[Frame], options: PixelOptions
) -> tuple[PreparedImage, ...]:
    """One after the other: a video has no more claim to the workers than an image."""
    images = []
    for frame in frames:
        image = await gateway.pipeline.prepare_bytes(
            frame.png, geometry=model.geometry, options=options, salt=salt
        )
        images.append(replace(image, frame=FrameTime(frame.time_s)))
    return tuple(images)


def _vision_tokens(image: PreparedImage, model: Model) -> int:
    """Exact where the geometry is known; otherwise what the original would be in 32x32 tokens.

    The tokens of a step of a video are counted at its first frame.
    """
    if image.frame is not None and not image.frame.leads:
        return 0
    size = image.seen_size or image.original_size
    factor = model.geometry.factor if model.geometry is not None else _USUAL_FACTOR_PX
    return max(1, (size.width // factor) * (size.height // factor))


def _digest(image: PreparedImage) -> bytes:
    """Of the image as the model sees it: the same file at another size is another image."""
    size = image.seen_size or image.original_size
    return f"{image.sha256}:{size.width}x{size.height}:{image.frame}".encode()
