"""What the fake engine pretends to compute with: seats, a prefill at a time, caches, and faults."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from belvedere.testing.answers import usage
from belvedere.testing.prompt_cache import Prefill, Prompt, PromptCache
from belvedere.testing.script import Capacity, Script

__all__ = ["Answer", "Counters", "Hardware"]

_KEPT_REQUESTS = 1000


@dataclass(slots=True)
class Counters:
    """What an engine's own statistics say.

    Attributes:
        running, waiting: now.
        received: requests for an answer; `requests` holds the last 1000 bodies as they came,
            `headers` their headers, names in lower case.
        finished, cancelled: answers that were complete, and those that were not.
        prompt_tokens, cached_tokens: of finished prefills, and what the prefix cache had of them.
        vision_tokens: of images that had to be encoded.
        generated_tokens: sent.
        sleeps, wakes, reloads: calls of vLLM's sleep mode.
    """

    running: int = 0
    waiting: int = 0
    received: int = 0
    finished: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    vision_tokens: int = 0
    generated_tokens: int = 0
    sleeps: int = 0
    wakes: int = 0
    reloads: int = 0
    requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT_REQUESTS))
    headers: deque[dict[str, str]] = field(default_factory=lambda: deque(maxlen=_KEPT_REQUESTS))

    def stats(self) -> dict[str, int]:
        """The body of ``/stats``; ``requests`` counts them."""
        names = [entry.name for entry in fields(self) if entry.type == "int"]
        names.remove("received")
        return {"requests": self.received, **{name: getattr(self, name) for name in names}}


class Hardware:
    """Everything that the requests of one fake engine share. Use it in one event loop.

    Attributes:
        counters: what was done with it.
        aborts: how often everything that ran was cut off.
        has_weights: otherwise it generates garbage.
    """

    def __init__(self, capacity: Capacity) -> None:
        self.counters = Counters()
        self.aborts = 0
        self.has_weights = True
        self._capacity = capacity
        self._cache = PromptCache(capacity)
        self._seats = asyncio.Semaphore(capacity.max_num_seqs)
        self._prefilling = asyncio.Lock()
        self._going = asyncio.Event()
        self._going.set()
        self._thawed = threading.Event()
        self._scheduling = asyncio.Event()
        self._scheduling.set()

    @property
    def is_paused(self) -> bool:
        """Whether requests wait and none begins to run."""
        return not self._scheduling.is_set()

    def pause(self, *, abort: bool) -> None:
        """New requests wait; with `abort`, those that run end where they are."""
        self._scheduling.clear()
        self.aborts += abort

    def resume(self) -> None:
        self._scheduling.set()

    def forget(self, *, weights: bool) -> None:
        """Loses its caches, and the weights if told to."""
        self._cache = PromptCache(self._capacity)
        self.has_weights = not weights

    def thaw(self) -> None:
        """Ends a freeze, from any thread."""
        self._thawed.set()

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """A place among the running requests; until there is one the request is waiting."""
        counters = self.counters
        counters.waiting += 1
        try:
            await self._scheduling.wait()
            await self._seats.acquire()
        finally:
            counters.waiting -= 1
        counters.running += 1
        try:
            yield
        finally:
            counters.running -= 1
            self._seats.release()

    async def prefill(self, prompt: Prompt) -> Prefill:
        """Takes the time that the uncached part of `prompt` needs, and remembers it."""
        async with self._prefilling:
            await self._going.wait()
            work = self._cache.look_up(prompt)
            computed = work.prompt_tokens - work.cached_tokens
            prefill_s = computed * self._capacity.prefill_s_per_token
            await asyncio.sleep(prefill_s + work.vision_tokens * self._capacity.vision_s_per_token)
            self._cache.remember(prompt)
        self.counters.prompt_tokens += work.prompt_tokens
        self.counters.cached_tokens += work.cached_tokens
        self.counters.vision_tokens += work.vision_tokens
        return work

    async def step(self, script: Script, index: int) -> None:
        """What happens before token `index`: usually nothing."""
        await self._going.wait()
        if index != script.fail_after:
            return
        match script.fail:
            case "hang":
                await asyncio.Event().wait()
            case "stall":
                self._going.clear()
                await self._going.wait()
            case "freeze":
                self._thawed.wait()
            case "cut":
                raise ConnectionAbortedError("scripted")
            case "exit":
                os._exit(9)


class Answer:
    """One request on its way through the hardware.

    Attributes:
        end: its ``finish_reason``.
    """

    def __init__(self, hardware: Hardware, script: Script, prompt: Prompt) -> None:
        self._hardware = hardware
        self._script = script
        self._prompt = prompt
        self._work = Prefill(len(prompt.tokens), 0, 0)
        self._sent = 0
        self.end = "stop"

    @property
    def usage(self) -> dict[str, Any]:
        return usage(self._work.prompt_tokens, self._work.cached_tokens, self._sent)

    async def tokens(self) -> AsyncIterator[str]:
        """The texts of the tokens, each when it is due."""
        with self._counted() as complete:
            async with self._hardware.seat():
                aborts = self._hardware.aborts
                self._work = await self._hardware.prefill(self._prompt)
                for index in self._indices():
                    await self._hardware.step(self._script, index)
                    await asyncio.sleep(self._pause_s(index))
                    if self._hardware.aborts != aborts:
                        self.end = "abort"
                        return
                    self._sent += 1
                    self._hardware.counters.generated_tokens += 1
                    text = f"tok{index}" if self._hardware.has_weights else "!!!!"
                    yield text.ljust(self._script.token_bytes - 1, ".") + " "
                await self._hardware.step(self._script, self._script.tokens)
                complete()

    def _indices(self) -> Iterator[int]:
        index = 0
        while index < self._script.tokens or self._script.fail == "flood":
            yield index
            index += 1

    def _pause_s(self, index: int) -> float:
        if index == 0:
            return self._script.ttft_s
        floods = self._script.fail == "flood" and index >= self._script.fail_after
        return 0.0 if floods else self._script.itl_s

    @contextmanager
    def _counted(self) -> Iterator[Callable[[], None]]:
        done: list[bool] = []
        try:
            yield lambda: done.append(True)
        finally:
            self._hardware.counters.finished += bool(done)
            self._hardware.counters.cancelled += not done
