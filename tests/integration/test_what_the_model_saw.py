"""The response says what the model saw, and its sender can look at exactly that."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageChops

from belvedere.catalog.models import CoordinateSpace
from belvedere.images.geometry import ImageGeometry
from belvedere.router.replica import Model
from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until

CHAT = "/v1/chat/completions"
GROUNDER = Model(
    name="fake",
    created_s=0,
    geometry=ImageGeometry(16, 2, 65_536, 512_000),
    coordinates=CoordinateSpace("relative", 999),
)
COLOUR = (0x33, 0x66, 0xCC)


def png(width: int, height: int, colour: tuple[int, int, int] = COLOUR) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), COLOUR).save(stream, "JPEG")
    return stream.getvalue()


def asking(*images: bytes, **more: object) -> dict[str, Any]:
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in images]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": parts}], **more}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def received(engine: FakeEngine) -> bytes:
    """The image of the last request, as the engine got it."""
    part = engine.counters.requests[-1]["messages"][-1]["content"][0]
    return base64.b64decode(part["image_url"]["url"].partition(",")[2])


def timing(response: httpx2.Response) -> dict[str, str]:
    parts = response.headers["server-timing"].split(", ")
    return dict(re.fullmatch(r"(\w+);(?:dur|desc)=\"?([\w. ]+)\"?", p).groups() for p in parts)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=3)) as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine, model=GROUNDER) as client:
        yield client


def ask(client: httpx2.Client, *images: bytes, **more: object) -> dict[str, Any]:
    """The block of one image."""
    response = client.post(CHAT, json=asking(*images), **more)
    assert response.status_code == 200, response.text
    (image,) = response.json()["belvedere"]["images"]
    return image


def test_the_contract(client: httpx2.Client) -> None:
    image = ask(client, png(1920, 1080))
    assert re.fullmatch("sha256:[0-9a-f]{64}", image.pop("id"))
    assert image == {
        "original_size": [1920, 1080],
        "seen_size": [928, 512],
        "tokens": 29 * 16,
        "transform": {"scale": [1920 / 928, 1080 / 512], "resample": "bicubic"},
        "coordinates": {"space": "relative", "max": 999},
        "warnings": [],
    }


def test_an_image_on_the_grid_is_not_resampled(client: httpx2.Client) -> None:
    assert ask(client, png(640, 480))["transform"] == {"scale": [1.0, 1.0], "resample": None}


def test_what_is_not_known_is_null(engine: FakeEngine) -> None:
    with gateway_for(engine) as client:
        image = ask(client, png(1920, 1080))
    unknown = ("seen_size", "tokens", "transform", "coordinates")
    assert [image[name] for name in unknown] == [None] * 4
    assert received(engine) == png(1920, 1080)


def test_the_last_event_of_a_stream_says_the_same(client: httpx2.Client) -> None:
    whole = client.post(CHAT, json=asking(png(800, 600))).json()["belvedere"]
    text = client.post(CHAT, json=asking(png(800, 600), stream=True)).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert [event.get("belvedere") for event in events] == [None] * (len(events) - 1) + [whole]


@pytest.mark.parametrize("data", [png(1920, 1080), jpeg(1920, 1080), png(640, 480)])
def test_seen_is_exactly_what_went_in(
    engine: FakeEngine, client: httpx2.Client, data: bytes
) -> None:
    image = ask(client, data)
    response = client.get(f"/v1/media/{image['id']}/seen")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.content == received(engine)
    assert list(Image.open(io.BytesIO(response.content)).size) == image["seen_size"]
    assert response.headers["cache-control"] == "private, no-store"


def test_of_an_unknown_processor_the_original_went_in(engine: FakeEngine) -> None:
    with gateway_for(engine) as client:
        response = client.get(f"/api/v1/media/{ask(client, jpeg(300, 200))['id']}/seen")
        marked = client.get(f"/v1/media/{ask(client, jpeg(300, 200))['id']}/seen?x=299.9&y=0")
    assert (response.content, response.headers["content-type"]) == (jpeg(300, 200), "image/jpeg")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert Image.open(io.BytesIO(marked.content)).size == (300, 200)


def test_the_point_is_drawn_where_the_model_saw_it(client: httpx2.Client) -> None:
    """x and y are pixels of the original; everything but the mark stays as it was."""
    image = ask(client, png(1920, 1080))
    plain = client.get(f"/v1/media/{image['id']}/seen")
    response = client.get(f"/v1/media/{image['id']}/seen", params={"x": 1000, "y": 400.5})
    before, after = (Image.open(io.BytesIO(one.content)) for one in (plain, response))
    assert after.size == (928, 512)
    left, top, right, bottom = ImageChops.difference(before, after).getbbox()
    assert (left + right) / 2 == pytest.approx(1000 * 928 / 1920, abs=1.5)
    assert (top + bottom) / 2 == pytest.approx(400.5 * 512 / 1080, abs=1.5)
    assert right - left < 60


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("x=5", "y"), ("y=5", "x"), ("x=-1&y=5", "x"), ("x=200&y=5", "x"), ("x=5&y=120", "y"),
        ("x=nan&y=5", "x"), ("x=5&y=inf", "y"), ("x=left&y=5", "x"), ("x=&y=5", "x"),
        ("x=5&x=6&y=5", "x"), ("x=5&y=5&z=5", "z"), ("size=9", "size"),
    ],
)  # fmt: skip
def test_points_that_are_none_are_refused(client: httpx2.Client, query: str, param: str) -> None:
    image = ask(client, png(200, 120))
    response = client.get(f"/v1/media/{image['id']}/seen?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param
    assert client.get(f"/v1/media/{image['id']}/seen?x=199.9&y=0").status_code == 200


def test_only_its_sender_sees_it(client: httpx2.Client) -> None:
    """Everybody else reads what somebody reads who guessed."""
    image = ask(client, png(300, 200), headers=bearer("mine"))
    path = f"/v1/media/{image['id']}/seen"
    assert client.get(path, headers=bearer("mine")).status_code == 200
    answers = [
        client.get(path, headers=bearer("other")),
        client.get(path),
        client.get(path + "?x=1&y=1", headers=bearer("other")),
        client.get(path + "?x=-1", headers=bearer("other")),
        client.get(f"/v1/media/sha256:{'0' * 64}/seen", headers=bearer("mine")),
        client.get("/v1/media/..%2F..%2Fetc/seen", headers=bearer("mine")),
        client.get("/v1/media/x/seen"),
    ]
    assert {answer.status_code for answer in answers} == {404}
    bodies = {answer.text for answer in answers[:5] + answers[6:]}
    assert len(bodies) == 1
    assert json.loads(bodies.pop())["error"]["code"] == "media_not_found"


def test_a_wrong_key_is_a_401(engine: FakeEngine) -> None:
    with gateway_for(engine, model=GROUNDER, api_key="s3cret") as client:
        image = ask(client, png(300, 200), headers=bearer("s3cret"))
        path = f"/v1/media/{image['id']}/seen"
        assert client.get(path, headers=bearer("s3cret")).status_code == 200
        for headers in ({}, bearer("wrong")):
            response = client.get(path, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"


def test_it_is_kept_for_a_time_and_within_bounds(engine: FakeEngine) -> None:
    with gateway_for(engine, model=GROUNDER, media_ttl_s=6.0) as client:
        path = f"/v1/media/{ask(client, png(300, 200))['id']}/seen"
        assert client.get(path).status_code == 200
        assert wait_until(lambda: client.get(path).status_code == 404)
    with gateway_for(engine, model=GROUNDER, media_bytes=0) as client:
        assert client.get(f"/v1/media/{ask(client, png(300, 200))['id']}/seen").status_code == 404


def test_it_can_be_looked_at_although_the_engine_failed(
    engine: FakeEngine, client: httpx2.Client
) -> None:
    path = f"/v1/media/{ask(client, png(300, 200))['id']}/seen"
    engine.play(Script(fail="error"))
    assert client.post(CHAT, json=asking(png(310, 200))).status_code == 502
    assert client.get(path).status_code == 200


def test_server_timing_says_where_the_time_went(client: httpx2.Client) -> None:
    stream = io.BytesIO()
    Image.effect_noise((1600, 1200), 60).save(stream, "PNG")
    large = asking(stream.getvalue())
    first, again = (timing(client.post(CHAT, json=large)) for _ in range(2))
    names = ["fetch", "hash", "wait", "decode", "resize", "encode", "cache", "queue", "engine"]
    assert list(first) == list(again) == names
    assert all(float(first[name]) > 0 for name in ("fetch", "hash", "decode", "resize", "encode"))
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert [float(again[name]) for name in ("wait", "decode", "resize", "encode")] == [0.0] * 4


def test_server_timing_of_several_images_and_of_none(client: httpx2.Client) -> None:
    client.post(CHAT, json=asking(png(300, 200)))
    both = client.post(CHAT, json=asking(png(300, 200), png(400, 200)))
    assert timing(both)["cache"] == "1 of 2 hit"
    text = client.post(CHAT, json={"messages": [{"role": "user", "content": "Hello"}]})
    assert list(timing(text)) == ["queue", "engine"]


def test_server_timing_counts_the_engine(engine: FakeEngine, client: httpx2.Client) -> None:
    """Of a stream until its first event, of a whole answer until its end."""
    engine.play(Script(tokens=3, itl_s=0.1), Script(tokens=2, itl_s=600.0))
    whole = client.post(CHAT, json=asking(png(300, 200)))
    with client.stream("POST", CHAT, json=asking(png(300, 200), stream=True)) as stream:
        assert 0 < float(timing(stream)["engine"]) < 60_000
    assert float(timing(whole)["engine"]) >= 200


def test_no_cache_means_no_hit(engine: FakeEngine) -> None:
    with gateway_for(engine, model=GROUNDER, image_cache_bytes=0) as client:
        answers = [client.post(CHAT, json=asking(png(300, 200))) for _ in range(2)]
    assert [timing(answer)["cache"] for answer in answers] == ["miss", "miss"]
