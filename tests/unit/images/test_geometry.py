"""The seen size is exactly what the model's own processor chooses."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belvedere.errors import (
    BelvedereError,
    ImageTooLarge,
    ModelFolderError,
    NotSupported,
    UsageError,
)
from belvedere.images.geometry import (
    ImageGeometry,
    ProcessorGeometry,
    Size,
    VideoGeometry,
    resize_clip,
    resize_image,
)

QWEN2 = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14}
QWEN3 = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16}
LIMITS = (256_000, 512_000, 768_000, 1_003_520, 2_073_600, 6_553_600, 16_777_216)

# tokens at each of LIMITS; the last column is the family's own limit or more
TOKENS = {
    (14, 1280, 720): (312, 646, 943, 1196, 1196, 1196, 1196),
    (14, 1920, 1080): (312, 646, 943, 1222, 2584, 2691, 2691),
    (14, 2560, 1440): (312, 646, 943, 1222, 2584, 4641, 4641),
    (14, 3840, 2160): (312, 646, 943, 1222, 2584, 8228, 10549),
    (14, 1080, 2400): (312, 646, 920, 1272, 2584, 3354, 3354),
    (16, 1280, 720): (231, 464, 720, 880, 880, 880, 880),
    (16, 1920, 1080): (231, 464, 720, 943, 1980, 2040, 2040),
    (16, 2560, 1440): (231, 464, 720, 943, 1980, 3600, 3600),
    (16, 3840, 2160): (231, 464, 720, 943, 1980, 6360, 8160),
    (16, 1080, 2400): (230, 495, 720, 966, 2010, 2550, 2550),
}


@pytest.mark.parametrize(("key", "column"), [(k, c) for k in TOKENS for c in range(len(LIMITS))])
def test_published_table(key: tuple[int, int, int], column: int) -> None:
    patch, width, height = key
    geometry = ImageGeometry(patch, 2, 1024, LIMITS[column])
    assert geometry.tokens(Size(width, height)) == TOKENS[key][column]
    assert geometry.patches(Size(width, height)) == 4 * TOKENS[key][column]


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        (Size(1280, 720), 32, Size(1280, 704)),  # 22.5 rounds to the even 22
        (Size(1280, 752), 32, Size(1280, 768)),  # 23.5 rounds to the even 24
        (Size(70, 70), 28, Size(56, 56)),  # 2.5 -> 2
        (Size(98, 98), 28, Size(112, 112)),  # 3.5 -> 4
    ],
)
def test_halves_round_to_even(size: Size, factor: int, expected: Size) -> None:
    assert resize_image(size, factor=factor, min_pixels=1, max_pixels=10**8) == expected


def _image_cases() -> list[list[int]]:
    rng = random.Random(3)
    cases: list[list[int]] = []
    while len(cases) < 3000:
        width, height = rng.randint(1, 5000), rng.randint(1, 5000)
        if len(cases) % 3 == 0:  # halves of the grid, where rounding decides
            width, height = rng.randint(1, 200) * 16, rng.randint(1, 200) * 14
        if max(width, height) / min(width, height) > 200:
            continue
        low = rng.choice([1, 1024, 3136, 65536])
        cases.append([width, height, rng.choice([28, 32]), low, rng.choice(LIMITS)])
    return cases


def _clip_cases() -> list[list[int]]:
    rng = random.Random(5)
    cases: list[list[int]] = []
    while len(cases) < 1500:
        width, height = rng.randint(1, 3000), rng.randint(1, 3000)
        if max(width, height) / min(width, height) > 150:
            continue
        limits = [4096, 25_165_824] if len(cases) % 2 else [131_072, 786_432]
        cases.append([width, height, rng.randint(2, 800), rng.choice([28, 32]), *limits])
    return cases


GRID_CASES = [
    [config, w, h]
    for config in (
        QWEN2,
        QWEN3,
        {},
        {**QWEN3, "size": {"shortest_edge": 1024, "longest_edge": 90000}},
    )
    for w, h in [(640, 480), (33, 47), (1280, 720), (10, 600)]
]
VIDEO_CASES = [
    ["qwen2", {"size": {"shortest_edge": 3136, "longest_edge": 12845056}}, 320, 240, 5],
    ["qwen2", {}, 640, 360, 4],
    ["qwen3", {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}, 320, 240, 5],
    ["qwen3", {"size": {"shortest_edge": 4096, "longest_edge": 300000}}, 640, 360, 7],
    ["qwen3", {}, 20, 18, 4],
]


@pytest.fixture(scope="module")
def reference() -> dict[str, list[Any]]:
    """Answers of the real processors, asked in a process of their own."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed (pip install 'belvedere[local]')")
    cases = {
        "images": _image_cases(),
        "clips": _clip_cases(),
        "grids": GRID_CASES,
        "video_grids": VIDEO_CASES,
    }
    script = Path(__file__).with_name("hf_sizes.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, list[Any]] = json.loads(done.stdout)
    return answer


def test_images_match_transformers(reference: dict[str, list[Any]]) -> None:
    for case, expected in zip(_image_cases(), reference["images"], strict=True):
        width, height, factor, low, high = case
        got = resize_image(Size(width, height), factor=factor, min_pixels=low, max_pixels=high)
        assert [got.width, got.height] == expected, case


def test_clips_match_transformers(reference: dict[str, list[Any]]) -> None:
    for case, expected in zip(_clip_cases(), reference["clips"], strict=True):
        width, height, frames, factor, low, high = case
        got = resize_clip(
            Size(width, height),
            frames,
            factor=factor,
            temporal_patch_size=2,
            min_pixels=low,
            max_pixels=high,
        )
        assert [got.width, got.height] == expected, case


def test_whole_image_processors_match(reference: dict[str, list[Any]]) -> None:
    for (config, width, height), (_, grid_h, grid_w) in zip(
        GRID_CASES, reference["grids"], strict=True
    ):
        geometry = ProcessorGeometry.from_config(config).image
        assert geometry.patches(Size(width, height)) == grid_h * grid_w
        resized = geometry.resized(Size(width, height))
        assert (resized.height, resized.width) == (
            grid_h * geometry.patch_size,
            grid_w * geometry.patch_size,
        )


def test_whole_video_processors_match(reference: dict[str, list[Any]]) -> None:
    for (kind, config, width, height, frames), grid in zip(
        VIDEO_CASES, reference["video_grids"], strict=True
    ):
        patch = 16 if kind == "qwen3" else 14
        video = {
            "video_processor_type": f"Q{kind[1:]}VLVideoProcessor",
            "patch_size": patch,
            **config,
        }
        geometry = ProcessorGeometry.from_config({"patch_size": patch}, video).video
        assert geometry.patches(Size(width, height), frames) == grid[0] * grid[1] * grid[2]


sides = st.integers(min_value=1, max_value=8000)


@given(
    sides,
    sides,
    st.sampled_from([28, 32]),
    st.integers(40_000, 8_000_000),
    st.integers(0, 8_000_000),
)
def test_more_pixels_never_fewer_tokens(
    w: int, h: int, factor: int, limit: int, extra: int
) -> None:
    if max(w, h) / min(w, h) > 200:
        return
    patch = factor // 2
    small, large = (
        ImageGeometry(patch, 2, 1024, m).tokens(Size(w, h)) for m in (limit, limit + extra)
    )
    assert small <= large


@given(sides, sides, st.sampled_from([14, 16]), st.integers(1_000_000, 20_000_000))
def test_result_is_on_the_grid_and_within_the_limit(w: int, h: int, patch: int, limit: int) -> None:
    if max(w, h) / min(w, h) > 50:
        return
    geometry = ImageGeometry(patch, 2, 1024, limit)
    got = geometry.resized(Size(w, h))
    assert got.width % geometry.factor == got.height % geometry.factor == 0
    assert got.pixels <= limit
    assert geometry.resized(got) == got


@pytest.mark.parametrize("size", [Size(2010, 10), Size(10, 2010)])
def test_extreme_ratio_is_refused(size: Size) -> None:
    with pytest.raises(ImageTooLarge, match="201 times"):
        resize_image(size, factor=28, min_pixels=1, max_pixels=10**6)
    assert resize_image(Size(2000, 10), factor=28, min_pixels=1, max_pixels=10**6).height == 28


def test_extreme_clip_is_refused() -> None:
    rules = {"factor": 32, "temporal_patch_size": 2, "min_pixels": 4096, "max_pixels": 10**7}
    with pytest.raises(ImageTooLarge):
        resize_clip(Size(9000, 40), 4, **rules)
    with pytest.raises(UsageError, match="1 frame"):
        resize_clip(Size(640, 480), 1, **rules)


@pytest.mark.parametrize(("w", "h"), [(0, 5), (5, 0), (-1, 3)])
def test_no_pixels_is_refused(w: int, h: int) -> None:
    with pytest.raises(UsageError, match="no pixels"):
        Size(w, h)


def test_limits_that_are_no_range_are_refused() -> None:
    with pytest.raises(UsageError, match="not a range"):
        ImageGeometry(16, 2, 1000, 999)
    with pytest.raises(UsageError, match="not a range"):
        ImageGeometry(16, 2, 0, 999)


def test_lower_limit_moves_the_minimum_with_it() -> None:
    assert ImageGeometry(16, 2, 65536, 16777216).with_max_pixels(4096) == ImageGeometry(
        16, 2, 4096, 4096
    )


def _folder(tmp_path: Path, **files: object) -> Path:
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_both_spellings_of_the_limits(tmp_path: Path) -> None:
    edges = {"shortest_edge": 3136, "longest_edge": 12845056}
    new = ProcessorGeometry.from_config({"size": edges, "patch_size": 14, "merge_size": 2})
    old = ProcessorGeometry.from_folder(_folder(tmp_path, preprocessor_config=QWEN2))
    assert new.image == old.image == ImageGeometry(14, 2, 3136, 12845056)
    assert old.video == VideoGeometry(14, 2, 2, 3136, 12845056, "frame")


def test_qwen3_folder(tmp_path: Path) -> None:
    video = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "patch_size": 16,
        "size": {"shortest_edge": 4096, "longest_edge": 25165824},
    }
    image = {**QWEN3, "image_processor_type": "Qwen2VLImageProcessorFast"}
    folder = _folder(tmp_path, preprocessor_config=image, video_preprocessor_config=video)
    geometry = ProcessorGeometry.from_folder(folder)
    assert geometry.image == ImageGeometry(16, 2, 65536, 16777216)
    assert geometry.video == VideoGeometry(16, 2, 2, 4096, 25165824, "clip")


