"""The size of a clip's frames: what the model's processor leaves as it is, with and without the
bound on each frame that transformers adds in 5.22."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from belvedere.errors import InvalidRequest
from belvedere.images.geometry import Size, VideoGeometry
from belvedere.images.resize import seen_clip_size

QWEN3 = VideoGeometry(16, 2, 2, 4096, 25_165_824, "clip")
SMALL = QWEN3.with_max_pixels(486_400)
STEP = QWEN3.with_max_pixels(2 * 2048 * 32 * 32)
sizes = st.builds(Size, st.integers(32, 2000), st.integers(32, 2000))


def capped(geometry: VideoGeometry, frames: int) -> VideoGeometry:
    """As ``Qwen3VLVideoProcessor.resize`` bounds a clip with ``cap_pixels_per_frame``."""
    share = min(768 * 32 * 32, geometry.max_pixels // frames)
    return geometry.with_max_pixels(frames * max(share, int(geometry.min_pixels * 1.05)))


@given(sizes, st.integers(2, 40), st.sampled_from([QWEN3, SMALL, STEP]))
def test_the_processor_changes_nothing_more(
    size: Size, frames: int, geometry: VideoGeometry
) -> None:
    assume(max(size.width, size.height) < 12 * min(size.width, size.height))
    seen = seen_clip_size(size, frames, geometry)
    assert geometry.resized(seen, frames) == seen
    assert capped(geometry, frames).resized(seen, frames) == seen


@pytest.mark.parametrize(
    ("frames", "geometry", "expected"),
    [
        (2, QWEN3, Size(1024, 576)),
        (16, QWEN3, Size(1024, 576)),
        (16, STEP, Size(672, 384)),
        (16, SMALL, Size(224, 128)),
    ],
)
def test_more_frames_are_smaller_ones(frames: int, geometry: VideoGeometry, expected: Size) -> None:
    assert seen_clip_size(Size(1034, 582), frames, geometry) == expected


def test_a_requests_own_bounds_are_for_each_frame() -> None:
    low = seen_clip_size(Size(640, 480), 6, QWEN3, max_pixels=100_000)
    assert 80_000 < low.pixels <= 100_000
    high = seen_clip_size(Size(64, 48), 6, QWEN3, min_pixels=100_000)
    assert 100_000 <= high.pixels < 140_000
    with pytest.raises(InvalidRequest, match="leave no size for 16 frames"):
        seen_clip_size(Size(640, 480), 16, SMALL, min_pixels=100_000)
