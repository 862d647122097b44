"""What the image pipeline returns, and the seam of the cache that will remember it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import pybase64

from belvedere.errors import InvalidRequest
from belvedere.images.geometry import ImageGeometry, Size

__all__ = [
    "FrameTime",
    "NoCache",
    "PixelOptions",
    "PreparedCache",
    "PreparedImage",
    "PreparedKey",
    "StageTimes",
]

Detail = Literal["auto", "low", "high"]

_LOW_DETAIL_PX = 512 * 512


@dataclass(frozen=True, slots=True)
class PixelOptions:
    """How many pixels a request wants the model to see of one image.

    `max_pixels` and `min_pixels` are areas. `detail` is OpenAI's: ``low`` means at most 512x512
    pixels unless `max_pixels` says otherwise, ``high`` and ``auto`` the model's own bounds.

    Raises:
        InvalidRequest: an area below one pixel, or a detail of another name.
    """

    max_pixels: int | None = None
    min_pixels: int | None = None
    detail: Detail | None = None

    def __post_init__(self) -> None:
        for name in ("max_pixels", "min_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequest(f"{name} is {value!r}.", remedy="Give a positive number.")
        if self.detail not in (None, "auto", "low", "high"):
            raise InvalidRequest(
                f"detail is {self.detail!r}.", remedy="Give 'low', 'high' or 'auto'."
            )

    @property
    def area_limit_px(self) -> int | None:
        """The upper bound that `max_pixels` and `detail` amount to."""
        if self.max_pixels is None and self.detail == "low":
            return _LOW_DETAIL_PX
        return self.max_pixels


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds each stage took; a stage that was not needed is 0.

    `fetch_ms` is the download or the decoding of base64, `hash_ms` both digests (of a cached image
    one), `wait_ms` the time in the queue for memory and a worker thread.
    """

    fetch_ms: float = 0.0
    hash_ms: float = 0.0
    wait_ms: float = 0.0
    decode_ms: float = 0.0
    resize_ms: float = 0.0
    encode_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class FrameTime:
    """The place of a frame in its video.

    Attributes:
        time_s: since its beginning.
        step_s: the time that the model is told, where its engine takes the video as such and merges
            frames into steps; ``None`` for a frame that goes as an image of its own.
        leads: whether it is the first of its step, or on its own.
    """

    time_s: float
    step_s: float | None = None
    leads: bool = True


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as it goes to the engine.

    Attributes:
        original_size: as displayed: the first frame, turned as EXIF says.
        seen_size: what the model sees; None where its processor is unknown.
        data: the file for the engine. Where `seen_size` is known, a PNG of exactly that size.
        media_type: of `data`.
        sha256: hex digest of the file as it came in.
        times: see `StageTimes`.
        warnings: sentences for the user.
        cached: whether it came from the cache, or another request was just preparing it.
        url: what `data_url` returns, where it has been made beforehand.
        frame: where in its video it stands; None for an image.
    """

    original_size: Size
    seen_size: Size | None
    data: bytes = field(repr=False)
    media_type: str
    sha256: str
    times: StageTimes
    warnings: tuple[str, ...] = ()
    cached: bool = False
    url: str | None = field(default=None, repr=False)
    frame: FrameTime | None = None

    @property
    def content_id(self) -> str:
        """What clients call the image: derived from its bytes as they came in, nothing else."""
        return f"sha256:{self.sha256}"

    @property
    def memory_bytes(self) -> int:
        """What remembering it takes, but for its small fields."""
        return len(self.data) + len(self.url or "")

    def data_url(self) -> str:
        """`data` as a data URL; about 1 ms per megabyte unless `url` has it."""
        if self.url is not None:
            return self.url
        return f"data:{self.media_type};base64,{pybase64.b64encode_as_string(self.data)}"


@dataclass(frozen=True, slots=True)
class PreparedKey:
    """Everything a prepared image depends on, and nothing that a client chose by name.

    `digest` is the full BLAKE3 digest of the encoded bytes; `bounds` is `model` narrowed by the
    request; `salt` keeps tenants apart, who could otherwise see from a hit what others have sent.
    """

    digest: bytes
    model: ImageGeometry | None
    bounds: ImageGeometry | None
    max_side_px: int | None
    salt: bytes = b""


class PreparedCache(Protocol):
    """Remembers prepared images; called on the event loop, so neither method may block."""

    def get(self, key: PreparedKey) -> PreparedImage | None:
        """The image for `key`, if it is still there."""

    def put(self, key: PreparedKey, image: PreparedImage) -> None:
        """Remember `image`, perhaps forgetting others."""

    def __len__(self) -> int:
        """How many it remembers."""

    @property
    def used_bytes(self) -> int:
        """Memory that they take."""


class NoCache:
    """Remembers nothing."""

    used_bytes = 0

    def __len__(self) -> int:
        return 0

    def get(self, key: PreparedKey) -> PreparedImage | None:
        """Always None."""
        return None

    def put(self, key: PreparedKey, image: PreparedImage) -> None:
        """Does nothing."""
