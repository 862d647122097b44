"""An engine that fails in a stream says so in an event: clients get our error, not its words."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx2
import pytest

from belvedere.testing import FakeEngine
from tests.integration.scripted import gateway_for

BODY = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
WORD = {"choices": [{"index": 0, "delta": {"content": 'an "error"'}, "finish_reason": None}]}


@dataclass
class Canned:
    """An engine that answers everything with the same events."""

    url: str


@contextmanager
def saying(*events: Any) -> Iterator[FakeEngine]:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    body = "".join(f"data: {line}\n\n" for line in lines).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(head + body)
            except OSError:
                return

        thread = threading.Thread(target=answer)
        thread.start()
        yield cast(FakeEngine, Canned(f"http://127.0.0.1:{server.getsockname()[1]}"))
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def failure(code: object, message: str = "Traceback /srv/x.py") -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": code}}


def streamed(response: httpx2.Response) -> list[str]:
    return [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("error", [failure(500), {"error": "Traceback /srv/x.py"}])
def test_in_mid_stream_it_is_the_last_event(error: dict[str, Any]) -> None:
    with saying(WORD, error, "[DONE]") as engine, gateway_for(engine) as client:
        first, last = streamed(client.post("/v1/chat/completions", json=BODY))
    assert json.loads(first) == WORD
    shown = json.loads(last)["error"]
    assert (shown["type"], shown["code"]) == ("server_error", "engine_error")
    assert "srv" not in shown["message"]


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (failure(500), 502, "engine_error", "The engine failed on this request."),
        (failure(400, "n must be 1 (parameter=n)"), 400, None, "n must be 1"),
    ],
)
def test_before_the_first_token_it_is_an_ordinary_error(
    error: dict[str, Any], status: int, code: str | None, message: str
) -> None:
    with saying(error, "[DONE]") as engine, gateway_for(engine) as client:
        response = client.post("/v1/chat/completions", json=BODY)
    assert response.status_code == status
    shown = response.json()["error"]
    assert shown["code"] == code
    assert shown["message"].startswith(message)
