"""What the supervisor asks an engine: its counters, and whether it generates."""

from __future__ import annotations

import asyncio
import importlib
import json
from types import ModuleType, TracebackType
from typing import Any, Self

from belvedere.engines.base import Endpoint, HangPolicy, ReadyProbe
from belvedere.engines.progress import (
    Counters,
    Sample,
    counters_from_metrics,
    counters_from_stats,
)

__all__ = ["Broken", "Contact", "NotYet", "Refused", "excerpt"]

_CONNECT_TIMEOUT_S = 5.0
_EXCERPT_CHARS = 200
_MAX_ANSWER_BYTES = 8 * 2**20
_LATER = frozenset({404, 408, 425, 429})


class NotYet(Exception):
    """No usable answer now; asking again may help. The text says what came instead."""


class Broken(NotYet):
    """The connection did not come about, or ended in the middle."""


class Refused(Exception):
    """An answer that will stay as it is. The text says what it was."""


class Contact:
    """Connections to one engine for the time of an ``async with`` block.

    The HTTP client is imported by the first contact, in a thread: a supervisor without engines
    starts without it.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._library: ModuleType | None = None
        self._client: Any = None

    async def __aenter__(self) -> Self:
        self._library = library = await asyncio.to_thread(importlib.import_module, "httpx2")
        key = self._endpoint.api_key
        self._client = library.AsyncClient(
            base_url=self._endpoint.base_url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=library.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            transport=library.AsyncHTTPTransport(uds=self._endpoint.uds),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def sample(self, kind: str, timeout_s: float) -> Sample:
        """One look at the counters; never raises for what the engine does."""
        parse = counters_from_metrics if kind == "metrics" else counters_from_stats
        try:
            async with asyncio.timeout(timeout_s):
                _, content = await self.ask("GET", f"/{kind}")
        except (NotYet, TimeoutError):
            return "silent"
        except Refused:
            return "uncounted"
        return parse(content) or "uncounted"

    async def counters(self, policy: HangPolicy, timeout_s: float) -> Counters | None:
        """The counters, or ``None`` if the engine does not tell them in time."""
        sample = await self.sample(policy.counters, timeout_s)
        return sample if isinstance(sample, Counters) else None

    async def prove(self, probe: ReadyProbe) -> None:
        """Returns when the engine has generated something.

        Raises:
            NotYet: it is not reachable, or not ready.
            Refused: it answers, but not with a generated answer.
        """
        status, content = await self.ask("POST", probe.path, dict(probe.body))
        if status != 200:
            text = f"HTTP status {status}: {excerpt(content)}"
            raise NotYet(text) if status >= 500 or status in _LATER else Refused(text)
        if not _has_choices(content):
            raise Refused(f"an answer without a generation: {excerpt(content)}")

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and content of one answer.

        Raises:
            NotYet: there is none.
            Refused: it is too long.
        """
        assert self._library is not None
        content = bytearray()
        try:
            async with self._client.stream(method, path, json=body) as response:
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > _MAX_ANSWER_BYTES:
                        raise Refused(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
                return int(response.status_code), bytes(content)
        except self._library.HTTPError as exc:
            raise Broken(f"no answer ({type(exc).__name__})") from exc


def _has_choices(content: bytes) -> bool:
    try:
        answer = json.loads(content)
    except ValueError:
        return False
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return isinstance(choices, list) and bool(choices)


def excerpt(content: bytes) -> str:
    """The beginning of what an engine said, for an error message."""
    text = content[: 4 * _EXCERPT_CHARS].decode("utf-8", "replace")[:_EXCERPT_CHARS]
    return repr(
        "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )
