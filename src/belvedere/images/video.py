"""Frames out of a video, sampled within limits.

PyAV (FFmpeg) is the optional extra ``video``. It is given the bytes, the container's name and a
short list of codecs; nothing that a file names is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NoReturn

from PIL import Image

from belvedere.errors import BelvedereError, ImageError, ImageTooLarge, MissingExtra
from belvedere.images import vips
from belvedere.images.geometry import Size
from belvedere.images.limits import ImageLimits
from belvedere.images.pixels import Pixels
from belvedere.images.resize import resize

__all__ = ["Fit", "Frame", "VideoLimits", "VideoOptions", "sample"]

_CODECS = frozenset(("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg"))
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_DEFAULT_RATE = 25.0


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """How much of a video is looked at.

    Attributes:
        fps: frames a second of requests that name none.
        max_frames: frames sampled from one video.
        max_frame_px: area of a sampled frame; larger ones are shrunk. Qwen2-VL's own bound.
        max_decoded_px: area of all frames together that may be decoded to find them.
    """

    fps: float = 2.0
    max_frames: int = 16
    max_frame_px: int = 768 * 28 * 28
    max_decoded_px: int = 4_000_000_000


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What a request wants of one video; None leaves it to `VideoLimits`."""

    fps: float | None = None
    max_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame.

    Attributes:
        time_s: in the video.
        png: its file, of `size`.
        original_size: before it was fitted.
    """

    time_s: float
    png: bytes
    size: Size
    original_size: Size


Fit = Callable[[Size, int], Size]
"""From the size of a clip's frames, and how many there are, to the size that is wanted."""


def sample(
    data: bytes,
    options: VideoOptions,
    limits: VideoLimits,
    image_limits: ImageLimits,
    fit: Fit | None = None,
) -> tuple[Frame, ...]:
    """At least one frame: `fps` of them a second from the first one on, or else as many as allowed,
    evenly spread. The video's own claims about its length are not needed.

    Blocks for seconds; FFmpeg releases the interpreter lock.

    Args:
        fit: the size that all frames get, if there are two or more.

    Raises:
        MissingExtra: PyAV is not installed.
        ImageError: not an MP4, QuickTime, WebM or Matroska file with a usable video, or damaged.
        ImageTooLarge: too large a frame, or too many to be decoded.
    """
    container_format = _container_format(data)
    fps = options.fps or limits.fps
    most = min(options.max_frames or limits.max_frames, limits.max_frames)
    thinned = _Thinned(1 / fps, most)
    try:
        for time_s, picture in _pictures(data, container_format, limits, image_limits, thinned):
            thinned.add(time_s, _shrunk(picture, limits.max_frame_px))
    except BelvedereError:
        raise
    except Exception as exc:  # FFmpeg's errors on hostile data have no common base
        raise _damaged() from exc
    if not thinned.kept:
        raise _damaged()
    return tuple(_frames(thinned.spread(), fit))


def _frames(kept: Sequence[tuple[float, Pixels]], fit: Fit | None) -> Iterator[Frame]:
    first = Size(*kept[0][1].size)
    size = fit(first, len(kept)) if fit is not None and len(kept) > 1 else None
    for time_s, pixels in kept:
        fitted = pixels if size is None else resize(pixels, size)
        png = vips.encode_png(fitted, compression=0)
        yield Frame(time_s, png, Size(*fitted.size), Size(*pixels.size))


class _Thinned:
    """Keeps frames at a distance in time that doubles whenever there are too many."""

    def __init__(self, distance_s: float, most: int) -> None:
        self.kept: list[tuple[float, Pixels]] = []
        self._distance_s = distance_s
        self._most = most

    def wants(self, time_s: float) -> bool:
        """Whether a frame at this time is far enough from the last one."""
        return not self.kept or time_s - self.kept[-1][0] >= self._distance_s - 1e-6

    def add(self, time_s: float, pixels: Pixels) -> None:
        self.kept.append((time_s, pixels))
        if len(self.kept) > 2 * self._most:
            self.kept, self._distance_s = self.kept[::2], 2 * self._distance_s

    def spread(self) -> list[tuple[float, Pixels]]:
        """At most `most` of the kept frames, evenly."""
        count = min(len(self.kept), self._most)
        step = (len(self.kept) - 1) / max(count - 1, 1)
        return [self.kept[round(index * step)] for index in range(count)]


def _pictures(
    data: bytes,
    container_format: str,
    limits: VideoLimits,
    image_limits: ImageLimits,
    thinned: _Thinned,
) -> Iterator[tuple[float, Image.Image]]:
    """Upright pictures of the frames that are wanted, with their times."""
    with _av().open(BytesIO(data), format=container_format, io_open=_refuse_file) as container:
        stream = container.streams.video[0]
        if stream.codec_context.codec.name not in _CODECS:
            raise _damaged()
        stream.codec_context.thread_count = 1
        image_limits.check_header(stream.width, stream.height, frames=1)
        rate = float(stream.average_rate or _DEFAULT_RATE)
        decoded_px = 0
        for index, frame in enumerate(container.decode(stream)):
            decoded_px += frame.width * frame.height
            if decoded_px > limits.max_decoded_px:
                raise ImageTooLarge(
                    f"The video has more than {limits.max_decoded_px} pixels in all its frames.",
                    remedy="Send a shorter or smaller one.",
                )
            image_limits.check_header(frame.width, frame.height, frames=1)
            time_s = index / rate if frame.time is None else float(frame.time)
            if thinned.wants(time_s):
                yield time_s, _upright(frame)


def _upright(frame: Any) -> Image.Image:
    image: Image.Image = frame.to_image()
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)


def _shrunk(picture: Image.Image, max_px: int) -> Pixels:
    pixels = Pixels.from_pillow(picture.convert("RGB"))
    scale = math.sqrt(max_px / (pixels.width * pixels.height))
    if scale >= 1:
        return pixels
    width, height = (max(1, int(side * scale)) for side in pixels.size)
    return resize(pixels, Size(width, height))


def _container_format(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "mov"
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    raise _damaged()


def _refuse_file(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video opens nothing else")


def _damaged() -> ImageError:
    return ImageError(
        "The video cannot be decoded.",
        remedy="Send an MP4 or WebM file (H.264, H.265, VP8, VP9 or AV1), complete.",
    )


def _av() -> Any:
    try:
        import av
    except ImportError as exc:
        raise MissingExtra(
            "Videos need PyAV, which is not installed on this server.",
            remedy='Install it with: pip install "belvedere[video]"',
        ) from exc
    return av
