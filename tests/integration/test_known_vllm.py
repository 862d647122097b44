"""What an engine that is known to be vLLM is asked: videos as such, strict tools."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from belvedere.images.geometry import ImageGeometry, VideoGeometry
from belvedere.router.replica import Model
from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for

pytest.importorskip("av")
from tests.integration.test_videos import URL

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
VLLM = Model(
    "fake",
    0,
    ImageGeometry(16, 2, 65_536, 512_000),
    video=VideoGeometry(16, 2, 2, 4096, 486_400, "clip"),
    is_vllm=True,
)
TOOL = {"type": "function", "function": {"name": "click", "parameters": {"type": "object"}}}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=1)) as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine, model=VLLM, max_video_frames=6) as client:
        yield client


def ask(client: httpx2.Client, *parts: dict[str, Any]) -> httpx2.Response:
    content = [*parts, {"type": "text", "text": "What happens?"}]
    return client.post(CHAT, json={"messages": [{"role": "user", "content": content}]})


def test_a_video_is_one_part_and_its_times_stand_beside_the_messages(
    engine: FakeEngine, client: httpx2.Client
) -> None:
    response = ask(client, {"type": "video", "video": URL, "fps": 0.5})
    assert response.status_code == 200, response.text
    frames = response.json()["belvedere"]["images"]
    assert [(frame["time_s"], frame["step_s"]) for frame in frames] == [(0, 1), (2, 1), (4, 4)]
    tokens = frames[0]["tokens"]
    assert [frame["tokens"] for frame in frames] == [tokens, 0, tokens]
    sent = engine.counters.requests[-1]
    video, text = sent["messages"][0]["content"]
    assert (video["type"], text["type"]) == ("video_url", "text")
    head, *files = video["video_url"]["url"].split(",")
    assert head == "data:video/jpeg;base64"
    images = [Image.open(io.BytesIO(base64.b64decode(file))) for file in files]
    assert {(image.format, image.size) for image in images} == {
        ("PNG", tuple(frames[0]["seen_size"]))
    }
    reds = [image.convert("RGB").getpixel((5, 5))[0] / 4 for image in images]  # type: ignore[index]  # RGB
    assert reds == pytest.approx([0, 20, 40], abs=1.5)
    assert sent["media_io_kwargs"] == {
        "video": {
            "num_frames": 3,
            "fps": 1000,
            "frames_indices": [0, 2000, 4000],
            "total_num_frames": 4001,
            "do_sample_frames": False,
        }
    }
    seen = client.get(f"/v1/media/{frames[1]['id']}/seen")
    assert seen.content == base64.b64decode(files[1])


def test_what_cannot_be_told_as_a_video_goes_as_images(
    engine: FakeEngine, client: httpx2.Client
) -> None:
    for parts in (
        [{"type": "video", "video": URL, "max_frames": 2}] * 2,
        [{"type": "video", "video": URL, "max_frames": 1}],
    ):
        assert ask(client, *parts).status_code == 200
        sent = engine.counters.requests[-1]
        assert "media_io_kwargs" not in sent
        kinds = {part["type"] for part in sent["messages"][0]["content"]}
        assert kinds == {"text", "image_url"}


def test_bounds_that_leave_no_size_are_refused_by_name(client: httpx2.Client) -> None:
    response = ask(client, {"type": "video", "video": URL, "min_pixels": 400_000})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages.0.content.0.video"


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": HELLO}), ("/tokenize", {"messages": HELLO})]
)
def test_clients_say_nothing_about_how_media_are_read(
    client: httpx2.Client, path: str, body: dict[str, Any]
) -> None:
    response = client.post(path, json={**body, "media_io_kwargs": {"video": {"fps": 1}}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "media_io_kwargs"


@pytest.mark.parametrize(
    ("choice", "given", "strict"),
    [
        ("required", {}, True),
        ({"type": "function", "function": {"name": "click"}}, {}, True),
        ("required", {"strict": False}, False),
        ("auto", {}, None),
        (None, {}, None),
    ],
)
def test_calls_that_must_be_made_are_held_to_their_schema(
    engine: FakeEngine,
    client: httpx2.Client,
    choice: Any,
    given: dict[str, bool],
    strict: bool | None,
) -> None:
    tool = {**TOOL, "function": {**TOOL["function"], **given}}  # type: ignore[dict-item]  # a dict
    body = {"messages": HELLO, "tools": [tool], "tool_choice": choice}
    assert client.post(CHAT, json=body).status_code == 200
    (sent,) = engine.counters.requests[-1]["tools"]
    assert sent["function"].get("strict") is strict


def test_what_vllm_would_ignore_is_refused(client: httpx2.Client) -> None:
    response = client.post("/v1/completions", json={"prompt": "a", "best_of": 2})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "best_of"
