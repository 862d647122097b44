"""A scripted OpenAI server: its times and failures are chosen, its answers are not a model's.

In a test::

    with FakeEngine(Script(tokens=5, itl_s=0.01)) as engine:
        engine.play(Script(fail="cut", fail_after=2))   # for the next request only
        ...  # talk to engine.url

As a process: ``python -m belvedere.testing --uds SOCKET --tokens 5``; it announces its phases like
the embedded engine, so the supervisor can own it, and takes scripts over HTTP (``POST /script``).
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from belvedere.testing.answers import Shape, error, event, metrics
from belvedere.testing.hardware import Answer, Counters, Hardware
from belvedere.testing.prompt_cache import Prompt
from belvedere.testing.script import Capacity, Failure, Script
from belvedere.testing.sleep_mode import SleepMode, SleepScript

__all__ = ["Counters", "Failure", "FakeEngine", "Script", "server_config"]

_MAX_MODEL_LEN = 32_768
Handler = Callable[[Request], Awaitable[Response]]


class FakeEngine:
    """Serves in a thread of its own for the time of a ``with`` block.

    Routes: ``/health``, ``/stats``, ``/metrics`` (vLLM's names), ``/v1/models``,
    ``/v1/chat/completions``, ``/v1/completions``, ``/tokenize``, and ``POST /script`` with
    ``{"queue": [script, ...]}`` for the next requests or ``{"default": script}`` for all others.
    With `SleepScript.sleep_mode` also vLLM's ``/sleep``, ``/wake_up``, ``/is_sleeping`` and
    ``/collective_rpc``.

    Args:
        script: for every request for which none was queued with `play`.
        model: the name it serves.
        api_key: bearer key that every route but ``/health`` asks for; ``None`` asks for none.
        capacity: of the pretended hardware.
        sleep: how it sleeps and wakes.

    Attributes:
        url: where it listens, in the ``with`` block.
        counters: what it has done.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        model: str = "fake",
        api_key: str | None = None,
        capacity: Capacity | None = None,
        sleep: SleepScript | None = None,
    ) -> None:
        self.script = script or Script()
        self.model = model
        self.capacity = capacity or Capacity()
        self._hardware = Hardware(self.capacity)
        self._sleep_script = sleep or SleepScript()
        self._sleeping = SleepMode(self._hardware, self._sleep_script)
        self.counters = self._hardware.counters
        self.url = ""
        self._key = api_key
        self._queued: deque[Script] = deque()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def play(self, *scripts: Script) -> None:
        """Queues scripts for the next requests, in order."""
        self._queued.extend(scripts)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes: list[tuple[str, Handler, str]] = [
            ("/stats", self._stats, "GET"),
            ("/metrics", self._metrics, "GET"),
            ("/v1/models", self._models, "GET"),
            ("/v1/chat/completions", self._chat, "POST"),
            ("/v1/completions", self._completions, "POST"),
            ("/tokenize", self._tokenize, "POST"),
            ("/script", self._take_script, "POST"),
        ]
        if self._sleep_script.sleep_mode:
            routes += [
                ("/sleep", self._sleep, "POST"),
                ("/wake_up", self._wake_up, "POST"),
                ("/is_sleeping", self._is_sleeping, "GET"),
                ("/collective_rpc", self._collective_rpc, "POST"),
            ]
        guarded = [Route(path, self._guarded(call), methods=[how]) for path, call, how in routes]
        return Starlette(routes=[Route("/health", self._health), *guarded])

    def __enter__(self) -> Self:
        sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._server = uvicorn.Server(server_config(self.app()))
        self._thread = threading.Thread(target=self._run, args=(self._server, sock), daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the fake engine does not start")
            time.sleep(0.005)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._hardware.thaw()
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()

    @staticmethod
    def _run(server: uvicorn.Server, sock: socket.socket) -> None:
        with sock:
            asyncio.run(server.serve(sockets=[sock]))

    def _guarded(self, call: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode()
            if self._key and not hmac.compare_digest(given, f"Bearer {self._key}".encode()):
                return error(401, "The API key is missing or wrong.", "invalid_api_key")
            return await call(request)

        return checked

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _stats(self, _: Request) -> Response:
        return JSONResponse(self.counters.stats())

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse(metrics(self.counters.stats(), self.model))

    async def _models(self, _: Request) -> Response:
        entry = {"id": self.model, "object": "model", "created": 0, "owned_by": "fake"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def _tokenize(self, request: Request) -> Response:
        prompt = Prompt.from_body(await request.json(), self.capacity.image_tokens)
        count = len(prompt.tokens)
        tokens = list(range(count))
        return JSONResponse({"count": count, "max_model_len": _MAX_MODEL_LEN, "tokens": tokens})

    async def _sleep(self, request: Request) -> Response:
        level = int(request.query_params.get("level", "1"))
        if not await self._sleeping.sleep(level, request.query_params.get("mode", "abort")):
            return error(500, "The fake engine cannot sleep.")
        return JSONResponse({"status": "sleeping", "level": level})

    async def _wake_up(self, request: Request) -> Response:
        tags = request.query_params.getlist("tags")
        if not await self._sleeping.wake(tags):
            return error(500, "CUDA Error: out of memory")
        status = "sleeping" if self._sleeping.is_sleeping else "awake"
        return JSONResponse({"status": status, "tags": tags or None})

    async def _is_sleeping(self, _: Request) -> Response:
        return JSONResponse({"is_sleeping": self._sleeping.is_sleeping})

    async def _collective_rpc(self, request: Request) -> Response:
        if (await request.json()).get("method") != "reload_weights":
            return error(400, "The fake engine only reloads weights.")
        await self._sleeping.reload()
        return JSONResponse({"results": [None]})

    async def _take_script(self, request: Request) -> Response:
        try:
            body = await request.json()
            queued = [Script.from_json(one) for one in body.get("queue", [])]
            default = Script.from_json(body["default"]) if "default" in body else None
        except (ValueError, TypeError, AttributeError) as exc:
            return error(400, f"This is not a script: {exc}.")
        self.script = default or self.script
        self.play(*queued)
        return JSONResponse({"queued": len(self._queued)})

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, Shape(self.model, is_chat=True))

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, Shape(self.model, is_chat=False))

    async def _answer(self, request: Request, shape: Shape) -> Response:
        body = await request.json()
        self.counters.received += 1
        self.counters.requests.append(body)
        self.counters.headers.append(dict(request.headers))
        script = self._queued.popleft() if self._queued else self.script
        if "max_tokens" in body:
            script = replace(script, tokens=min(script.tokens, body["max_tokens"]))
        match script.fail:
            case "refuse":
                return error(400, "The fake engine refuses.", "context_length_exceeded")
            case "overload":
                return error(429, "The fake engine is full.")
            case "away":
                return error(503, "The fake engine is away.")
            case "error":
                return error(500, "The fake engine failed.")
            case "garbage":
                return Response(b"\x00\x01 this is no answer", media_type="application/json")
        answer = Answer(self._hardware, script, Prompt.from_body(body, self.capacity.image_tokens))
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            events = _events(answer, shape, with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        return await _whole(request, answer, shape)


async def _events(answer: Answer, shape: Shape, with_usage: bool) -> AsyncIterator[bytes]:
    if shape.is_chat:
        yield event(shape.first())
    async for piece in answer.tokens():
        yield event(shape.chunk(piece))
    yield event(shape.last(answer.end))
    if with_usage:
        yield event(shape.counted(answer.usage))
    yield b"data: [DONE]\n\n"


async def _whole(request: Request, answer: Answer, shape: Shape) -> Response:
    work = asyncio.ensure_future(_collect(answer))
    leaving = asyncio.ensure_future(_left(request))
    await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not work.done():
        work.cancel()
        return Response(status_code=499)
    return JSONResponse(shape.whole("".join(work.result()), answer.usage, answer.end))


async def _collect(answer: Answer) -> list[str]:
    return [piece async for piece in answer.tokens()]


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def server_config(app: Starlette, **options: Any) -> uvicorn.Config:
    """uvicorn without a word of its own."""
    return uvicorn.Config(
        app, log_config=None, log_level="critical", access_log=False, lifespan="off", **options
    )
