"""Routes beside the chat, with scripted engines and servers of other shapes."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from belvedere.engines.local_spec import LOCAL_FEATURES
from belvedere.gateway.server import bind
from belvedere.router.replica import Model
from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until

GENERATE = "/api/v1/inference/generate"


def png_url(width: int = 64, height: int = 32) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "#3366cc").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=3)) as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine) as client:
        yield client


class Recorder:
    """A server of somebody else's, with the routes that vLLM has; it keeps what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: dict[str, list[dict[str, Any]]] = {}

    async def _take(self, request: Request) -> JSONResponse:
        body = await request.json()
        path = request.url.path
        self.bodies.setdefault(path, []).append(body)
        if path == "/tokenize":
            return JSONResponse({"count": 5, "max_model_len": 99, "tokens": [3, 1, 4, 1, 5]})
        if path == "/detokenize":
            return JSONResponse({"prompt": f"text of {body['tokens']}"})
        return JSONResponse({"object": "list", "data": [{"embedding": [0.5]}]})

    @contextmanager
    def running(self) -> Iterator[Recorder]:
        paths = ("/tokenize", "/detokenize", "/v1/embeddings", "/v1/responses")
        app = Starlette(routes=[Route(path, self._take, methods=["POST"]) for path in paths])
        sock = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=lambda: server.run(sockets=[sock]))
        thread.start()
        try:
            assert wait_until(lambda: server.started)
            yield self
        finally:
            server.should_exit = True
            thread.join(20)
            sock.close()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder().running() as recorder:
        yield recorder


@pytest.mark.parametrize("path", ["/v1/completions", "/api/v1/completions"])
def test_completions_are_openais(engine: FakeEngine, client: httpx2.Client, path: str) -> None:
    answer = client.post(path, json={"prompt": "Once", "max_tokens": 2}).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"].split() == ["tok0", "tok1"]
    assert "belvedere" not in answer
    assert engine.counters.requests[0] == {"model": "fake", "prompt": "Once", "max_tokens": 2}


def test_a_streamed_completion_passes_untouched(engine: FakeEngine, client: httpx2.Client) -> None:
    body = {"prompt": "Once", "stream": True}
    direct = httpx2.post(engine.url + "/v1/completions", json=body).text
    assert client.post("/v1/completions", json=body).text == direct


def test_an_engine_without_completions_says_so(engine: FakeEngine) -> None:
    model = Model("fake", 0, features=LOCAL_FEATURES - {"/v1/completions", "/tokenize"})
    with gateway_for(engine, model=model) as client:
        for path in ("/tokenize", "/v1/responses", "/v1/embeddings"):
            response = client.post(path, json={"prompt": "x"})
            assert response.status_code == 501
            assert response.json()["error"]["code"] == "not_supported"
            assert path in response.json()["error"]["message"]
    assert not engine.counters.requests


def test_generate_is_a_turn_of_a_user(engine: FakeEngine, client: httpx2.Client) -> None:
    wish = {"max_tokens": 2, "temperature": 0.7, "top_p": 0.9, "stream": False}
    response = client.post(GENERATE, json={"prompt": "Once", **wish})
    assert response.headers["server-timing"]
    answer = response.json()
    assert set(answer) == {"text", "usage"}
    assert answer["text"].split() == ["tok0", "tok1"]
    assert answer["usage"]["completion_tokens"] == 2
    messages = [{"role": "user", "content": "Once"}]
    assert engine.counters.requests[0] == {"model": "fake", "messages": messages, **wish}


