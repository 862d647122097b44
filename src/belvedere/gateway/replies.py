"""From a parsed completion request to its HTTP response, streamed and not."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from belvedere.gateway import chat
from belvedere.gateway.auth import caller_of
from belvedere.gateway.body import read_object
from belvedere.gateway.keys import Caller
from belvedere.gateway.pace import Opening, Pace, begun
from belvedere.gateway.record import CLIENT_CLOSED_REQUEST
from belvedere.gateway.responses import EventStream, until_disconnect
from belvedere.gateway.state import Gateway, gateway_of
from belvedere.gateway.wire import ChatCompletionRequest, CompletionRequest

__all__ = ["read_body", "reply", "unless_left"]

AnyRequest = ChatCompletionRequest | CompletionRequest


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent, within the limits of the settings.

    Raises:
        Unavailable: the gateway shuts down.
        InvalidRequest: it is no such object.
    """
    gateway = gateway_of(request)
    gateway.check_open()
    settings = gateway.settings
    return await read_object(
        request, max_body_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
    )


async def reply(request: Request, wanted: AnyRequest) -> Response:
    """Answers `wanted`; a client that leaves ends the work on it.

    A stream's headers go out with its first token, so that whatever is wrong before is an ordinary
    error; when that takes longer than ``keepalive_s``, they go out then, and later errors are
    events.
    """
    work = (_stream if wanted.stream else _answer)(gateway_of(request), wanted, caller_of(request))
    return await unless_left(request, work)


async def unless_left(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response that `work` makes; it is cancelled when the client leaves."""
    response = await until_disconnect(request.receive, work)
    return response or Response(status_code=CLIENT_CLOSED_REQUEST)


async def _answer(gateway: Gateway, wanted: AnyRequest, caller: Caller) -> Response:
    answer = await chat.answer(gateway, wanted, caller)
    return JSONResponse(answer.payload, headers={"server-timing": answer.timing})


async def _stream(gateway: Gateway, wanted: AnyRequest, caller: Caller) -> Response:
    pace = Pace.of(gateway.settings)
    stream = await begun(chat.stream(gateway, wanted, caller), pace.keepalive_s)
    if isinstance(stream, Opening):
        return EventStream(stream, pace)
    return EventStream(stream.events, pace, {"server-timing": stream.timing})
