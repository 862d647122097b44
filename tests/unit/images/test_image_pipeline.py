"""One way from a reference to the pixels the model sees, bounded in memory and safe to cancel."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import io
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import chunk, claimed_png, data_url, exif, gradient, raw_png, saved
from PIL import Image

from belvedere.errors import (
    BelvedereError,
    ImageError,
    InvalidImageUrl,
    InvalidRequest,
    UnsupportedImage,
)
from belvedere.images.budget import ByteBudget
from belvedere.images.geometry import ImageGeometry, Size
from belvedere.images.limits import ImageLimits
from belvedere.images.pipeline import ImagePipeline
from belvedere.images.prepared import PixelOptions, PreparedImage, PreparedKey
from belvedere.images.resize import capped, narrowed, seen_size

QWEN3 = ImageGeometry(16, 2, 65_536, 512_000)


def prepare(
    data: bytes | str,
    geometry: ImageGeometry | None = QWEN3,
    options: PixelOptions | None = None,
    **pipeline_options: Any,
) -> PreparedImage:
    async def scenario() -> PreparedImage:
        async with ImagePipeline(**pipeline_options) as pipeline:
            reference = data if isinstance(data, str) else data_url(data)
            return await pipeline.prepare(reference, geometry=geometry, options=options)

    return asyncio.run(scenario())


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def opened(image: PreparedImage) -> Image.Image:
    return Image.open(io.BytesIO(image.data))


def test_a_screenshot_becomes_a_png_of_the_seen_size() -> None:
    data = saved(gradient(1920, 1080), "JPEG")
    image = prepare(data)
    assert image.original_size == Size(1920, 1080)
    assert image.seen_size == Size(928, 512) == QWEN3.resized(Size(1920, 1080))
    assert image.media_type == "image/png"
    assert (opened(image).size, opened(image).mode, opened(image).info) == ((928, 512), "RGB", {})
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert image.warnings == ()
    assert not image.cached
    assert image.data_url() == data_url(image.data)


def test_every_stage_is_timed() -> None:
    times = prepare(saved(gradient(800, 600))).times
    stages = (times.fetch_ms, times.hash_ms, times.wait_ms, times.decode_ms)
    assert all(ms > 0 for ms in (*stages, times.resize_ms, times.encode_ms))


def test_a_plain_png_of_the_seen_size_passes_unchanged() -> None:
    data = saved(gradient(320, 256), compress_level=9)
    image = prepare(data)
    assert (image.data, image.seen_size) == (data, Size(320, 256))
    assert image.times.encode_ms == 0


NOT_PLAIN = {
    "JPEG": saved(gradient(320, 256), "JPEG"),
    "grey": saved(gradient(320, 256).convert("L")),
    "alpha": saved(gradient(320, 256).convert("RGBA")),
    "text": raw_png(320, 256, gradient(320, 256).tobytes(), extra=chunk(b"tEXt", b"a\0b")),
    "orientation": raw_png(320, 256, gradient(320, 256).tobytes(), extra=chunk(b"eXIf", exif(3))),
    "clear colour": raw_png(320, 256, gradient(320, 256).tobytes(), extra=chunk(b"tRNS", bytes(6))),
    "bytes after the end": saved(gradient(320, 256)) + b"<script>",
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_anything_else_of_the_seen_size_is_encoded_anew(name: str) -> None:
    image = prepare(NOT_PLAIN[name])
    assert image.data != NOT_PLAIN[name]
    assert (opened(image).size, opened(image).mode, opened(image).info) == ((320, 256), "RGB", {})


def test_no_resampling_at_the_seen_size() -> None:
    image = prepare(saved(gradient(320, 256), "TIFF"))
    assert opened(image).tobytes() == gradient(320, 256).tobytes()


def test_the_original_size_is_the_one_on_display() -> None:
    rotated = saved(gradient(400, 300), "JPEG", exif=b"Exif\0\0" + exif(6))
    assert prepare(rotated).original_size == Size(300, 400)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_unknown_geometry_passes_the_original_bytes(image_format: str) -> None:
    data = saved(gradient(), image_format)
    image = prepare(data, geometry=None)
    assert (image.data, image.seen_size, image.original_size) == (data, None, Size(64, 48))
    assert image.media_type == Image.MIME[image_format]


def test_unknown_geometry_still_checks_everything() -> None:
    with pytest.raises(ImageError):
        prepare(saved(gradient(400, 300), "JPEG")[:4000], geometry=None)


def test_max_image_size_comes_before_the_grid() -> None:
    data = saved(gradient(1920, 1080))
    assert prepare(data, max_side_px=1024).seen_size == QWEN3.resized(Size(1024, 576))
    unknown = prepare(data, geometry=None, max_side_px=1024)
    assert (opened(unknown).size, unknown.seen_size) == ((1024, 576), None)
    assert prepare(saved(gradient(640, 480)), max_side_px=1024).seen_size == Size(640, 480)


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [((1920, 1080), None, (1920, 1080)), ((1920, 1080), 1920, (1920, 1080)),
     ((1920, 1080), 960, (960, 540)), ((100, 2), 10, (10, 1)), ((200, 1), 10, (10, 1))],
)  # fmt: skip
def test_capped(size: tuple[int, int], limit: int | None, expected: tuple[int, int]) -> None:
    assert capped(Size(*size), limit) == Size(*expected)


def test_max_pixels_of_the_request() -> None:
    data = saved(gradient(1920, 1080))
    image = prepare(data, options=PixelOptions(max_pixels=200_000))
    assert image.seen_size is not None
    assert 150_000 < image.seen_size.pixels <= 200_000


def test_min_pixels_of_the_request() -> None:
    image = prepare(saved(gradient(320, 256)), options=PixelOptions(min_pixels=400_000))
    assert image.seen_size is not None
    assert 400_000 <= image.seen_size.pixels <= 512_000


def test_low_detail_is_512_by_512_pixels() -> None:
    data = saved(gradient(1920, 1080))
    low = prepare(data, options=PixelOptions(detail="low"))
    assert low.seen_size is not None
    assert low.seen_size.pixels <= 512 * 512
    both = PixelOptions(detail="low", max_pixels=400_000)
    assert both.area_limit_px == 400_000
    assert prepare(data, options=PixelOptions(detail="high")).seen_size == Size(928, 512)


def test_more_than_the_model_takes_changes_nothing() -> None:
    data = saved(gradient(1920, 1080))
    assert prepare(data, options=PixelOptions(max_pixels=10**9)).seen_size == Size(928, 512)


@pytest.mark.parametrize(
    "options",
    [PixelOptions(max_pixels=1000), PixelOptions(min_pixels=600_000),
     PixelOptions(min_pixels=300_000, max_pixels=200_000)],
)  # fmt: skip
def test_bounds_that_leave_nothing_are_refused(options: PixelOptions) -> None:
    with pytest.raises(InvalidRequest, match="65536 to 512000"):
        prepare(saved(gradient()), options=options)


def test_bounds_without_a_known_processor_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="known"):
        prepare(saved(gradient()), geometry=None, options=PixelOptions(max_pixels=100_000))


@pytest.mark.parametrize("wrong", [{"max_pixels": 0}, {"min_pixels": -1}, {"detail": "ultra"}])
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        PixelOptions(**wrong)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600_000), st.integers(1, 600_000))
@settings(deadline=None)
def test_the_engine_never_resizes_again(width: int, height: int, low: int, high: int) -> None:
    """The seen size is one that the model's own processor leaves as it is."""
    try:
        bounds = narrowed(QWEN3, low, high)
        seen = seen_size(Size(width, height), bounds, QWEN3)
    except BelvedereError:
        return
    assert QWEN3.resized(seen) == seen


