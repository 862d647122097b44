"""CPU time of a new image and of a known one, beside Pillow, OpenCV and libvips in the same run.

``python benchmarks/images.py [--repeat 25] [--json FILE]`` measures on this machine, for a 1080p
screenshot (PNG) and a 1080p photo-like image (JPEG), both resized as MAI-UI's processor would:

- Pillow's decoding and bicubic resizing, the yardstick (ratio 1);
- ours, from the file's bytes to resized pixels, and the whole pipeline with its checks, digests,
  the PNG for the engine and its data URL;
- other ways to decode and resize, where their package is installed (``pip install
  opencv-python-headless``), each with its distance from Pillow's pixels in steps of 1/255: the
  house allows a mean of 1 and a 99.9th percentile of 8;
- a cached image that arrives again as a data URL of 1 MB.

Times are CPU time of all threads of the process; the ways alternate, so that a machine that slows
down slows all of them; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pictures import photo, screenshot
from PIL import Image

from belvedere.images import vips
from belvedere.images.cache import LruCache
from belvedere.images.decode import decode, inspect
from belvedere.images.geometry import ImageGeometry, Size
from belvedere.images.limits import ImageLimits
from belvedere.images.pipeline import ImagePipeline
from belvedere.images.resize import resize

SIZE = (1920, 1080)
GEOMETRY = ImageGeometry(16, 2, 65_536, 512_000)
SEEN = GEOMETRY.resized(Size(*SIZE))
TARGET = (SEEN.width, SEEN.height)
LIMITS = ImageLimits()
BASELINE = "Pillow"

Way = Callable[[bytes], Any]


def _saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.resize(TARGET, Image.Resampling.BICUBIC))


def by_us(data: bytes) -> np.ndarray:
    pixels = resize(decode(inspect(data, LIMITS), LIMITS).pixels, SEEN)
    return np.frombuffer(pixels.samples, np.uint8).reshape(TARGET[1], TARGET[0], 3)


def by_libvips(data: bytes) -> np.ndarray:
    image = vips._library().Image.new_from_buffer(data, "", access="sequential")
    scale, vscale = TARGET[0] / image.width, TARGET[1] / image.height
    small = image.resize(scale, vscale=vscale, kernel="cubic", gap=0)
    return np.frombuffer(small.write_to_memory(), np.uint8).reshape(TARGET[1], TARGET[0], 3)


def opencv_ways() -> dict[str, Way]:
    if find_spec("cv2") is None:
        return {}
    import cv2

    cv2.setNumThreads(1)

    def decoded(data: bytes) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

    def with_pillow(data: bytes) -> np.ndarray:
        image = Image.fromarray(decoded(data))
        return np.asarray(image.resize(TARGET, Image.Resampling.BICUBIC))

    return {
        "OpenCV, Pillow's bicubic": with_pillow,
        "OpenCV, INTER_CUBIC": lambda data: cv2.resize(
            decoded(data), TARGET, interpolation=cv2.INTER_CUBIC
        ),
        "OpenCV, INTER_AREA": lambda data: cv2.resize(
            decoded(data), TARGET, interpolation=cv2.INTER_AREA
        ),
    }


def cpu_ms(job: Callable[[], object]) -> float:
    started_s = time.process_time()
    job()
    return (time.process_time() - started_s) * 1e3


def compare(data: bytes, repeat: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds, ratio to Pillow, and distance from its pixels, for each way."""
    ways: dict[str, Way] = {BASELINE: by_pillow, "ours": by_us, "libvips alone": by_libvips}
    ways |= opencv_ways()
    distances = {name: _distance(way(data), by_pillow(data)) for name, way in ways.items()}
    with asyncio.Runner() as runner, _pipeline(runner, 0) as pipeline:
        ways["ours, whole pipeline"] = lambda data: runner.run(
            pipeline.prepare_bytes(data, geometry=GEOMETRY)
        )
        medians = _medians_ms(ways, data, repeat)
    return {
        name: {"cpu_ms": ms, "ratio": ms / medians[BASELINE], **distances.get(name, {})}
        for name, ms in medians.items()
    }


def _medians_ms(ways: dict[str, Way], data: bytes, repeat: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            times[name].append(cpu_ms(lambda way=way: way(data)))
    return {name: statistics.median(values) for name, values in times.items()}


def _distance(pixels: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    steps = np.abs(pixels.astype(int) - reference.astype(int))
    return {"mean": float(steps.mean()), "p999": float(np.percentile(steps, 99.9))}


def hit(repeat: int) -> dict[str, float]:
    """CPU of a cached image that arrives as a data URL of 1 MB, up to the engine's data URL."""
    noise = [Image.effect_noise((600, 415), 80) for _ in range(3)]
    data = _saved(Image.merge("RGB", noise), "PNG")
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    times = []
    with asyncio.Runner() as runner, _pipeline(runner, 10**8) as pipeline:

        async def measure() -> None:
            await pipeline.prepare(url, geometry=GEOMETRY)
            for _ in range(20 * repeat):
                started_s = time.process_time()
                image = await pipeline.prepare(url, geometry=GEOMETRY)
                image.data_url()
                times.append((time.process_time() - started_s) * 1e3)
                assert image.cached

        runner.run(measure())
    return {"url_bytes": len(url), "cpu_ms": statistics.median(times)}


@contextmanager
def _pipeline(runner: asyncio.Runner, cache_bytes: int) -> Iterator[ImagePipeline]:
    """A pipeline with one worker inside `runner`."""

    async def opened() -> ImagePipeline:
        return ImagePipeline(workers=1, cache=LruCache(cache_bytes))

    pipeline = runner.run(opened())
    try:
        yield pipeline
    finally:
        runner.run(pipeline.aclose())


def lines(figures: dict[str, Any]) -> Iterator[str]:
    for kind in ("png", "jpeg"):
        yield f"new 1080p {kind.upper()}, {figures[kind + '_bytes']} bytes, to {SEEN}"
        for name, row in figures[kind].items():
            distance = f"  mean {row['mean']:.2f}  p99.9 {row['p999']:.0f}" if "mean" in row else ""
            yield f"  {name:26s} {row['cpu_ms']:7.2f} ms  {row['ratio']:5.2f}x{distance}"
    row = figures["hit"]
    yield f"cached, data URL of {row['url_bytes']} bytes: {row['cpu_ms']:.3f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=25)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    screen, scene = _saved(screenshot(SIZE), "PNG"), _saved(photo(SIZE), "JPEG", quality=90)
    for kind, data in (("png", screen), ("jpeg", scene)):
        figures |= {kind: compare(data, options.repeat), f"{kind}_bytes": len(data)}
    figures["hit"] = hit(options.repeat)
    print("\n".join(lines(figures)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
