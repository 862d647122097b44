"""A video on vLLM: the model gets the frames that are reported, and is told the times of steps."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere.engines.devices import Devices
from belvedere.engines.local_spec import mini_folder
from belvedere.engines.vllm_build import VllmPython
from belvedere.engines.vllm_launch import plan_launch
from belvedere.images.geometry import ProcessorGeometry
from belvedere.plan.budget import limited_geometry
from belvedere.plan.vision import largest_video_tokens
from belvedere.settings import Settings
from tests.integration.serving import RunningServer
from tests.integration.test_videos import video

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

IMAGE_TOKEN, VIDEO_TOKEN = 1251, 1252
URL = "data:video/mp4;base64," + base64.b64encode(video(6)).decode()
STILL = "data:video/mp4;base64," + base64.b64encode(video(0.1)).decode()


@pytest.fixture(scope="module")
def http(vllm: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=vllm.url, timeout=120) as http:
        yield http


def ask(http: httpx2.Client, *parts: dict[str, Any]) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "What happens?"}]
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 2,
        "temperature": 0,
        "return_token_ids": True,
    }
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def told(http: httpx2.Client, answer: dict[str, Any]) -> list[str]:
    """The seconds that stand in the prompt, in its order."""
    prompt = http.post("/detokenize", json={"tokens": answer["prompt_token_ids"]}).json()["prompt"]
    return re.findall(r"<([0-9.]+) seconds>", prompt)


@pytest.mark.parametrize(
    ("options", "times_s", "told_s"),
    [
        ({}, [n / 2 for n in range(12)], ["0.2", "1.2", "2.2", "3.2", "4.2", "5.2"]),
        ({"fps": 1.0}, [0, 1, 2, 3, 4, 5], ["0.5", "2.5", "4.5"]),
        ({"fps": 1.0, "max_frames": 3}, [0, 2, 5], ["1.0", "5.0"]),
    ],
    ids=["two a second", "one a second", "an odd number"],
)
def test_a_video_goes_as_one(
    http: httpx2.Client, options: dict[str, Any], times_s: list[float], told_s: list[str]
) -> None:
    answer = ask(http, {"type": "video_url", "video_url": {"url": URL}, **options})
    frames = answer["belvedere"]["images"]
    assert [frame["time_s"] for frame in frames] == pytest.approx(times_s, abs=0.01)
    assert {tuple(frame["original_size"]) for frame in frames} == {(320, 240)}
    assert len({tuple(frame["seen_size"]) for frame in frames}) == 1
    ids = answer["prompt_token_ids"]
    assert ids.count(IMAGE_TOKEN) == 0
    assert ids.count(VIDEO_TOKEN) == sum(frame["tokens"] for frame in frames)
    assert told(http, answer) == told_s
    assert [f"{frame['step_s']:.1f}" for frame in frames[::2]] == told_s


def test_vllm_counts_the_largest_video_as_planned() -> None:
    """In its own code, from the flags that it is started with."""
    python = os.environ["BELVEDERE_VLLM_PYTHON"]
    engine = VllmPython(Path(python), "0.32.0", "cpu")
    launch = plan_launch(mini_folder(), Settings(engine="vllm"), engine, (Devices(),), (), {})
    smaller = launch.changed({"max_clip_pixels": 300_000}, "a smaller clip")
    argv = ["vllm", "serve", str(mini_folder()), *smaller.flags()]
    done = subprocess.run(
        [python, "tests/integration/vllm_probe.py"],
        input=json.dumps({"shipped model": argv}),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
        check=True,
    )
    counted = json.loads(done.stdout.splitlines()[-1])["shipped model"]["encoder"]
    geometry = ProcessorGeometry.from_folder(mini_folder())
    limited = limited_geometry(geometry, smaller.plan.settings)
    assert counted["largest"]["video"] == largest_video_tokens(limited, 16384) == 146
    assert counted["budget"] == smaller.plan.settings.max_num_batched_tokens


def test_the_frames_are_kept_as_the_model_saw_them(http: httpx2.Client) -> None:
    frames = ask(http, {"type": "video", "video": URL, "fps": 1.0})["belvedere"]["images"]
    seen = http.get(f"/v1/media/{frames[3]['id']}/seen")
    assert seen.status_code == 200
    assert seen.headers["content-type"] == "image/png"


def test_the_same_frames_at_other_times_are_another_video(http: httpx2.Client) -> None:
    """vLLM keeps processed videos: what it is told of times has to count."""
    whole = base64.b64decode(URL.partition(",")[2])
    assert whole.count(b"mvhd") == 1
    at = whole.index(b"mvhd")
    scale = at + 4 + 12
    slow = bytearray(whole)
    track = whole.index(b"mdhd") + 4 + 12
    for place in (scale, track):
        rate = int.from_bytes(slow[place : place + 4], "big")
        slow[place : place + 4] = (rate // 2).to_bytes(4, "big")
    url = "data:video/mp4;base64," + base64.b64encode(bytes(slow)).decode()
    fast = ask(http, {"type": "video", "video": URL, "fps": 1.0})
    slowly = ask(http, {"type": "video", "video": url, "fps": 0.5})
    ids = [[frame["id"] for frame in one["belvedere"]["images"]] for one in (fast, slowly)]
    assert ids[0] == ids[1]
    assert told(http, fast) == ["0.5", "2.5", "4.5"]
    assert told(http, slowly) == ["1.0", "5.0", "9.0"]


def test_a_still_and_several_videos_go_as_images(http: httpx2.Client) -> None:
    still = ask(http, {"type": "video", "video": STILL})
    assert still["prompt_token_ids"].count(VIDEO_TOKEN) == 0
    (frame,) = still["belvedere"]["images"]
    assert "step_s" not in frame
    part = {"type": "video", "video": URL, "max_frames": 2}
    two = ask(http, part, part)
    assert two["prompt_token_ids"].count(VIDEO_TOKEN) == 0
    frames = two["belvedere"]["images"]
    assert len(frames) == 4
    ids = two["prompt_token_ids"]
    assert ids.count(IMAGE_TOKEN) == sum(frame["tokens"] for frame in frames)


def test_an_image_beside_a_video(http: httpx2.Client) -> None:
    image = {"type": "video", "video": URL, "fps": 0.5}
    file = http.get(f"/v1/media/{ask(http, image)['belvedere']['images'][0]['id']}/seen").content
    url = "data:image/png;base64," + base64.b64encode(file).decode()
    answer = ask(http, {"type": "image", "image": url}, image)
    first, *frames = answer["belvedere"]["images"]
    assert "time_s" not in first
    assert answer["prompt_token_ids"].count(IMAGE_TOKEN) == first["tokens"]
    assert answer["prompt_token_ids"].count(VIDEO_TOKEN) == sum(f["tokens"] for f in frames)
