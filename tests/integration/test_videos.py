"""Videos reach the engine as frames: few, in order, with their times, and nothing else is read."""

from __future__ import annotations

import base64
import io
import itertools
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from belvedere.errors import BelvedereError, ImageError, ImageTooLarge
from belvedere.images.geometry import ImageGeometry
from belvedere.images.limits import ImageLimits
from belvedere.images.video import VideoLimits, VideoOptions, sample
from belvedere.router.replica import Model
from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until
from tests.integration.test_bad_images import EXAMPLES

av = pytest.importorskip("av")

CHAT = "/v1/chat/completions"
GROUNDER = Model("fake", 0, ImageGeometry(16, 2, 65_536, 512_000))
LIMITS, IMAGES = VideoLimits(), ImageLimits()
FPS = 10


def video(
    seconds: float, size: tuple[int, int] = (320, 240), kind: str = "mp4", codec: str = "libx264"
) -> bytes:
    """Frame n is of the red value 4 n."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        track = container.add_stream(codec, rate=FPS)
        track.width, track.height = size
        track.pix_fmt = "yuv420p"
        track.bit_rate = 8_000_000
        for index in range(round(seconds * FPS)):
            image = Image.new("RGB", size, (min(4 * index, 255), 0, 0))
            container.mux(track.encode(av.VideoFrame.from_image(image)))
        container.mux(track.encode())
    return stream.getvalue()


SIX_SECONDS = video(6)


def reds(frames: Any) -> list[float]:
    """Which frame of the video each one is."""
    return [Image.open(io.BytesIO(frame.png)).getpixel((5, 5))[0] / 4 for frame in frames]


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("webm", "libvpx-vp9"), ("matroska", "libx264")],
)
def test_two_frames_a_second(kind: str, codec: str) -> None:
    frames = sample(video(6, kind=kind, codec=codec), VideoOptions(), LIMITS, IMAGES)
    assert [frame.time_s for frame in frames] == pytest.approx([n / 2 for n in range(12)], abs=0.01)
    assert reds(frames) == pytest.approx([5 * n for n in range(12)], abs=1.5)


@pytest.mark.parametrize(
    ("options", "times_s"),
    [
        (VideoOptions(fps=1), [0, 1, 2, 3, 4, 5]),
        (VideoOptions(fps=0.1), [0]),
        (VideoOptions(max_frames=1), [0]),
        (VideoOptions(max_frames=3), [0, 2, 5]),
        (VideoOptions(fps=60, max_frames=2), [0, 5.6]),
    ],
)
def test_fewer_on_request(options: VideoOptions, times_s: list[float]) -> None:
    frames = sample(SIX_SECONDS, options, LIMITS, IMAGES)
    assert [frame.time_s for frame in frames] == pytest.approx(times_s, abs=0.51)
    assert len(frames) == len(times_s)


def test_never_more_than_the_server_allows() -> None:
    few = VideoLimits(max_frames=5)
    frames = sample(SIX_SECONDS, VideoOptions(fps=10, max_frames=1000), few, IMAGES)
    gaps_s = [b.time_s - a.time_s for a, b in itertools.pairwise(frames)]
    assert len(frames) == 5
    assert min(gaps_s) > 0.49 * max(gaps_s)
    assert frames[-1].time_s > 4


def test_large_frames_are_shrunk() -> None:
    (frame,) = sample(video(0.1, (1920, 1080)), VideoOptions(), LIMITS, IMAGES)
    width, height = Image.open(io.BytesIO(frame.png)).size
    assert 0.98 * LIMITS.max_frame_px < width * height <= LIMITS.max_frame_px
    assert width / height == pytest.approx(16 / 9, rel=0.01)


def test_too_much_to_decode_is_refused() -> None:
    little = VideoLimits(max_decoded_px=320 * 240 * 30)
    assert sample(video(3), VideoOptions(), little, IMAGES)
    with pytest.raises(ImageTooLarge):
        sample(video(3.1), VideoOptions(), little, IMAGES)
    with pytest.raises(ImageTooLarge):
        sample(SIX_SECONDS, VideoOptions(), LIMITS, ImageLimits(max_side_px=300))


PLAYLIST = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
)
BAD = {
    "empty": b"\0",
    "text": b"hello, this is no video",
    "a playlist": PLAYLIST,
    "a concatenation": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "cut before its index": SIX_SECONDS[: len(SIX_SECONDS) // 2],
    "only its beginning": SIX_SECONDS[:40],
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a playlist that says it is one": b"\0\0\0\x20ftypisom" + PLAYLIST,
}


@pytest.mark.parametrize("name", BAD)
def test_no_video(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        sample(BAD[name], VideoOptions(), LIMITS, IMAGES)
    assert "The video cannot be decoded." in str(caught.value)


@given(st.integers(0, 2**32), st.integers(1, 40), st.booleans())
@settings(
    max_examples=max(EXAMPLES // 4, 10), deadline=None, suppress_health_check=list(HealthCheck)
)
def test_damaged_videos(seed: int, damages: int, cut: bool) -> None:
    """They give frames or one of our errors."""
    rng = random.Random(seed)
    data = bytearray(SIX_SECONDS[: rng.randrange(40, len(SIX_SECONDS)) if cut else None])
    for _ in range(damages):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        assert 1 <= len(sample(bytes(data), VideoOptions(), LIMITS, IMAGES)) <= LIMITS.max_frames
    except BelvedereError as exc:
        assert isinstance(exc, ImageError)


def test_a_hundred_bad_videos_leave_nothing_behind() -> None:
    process = psutil.Process()

    def send_all() -> None:
        for data in BAD.values():
            with pytest.raises(ImageError):
                sample(data, VideoOptions(), LIMITS, IMAGES)

    send_all()
    used_bytes, descriptors, threads = (
        process.memory_info().rss,
        process.num_fds(),
        process.num_threads(),
    )
    for _ in range(13):
        send_all()
    assert process.memory_info().rss - used_bytes < 20 * 1024**2
    assert wait_until(lambda: process.num_fds() <= descriptors)
    assert wait_until(lambda: process.num_threads() <= threads)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=1)) as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine, model=GROUNDER, max_video_frames=6) as client:
        yield client


URL = "data:video/mp4;base64," + base64.b64encode(SIX_SECONDS).decode()


def ask(client: httpx2.Client, *parts: dict[str, Any]) -> httpx2.Response:
    content = [*parts, {"type": "text", "text": "What happens?"}]
    return client.post(CHAT, json={"messages": [{"role": "user", "content": content}]})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": URL}},
        {"type": "video_url", "video_url": URL},
        {"type": "video", "video": URL},
    ],
)
def test_the_engine_gets_frames_with_their_times(
    engine: FakeEngine, client: httpx2.Client, part: dict[str, Any]
) -> None:
    image = io.BytesIO()
    Image.new("RGB", (300, 300)).save(image, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
    response = ask(client, {**part, "fps": 0.5}, {"type": "image", "image": picture})
    assert response.status_code == 200, response.text
    *frames, last = response.json()["belvedere"]["images"]
    assert [frame["time_s"] for frame in frames] == [0.0, 2.0, 4.0]
    assert {tuple(frame["original_size"]) for frame in frames} == {(320, 240)}
    assert (last["original_size"], "time_s" in last) == ([300, 300], False)
    sent = engine.counters.requests[-1]["messages"][0]["content"]
    assert [piece["type"] for piece in sent] == ["text", "image_url"] * 3 + ["image_url", "text"]
    texts = [piece["text"] for piece in sent if piece["type"] == "text"]
    assert texts == ["<0.0 seconds>", "<2.0 seconds>", "<4.0 seconds>", "What happens?"]
    seen = client.get(f"/v1/media/{frames[1]['id']}/seen")
    assert seen.content == base64.b64decode(sent[3]["image_url"]["url"].partition(",")[2])


def test_limits_of_the_server_and_of_the_part(client: httpx2.Client) -> None:
    part = {"type": "video", "video": URL}
    assert len(ask(client, part).json()["belvedere"]["images"]) == 6
    (image,) = ask(client, {**part, "max_frames": 1, "min_pixels": 200_000}).json()["belvedere"][
        "images"
    ]
    assert image["seen_size"][0] * image["seen_size"][1] >= 200_000


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "video", "video": "data:video/mp4;base64,AAAA"}, "video"),
        ({"type": "video", "video": "data:video/mp4;base64,%"}, "video"),
        ({"type": "video", "video": "/etc/passwd"}, "video"),
        ({"type": "video_url", "video_url": {"url": "http://127.0.0.1:9/a.mp4"}}, "video_url"),
        ({"type": "video", "video": URL, "fps": 0}, "fps"),
        ({"type": "video", "video": URL, "max_frames": 0}, "max_frames"),
        ({"type": "video", "video": URL, "detail": "low"}, "detail"),
    ],
)
def test_bad_videos_are_refused_by_name(
    client: httpx2.Client, part: dict[str, Any], param: str
) -> None:
    response = ask(client, part)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == f"messages.0.content.0.{param}"


def test_without_the_extra_the_remedy_is_the_command() -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from belvedere.errors import MissingExtra\n"
        "from belvedere.images.limits import ImageLimits\n"
        "from belvedere.images.video import VideoLimits, VideoOptions, sample\n"
        "data = b'\\0\\0\\0\\x20ftypisom' + bytes(100)\n"
        "try:\n"
        "    sample(data, VideoOptions(), VideoLimits(), ImageLimits())\n"
        "except MissingExtra as exc:\n"
        "    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "belvedere[video]"' in done.stdout, done.stderr


def test_a_text_model_takes_no_video(engine: FakeEngine) -> None:
    with gateway_for(engine, model=Model("fake", 0, takes_images=False)) as client:
        response = ask(client, {"type": "video", "video": URL})
    assert response.status_code == 400
    assert "text only" in response.json()["error"]["message"]
