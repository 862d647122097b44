"""Streams that wait long for their first token, and readers that stop reading."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from belvedere.testing import FakeEngine, Script, SleepScript
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until
from tests.integration.stepped import SteppedEngine, held

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
ROUTES = [
    (CHAT, HELLO),
    ("/v1/completions", {"prompt": "Hello", "stream": True}),
    ("/api/v1/inference/generate", {"prompt": "Hello", "stream": True}),
]
COMMENT = ": keep-alive"


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=3), sleep=SleepScript(sleep_mode=True)) as engine:
        yield engine


def text_in(stream: str) -> str:
    said = ""
    for event in stream.split("\n\n"):
        if not event.startswith("data: {"):
            continue
        body = json.loads(event.removeprefix("data: "))
        for choice in body.get("choices", [{"text": body.get("text", "")}]):
            said += choice.get("text", "") or choice.get("delta", {}).get("content", "") or ""
    return said


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_long_prefill_is_bridged_with_comments(
    engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    with (
        gateway_for(engine, keepalive_s=0.2) as client,
        held(engine) as release,
        client.stream("POST", path, json=body) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        said = [next(line for line in lines if line) for _ in range(2)]
        assert said == [COMMENT, COMMENT]
        release()
        text = "\n".join(lines).strip()
    assert text_in(text).split() == ["tok0", "tok1", "tok2"]


def test_pauses_between_tokens_are_bridged_too() -> None:
    with (
        SteppedEngine() as engine,
        gateway_for(engine, keepalive_s=0.3) as client,  # type: ignore[arg-type]  # only its URL
    ):
        engine.step()
        with client.stream("POST", CHAT, json=HELLO) as response:
            lines = response.iter_lines()
            assert any("tok0" in line for line in lines)
            assert COMMENT in lines
            engine.step()
            engine.finish()
            assert any("tok1" in line for line in lines)


def test_a_quick_stream_has_no_comments(engine: FakeEngine) -> None:
    with gateway_for(engine) as client:
        assert COMMENT not in client.post(CHAT, json=HELLO).text


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_failure_after_the_first_comment_is_an_event(
    engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    engine.play(Script(ttft_s=0.0, fail="hang"))
    with gateway_for(engine, keepalive_s=0.2, first_token_timeout_s=1.5) as client:
        response = client.post(path, json=body)
    assert response.status_code == 200
    *_, last, end = response.text.split("\n\n")
    assert end == ""
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_timeout"
    assert "[DONE]" not in response.text


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_what_is_wrong_before_that_is_an_ordinary_error(
    engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    with gateway_for(engine, keepalive_s=60.0) as client:
        engine.play(Script(fail="refuse"))
        response = client.post(path, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
        response = client.post(path, json={**body, "temperature": 9})
        assert response.json()["error"]["param"] == "temperature"


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_client_that_leaves_during_the_comments_frees_the_engine(
    engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    engine.play(Script(tokens=1, ttft_s=60.0))
    with gateway_for(engine, keepalive_s=0.1) as client:
        with client.stream("POST", path, json=body) as response:
            lines = response.iter_lines()  # held: httpx closes the stream with its iterator
            assert next(lines) == COMMENT
            assert wait_until(lambda: engine.counters.running == 1)
        assert wait_until(lambda: engine.counters.running == 0)
        assert wait_until(lambda: client.get("/health").json()["replicas"][0]["in_flight"] == 0)


@contextmanager
def deaf_reader(client: httpx2.Client, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """Sends a request and never reads."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as deaf:
        deaf.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield deaf


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_reader_that_takes_nothing_is_dropped(
    engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    engine.play(Script(tokens=1, token_bytes=100_000, fail="flood"))
    with gateway_for(engine, slow_reader_timeout_s=0.6) as client:
        with deaf_reader(client, path, body) as deaf:
            assert wait_until(lambda: engine.counters.cancelled == 1)
            assert engine.counters.running == 0
            assert wait_until(lambda: ended(deaf))
        assert client.post(CHAT, json=HELLO).status_code == 200


def ended(deaf: socket.socket) -> bool:
    """Whether the server has let go of the connection: after its bytes comes an end."""
    deaf.settimeout(0.2)
    try:
        while deaf.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_a_slow_reader_that_goes_on_reading_is_kept(engine: FakeEngine) -> None:
    """It gets everything, however long it takes altogether."""
    engine.play(Script(tokens=120, token_bytes=100_000))
    timeout_s = 5.0
    with gateway_for(engine, slow_reader_timeout_s=timeout_s) as client:
        with deaf_reader(client, CHAT, HELLO) as slow:
            received = b""
            slow.settimeout(60)
            while b"[DONE]" not in received[-100:]:
                piece = slow.recv(1 << 18)
                assert piece, "it was dropped"
                received += piece
                time.sleep(1.2 * timeout_s * len(piece) / 12_000_000)
        assert received.count(b"tok") == 120
    assert engine.counters.finished == 1


def test_generate_streams_the_shapes_of_its_document(engine: FakeEngine) -> None:
    engine.play(Script(tokens=2))
    with gateway_for(engine) as client:
        text = client.post("/api/v1/inference/generate", json=ROUTES[2][1]).text
    assert text == (
        'data: {"text": "tok0 ", "finish_reason": null}\n\n'
        'data: {"text": "tok1 ", "finish_reason": null}\n\n'
        'data: {"text": "", "finish_reason": "stop"}\n\n'
    )