def test_small_images_carry_a_warning() -> None:
    assert "64x48" in prepare(saved(gradient())).warnings[0]
    assert prepare(saved(gradient(100, 100))).warnings == ()


def test_one_pixel_is_enlarged() -> None:
    assert prepare(raw_png(1, 1, bytes(3))).seen_size == Size(256, 256)


@pytest.mark.parametrize(
    "reference",
    ["", "/etc/passwd", "file:///etc/passwd", "ftp://example.com/a.png", "a.png", "blob:x", "cid:1",
     base64.b64encode(saved(gradient())).decode()],
)  # fmt: skip
def test_other_references_are_refused(reference: str) -> None:
    """In particular file names: those are for `read_image_file` and never for a request."""
    with pytest.raises(InvalidImageUrl) as caught:
        prepare(reference)
    assert "passwd" not in str(caught.value)


def test_the_declared_media_type_does_not_matter() -> None:
    data = saved(gradient(), "WEBP")
    assert prepare(data_url(data, "image/png"), geometry=None).media_type == "image/webp"


def test_documents_are_named() -> None:
    with pytest.raises(UnsupportedImage, match="SVG"):
        prepare(b"<svg xmlns='x'/>")


class Remembering:
    """A cache without bounds that keeps its keys in sight."""

    def __init__(self) -> None:
        self.images: dict[PreparedKey, PreparedImage] = {}

    def get(self, key: PreparedKey) -> PreparedImage | None:
        return self.images.get(key)

    def put(self, key: PreparedKey, image: PreparedImage) -> None:
        self.images[key] = image


