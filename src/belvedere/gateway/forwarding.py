"""Routes that only some engines have: their requests go through, but never a URL to fetch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from blake3 import blake3

from belvedere.errors import BelvedereError, InvalidRequest, NotSupported
from belvedere.gateway.attempts import attempt, noting
from belvedere.gateway.keys import Caller
from belvedere.gateway.parts import check_count
from belvedere.gateway.record import current
from belvedere.gateway.relay import EngineGone
from belvedere.gateway.state import Gateway
from belvedere.gateway.strict import parse
from belvedere.gateway.turn import turn
from belvedere.gateway.wire import TemplateKwargs
from belvedere.images.prepared import PixelOptions, PreparedImage
from belvedere.router.replica import Model, Replica
from belvedere.router.router import Lease
from belvedere.router.work import Work

__all__ = ["FORWARDED", "Forwarded", "ForwardedStream", "ask", "forward", "open_forward"]

FORWARDED: dict[str, str] = {
    "/v1/responses": "OpenAI's responses",
    "/v1/embeddings": "Embeddings",
    "/v1/rerank": "Documents in the order of a query",
    "/v1/score": "Scores of pairs",
    "/tokenize": "Text or chat to token ids",
    "/detokenize": "Token ids to text",
}
"""Path, here and at the engine -> what it is for."""

Detail = Literal["auto", "low", "high"]
_DETAILS: dict[str, Detail] = {"auto": "auto", "low": "low", "high": "high"}
_REFUSED_PARAMETERS = frozenset(
    {"chat_template", "media_io_kwargs", "mm_processor_kwargs", "prompt_embeds"}
)
_REFUSED_KEYS = frozenset(
    {"audio_url", "connector_id", "file_url", "image_embeds", "server_url", "video_url"}
)
"""These would make an engine fetch something, unpickle something or run a template."""
_MEDIA = ("image", "input_image", "audio", "input_audio", "video")


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image reference in a body: ``holder[key]``."""

    holder: dict[str, Any]
    key: str
    reference: str
    path: str
    detail: Detail | None


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A body that may go to an engine: its images are data URLs.

    Attributes:
        cache_salt: see `PreparedChat.cache_salt`.
    """

    path: str
    model: Model
    body: dict[str, Any]
    cache_salt: str = ""

    def for_replica(self, replica: Replica) -> dict[str, Any]:
        """With the tenant's own salt in the place of any that the client chose."""
        body = {**self.body, "model": replica.engine_model or replica.model.name}
        body.pop("cache_salt", None)
        if self.cache_salt and replica.model.takes_cache_salt:
            body["cache_salt"] = self.cache_salt
        return body


async def forward(gateway: Gateway, path: str, body: dict[str, Any], caller: Caller) -> Any:
    """The engine's answer to `body` on `path`, in its turn.

    Raises:
        NotSupported: the engine has no such route.
        InvalidRequest: a field that is not taken, or the engine's own refusal.
    """
    model = _model(gateway, path, body)
    async with turn(gateway, model, caller):
        request = await _prepared(gateway, path, model, body, caller)
        work = _work(path, body, gateway.keys.salt(caller.tenant))
        return await ask(gateway, model, work, path, request.for_replica)


async def ask(gateway: Gateway, model: Model, work: Work, path: str, body_for: Any) -> Any:
    """One JSON answer of a replica of `model` on `path`; `body_for` is given the replica."""

    async def once(lease: Lease, _: AsyncExitStack) -> Any:
        client = gateway.client(lease.replica)
        record = current()
        headers = record.trace.headers()
        answer = await client.complete(path, body_for(lease.replica), headers)
        record.began()
        record.answered(answer)
        lease.finished()
        return answer

    return await attempt(gateway, model, work, once)


class ForwardedStream(AsyncIterator[bytes]):
    """The engine's events as they come; closing gives the replica and the turn back."""

    def __init__(
        self, gateway: Gateway, lease: Lease, first: bytes, rest: AsyncIterator[bytes]
    ) -> None:
        self._gateway = gateway
        self._lease = lease
        self._first: bytes | None = first
        self._rest = rest
        self.held = AsyncExitStack()

    @property
    def events(self) -> ForwardedStream:
        return self

    async def __anext__(self) -> bytes:
        event, self._first = self._first, None
        if event is None:
            event = await noting(self._gateway, self._lease, anext(self._rest, None))
        if event is None:
            self._lease.finished()
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        await self.held.aclose()


async def open_forward(
    gateway: Gateway, path: str, body: dict[str, Any], caller: Caller
) -> ForwardedStream:
    """The engine's answer as events.

    Raises:
        BelvedereError: as for `forward`, before anything was sent.
    """
    model = _model(gateway, path, body)

    async def once(lease: Lease, stack: AsyncExitStack) -> ForwardedStream:
        client = gateway.client(lease.replica)
        sent = request.for_replica(lease.replica)
        headers = current().trace.headers()
        events = await stack.enter_async_context(client.stream(path, sent, headers))
        first = await anext(events, None)
        if first is None:
            raise EngineGone("The engine's stream was empty.")
        current().began()
        stream = ForwardedStream(gateway, lease, first, events)
        stream.held = stack.pop_all()
        return stream

    async with AsyncExitStack() as held:
        await held.enter_async_context(turn(gateway, model, caller, stream=True))
        request = await _prepared(gateway, path, model, body, caller)
        work = _work(path, body, gateway.keys.salt(caller.tenant))
        stream = await attempt(gateway, model, work, once)
        held.push_async_callback(stream.held.aclose)
        stream.held = held.pop_all()
        return stream


