"""A screenshot and a photo, drawn: what images are measured and tested with."""

from __future__ import annotations

import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter


def screenshot(size: tuple[int, int], *, seed: int = 1) -> Image.Image:
    """Text, hairlines and flat colours: the sharpest edges there are."""
    rng, image = random.Random(seed), Image.new("RGB", size, (246, 247, 249))
    draw = ImageDraw.Draw(image)
    for _ in range(size[0] * size[1] // 6000):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        colour = tuple(rng.randrange(256) for _ in range(3))
        if rng.random() < 0.25:
            box = (x, y, x + rng.randrange(20, 200), y + rng.randrange(10, 60))
            draw.rectangle(box, fill=colour, outline=(20, 20, 20))
        else:
            draw.text((x, y), f"Item {x} of {y}: Login, Save", fill=colour)
    return image


def photo(size: tuple[int, int]) -> Image.Image:
    """Detail at every scale, falling off as it does in nature, and some grain."""
    channels = []
    for _ in range(3):
        layer = Image.new("L", size, 128)
        for scale in (2, 4, 16, 64, 256):
            small = (size[0] // scale + 2, size[1] // scale + 2)
            noise = Image.effect_noise(small, 5 + 4 * scale**0.4)
            layer = ImageChops.add(layer, noise.resize(size, Image.Resampling.BICUBIC), 1, -128)
        channels.append(ImageChops.add(layer, Image.effect_noise(size, 8), 1, -128))
    return Image.merge("RGB", channels).filter(ImageFilter.GaussianBlur(0.6))