def test_the_cache_is_asked_by_content_and_transform() -> None:
    async def scenario() -> None:
        data, cache = saved(gradient(800, 600)), Remembering()
        async with ImagePipeline(cache=cache) as pipeline:
            first = await pipeline.prepare(data_url(data), geometry=QWEN3)
            again = await pipeline.prepare(data_url(data, "image/gif"), geometry=QWEN3)
            smaller = await pipeline.prepare_bytes(
                data, geometry=QWEN3, options=PixelOptions(max_pixels=100_000)
            )
            unknown = await pipeline.prepare_bytes(data, geometry=None)
        assert (first.cached, again.cached, smaller.cached, unknown.cached) == (
            False, True, False, False,
        )  # fmt: skip
        assert again.data is first.data
        assert again.times.decode_ms == 0
        assert len(cache.images) == 3

    run(scenario)


def test_many_at_once_give_what_one_gives() -> None:
    """Decoding is safe in threads, also with hardly any memory to share."""

    async def scenario() -> None:
        files = [saved(gradient(200 + i, 150), kind) for i in range(6) for kind in ("PNG", "JPEG")]
        async with (
            ImagePipeline(workers=1) as alone,
            ImagePipeline(workers=4, memory_bytes=600_000) as many,
        ):
            expected = [await alone.prepare_bytes(data, geometry=QWEN3) for data in files]
            got = await asyncio.gather(*(many.prepare_bytes(d, geometry=QWEN3) for d in files * 3))
        assert [image.data for image in got] == [image.data for image in expected] * 3

    run(scenario)


def test_the_event_loop_runs_on() -> None:
    """While 12-megapixel photos are prepared, other tasks get more than ten turns a photo."""

    async def scenario() -> None:
        photo, photos, turns = saved(gradient(4000, 3000), "JPEG"), 4, 0
        async with ImagePipeline(workers=1) as pipeline:
            jobs = (
                pipeline.prepare_bytes(photo + bytes([number]), geometry=QWEN3)
                for number in range(photos)
            )
            work = asyncio.gather(*jobs)
            while not work.done():
                await asyncio.sleep(0.001)
                turns += 1
        images = work.result()
        assert [image.cached for image in images] == [False] * photos
        assert {image.seen_size for image in images} == {QWEN3.resized(Size(4000, 3000))}
        assert turns > 10 * photos

    run(scenario)


