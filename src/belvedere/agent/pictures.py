"""Screenshots on their way to a server: as they are, cropped, or at the size a model takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from belvedere.agent.asking import Seen
from belvedere.agent.connection import data_url, image_url
from belvedere.agent.coordinates import Region, View
from belvedere.agent.protocols.data import ImageRules, Protocol
from belvedere.images.decode import Inspected, decode, inspect
from belvedere.images.geometry import Size, resize_image
from belvedere.images.limits import ImageLimits
from belvedere.images.pixels import Pixels
from belvedere.images.png import encode_png
from belvedere.images.resize import resize
from belvedere.images.source import read_image_file

__all__ = ["ImageInput", "Picture", "Screenshot"]

ImageInput = str | Path | bytes
"""A path of an image file, or its bytes."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as it is sent.

    Attributes:
        url: data URL.
        sent_size: (width, height) where the client chose it; ``None`` for a file sent as it is.
    """

    url: str = field(repr=False)
    sent_size: tuple[int, int] | None


class Screenshot:
    """An image file, decoded only when that is needed, and then once.

    Raises:
        InputFileError, ImageError: it cannot be read, or is no image within the limits.
    """

    def __init__(self, image: ImageInput) -> None:
        self._limits = ImageLimits()
        data = image if isinstance(image, bytes) else read_image_file(image, self._limits)
        self.file: Inspected = inspect(data, self._limits)
        self._pixels: Pixels | None = None

    @property
    def pixels(self) -> Pixels:
        """The upright pixels; the first use decodes, which takes tens of milliseconds."""
        if self._pixels is None:
            self._pixels = decode(self.file, self._limits).pixels
        return self._pixels

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as displayed; decodes only a file that its orientation could turn."""
        header = self.file.header
        return (header.width, header.height) if header.channels else self.pixels.size

    def picture(self, protocol: Protocol, max_pixels: int | None = None) -> Picture:
        """The file itself, which the server resizes.

        Where the model's coordinates or the caller need a known size, at the one that the model's
        own processor would choose, so that it leaves it there.
        """
        if protocol.coordinates.codec.scale is not None and max_pixels is None:
            return Picture(image_url(self.file), None)
        return _encoded(_fit(self.pixels, protocol.image, max_pixels))

    def cropped(self, region: Region, rules: ImageRules, *, enlarge: float = 1.0) -> Picture:
        """A region of it, `enlarge` times as wide and high, at a size that the model takes."""
        left, top = region.left, region.top
        box = (left, top, left + region.width, top + region.height)
        cut = Pixels.from_pillow(self.pixels.to_pillow().crop(box))
        size = Size(round(cut.width * enlarge), round(cut.height * enlarge))
        return _encoded(resize(cut, _fitted_size(size, rules, None)))

    def view(self, picture: Picture, seen: Seen, region: Region | None = None) -> View:
        """What the model was shown with `picture`, of all of it or of a region.

        The server's word on a file sent as it is saves decoding it here.
        """
        size = seen.original_size if picture.sent_size is None else None
        whole = region or Region(0, 0, *(size or self.size))
        return View(whole, seen.seen_size or picture.sent_size)


def _fit(pixels: Pixels, rules: ImageRules, max_pixels: int | None) -> Pixels:
    return resize(pixels, _fitted_size(Size(*pixels.size), rules, max_pixels))


def _fitted_size(size: Size, rules: ImageRules, max_pixels: int | None) -> Size:
    most = min(rules.max_pixels, max_pixels or rules.max_pixels)
    least = min(rules.min_pixels, most)
    return resize_image(size, factor=rules.factor, min_pixels=least, max_pixels=most)


def _encoded(pixels: Pixels) -> Picture:
    return Picture(data_url(encode_png(pixels), "image/png"), pixels.size)