def test_one_file_for_both_processors(tmp_path: Path) -> None:
    both = {"image_processor": QWEN3, "video_processor": {**QWEN3, "size": {"longest_edge": 10**7}}}
    geometry = ProcessorGeometry.from_folder(_folder(tmp_path, processor_config=both))
    assert geometry.image.max_pixels == 16777216
    assert geometry.video.max_pixels == 10**7


def test_unknown_processor_is_not_guessed(tmp_path: Path) -> None:
    folder = _folder(tmp_path, preprocessor_config={"image_processor_type": "LlavaImageProcessor"})
    with pytest.raises(NotSupported, match="'LlavaImageProcessor'"):
        ProcessorGeometry.from_folder(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ('{"patch_size": 0}', "patch_size 0"),
        ('{"patch_size": "16"}', "patch_size '16'"),
        ('{"max_pixels": 5.5}', "max_pixels 5.5"),
    ],
)
def test_broken_folder(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=message):
        ProcessorGeometry.from_folder(tmp_path)


def test_folder_without_processor(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no preprocessor_config\.json"):
        ProcessorGeometry.from_folder(tmp_path)


values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**8), st.floats(), st.text(max_size=4), st.just([])
)
configs = st.dictionaries(
    st.sampled_from(
        [
            "patch_size",
            "merge_size",
            "temporal_patch_size",
            "min_pixels",
            "max_pixels",
            "size",
            "image_processor_type",
            "video_processor_type",
        ]
    ),
    st.one_of(
        values,
        st.dictionaries(st.sampled_from(["shortest_edge", "longest_edge", "height"]), values),
    ),
)


@given(configs, st.one_of(st.none(), configs))
def test_any_config_gives_a_geometry_or_one_of_our_errors(
    image: dict[str, Any], video: dict[str, Any] | None
) -> None:
    try:
        geometry = ProcessorGeometry.from_config(image, video)
    except BelvedereError:
        return
    assert 1 <= geometry.image.min_pixels <= geometry.image.max_pixels
