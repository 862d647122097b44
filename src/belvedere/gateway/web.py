"""How uvicorn serves the gateway: limits, WebSockets, and readers that take nothing."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from belvedere.errors import BelvedereError, InvalidRequest, RequestTimeout
from belvedere.settings import Settings

__all__ = ["drop_idle_readers", "web_config"]

_MAX_HEAD_BYTES = 2 * 2**20
_KEEP_ALIVE_S = 75
"""Longer than clients keep an idle connection: httpx, and OpenAI's client with it, use one for 5 s,
and a request would meet a server that is just hanging up if it did that after the same 5 s."""


class HeadTooLarge(InvalidRequest):
    """Nothing sensible has so many headers."""

    status = 431
    code = "headers_too_large"


class _Connection(HttpToolsProtocol):
    """uvicorn's HTTP, with errors in OpenAI's shape before there is a request to answer.

    A request's line and headers must be there within `head_timeout_s` of its first byte, or of the
    connection. (Its body has a time of its own, see `belvedere.gateway.body`.)
    """

    head_timeout_s = 60.0
    _late: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if self._late is None:
            self._expect_head()
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        if self._late is not None:  # a head is on its way; the parser sets no limit to any line
            self._head_bytes += len(data)
        super().data_received(data)
        if self._late is not None and self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge("The headers are too large.", remedy="Send less of them."))

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("This is no HTTP request."))

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._late = self.loop.call_later(self.head_timeout_s, self._too_late)

    def _head_is_there(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_head()  # an earlier request is still being answered
        else:
            self._refuse(RequestTimeout("The request did not come in time."))

    def _refuse(self, error: BelvedereError) -> None:
        self._head_is_there()
        if self.transport.is_closing():
            return
        body = json.dumps(error.body()).encode()
        status = HTTPStatus(error.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: req-{secrets.token_hex(12)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


def web_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn without logs of its own; a WebSocket message may be as large as a body."""
    attributes = {"head_timeout_s": settings.body_timeout_s}
    options: dict[str, Any] = {
        "http": type("Connection", (_Connection,), attributes),
        "log_config": None,
        "log_level": settings.log_level,
        "access_log": False,
        "server_header": False,
        "lifespan": "off",
        "timeout_graceful_shutdown": 1,
        "timeout_keep_alive": _KEEP_ALIVE_S,
        "ws": "websockets-sansio",
        "ws_max_size": settings.max_body_bytes,
        "ws_per_message_deflate": False,
    }
    return uvicorn.Config(app, **options)


def drop_idle_readers(sock: socket.socket, timeout_s: float) -> None:
    """Connections of the listening `sock` end when their client takes no data for so long.

    The kernel does it (``TCP_USER_TIMEOUT``, which also counts while the client's window is zero):
    closing such a connection from here would wait for its buffer, which never drains. On systems
    without it nothing happens, and `EventStream` alone ends the engine's work.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(timeout_s * 1e3)))
