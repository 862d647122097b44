"""One completion: prepare the images, lease a replica, relay, say what the model saw."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from belvedere.gateway.attempts import attempt, noting
from belvedere.gateway.keys import Caller
from belvedere.gateway.opening import through_first_token
from belvedere.gateway.parameters import engine_body
from belvedere.gateway.parts import PreparedPart, prepare_parts
from belvedere.gateway.record import current
from belvedere.gateway.relay import EngineGone
from belvedere.gateway.report import seen_block, server_timing, with_block
from belvedere.gateway.state import Gateway
from belvedere.gateway.strict_actions import Kind, apply_strict_actions
from belvedere.gateway.tally import Tally, asking_for_usage
from belvedere.gateway.turn import turn
from belvedere.gateway.wire import ChatCompletionRequest, CompletionRequest
from belvedere.images.prepared import PreparedImage
from belvedere.router.replica import Model, Replica
from belvedere.router.router import Lease
from belvedere.router.work import Work, work_of

__all__ = [
    "Answer",
    "PreparedChat",
    "Relay",
    "Stream",
    "answer",
    "complete",
    "open_stream",
    "prepare",
    "stream",
]

AnyRequest = ChatCompletionRequest | CompletionRequest
_CHAT_PATH = "/v1/chat/completions"
_COMPLETION_PATH = "/v1/completions"


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A request as the engine gets it.

    Attributes:
        body: JSON for the engine; images are data URLs of exactly what the model sees.
        images: in the order of the messages; a video is its frames.
        work: what the router knows of it.
        request, owner: what it was made of, should the model be replaced before it is served.
        strict: which action the answer has to be (see `apply_strict_actions`).
        cache_salt: for engines that keep the prefix caches of tenants apart; empty: one tenant.
    """

    model: Model
    body: dict[str, Any]
    images: tuple[PreparedImage, ...]
    work: Work
    request: AnyRequest = field(repr=False)
    owner: bytes = field(repr=False)
    cache_salt: str = ""
    strict: Kind | None = None

    @property
    def path(self) -> str:
        """Where the engine answers it."""
        return _CHAT_PATH if self._is_chat else _COMPLETION_PATH

    @property
    def token_mark(self) -> bytes:
        """What a stream's event has for each token."""
        return b'"content"' if self._is_chat else b'"text"'

    @property
    def _is_chat(self) -> bool:
        return isinstance(self.request, ChatCompletionRequest)

    def report(self) -> dict[str, Any] | None:
        """The ``belvedere`` block of the response: what the model saw; ``None`` without a chat."""
        if not self._is_chat:
            return None
        return seen_block(self.images, self.model, strict_actions=self.strict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The engine's answer with the ``belvedere`` block, and the ``Server-Timing`` header."""

    payload: dict[str, Any]
    timing: str


class Relay(AsyncIterator[bytes]):
    """The engine's events on their way to the client.

    Not a generator: closing one that was never started would not run its body, and a client that
    leaves at that moment would keep the lease.
    """

    def __init__(
        self,
        gateway: Gateway,
        lease: Lease,
        first: bytes,
        rest: AsyncIterator[bytes],
        chat: PreparedChat,
        held: AsyncExitStack,
    ) -> None:
        self._gateway = gateway
        self._lease = lease
        self._first: bytes | None = first
        self._rest = rest
        self._block = chat.report()
        self._tally = _tally(gateway, chat, lease)
        self._held = held
        self._turn = AsyncExitStack()

    def hold(self, turn: AsyncExitStack) -> None:
        """Closes `turn` too, after everything else."""
        self._turn = turn

    async def __anext__(self) -> bytes:
        while True:
            events, self._first = self._first, None
            if events is None:
                events = await noting(self._gateway, self._lease, anext(self._rest, None))
            if events is None:
                self._lease.finished(self._tally.finished())
                raise StopAsyncIteration
            if shown := self._tally.take(events):
                return shown if self._block is None else with_block(shown, self._block)

    async def aclose(self) -> None:
        """Gives the lease back and ends the engine's work on the request."""
        try:
            await self._held.aclose()
        finally:
            await self._turn.aclose()


@dataclass(frozen=True, slots=True)
class Stream:
    """The engine's events, and the ``Server-Timing`` header of what is known by the first one."""

    events: Relay
    timing: str


async def answer(gateway: Gateway, request: AnyRequest, caller: Caller) -> Answer:
    """The whole answer at once, in its turn.

    Raises:
        RateLimited: the queue is full; no image has been looked at.
        BelvedereError: see `prepare` and `complete`.
    """
    model = gateway.router.model(request.model)
    async with turn(gateway, model, caller, priority=request.priority):
        return await complete(gateway, await prepare(gateway, request, caller.tenant))


async def stream(gateway: Gateway, request: AnyRequest, caller: Caller) -> Stream:
    """The answer as events, in its turn; the turn ends when the events are closed.

    Raises:
        RateLimited, BelvedereError: as for `answer`, before anything was sent.
    """
    model = gateway.router.model(request.model)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            turn(gateway, model, caller, priority=request.priority, stream=True)
        )
        opened = await open_stream(gateway, await prepare(gateway, request, caller.tenant))
        opened.events.hold(stack.pop_all())
        return opened


