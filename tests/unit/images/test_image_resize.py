"""Shrinking is exact in size and, in pixels, as close to Pillow's bicubic as the house demands.

Held to on noise, the hardest picture there is.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import noise
from PIL import Image, ImageChops, ImageStat

from belvedere.images.geometry import Size
from belvedere.images.pixels import Pixels
from belvedere.images.resize import resize

SIDE = st.integers(1, 300)


def difference(image: Image.Image, size: tuple[int, int]) -> tuple[float, int]:
    """Mean and 99.9th percentile of the distance from Pillow's bicubic, in steps of 1/255."""
    ours = resize(Pixels.from_pillow(image), Size(*size)).to_pillow()
    return distance(ours, image.resize(size, Image.Resampling.BICUBIC))


def distance(one: Image.Image, other: Image.Image) -> tuple[float, int]:
    steps = ImageChops.difference(one, other)
    counts = [sum(steps.histogram()[channel * 256 + n] for channel in range(3)) for n in range(256)]
    beyond, allowed = 0, sum(counts) // 1000
    for step in range(255, -1, -1):
        beyond += counts[step]
        if beyond > allowed:
            return sum(ImageStat.Stat(steps).mean) / 3, step
    raise AssertionError("an image without pixels")


@given(SIDE, SIDE, SIDE, SIDE)
@settings(max_examples=60, deadline=None)
def test_every_size_is_met(width: int, height: int, new_width: int, new_height: int) -> None:
    pixels = Pixels.from_pillow(Image.new("RGB", (width, height), (9, 99, 199)))
    resized = resize(pixels, Size(new_width, new_height))
    assert resized.size == (new_width, new_height)
    assert resized.to_pillow().getextrema() == ((9, 9), (99, 99), (199, 199))


@pytest.mark.parametrize("size", [(30_000, 160), (160, 30_000), (12_100, 1000), (2400, 2400)])
@pytest.mark.parametrize("target", [(1, 1), (200, 160), (1000, 80)])
def test_far_shrinking_keeps_white_white(size: tuple[int, int], target: tuple[int, int]) -> None:
    resized = resize(Pixels.from_pillow(Image.new("RGB", size, "white")), Size(*target))
    assert resized.to_pillow().getextrema() == ((255, 255),) * 3


@given(st.tuples(st.integers(32, 500), st.integers(32, 500)), st.data())
@settings(max_examples=30, deadline=None)
def test_shrinking_a_small_image_is_pillows(size: tuple[int, int], draw: st.DataObject) -> None:
    target = tuple(draw.draw(st.integers(32, side)) for side in size)
    assert difference(noise(*size), (target[0], target[1])) == (0.0, 0)


@given(st.tuples(st.integers(820, 1000), st.integers(820, 1000)), st.data())
@settings(max_examples=10, deadline=None)
def test_shrinking_is_bicubic_with_antialiasing(size: tuple[int, int], draw: st.DataObject) -> None:
    """To sizes that a grid can have; below, a single row would be all edge.

    libvips places its weights on 1/64 of a pixel, which shows on noise and hardly on anything else:
    photos and screens are held to 8 (test_image_fidelity).
    """
    target = tuple(draw.draw(st.integers(200, side)) for side in size)
    mean, p999 = difference(noise(*size), (target[0], target[1]))
    assert mean <= 1.0
    assert p999 <= 16


@pytest.mark.parametrize("target", [(100, 80), (120, 40), (90, 81), (200, 160)])
def test_enlarging_is_pillows(target: tuple[int, int]) -> None:
    """Also where only one side grows."""
    assert difference(noise(100, 80), target) == (0.0, 0)


def test_the_measure_sees_another_interpolation() -> None:
    """The control: bilinear instead of bicubic would not pass."""
    image, size = noise(200, 200), (100, 100)
    bilinear, bicubic = (
        image.resize(size, how) for how in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    )
    mean, p999 = distance(bilinear, bicubic)
    assert mean > 1.0
    assert p999 > 16
