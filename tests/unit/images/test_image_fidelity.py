"""The model sees, within a rounding step, what its own Hugging Face processor would show it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from image_files import saved
from tests.benchmarks import benchmark

from belvedere.images.geometry import ImageGeometry, Size
from belvedere.images.pipeline import ImagePipeline

pictures = benchmark("pictures")

QWEN2 = {"size": {"shortest_edge": 3136, "longest_edge": 512_000}, "patch_size": 14}
QWEN3 = {"size": {"shortest_edge": 65_536, "longest_edge": 512_000}, "patch_size": 16}
QWEN3_LARGE = {"size": {"shortest_edge": 65_536, "longest_edge": 2_073_600}, "patch_size": 16}

MEAN_LIMIT, P999_LIMIT = 1.0, 8.0
"""Steps of 1/255."""


CASES: dict[str, tuple[dict[str, Any], Any, tuple[int, int], str]] = {
    "1080p screenshot": (QWEN3, pictures.screenshot, (1920, 1080), "PNG"),
    "1080p screenshot, Qwen2": (QWEN2, pictures.screenshot, (1920, 1080), "PNG"),
    "1440p screenshot, large": (QWEN3_LARGE, pictures.screenshot, (2560, 1440), "PNG"),
    "4K screenshot": (QWEN3, pictures.screenshot, (3840, 2160), "PNG"),
    "phone screenshot": (QWEN3, pictures.screenshot, (1080, 2400), "PNG"),
    "screenshot, hardly shrunk": (QWEN3, pictures.screenshot, (950, 545), "PNG"),
    "photo, hardly shrunk": (QWEN3, pictures.photo, (950, 545), "PNG"),
    "small screenshot, enlarged": (QWEN3, pictures.screenshot, (200, 150), "PNG"),
    "photo": (QWEN3, pictures.photo, (1600, 1200), "PNG"),
    "photo, JPEG": (QWEN3, pictures.photo, (1600, 1200), "JPEG"),
    "photo, Qwen2": (QWEN2, pictures.photo, (2016, 1512), "JPEG"),
    "already fits": (QWEN3, pictures.photo, (928, 512), "PNG"),
}


def geometry(config: dict[str, Any]) -> ImageGeometry:
    bounds = config["size"]
    return ImageGeometry(config["patch_size"], 2, bounds["shortest_edge"], bounds["longest_edge"])


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Mean, 99.9th percentile and maximum for each case."""
    if (
        importlib.util.find_spec("transformers") is None
        or importlib.util.find_spec("torch") is None
    ):
        pytest.skip("needs the extra 'local'")
    folder = tmp_path_factory.mktemp("fidelity")
    jobs = asyncio.run(_prepare_all(folder))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hf_pixels.py"))],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


async def _prepare_all(folder: Path) -> list[list[Any]]:
    jobs = []
    async with ImagePipeline() as pipeline:
        for number, (config, draw, size, image_format) in enumerate(CASES.values()):
            data = saved(draw(size), image_format)
            image = await pipeline.prepare_bytes(data, geometry=geometry(config))
            assert image.original_size == Size(*size)
            paths = [folder / f"{number}.original", folder / f"{number}.prepared"]
            for path, content in zip(paths, (data, image.data), strict=True):
                path.write_bytes(content)
            jobs.append([config, *map(str, paths)])
    return jobs


@pytest.mark.parametrize("name", CASES)
def test_pixels_match_the_processor(differences: dict[str, list[float]], name: str) -> None:
    mean, p999, maximum = differences[name]
    print(f"{name}: mean {mean:.4f}, p99.9 {p999:.2f}, max {maximum:.0f} of 255")
    assert mean <= MEAN_LIMIT
    assert p999 <= P999_LIMIT
