"""Clients of the gateway that wait, read slowly or leave, and a look at who serves them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tests.integration.serving import wait_until
from tests.integration.stage import LiveEngine

CHAT = "/v1/chat/completions"


def asking(model: str, text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


@contextmanager
def in_background(client: httpx2.Client, body: dict[str, Any]) -> Iterator[Future[httpx2.Response]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(client.post, CHAT, json=body)


class Reader:
    """A client that reads a stream in a thread of its own."""

    def __init__(self, client: httpx2.Client, body: dict[str, Any]) -> None:
        self.events: list[str] = []
        self.status = 0
        self._client = client
        self._body = {**body, "stream": True}
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._client.stream("POST", CHAT, json=self._body) as response:
            self.status = response.status_code
            for line in response.iter_lines():
                if line.startswith("data:"):
                    self.events.append(line.removeprefix("data:").strip())

    @property
    def tokens(self) -> int:
        return sum("tok" in event for event in self.events)

    def rest(self) -> list[str]:
        """All events, once the stream has ended."""
        self._thread.join(90)
        assert not self._thread.is_alive()
        return self.events


def busy_one(engines: list[LiveEngine]) -> LiveEngine:
    """The engine that computes the only request."""
    found: list[LiveEngine] = []

    def looks() -> bool:
        found[:] = [engine for engine in engines if engine.busy]
        return bool(found)

    assert wait_until(looks), "no engine got the request"
    (one,) = found
    return one


def others(engines: list[LiveEngine], one: LiveEngine) -> list[LiveEngine]:
    return [engine for engine in engines if engine is not one]


def view_of(client: httpx2.Client, engine: LiveEngine) -> dict[str, Any]:
    replicas: list[dict[str, Any]] = client.get("/health").json()["replicas"]
    return next((one for one in replicas if one["name"] == engine.name), {})


def raw_request(url: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which `body` was asked; closing it is how a client leaves."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection
