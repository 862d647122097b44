"""An OpenAI server whose answers are chosen by the test: real sockets, a cache that counts.

It is no Belvedere: no ``belvedere`` block, one model, and OpenAI's own shapes. Prompt tokens and
what a prefix cache would know of them come from `belvedere.testing`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from belvedere.testing.fake_engine import server_config
from belvedere.testing.prompt_cache import Prompt, PromptCache
from belvedere.testing.script import Capacity

Body = dict[str, Any]


@dataclass
class Answer:
    """One answer.

    Attributes:
        chance: probability of every token of it; the rest goes to `others`.
        others: what a number could have been instead, with its probability.
    """

    text: str | None
    chance: float = 1.0
    others: dict[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"


class AnsweringServer:
    """Serves in a thread of its own for the time of a ``with`` block.

    Args:
        answers: one for each request, in order; the last one for all others. A callable is given
            the request's body.
        models: the names it serves.
        logprobs: whether it knows them; a server that does not refuses them by name.
        delay_s: before each answer.
        block: the ``belvedere`` block of each response, or what a strange server has there.
        refusal: (status, headers) of every answer.
    """

    def __init__(
        self,
        *answers: Answer | str | Callable[[Body], str],
        models: Sequence[str] = ("MAI-UI-2B",),
        logprobs: bool = True,
        delay_s: float = 0.0,
        block: object = None,
        refusal: tuple[int, dict[str, str]] | None = None,
    ) -> None:
        self._answers = list(answers)
        self._models = models
        self._logprobs = logprobs
        self._delay_s = delay_s
        self._block = {} if block is None else {"belvedere": block}
        self._refusal = refusal
        self._cache = PromptCache(Capacity())
        self.bodies: list[Body] = []
        self.url = ""

    def __enter__(self) -> Self:
        sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        routes = [
            Route("/v1/models", self._list),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        self._server = uvicorn.Server(server_config(Starlette(routes=routes)))
        self._thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()

    def _run(self, sock: socket.socket) -> None:
        with sock:
            asyncio.run(self._server.serve(sockets=[sock]))

    async def _list(self, _: Request) -> Response:
        data = [{"id": name, "object": "model"} for name in self._models]
        return JSONResponse({"object": "list", "data": data})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if "logprobs" in body and not self._logprobs:
            message = "The parameter 'logprobs' is not supported."
            error = {"message": message, "type": "invalid_request_error", "param": "logprobs"}
            return JSONResponse({"error": error}, status_code=400)
        if self._refusal is not None:
            status, headers = self._refusal
            error = {"message": "Not now.", "type": "error", "param": None, "code": None}
            return JSONResponse({"error": error}, status_code=status, headers=headers)
        await asyncio.sleep(self._delay_s)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not isinstance(answer, Answer):
            answer = Answer(answer if isinstance(answer, str) else answer(body))
        return JSONResponse(self._response(body, answer))

    def _response(self, body: Body, answer: Answer) -> Body:
        prompt = Prompt.from_body(body, Capacity().image_tokens)
        prefill = self._cache.look_up(prompt)
        self._cache.remember(prompt)
        choice: Body = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.finish_reason,
            "logprobs": _logprobs(answer) if body.get("logprobs") else None,
        }
        usage = {
            "prompt_tokens": prefill.prompt_tokens,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": prefill.cached_tokens},
        }
        return {"object": "chat.completion", "choices": [choice], "usage": usage, **self._block}


def _logprobs(answer: Answer) -> Body:
    """Numbers are tokens of their own, as in the shipped model."""
    entries = []
    for token in re.findall(r"\d+|[^\d]+", answer.text or ""):
        chances = {token: answer.chance, **(answer.others if token.isdecimal() else {})}
        top = [{"token": name, "logprob": math.log(chance)} for name, chance in chances.items()]
        entries.append(
            {
                "token": token,
                "logprob": math.log(answer.chance),
                "bytes": list(token.encode()),
                "top_logprobs": top,
            }
        )
    return {"content": entries}


def image_count(body: Body) -> int:
    """Images of a request."""
    return json.dumps(body).count('"type": "image_url"')


def texts(body: Body) -> list[tuple[str, str]]:
    """(role, kind or text) of each part of a request."""
    return [
        (message["role"], part.get("text", "IMAGE"))
        for message in body["messages"]
        for part in message["content"]
    ]