def test_generate_takes_images_through_the_pipeline(
    engine: FakeEngine, client: httpx2.Client
) -> None:
    body = {"prompt": "What?", "images": [png_url(), png_url(32, 64)]}
    answer = client.post(GENERATE, json=body).json()
    sizes = [image["original_size"] for image in answer["belvedere"]["images"]]
    assert sizes == [[64, 32], [32, 64]]
    (message,) = engine.counters.requests[0]["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": ""}, "prompt", None),
        ({"prompt": None}, "prompt", None),
        ({"images": "x"}, "images", None),
        ({"images": ["data:image/png;base64,%%"]}, None, "invalid_base64_image"),
        ({"images": ["http://127.0.0.1/x.png"]}, None, "invalid_image_url"),
        ({"images": [png_url()] * 11}, "messages", None),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"top_k": -2}, "top_k", None),
        ({"messages": []}, "messages", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_generate_refuses_what_is_wrong_before_anything_is_streamed(
    engine: FakeEngine,
    client: httpx2.Client,
    change: dict[str, Any],
    param: str | None,
    code: str | None,
    stream: bool,
) -> None:
    response = client.post(GENERATE, json={"prompt": "x", "stream": stream, **change})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == code
    assert param is None or error["param"] == param
    assert not engine.counters.requests


def test_an_error_in_a_generate_stream_is_an_event(
    engine: FakeEngine, client: httpx2.Client
) -> None:
    engine.play(Script(tokens=5, fail="cut", fail_after=1))
    text = client.post(GENERATE, json={"prompt": "x", "stream": True}).text
    events = [json.loads(event[6:]) for event in text.split("\n\n") if event]
    assert events[0] == {"text": "tok0 ", "finish_reason": None}
    assert events[-1]["error"]["code"] == "engine_error"


def test_a_template_of_an_engine_like_vllm(recorder: Recorder) -> None:
    content = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": png_url()}},
    ]
    messages = [{"role": "user", "content": content}]
    kwargs = {"enable_thinking": False}
    with gateway_for(recorder) as client:  # type: ignore[arg-type]  # only its URL is used
        response = client.post(
            "/v1/apply_template", json={"messages": messages, "chat_template_kwargs": kwargs}
        )
    answer = response.json()
    assert (answer["prompt"], answer["prompt_tokens"]) == ("text of [3, 1, 4, 1, 5]", 5)
    assert answer["max_model_len"] == 99
    assert answer["belvedere"]["images"][0]["original_size"] == [64, 32]
    (asked,) = recorder.bodies["/tokenize"]
    assert asked["chat_template_kwargs"] == kwargs
    assert asked["add_generation_prompt"] is True
    assert asked["model"] == "fake"


