"""What is noted of one request while it is served, for the log, the metrics and the traces.

The record of the request at hand is found with `current`, a context variable. It is written by
layers that know nothing of each other (the ASGI layer, the key check, the queue, the images, the
attempts, the stream), most of them behind functions that no observation should reach into; tasks
that they start inherit it. The record is created and closed in one place: `Observation.request`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from belvedere.errors import BelvedereError
from belvedere.images.prepared import PreparedImage
from belvedere.router.router import Lease

__all__ = [
    "CLIENT_CLOSED_REQUEST",
    "ImageTimes",
    "NoTrace",
    "RequestRecord",
    "Trace",
    "current",
    "recording",
]

CLIENT_CLOSED_REQUEST = 499
_current: ContextVar[RequestRecord] = ContextVar("belvedere_request")


class Trace(Protocol):
    """The spans of one request."""

    def stage(self, name: str, **attributes: str | int | float) -> AbstractContextManager[None]:
        """A child span for the time of the block; an error that leaves it is the span's."""

    def fail(self, exc: BaseException) -> None:
        """The stage that is under way has failed, although no error will leave its block."""

    def headers(self) -> Mapping[str, str]:
        """What tells an engine which span its work belongs to."""


class NoTrace:
    """Tracing is off."""

    def stage(self, name: str, **attributes: str | int | float) -> AbstractContextManager[None]:
        return nullcontext()

    def fail(self, exc: BaseException) -> None:
        """Nobody wants to know."""

    def headers(self) -> Mapping[str, str]:
        return {}


@dataclass(slots=True)
class ImageTimes:
    """Milliseconds of the image stages, summed over a request's images."""

    fetch_ms: float = 0.0
    hash_ms: float = 0.0
    wait_ms: float = 0.0
    decode_ms: float = 0.0
    resize_ms: float = 0.0
    encode_ms: float = 0.0


@dataclass(slots=True)
class RequestRecord:
    """One request; every field is what is known by now.

    Attributes:
        id: as in ``x-request-id``.
        route: path template of the route, never the path itself; empty for an unknown one.
        key: name of the API key.
        model: as the router knows it; what a client calls a model that is not there is not noted.
        replica, launch: who computed it last, and which start of its engine that was.
        stream: the answer was asked for as events.
        prompt_tokens, completion_tokens: as the engine counted them; `completion_tokens` of a
            stream whose engine did not count is the number of its events.
        vision_tokens: of `prompt_tokens`, from the geometry of the images; an estimate where the
            model's processor is unknown.
        images, image_hits: how many, and how many of them had been prepared before.
        hit_tokens: prompt tokens that the replica was believed to have cached.
        queue_position, queue_s: requests before it when it came, and how long it waited.
        images_s: all of its images, which are prepared at once.
        stages: the same by stage, in worker time.
        first_byte_s: from the lease to the engine's first token, or its whole answer.
        ttft_s: of a stream, from the arrival to the first token.
        engine_s: from the lease to the end of the engine's answer.
        total_s: from the arrival to the last byte.
        retries: further replicas that were tried.
        engine_deaths: engines that died while they worked on it.
        status: HTTP status of the outcome: of the error that ended a stream, 499 when the client
            left.
        error: code, or type, of the error.
        finish_reason: of the first choice.
        client_left: before the answer was complete.
    """

    id: str = ""
    route: str = ""
    key: str = ""
    model: str = ""
    replica: str = ""
    launch: int = 0
    stream: bool = False
    prompt_tokens: int | None = None
    vision_tokens: int = 0
    completion_tokens: int | None = None
    images: int = 0
    image_hits: int = 0
    hit_tokens: int = 0
    queue_position: int = 0
    queue_s: float = 0.0
    images_s: float = 0.0
    stages: ImageTimes | None = None
    first_byte_s: float | None = None
    ttft_s: float | None = None
    engine_s: float | None = None
    total_s: float = 0.0
    retries: int = 0
    engine_deaths: int = 0
    status: int = 0
    error: str | None = None
    finish_reason: str | None = None
    client_left: bool = False
    trace: Trace = field(default_factory=NoTrace, repr=False)
    started_s: float = field(default_factory=time.perf_counter, repr=False)
    _leased_s: float = field(default=0.0, repr=False)

    def resolved(self, model: str, *, stream: bool) -> None:
        """The model exists."""
        self.model, self.stream = model, stream

    def admitted(self, position: int, waited_s: float) -> None:
        """Its turn has come."""
        self.queue_position, self.queue_s = position, waited_s

    def prepared(self, images: Sequence[PreparedImage], tokens: int, took_s: float) -> None:
        """Its images are ready; `tokens` is what they are to the model together."""
        self.images, self.vision_tokens, self.images_s = len(images), tokens, took_s
        if not images:
            return
        self.image_hits = sum(image.cached for image in images)
        stages = ImageTimes()
        for times in (image.times for image in images):
            stages.fetch_ms += times.fetch_ms
            stages.hash_ms += times.hash_ms
            stages.wait_ms += times.wait_ms
            stages.decode_ms += times.decode_ms
            stages.resize_ms += times.resize_ms
            stages.encode_ms += times.encode_ms
        self.stages = stages

    def leased(self, lease: Lease, *, is_retry: bool) -> None:
        """A replica works on it."""
        self.retries += is_retry
        self.replica, self.launch = lease.replica.name, lease.replica.launch()
        self.hit_tokens = lease.hit_tokens
        self._leased_s = time.perf_counter()

    def began(self) -> None:
        """The engine has said its first token, or all of a whole answer."""
        now_s = time.perf_counter()
        self.first_byte_s = now_s - self._leased_s
        if self.stream:
            self.ttft_s = now_s - self.started_s

    def answered(self, payload: Mapping[str, Any]) -> None:
        """The engine's answer is complete: its usage and the first choice's end."""
        self.counted(payload.get("usage"))
        choices = payload.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            reason = choices[0].get("finish_reason")
            self.finish_reason = reason if isinstance(reason, str) else None
        self.ended()

    def counted(self, usage: object) -> None:
        """Takes the counts of an engine's ``usage`` object; anything else is passed over."""
        if not isinstance(usage, Mapping):
            return
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.prompt_tokens = prompt if isinstance(prompt, int) else self.prompt_tokens
        if isinstance(completion, int):
            self.completion_tokens = completion

    def ended(self) -> None:
        """The engine is done with it."""
        if self._leased_s:
            self.engine_s = time.perf_counter() - self._leased_s

    def failed(self, exc: BelvedereError) -> None:
        """It ends with this error."""
        self.status, self.error = exc.status, exc.code or exc.type

    def left(self) -> None:
        """The client went away before the answer was complete."""
        self.client_left, self.status = True, CLIENT_CLOSED_REQUEST


def current() -> RequestRecord:
    """The record of the request at hand; outside of any, one that nobody reads."""
    return _current.get(None) or RequestRecord()


@contextmanager
def recording(record: RequestRecord) -> Iterator[None]:
    """`record` is the current one in the block, and in tasks started there."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)