def test_cancelled_work_gives_its_memory_back() -> None:
    async def scenario() -> None:
        data = saved(gradient(1500, 1000))
        async with ImagePipeline(workers=1, memory_bytes=20_000_000) as pipeline:
            tasks = [
                asyncio.create_task(pipeline.prepare_bytes(data, geometry=QWEN3)) for _ in range(8)
            ]
            for delay_s in (0.0, 0.01, 0.02, 0.03, 0.0, 0.0, 0.0):
                await asyncio.sleep(delay_s)
                tasks.pop().cancel()
            assert (await tasks[0]).seen_size is not None
            image = await asyncio.wait_for(pipeline.prepare_bytes(data, geometry=QWEN3), 120)
            assert image.original_size == Size(1500, 1000)

    run(scenario)


def worker_threads() -> set[threading.Thread]:
    """Those of all pipelines in this process; another test may have left one."""
    return {one for one in threading.enumerate() if one.name.startswith("belvedere-images")}


def bad_images() -> list[bytes]:
    """One damaged or foreign file of each kind."""
    whole = [saved(gradient(400, 300), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF")]
    cut = [data[: len(data) // 2] for data in whole]
    return [
        *cut,
        claimed_png(30_000, 30_000),
        claimed_png(0, 0),
        b"%PDF-1.7",
        b"<svg/>",
        b"\xff\xd8\xff",
    ]


def test_a_thousand_bad_images_leave_nothing_behind() -> None:
    """Memory, descriptors and threads stay flat, and the next good image is served."""

    async def scenario() -> None:
        process, bad, others = psutil.Process(), bad_images(), worker_threads()
        gc.collect()  # what earlier tests have left must not end while this one counts
        async with ImagePipeline(workers=2, memory_bytes=3_000_000) as pipeline:

            async def send(data: bytes) -> None:
                with pytest.raises(ImageError):
                    await pipeline.prepare_bytes(data, geometry=QWEN3)

            await asyncio.gather(*map(send, bad * 10))
            memory_bytes, descriptors = process.memory_info().rss, process.num_fds()
            for _ in range(10):
                await asyncio.gather(*map(send, bad * 10))
            assert process.memory_info().rss - memory_bytes < 20 * 1024**2
            assert process.num_fds() == descriptors
            assert len(worker_threads() - others) == 2
            image = await pipeline.prepare_bytes(saved(gradient()), geometry=QWEN3)
            assert image.original_size == Size(64, 48)
        assert worker_threads() <= others

    run(scenario)


def test_a_closed_pipeline_says_so() -> None:
    async def scenario() -> None:
        async with ImagePipeline() as pipeline:
            pass
        with pytest.raises(RuntimeError):
            await pipeline.prepare_bytes(saved(gradient()), geometry=None)

    run(scenario)


def test_limits_reach_the_pipeline() -> None:
    with pytest.raises(ImageError):
        prepare(saved(gradient()), limits=ImageLimits(max_decoded_px=100))


def test_budget_admits_in_order() -> None:
    async def scenario() -> None:
        budget, order = ByteBudget(10), []

        async def work(name: str, amount: int) -> None:
            await budget.acquire(amount)
            order.append(name)
            assert budget.used_bytes <= 10
            await asyncio.sleep(0)
            budget.release(amount)

        jobs = [("a", 6), ("b", 6), ("huge", 99), ("c", 1), ("d", 1)]
        await asyncio.gather(*(work(name, amount) for name, amount in jobs))
        assert order == ["a", "b", "huge", "c", "d"]
        assert budget.used_bytes == 0

    run(scenario)


def test_a_cancelled_wait_blocks_nobody() -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)
        await budget.acquire(5)
        large, small = (asyncio.create_task(budget.acquire(n)) for n in (9, 5))
        await asyncio.sleep(0)
        large.cancel()
        await asyncio.wait_for(small, 60)
        granted = asyncio.create_task(budget.acquire(10))
        await asyncio.sleep(0)
        budget.release(5)
        budget.release(5)
        granted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await granted
        assert budget.used_bytes == 0

    run(scenario)