def test_a_template_of_an_engine_that_cannot_is_501(client: httpx2.Client) -> None:
    response = client.post(
        "/v1/apply_template", json={"messages": [{"role": "user", "content": "x"}]}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (501, "not_supported")


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "messages"), ({"messages": []}, "messages"), ({"chat_template": "x"}, "chat_template")],
)
def test_templates_of_clients_are_never_taken(
    client: httpx2.Client, body: dict[str, Any], param: str
) -> None:
    messages = {"messages": [{"role": "user", "content": "x"}]} if "chat_template" in body else {}
    response = client.post("/v1/apply_template", json={**messages, **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_named_routes_go_through(recorder: Recorder) -> None:
    with gateway_for(recorder) as client:  # type: ignore[arg-type]  # only its URL is used
        answer = client.post("/v1/embeddings", json={"input": ["a"], "dimensions": 3}).json()
        assert answer["data"] == [{"embedding": [0.5]}]
        client.post("/v1/responses", json={"input": "x", "store": False, "model": "fake"})
        tokens = client.post("/tokenize", json={"prompt": "x", "add_special_tokens": False})
    assert recorder.bodies["/v1/embeddings"] == [{"input": ["a"], "dimensions": 3, "model": "fake"}]
    assert recorder.bodies["/v1/responses"] == [{"input": "x", "store": False, "model": "fake"}]
    assert tokens.json()["tokens"] == [3, 1, 4, 1, 5]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/rerank", "/detokenize"])
def test_a_route_that_a_remote_engine_lacks_is_501(client: httpx2.Client, path: str) -> None:
    response = client.post(path, json={"input": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (501, "not_supported")
    assert response.headers["x-request-id"]


def test_images_of_named_routes_are_made_into_data(recorder: Recorder) -> None:
    part = {"type": "input_image", "image_url": png_url(), "detail": "low"}
    chat = {"type": "image_url", "image_url": {"url": png_url()}}
    own = {"type": "image", "image": png_url()}
    tool = {"type": "function", "parameters": {"properties": {"file_url": {"type": "string"}}}}
    body = {"input": [{"role": "user", "content": [part, chat, own]}], "tools": [tool]}
    with gateway_for(recorder) as client:  # type: ignore[arg-type]  # only its URL is used
        assert client.post("/v1/responses", json=body).status_code == 200
    (received,) = recorder.bodies["/v1/responses"]
    first, second, third = received["input"][0]["content"]
    assert first["image_url"].startswith("data:image/png;base64,")
    assert second["image_url"]["url"].startswith("data:image/png;base64,")
    assert third["image"].startswith("data:image/png;base64,")
    assert received["tools"] == [tool]


LOOPBACK = "http://127.0.0.1:9/x.png"
METADATA = "http://169.254.169.254/"
FETCHES: list[tuple[dict[str, Any], str]] = [
    ({"input": [{"type": "input_image", "image_url": LOOPBACK}]}, "input.0.image_url"),
    ({"messages": [{"content": [{"image_url": {"url": METADATA}}]}]}, "messages.0.content.0"),
    ({"input": [{"type": "input_file", "file_url": METADATA}]}, "input.0.file_url"),
    ({"tools": [{"type": "mcp", "server_url": METADATA}]}, "tools.0.server_url"),
    ({"messages": [{"content": [{"video_url": {"url": METADATA}}]}]}, "messages.0.content.0"),
    ({"messages": [{"content": [{"audio_url": METADATA}]}]}, "messages.0.content.0.audio_url"),
    ({"messages": [{"content": [{"type": "video", "video": METADATA}]}]}, "messages.0.content.0"),
    ({"input": [{"type": "input_image", "image_url": None, "uuid": "a"}]}, "input.0.uuid"),
    (
        {"messages": [{"content": [{"image_embeds": None, "uuid": "a"}]}]},
        "messages.0.content.0.uuid",
    ),
    ({"prompt": "x", "chat_template": "{{ 1 }}"}, "chat_template"),
    ({"prompt": "x", "prompt_embeds": "AA=="}, "prompt_embeds"),
    ({"prompt": "x", "mm_processor_kwargs": {}}, "mm_processor_kwargs"),
    ({"prompt": "x", "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x"),
    ({"prompt": "x", "model": 5}, "model"),
    ({"prompt": "x", "stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("body", "param"), FETCHES)
@pytest.mark.parametrize("path", ["/v1/responses", "/tokenize"])
def test_engines_are_given_nothing_to_fetch_or_to_run(
    recorder: Recorder, path: str, body: dict[str, Any], param: str
) -> None:
    with gateway_for(recorder) as client:  # type: ignore[arg-type]  # only its URL is used
        response = client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)
    assert not recorder.bodies


def test_every_route_is_published(client: httpx2.Client) -> None:
    published = client.get("/openapi.json").json()["paths"]
    for path in (
        "/v1/chat/completions",
        "/v1/chat/completions/ws",
        "/v1/completions",
        "/v1/apply_template",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/responses",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        GENERATE,
        "/api/v1/inference/load",
        "/api/v1/inference/status",
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
    ):
        assert path in published, path


def test_startup_is_over_once_a_model_was_ready(engine: FakeEngine) -> None:
    with gateway_for(engine) as client:
        assert client.get("/health/startup").json() == {"status": "ok"}


def test_an_unexpected_failure_has_our_shape_and_an_id(client: httpx2.Client) -> None:
    """A path that is no UTF-8 and other oddities never reach the client as plain text."""
    for path in ("/%ff%fe", "/v1/models/%00", "/" + "a" * 5000):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"]["message"]
        assert response.headers["x-request-id"]
