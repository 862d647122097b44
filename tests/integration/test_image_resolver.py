"""Slow name servers hold up nobody but the images that name them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from belvedere.errors import ImageDownloadFailed, InvalidImageUrl
from belvedere.images.fetch import ImageFetcher
from belvedere.images.limits import ImageLimits
from belvedere.images.resolver import SystemResolver
from tests.integration.serving import wait_until


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


class SlowNames:
    """A lookup that answers when it is told to, and counts."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = self.most = self.ended = 0
        self._lock = threading.Lock()

    def __call__(self, host: str, port: int, **_: Any) -> Any:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.release.wait(120)
        with self._lock:
            self.running -= 1
            self.ended += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def test_real_names_are_resolved() -> None:
    async def scenario() -> None:
        resolver = SystemResolver()
        found = {str(address) for address in await resolver("localhost", 80)}
        assert found and found <= {"127.0.0.1", "::1"}
        assert await resolver("no-such-name.invalid", 80) == ()
        assert await resolver("a" * 70 + ".example", 80) == ()

    run(scenario)


def test_slow_names_starve_nobody() -> None:
    """Other threads work on, the lookups stay within their bound, and what timed out is a 400."""

    async def scenario() -> None:
        names = SlowNames()
        limits = ImageLimits(fetch_timeout_s=1.0)
        fetcher = ImageFetcher(limits, resolver=SystemResolver(4, names))
        started_s = time.monotonic()
        jobs = [fetcher.fetch(f"http://slow{n}.example/a.png") for n in range(60)]
        waiting = asyncio.gather(*jobs, return_exceptions=True)
        await asyncio.sleep(0.05)
        others = [asyncio.to_thread(int, "7") for _ in range(40)]
        assert await asyncio.wait_for(asyncio.gather(*others), 30) == [7] * 40
        errors = await waiting
        assert {type(error) for error in errors} == {ImageDownloadFailed}
        assert time.monotonic() - started_s < 60
        assert await asyncio.to_thread(wait_until, lambda: names.running >= 4)
        assert (names.most, names.running) == (4, 4)
        names.release.set()
        with pytest.raises(InvalidImageUrl):
            await ImageFetcher(resolver=SystemResolver(4, names)).fetch("http://x.example/")

    run(scenario)


def test_a_slot_is_free_when_its_lookup_is_over() -> None:
    """Not before: its thread still runs when the caller has left."""

    async def scenario() -> None:
        names = SlowNames()
        resolver = SystemResolver(1, names)
        first = asyncio.create_task(resolver("a.example", 80))
        assert await asyncio.to_thread(wait_until, lambda: names.running)
        first.cancel()
        second = asyncio.create_task(resolver("b.example", 80))
        await asyncio.sleep(0.05)
        assert (names.most, names.ended) == (1, 0)
        names.release.set()
        assert [str(address) for address in await asyncio.wait_for(second, 30)] == ["127.0.0.1"]
        assert (names.most, names.ended) == (1, 2)

    run(scenario)


EXIT = """
import asyncio, threading
from belvedere.images.resolver import SystemResolver
async def main():
    resolver = SystemResolver(1, lambda *_, **__: threading.Event().wait(600))
    try:
        await asyncio.wait_for(resolver("slow.example", 80), 0.1)
    except TimeoutError:
        print("timed out")
asyncio.run(main())
"""


def test_a_slow_name_does_not_delay_the_end_of_the_process() -> None:
    """The lookup takes ten minutes: nobody waits for it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXIT], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr, done.returncode) == ("timed out\n", "", 0)