def _model(gateway: Gateway, path: str, body: dict[str, Any]) -> Model:
    name = body.get("model")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("model is not a string.", param="model")
    model = gateway.router.model(name)
    if model.features is not None and path not in model.features:
        raise NotSupported(
            f"The engine of {model.name!r} does not offer {path}.",
            remedy="Serve the model on an engine that does.",
        )
    return model


def _work(path: str, body: dict[str, Any], salt: bytes) -> Work:
    """A rough length, and a fingerprint: what kills engines is quarantined here too."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")
    fingerprint = blake3(salt + path.encode() + b"\0" + text).digest()
    return Work(prompt_tokens=len(text) // 4, fingerprint=fingerprint)


async def _prepared(
    gateway: Gateway, path: str, model: Model, body: dict[str, Any], caller: Caller
) -> Forwarded:
    copy = deepcopy(body)
    salt = gateway.keys.salt(caller.tenant)
    if "chat_template_kwargs" in copy:
        _check_template_kwargs(copy["chat_template_kwargs"])
    pictures = list(_pictures(copy))
    check_count(gateway, model, len(pictures))
    images = await asyncio.gather(
        *(_prepare(gateway, model, picture, salt) for picture in pictures)
    )
    for picture, image in zip(pictures, images, strict=True):
        gateway.media.put(caller.tenant, image)
        picture.holder[picture.key] = image.data_url()
    return Forwarded(path, model, copy, salt.hex())


def _check_template_kwargs(given: Any) -> None:
    if not isinstance(given, dict):
        raise InvalidRequest("chat_template_kwargs is no object.", param="chat_template_kwargs")
    try:
        parse(TemplateKwargs, given)
    except InvalidRequest as exc:
        exc.param = f"chat_template_kwargs.{exc.param}"
        raise


def _pictures(body: dict[str, Any]) -> Iterator[_Picture]:
    """Every image reference in `body`, which may be as deep as JSON can be.

    Raises:
        InvalidRequest: something else would be fetched, unpickled or run.
    """
    if "strict_actions" in body:
        raise InvalidRequest(
            "'strict_actions' is not supported here.",
            remedy="Ask for it on /v1/chat/completions.",
            param="strict_actions",
        )
    for name in _REFUSED_PARAMETERS & body.keys():
        raise _unwelcome(name)
    waiting: list[tuple[str, Any]] = [("", body)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting += [(f"{path}{index}.", entry) for index, entry in enumerate(value)]
        if not isinstance(value, dict):
            continue
        for key, entry in value.items():
            if _is_refused(value, key, entry):
                raise _unwelcome(path + key)
            picture = _picture(value, key, entry, path)
            if picture is not None:
                yield picture
            else:
                waiting.append((f"{path}{key}.", entry))


def _is_refused(holder: dict[str, Any], key: str, value: Any) -> bool:
    """A key of a tool's schema may be called the same: there its value has no ``url``.

    With a ``uuid`` a part names what vLLM has cached, or caches under that name, for every tenant.
    """
    if key == "uuid" and isinstance(value, str):
        return any(name.startswith(_MEDIA) for name in (*holder, str(holder.get("type"))))
    if key in ("video", "audio") and holder.get("type") == key:
        return True
    reference = isinstance(value, str | list) or (isinstance(value, dict) and "url" in value)
    return key in _REFUSED_KEYS and reference


def _unwelcome(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path[:200]!r} is not supported here.",
        remedy="Engines are given images, as data, and nothing to fetch.",
        param=path[:200],
    )


def _picture(holder: dict[str, Any], key: str, value: Any, path: str) -> _Picture | None:
    """OpenAI's three spellings (chat, responses) and Qwen's."""
    if key == "image_url" and isinstance(value, str):
        return _Picture(holder, key, value, path + key, _detail(holder))
    if key == "image_url" and isinstance(value, dict) and isinstance(value.get("url"), str):
        return _Picture(value, "url", value["url"], path + key, _detail(value))
    if key == "image" and holder.get("type") == "image" and isinstance(value, str):
        return _Picture(holder, key, value, path + key, None)
    return None


def _detail(holder: dict[str, Any]) -> Detail | None:
    return _DETAILS.get(str(holder.get("detail")))


async def _prepare(gateway: Gateway, model: Model, picture: _Picture, salt: bytes) -> PreparedImage:
    try:
        return await gateway.pipeline.prepare(
            picture.reference,
            geometry=model.geometry,
            options=PixelOptions(None, None, picture.detail),
            salt=salt,
        )
    except BelvedereError as exc:
        exc.param = exc.param or picture.path
        raise
