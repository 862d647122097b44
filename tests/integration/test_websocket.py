"""Chats over a WebSocket, with a client library that nobody here wrote."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until
from tests.integration.stepped import SteppedEngine

PATH = "/v1/chat/completions/ws"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
TIMEOUT_S = 60


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=3)) as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine) as client:
        yield client


def opened(client: httpx2.Client, path: str = PATH, **options: Any) -> ClientConnection:
    url = str(client.base_url).replace("http://", "ws://").rstrip("/")
    return connect(url + path, open_timeout=TIMEOUT_S, **options)


def ask(socket: ClientConnection, body: object) -> list[dict[str, Any]]:
    """Everything up to the end of the answer."""
    socket.send(body if isinstance(body, str | bytes) else json.dumps(body))
    return rest(socket)


def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    while not frames or not ({"error", "type"} & frames[-1].keys()):
        frames.append(json.loads(socket.recv(TIMEOUT_S)))
    return frames


def text_of(frames: list[dict[str, Any]]) -> str:
    choices = [choice for frame in frames for choice in frame.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("path", [PATH, "/api" + PATH])
def test_the_events_are_those_of_the_stream(client: httpx2.Client, path: str) -> None:
    streamed = client.post("/v1/chat/completions", json={**HELLO, "stream": True}).text
    expected = [
        json.loads(event.removeprefix("data: "))
        for event in streamed.split("\n\n")
        if event.startswith("data: {")
    ]
    with opened(client, path) as socket:
        assert ask(socket, HELLO) == [*expected, {"type": "done"}]


def test_several_requests_on_one_socket(engine: FakeEngine, client: httpx2.Client) -> None:
    with opened(client) as socket:
        for count in (1, 2, 3):
            frames = ask(socket, {**HELLO, "max_tokens": count})
            assert text_of(frames).split() == ["tok0", "tok1", "tok2"][:count]
            assert frames[-1] == {"type": "done"}
    assert [request["stream"] for request in engine.counters.requests] == [True] * 3


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ("{", None, None),
        ("[]", None, None),
        (b"\x00", None, None),
        ({**HELLO, "temperature": 9}, "temperature", None),
        ({**HELLO, "model": "other"}, "model", "model_not_found"),
        ({"messages": []}, "messages", None),
    ],
)
def test_a_wrong_request_is_an_error_in_openais_shape_and_the_socket_stays(
    client: httpx2.Client, body: object, param: str | None, code: str | None
) -> None:
    with opened(client) as socket:
        (frame,) = ask(socket, body)
        error = frame["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"], error["code"]) == (
            "invalid_request_error",
            param,
            code,
        )
        assert ask(socket, HELLO)[-1] == {"type": "done"}


def test_an_engine_that_dies_is_an_error_frame(engine: FakeEngine, client: httpx2.Client) -> None:
    engine.play(Script(tokens=5, fail="cut", fail_after=2))
    with opened(client) as socket:
        frames = ask(socket, HELLO)
    assert text_of(frames).split() == ["tok0", "tok1"]
    assert frames[-1]["error"]["code"] == "engine_error"


@pytest.mark.parametrize("ttft_s", [0.0, 30.0], ids=["while decoding", "in prefill"])
def test_cancelling_frees_the_engine_and_keeps_the_socket(
    engine: FakeEngine, client: httpx2.Client, ttft_s: float
) -> None:
    engine.play(Script(tokens=100_000, ttft_s=ttft_s, itl_s=0.01))
    with opened(client) as socket:
        socket.send(json.dumps(HELLO))
        assert wait_until(lambda: engine.counters.running == 1)
        socket.send(json.dumps({"type": "cancel"}))
        assert rest(socket)[-1] == {"type": "cancelled"}
        assert wait_until(lambda: engine.counters.cancelled == 1)
        assert engine.counters.running == 0
        assert ask(socket, HELLO)[-1] == {"type": "done"}
        socket.send(json.dumps({"type": "cancel"}))  # nothing runs: nothing is said
        assert text_of(ask(socket, HELLO)).split() == ["tok0", "tok1", "tok2"]


def test_a_second_request_at_once_is_refused_and_the_first_goes_on() -> None:
    with (
        SteppedEngine() as engine,
        gateway_for(engine) as client,  # type: ignore[arg-type]  # only its URL is used
        opened(client) as socket,
    ):
        engine.step(3)
        socket.send(json.dumps(HELLO))
        begun = [json.loads(socket.recv(TIMEOUT_S))]
        while "tok" not in text_of(begun):
            begun.append(json.loads(socket.recv(TIMEOUT_S)))
        frames = ask(socket, HELLO)
        assert frames[-1]["error"]["code"] == "request_running"
        engine.step(47)
        engine.finish()
        answer = text_of([*begun, *frames[:-1], *rest(socket)])
        assert answer.split() == [f"tok{n}" for n in range(50)]


@pytest.mark.parametrize("ttft_s", [0.0, 30.0], ids=["while decoding", "in prefill"])
def test_closing_the_socket_frees_the_engine_within_two_seconds(
    engine: FakeEngine, client: httpx2.Client, ttft_s: float
) -> None:
    engine.play(Script(tokens=100_000, ttft_s=ttft_s, itl_s=0.01))
    with opened(client) as socket:
        socket.send(json.dumps(HELLO))
        assert wait_until(lambda: engine.counters.running == 1)
    assert wait_until(lambda: engine.counters.running == 0)
    assert wait_until(lambda: client.get("/health").json()["replicas"][0]["in_flight"] == 0)


def test_clients_that_leave_at_any_moment_keep_no_lease(
    engine: FakeEngine, client: httpx2.Client
) -> None:
    """Also where the end of the socket is seen by its reader and its writer at once."""
    for turn in range(25):
        engine.play(Script(tokens=100_000, itl_s=0.01))
        with opened(client) as socket:
            socket.send(json.dumps(HELLO))
            assert wait_until(lambda turn=turn: engine.counters.received > turn)
            time.sleep(turn % 5 * 0.007)
    assert wait_until(lambda: engine.counters.running == 0)
    assert wait_until(lambda: client.get("/health").json()["replicas"][0]["in_flight"] == 0)


@contextmanager
def deaf(client: httpx2.Client) -> Iterator[socket.socket]:
    """An open WebSocket that nobody reads: client libraries read ahead."""
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=TIMEOUT_S) as sock:
        key = "AAAAAAAAAAAAAAAAAAAAAA=="
        head = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        head += f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        sock.sendall(f"{head}\r\n".encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        yield sock


def test_a_client_that_takes_nothing_is_dropped(engine: FakeEngine) -> None:
    flood = Script(tokens=1, token_bytes=100_000, fail="flood")
    with gateway_for(engine, slow_reader_timeout_s=0.5) as client:
        engine.play(flood)
        with deaf(client) as sock:
            sock.sendall(Frame(Opcode.TEXT, json.dumps(HELLO).encode()).serialize(mask=True))
            assert wait_until(lambda: engine.counters.cancelled == 1)
        assert engine.counters.running == 0
        with opened(client) as again:
            assert ask(again, HELLO)[-1] == {"type": "done"}


def key_protocol(key: str) -> str:
    return "belvedere.key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def test_the_key_is_checked_in_the_handshake(engine: FakeEngine) -> None:
    with gateway_for(engine, api_key="s3cret") as client:
        for refused in (
            {},
            {"additional_headers": {"authorization": "Bearer wrong"}},
            {"subprotocols": ["belvedere.chat", key_protocol("wrong")]},
            {"subprotocols": ["belvedere.chat", "belvedere.key.x"]},
        ):
            with pytest.raises(InvalidStatus) as caught:
                opened(client, **refused)
            response = caught.value.response
            assert response.status_code == 401
            assert json.loads(response.body or b"")["error"]["code"] == "invalid_api_key"
            assert response.headers["x-request-id"]
        with opened(client, additional_headers={"authorization": "Bearer s3cret"}) as socket:
            assert socket.subprotocol is None
            assert ask(socket, HELLO)[-1] == {"type": "done"}
        offered = ["belvedere.chat", key_protocol("s3cret")]
        with opened(client, subprotocols=offered) as socket:
            assert socket.subprotocol == "belvedere.chat"
            assert ask(socket, HELLO)[-1] == {"type": "done"}


def test_a_foreign_page_cannot_open_one(client: httpx2.Client) -> None:
    with pytest.raises(InvalidStatus) as caught:
        opened(client, origin="https://evil.example")
    assert caught.value.response.status_code == 403


def test_without_an_upgrade_the_path_says_what_it_speaks(client: httpx2.Client) -> None:
    response = client.get(PATH)
    assert (response.status_code, response.json()["error"]["code"]) == (426, "upgrade_required")


def test_the_handshake_carries_a_request_id(client: httpx2.Client) -> None:
    with opened(client, additional_headers={"x-request-id": "abc-1"}) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == "abc-1"
