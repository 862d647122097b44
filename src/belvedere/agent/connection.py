"""A connection to an OpenAI-compatible server; its failures become Belvedere's errors here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pybase64

from belvedere.agent.closing import AsyncClosing, Closing
from belvedere.errors import (
    AuthenticationFailed,
    BelvedereError,
    DoesNotFit,
    EngineStartFailed,
    InvalidRequest,
    NotSupported,
    PermissionDenied,
    RateLimited,
    ServerUnreachable,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from belvedere.images.decode import Inspected

__all__ = ["AsyncConnection", "Connection", "data_url", "encoded", "image_url"]

_CHAT_PATH = "/v1/chat/completions"
_MODELS_PATH = "/v1/models"
_JSON_HEADERS = {"content-type": "application/json"}
_CONNECT_TIMEOUT_S = 5.0
_BY_CODE = {error.code: error for error in (DoesNotFit, EngineStartFailed)}
_BY_STATUS = {
    error.status: error
    for error in (AuthenticationFailed, NotSupported, PermissionDenied, RateLimited, Unavailable)
}


class Connection(Closing):
    """Asks for chat completions.

    Args:
        url: of the server, with or without ``/v1``.
        api_key: bearer key, when the server wants one.
        model: name of the model; the server's only one when ``None``.
        timeout_s: for a whole answer, or between two pieces of a streamed one; ``None`` waits as
            long as it takes.

    Raises:
        UsageError: `url` is not a URL.
    """

    def __init__(
        self, url: str, *, api_key: str | None, model: str | None, timeout_s: float | None
    ) -> None:
        self.url = _server_url(url)
        self._model = model
        self._client = httpx2.Client(**_options(self.url, api_key, timeout_s))

    def close(self) -> None:
        self._client.close()

    def model(self) -> str:
        """The model's name, asked for once when it was not given.

        Raises:
            UsageError: the server has several.
            ServerUnreachable, Unavailable, AuthenticationFailed: it does not tell.
        """
        if self._model is None:
            with _translated(self.url):
                answer = _read(self._client.get(_MODELS_PATH), self.url)
                self._model = _only_model(answer, self.url)
        return self._model

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of a Belvedere server at any path.

        Raises:
            ServerUnreachable: nobody answers, or not in our protocol.
            BelvedereError: the server's refusal, as the error that it was there where we know it.
        """
        with _translated(self.url):
            response = self._client.request(method, path, json=body)
            if not response.is_success and _said(response) is None:
                raise _stranger(self.url, response)
            return _read(response, self.url)

    def post(self, content: bytes) -> dict[str, Any]:
        """The response to an encoded chat request; errors as in `complete`."""
        with _translated(self.url):
            return _read(
                self._client.post(_CHAT_PATH, content=content, headers=_JSON_HEADERS), self.url
            )

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The response to a chat request; ``model`` is filled in.

        Raises:
            ServerUnreachable, Unavailable, RateLimited: there is none now; perhaps later.
            AuthenticationFailed, PermissionDenied, InvalidRequest: there will be none.
        """
        return self.post(encoded({"model": self.model(), **body}))

    def stream(self, body: dict[str, Any]) -> Iterator[str]:
        """The pieces of text of a streamed answer, as they arrive.

        Raises:
            ServerUnreachable, Unavailable, AuthenticationFailed, InvalidRequest: there is no
                answer, or it breaks off.
        """
        body = {"model": self.model(), **body, "stream": True}
        with _translated(self.url), self._client.stream("POST", _CHAT_PATH, json=body) as response:
            if response.status_code != httpx2.codes.OK:
                response.read()
                raise _refusal(response)
            yield from self._pieces(response)

    def text(self, body: dict[str, Any]) -> str:
        """The text of the whole answer; errors as in `complete`."""
        try:
            return str(self.complete(body)["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as exc:
            raise _strange(self.url) from exc

    def _pieces(self, response: httpx2.Response) -> Iterator[str]:
        for line in response.iter_lines():
            if not line.startswith("data:"):
                continue
            payload = line.removeprefix("data:").strip()
            if payload == "[DONE]":
                return
            event = json.loads(payload)
            if "error" in event:
                raise ServerUnreachable(str(event["error"].get("message")))
            for choice in event.get("choices", []):
                if piece := choice.get("delta", {}).get("content"):
                    yield piece
        raise ServerUnreachable(
            f"The server at {self.url} ended the answer early.", remedy="Try again."
        )


class AsyncConnection(AsyncClosing):
    """`Connection` for an event loop; it asks for whole answers only."""

    def __init__(
        self, url: str, *, api_key: str | None, model: str | None, timeout_s: float | None
    ) -> None:
        self.url = _server_url(url)
        self._model = model
        self._client = httpx2.AsyncClient(**_options(self.url, api_key, timeout_s))

    async def close(self) -> None:
        await self._client.aclose()

    async def model(self) -> str:
        """As `Connection.model`."""
        if self._model is None:
            with _translated(self.url):
                answer = _read(await self._client.get(_MODELS_PATH), self.url)
                self._model = _only_model(answer, self.url)
        return self._model

    async def post(self, content: bytes) -> dict[str, Any]:
        """As `Connection.post`."""
        with _translated(self.url):
            response = await self._client.post(_CHAT_PATH, content=content, headers=_JSON_HEADERS)
            return _read(response, self.url)


def encoded(body: dict[str, Any]) -> bytes:
    """A request body as compact JSON."""
    return json.dumps(body, separators=(",", ":")).encode()


def _server_url(url: str) -> str:
    server = url.rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx2.URL(server)
        usable = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise UsageError(f"{server!r} is not a URL.", remedy="Give one like http://localhost:8000.")
    return server


def _options(url: str, api_key: str | None, timeout_s: float | None) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx2.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
        "trust_env": False,
    }


def _only_model(answer: dict[str, Any], url: str) -> str:
    served = [str(entry["id"]) for entry in answer["data"]]
    if len(served) != 1:
        raise UsageError(
            f"The server at {url} serves {len(served)} models.",
            remedy=f"Name one of them: {', '.join(served)}." if served else None,
        )
    return served[0]


def _read(response: httpx2.Response, url: str) -> dict[str, Any]:
    if not response.is_success:
        raise _refusal(response)
    answer = response.json()
    if not isinstance(answer, dict):
        raise _strange(url)
    return answer


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as exc:
        raise ServerUnreachable(
            f"The server at {url} did not answer in time.",
            remedy="Try again, or give a longer timeout.",
        ) from exc
    except (httpx2.TransportError, httpx2.InvalidURL) as exc:
        raise ServerUnreachable(
            f"No server answers at {url}.",
            remedy="Start one with 'belvedere serve', or check the URL.",
        ) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise _strange(url) from exc


def _strange(url: str) -> ServerUnreachable:
    return ServerUnreachable(
        f"The server at {url} does not speak the OpenAI protocol.",
        remedy="Check the URL; it is the part before /v1.",
    )


def image_url(picture: Inspected) -> str:
    """A checked image file as a data URL."""
    return data_url(picture.data, picture.format.media_type)


def data_url(data: bytes, media_type: str) -> str:
    """Bytes as a base64 data URL."""
    return f"data:{media_type};base64,{pybase64.b64encode(data).decode('ascii')}"


def _stranger(url: str, response: httpx2.Response) -> ServerUnreachable:
    return ServerUnreachable(
        f"The server at {url} is no Belvedere server (HTTP status {response.status_code}).",
        remedy="Check the URL; it is the part before /v1.",
    )


def _said(response: httpx2.Response) -> dict[str, Any] | None:
    """The error in a refusal; ``None`` where there is none in OpenAI's shape."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return error if isinstance(error, dict) and "message" in error else None


def _refusal(response: httpx2.Response) -> BelvedereError:
    error = _said(response) or {
        "message": f"The server answered with HTTP status {response.status_code}."
    }
    message, param = str(error["message"]), error.get("param")
    wait = response.headers.get("retry-after", "")
    retry_after_s = int(wait) if wait.isdecimal() and len(wait) < 10 else None
    kind = _BY_CODE.get(str(error.get("code"))) or _BY_STATUS.get(response.status_code)
    if kind is not None:
        return kind(message, retry_after_s=retry_after_s)
    if response.status_code < 500:
        return InvalidRequest(message, param=param if isinstance(param, str) else None)
    return ServerUnreachable(message)
