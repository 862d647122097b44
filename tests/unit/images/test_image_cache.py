"""Prepared images are remembered within bounds, and shared by those who want them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import data_url, gradient, saved

from belvedere.errors import BelvedereError, ImageError, ImageTooLarge, InvalidRequest
from belvedere.images.cache import LruCache, SingleFlight
from belvedere.images.geometry import ImageGeometry, Size
from belvedere.images.limits import ImageLimits
from belvedere.images.pipeline import ImagePipeline
from belvedere.images.prepared import NoCache, PreparedImage, PreparedKey, StageTimes

QWEN3 = ImageGeometry(16, 2, 65_536, 512_000)
ENTRY_BYTES = 1024


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def key(name: str) -> PreparedKey:
    return PreparedKey(name.encode(), None, None, None)


def image(length: int) -> PreparedImage:
    return PreparedImage(Size(1, 1), None, bytes(length), "image/png", "", StageTimes())


def test_the_image_not_asked_for_longest_goes_first() -> None:
    cache = LruCache(3 * (1000 + ENTRY_BYTES))
    for name in "abc":
        cache.put(key(name), image(1000))
    assert cache.get(key("a")) is not None
    cache.put(key("d"), image(1000))
    assert [cache.get(key(name)) is not None for name in "abcd"] == [True, False, True, True]


def test_one_image_over_the_capacity_displaces_nothing() -> None:
    cache = LruCache(5000)
    cache.put(key("a"), image(1000))
    cache.put(key("b"), image(5000))
    assert cache.get(key("a")) is not None
    assert cache.get(key("b")) is None


def test_the_same_key_is_counted_once() -> None:
    cache = LruCache(10_000)
    for length in (100, 3000, 2000):
        cache.put(key("a"), image(length))
    assert cache.used_bytes == 2000 + ENTRY_BYTES
    cache.put(key("a"), image(20_000))
    assert (len(cache), cache.used_bytes) == (0, 0)


def test_the_data_url_made_beforehand_is_counted() -> None:
    cache = LruCache(10_000)
    cache.put(key("a"), replace(image(3000), url="x" * 4000))
    assert cache.used_bytes == 7000 + ENTRY_BYTES


def test_no_capacity_remembers_nothing() -> None:
    cache = LruCache(0)
    cache.put(key("a"), image(1))
    assert (cache.get(key("a")), cache.used_bytes) == (None, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 6000), st.booleans())))
@settings(deadline=None)
def test_the_bound_holds_after_any_history(steps: list[tuple[str, int, bool]]) -> None:
    cache, capacity = LruCache(12_000), 12_000
    for name, length, read in steps:
        if read:
            cache.get(key(name))
        else:
            cache.put(key(name), image(length))
        kept = [found for n in "abcdefgh" if (found := cache._images.get(key(n))) is not None]
        assert cache.used_bytes == sum(len(one.data) + ENTRY_BYTES for one in kept) <= capacity
        assert len(cache) == len(kept)


def test_every_part_of_the_transform_is_part_of_the_key() -> None:
    """Another model, another cap or other bytes are another image."""

    async def scenario() -> None:
        cache, data = LruCache(10**9), saved(gradient(800, 600))
        other = ImageGeometry(14, 2, 3136, 512_000)
        async with (
            ImagePipeline(cache=cache) as pipeline,
            ImagePipeline(cache=cache, max_side_px=500) as capped,
        ):
            images = [
                await pipeline.prepare_bytes(data, geometry=QWEN3),
                await pipeline.prepare_bytes(data, geometry=other),
                await pipeline.prepare_bytes(data, geometry=None),
                await capped.prepare_bytes(data, geometry=QWEN3),
            ]
            with pytest.raises(ImageError):
                await pipeline.prepare_bytes(data[:-1] + b"\0", geometry=QWEN3)
        assert [image.cached for image in images] == [False] * 4

    run(scenario)


def test_one_image_that_arrives_many_times_at_once_is_prepared_once() -> None:
    async def scenario() -> None:
        data = data_url(saved(gradient(1600, 1200)))
        # One worker reads all twenty before it prepares: none comes when the first is done.
        async with ImagePipeline(workers=1, cache=NoCache()) as pipeline:
            images = await asyncio.gather(
                *(pipeline.prepare(data, geometry=QWEN3) for _ in range(20))
            )
        assert [image.cached for image in images].count(False) == 1
        assert len({id(image.data) for image in images}) == 1
        assert sum(image.times.decode_ms > 0 for image in images) == 1

    run(scenario)


def test_a_bad_image_that_arrives_many_times_is_refused_to_each() -> None:
    """Each caller has an error of its own: it adds the parameter at fault."""

    async def scenario() -> None:
        data = data_url(saved(gradient(400, 300))[:3000])
        async with ImagePipeline(cache=LruCache(10**6)) as pipeline:
            jobs = [pipeline.prepare(data, geometry=QWEN3) for _ in range(10)]
            errors = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(isinstance(error, ImageError) for error in errors)
        assert len({id(error) for error in errors}) == 10

    run(scenario)


def test_the_first_caller_may_leave() -> None:
    """Those who joined still get the image; the work ends when the last one has gone."""

    async def scenario() -> None:
        flights: SingleFlight[str, int] = SingleFlight()
        started, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work() -> int:
            started.set()
            try:
                await release.wait()
                return 7
            finally:
                ended.set()

        first, second = (asyncio.create_task(flights.run("k", work)) for _ in range(2))
        await started.wait()
        first.cancel()
        await asyncio.wait({first})
        release.set()
        assert await second == (7, True)
        for event in (started, release, ended):
            event.clear()
        alone = asyncio.create_task(flights.run("k", work))
        await started.wait()
        alone.cancel()
        await asyncio.wait_for(ended.wait(), 60)
        release.set()
        assert await flights.run("k", work) == (7, False)

    run(scenario)


def test_an_error_keeps_its_message_and_its_kind() -> None:
    async def fail() -> int:
        raise InvalidRequest("No.", remedy="Yes.", param="p", code="c")

    async def scenario() -> None:
        flights: SingleFlight[str, int] = SingleFlight()
        calls = (flights.run("k", fail) for _ in range(2))
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, BelvedereError)
            assert error.body() == InvalidRequest("No.", remedy="Yes.", param="p", code="c").body()

    run(scenario)


def test_a_hit_costs_no_decoding() -> None:
    """Where nothing may be decoded, it is served; what a hit costs is in benchmarks/images.py."""

    async def scenario() -> None:
        known, other = (data_url(saved(gradient(600, height))) for height in (420, 421))
        cache, nothing = LruCache(10**8), ImageLimits(max_decoded_px=1)
        async with (
            ImagePipeline(cache=cache) as pipeline,
            ImagePipeline(cache=cache, limits=nothing) as no_decoder,
        ):
            prepared = await pipeline.prepare(known, geometry=QWEN3)
            for _ in range(20):
                image = await no_decoder.prepare(known, geometry=QWEN3)
                assert image.cached
                assert image.data is prepared.data
                assert image.url is prepared.url
                times = image.times
                assert (times.wait_ms, times.decode_ms, times.resize_ms, times.encode_ms) == (
                    0,
                ) * 4
            with pytest.raises(ImageTooLarge):
                await no_decoder.prepare(other, geometry=QWEN3)

    run(scenario)
