"""The gateway's conversation with one engine: requests out, JSON or server-sent events back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from belvedere.engines.base import Endpoint
from belvedere.errors import (
    BelvedereError,
    EngineFailed,
    EngineTimeout,
)
from belvedere.gateway.engine_connection import Broken, Connection, NotReached, TooLarge
from belvedere.gateway.engine_pool import EnginePool
from belvedere.gateway.opening import is_opening
from belvedere.gateway.refusals import refusal

__all__ = ["EngineClient", "EngineGone", "EngineNotReached", "error_event"]

_OK = 200
_SERVER_ERROR = 500
_ERROR_MARK = b'"error"'
_MAX_ANSWER_BYTES = 64 * 2**20
_MAX_EVENT_BYTES = 16 * 2**20
_MAX_ERROR_BYTES = 2**20


class EngineGone(EngineFailed):
    """The connection to the engine broke: its process has probably ended."""


class EngineNotReached(EngineGone):
    """No connection to the engine could be made: whatever ended it, it was not this request."""


class EngineClient:
    """Speaks the OpenAI protocol with the engine at `endpoint`.

    Args:
        request_timeout_s: for a whole answer that is not streamed.
        first_token_timeout_s: until the first stream event that says something.
        inter_token_timeout_s: between two stream events.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        request_timeout_s: float,
        first_token_timeout_s: float,
        inter_token_timeout_s: float,
    ) -> None:
        self._pool = EnginePool(endpoint)
        self._request_timeout_s = request_timeout_s
        self._first_token_timeout_s = first_token_timeout_s
        self._inter_token_timeout_s = inter_token_timeout_s

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def complete(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One JSON answer; `headers` are sent besides the usual ones.

        Raises:
            EngineTimeout, EngineFailed, InvalidRequest, RateLimited: see `refusal`.
        """
        timeout_s = self._request_timeout_s
        with _translated(timeout_s):
            async with self._pool.post(path, _encoded(body), timeout_s, headers) as answer:
                if answer.status != _OK:
                    raise await _refusal(answer, body)
                content = await answer.read_all(_MAX_ANSWER_BYTES)
        try:
            payload = json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise EngineFailed("The engine's answer is not JSON.") from exc
        if not isinstance(payload, dict):
            raise EngineFailed("The engine's answer is not a JSON object.")
        return payload

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The events of one streamed answer, with their closing blank lines.

        Each item is at least one whole event, and all that came together. The block is entered when
        the engine has accepted the request, so that its refusals are raised before anything was
        sent to the client; leaving it early cancels the engine's work.
        """
        timeout_s = self._first_token_timeout_s
        opened = self._pool.post(path, _encoded(body), timeout_s, headers)
        with _translated(timeout_s):
            answer = await opened.__aenter__()
        try:
            if answer.status != _OK:
                with _translated(timeout_s):
                    raise await _refusal(answer, body)
            yield _Events(answer, timeout_s, self._inter_token_timeout_s)
        finally:
            await opened.__aexit__(None, None, None)


class _Events(AsyncIterator[bytes]):
    """Cuts an answer's body behind its blank lines; an engine's error event is raised."""

    def __init__(self, answer: Connection, first_timeout_s: float, timeout_s: float) -> None:
        self._answer = answer
        self._timeout_s = first_timeout_s
        self._next_timeout_s = timeout_s
        self._waiting = True
        self._begun = b""
        self._failure: BelvedereError | None = None

    async def __anext__(self) -> bytes:
        while True:
            if self._failure is not None:
                raise self._failure
            self._answer.give(self._timeout_s)
            with _translated(self._timeout_s):
                chunk = await self._answer.read()
            if not chunk:
                if self._begun.strip():
                    raise _gone()
                raise StopAsyncIteration
            if whole := self._without_error(self._cut(chunk)):
                if self._waiting and not is_opening(whole):
                    self._waiting, self._timeout_s = False, self._next_timeout_s
                return whole

    def _without_error(self, events: bytes) -> bytes:
        """`events` before the one that says that the engine failed, which is kept for later."""
        if _ERROR_MARK not in events:
            return events
        before = []
        for event in events.split(b"\n\n")[:-1]:
            self._failure = _failure(event)
            if self._failure is not None:
                break
            before.append(event + b"\n\n")
        return b"".join(before)

    def _cut(self, chunk: bytes) -> bytes:
        """All whole events of what has come; the rest is kept."""
        data = self._begun + chunk
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            end = 0
        self._begun = data[end:]
        if len(self._begun) > _MAX_EVENT_BYTES:
            raise EngineFailed("The engine's event has no end.")
        return data[:end].lstrip(b"\n") if end else b""


@contextmanager
def _translated(timeout_s: float) -> Iterator[None]:
    """What a connection raises, as ours."""
    try:
        yield
    except TimeoutError as exc:
        raise _timeout(timeout_s) from exc
    except NotReached as exc:
        raise _gone(EngineNotReached) from exc
    except (Broken, OSError) as exc:
        raise _gone() from exc
    except TooLarge as exc:
        raise EngineFailed("The engine's answer is too large.") from exc


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


async def _refusal(answer: Connection, body: Mapping[str, Any]) -> BelvedereError:
    try:
        content = await answer.read_all(_MAX_ERROR_BYTES)
    except TooLarge:
        content = b""
    return refusal(answer.status, content, body.keys())


def _failure(event: bytes) -> BelvedereError | None:
    """What an event with an ``error`` in the place of an answer means for the client."""
    content = event.removeprefix(b"data:")
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict) or not payload.get("error") or payload.get("choices"):
        return None
    error = payload["error"]
    status = error.get("code") if isinstance(error, dict) else None
    return refusal(status if isinstance(status, int) else _SERVER_ERROR, content)


def error_event(exc: BelvedereError) -> bytes:
    """An error as a server-sent event, for streams whose headers are out already."""
    return b"data: " + json.dumps(exc.body()).encode() + b"\n\n"


def _gone(kind: type[EngineGone] = EngineGone) -> EngineGone:
    return kind(
        "The engine broke the connection.", remedy="Send the request again.", retry_after_s=2
    )


def _timeout(timeout_s: float) -> EngineTimeout:
    return EngineTimeout(
        f"The engine made no progress for {timeout_s:g} s.", remedy="Try again later."
    )
