"""Engines that go on when a test says so, not when a time is over."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx2

from belvedere.agent.closing import Closing
from belvedere.testing import FakeEngine
from belvedere.testing.answers import Shape, event

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
_CHAT = Shape("fake", is_chat=True)


@contextmanager
def held(*engines: FakeEngine) -> Iterator[Callable[[], None]]:
    """Requests that come to the engines, which need sleep mode, wait there.

    Until the block's end, or until what it is given is called.
    """

    def release() -> None:
        for engine in engines:
            httpx2.post(f"{engine.url}/wake_up", timeout=60).raise_for_status()

    for engine in engines:
        httpx2.post(f"{engine.url}/sleep?level=0&mode=wait", timeout=60).raise_for_status()
    try:
        yield release
    finally:
        release()


class SteppedEngine(Closing):
    """An engine that answers one chat with a stream; its tokens come when they are asked for."""

    def __init__(self) -> None:
        self._tokens = 0
        self._waiting: queue.Queue[bytes | None] = queue.Queue()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._waiting.put(None)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._server.close()

    def step(self, count: int = 1) -> None:
        """Sends the next tokens: ``tok0``, ``tok1`` and so on."""
        for _ in range(count):
            self._waiting.put(event(_CHAT.chunk(f"tok{self._tokens} ")))
            self._tokens += 1

    def finish(self) -> None:
        """Sends the end of the answer."""
        self._waiting.put(event(_CHAT.last("stop")) + b"data: [DONE]\n\n")
        self._waiting.put(None)

    def _answer(self) -> None:
        with suppress(OSError):
            connection, _ = self._server.accept()
            with connection:
                _receive(connection)
                connection.sendall(_HEAD + event(_CHAT.first()))
                while (item := self._waiting.get()) is not None:
                    connection.sendall(item)


def _receive(connection: socket.socket) -> None:
    """A whole request: what is unread at the end would reset the connection."""
    with connection.makefile("rb") as request:
        left = 0
        while (line := request.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            left = int(value) if name.lower() == b"content-length" else left
        request.read(left)