async def prepare(gateway: Gateway, request: AnyRequest, owner: bytes) -> PreparedChat:
    """Resolves the model, applies server defaults, prepares all images; `owner` may see them.

    Raises:
        ModelNotFound, InvalidRequest, ImageError, MissingExtra: nothing was sent to an engine.
    """
    salt = gateway.keys.salt(owner)
    model = gateway.router.model(request.model)
    body = engine_body(gateway.settings, model, request)
    parts: list[PreparedPart] = []
    started_s = time.perf_counter()
    if isinstance(request, ChatCompletionRequest):
        with current().trace.stage("images"):
            parts = await prepare_parts(gateway, model, request, salt)
    images = tuple(image for part in parts for image in part.images)
    pieces = [piece for part in parts for piece in part.pieces(model)]
    vision_tokens = sum(piece.tokens for piece in pieces)
    current().prepared(images, vision_tokens, time.perf_counter() - started_s)
    for image in images:
        gateway.media.put(owner, image)
    for part in reversed(parts):
        place = slice(part.part_index, part.part_index + 1)
        body["messages"][part.message_index]["content"][place] = part.for_engine()
        body |= part.beside()
    strict: Kind | None = None
    if isinstance(request, ChatCompletionRequest):
        default = gateway.settings.strict_actions
        strict = apply_strict_actions(body, model, request, images, default=default)
    expected_tokens = gateway.router.output_lengths.expected_tokens(model.name)
    work = work_of(
        body,
        image_tokens=[piece.tokens for piece in pieces],
        image_digests=[piece.digest for piece in pieces],
        default_output_tokens=expected_tokens,
        salt=salt,
    )
    return PreparedChat(model, body, images, work, request, owner, salt.hex(), strict)


async def complete(gateway: Gateway, chat: PreparedChat) -> Answer:
    """The whole answer at once; another replica tries when the first one's engine dies.

    Raises:
        BelvedereError: see `attempt`.
    """
    queued = time.perf_counter()

    async def once(lease: Lease, _: AsyncExitStack) -> Answer:
        fitting = await _for_model(gateway, chat, lease.replica)
        started = time.perf_counter()
        client = gateway.client(lease.replica)
        record = current()
        payload = await client.complete(
            fitting.path, _addressed(fitting, lease.replica), record.trace.headers()
        )
        record.began()
        record.answered(payload)
        lease.finished(record.completion_tokens)
        if (block := fitting.report()) is not None:
            payload["belvedere"] = block
        return Answer(payload, _timing(fitting, queued, started))

    return await attempt(gateway, chat.model, chat.work, once)


async def open_stream(gateway: Gateway, chat: PreparedChat) -> Stream:
    """The answer as events. Returns with the first token; until then, another replica may try.

    The replica stays leased until the events are closed, also when none was ever read.

    Raises:
        BelvedereError: see `attempt`.
    """
    queued = time.perf_counter()

    async def once(lease: Lease, stack: AsyncExitStack) -> Stream:
        fitting = await _for_model(gateway, chat, lease.replica)
        started = time.perf_counter()
        client = gateway.client(lease.replica)
        body = _addressed(fitting, lease.replica)
        if not lease.replica.remote:
            body = asking_for_usage(body)
        events = await stack.enter_async_context(
            client.stream(fitting.path, body, current().trace.headers())
        )
        first = await through_first_token(events)
        if not first:
            raise EngineGone("The engine's stream was empty.")
        current().began()
        timing = _timing(fitting, queued, started)
        relay = Relay(gateway, lease, first, events, fitting, stack.pop_all())
        return Stream(relay, timing)

    return await attempt(gateway, chat.model, chat.work, once)


async def _for_model(gateway: Gateway, chat: PreparedChat, replica: Replica) -> PreparedChat:
    """The request as this replica's model wants it: it may have been replaced meanwhile."""
    if replica.model.deployment == chat.model.deployment:
        return chat
    return await prepare(gateway, chat.request, chat.owner)


def _addressed(chat: PreparedChat, replica: Replica) -> dict[str, Any]:
    body = {**chat.body, "model": replica.engine_model or replica.model.name}
    if chat.cache_salt and replica.model.takes_cache_salt:
        body["cache_salt"] = chat.cache_salt
    return body


def _tally(gateway: Gateway, chat: PreparedChat, lease: Lease) -> Tally:
    """Own engines are always asked for the usage; a client that was not gets none."""
    options = chat.request.stream_options
    wanted = options is not None and options.include_usage
    gap = gateway.observation.metrics.gap(chat.model.name)
    drops_usage = not wanted and not lease.replica.remote
    return Tally(current(), chat.token_mark, gap.observe, drops_usage=drops_usage)


def _timing(chat: PreparedChat, queued: float, started: float) -> str:
    queue_ms = (current().queue_s + started - queued) * 1e3
    engine_ms = (time.perf_counter() - started) * 1e3
    return server_timing(chat.images, queue_ms=queue_ms, engine_ms=engine_ms)
