"""The event loop of a browser, in a thread of its own, and how others have work done in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

from belvedere.agent.environments.playwright_errors import translated
from belvedere.agent.stopping import StopSwitch
from belvedere.errors import EnvironmentFailed

__all__ = ["BrowserThread"]

_POLL_S = 0.02

T = TypeVar("T")


class BrowserThread:
    """Runs from when it is made until `end`.

    Args:
        switch: ends every wait.
    """

    def __init__(self, switch: StopSwitch) -> None:
        self._switch = switch
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="belvedere-browser", daemon=True
        )
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return self.loop.is_closed()

    def end(self, timeout_s: float) -> None:
        """Ends the loop; what it still does after `timeout_s` is left to the end of the process."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self.loop.close()

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Has `work` done; Playwright's failures come as ours."""
        return asyncio.run_coroutine_threadsafe(translated(work), self.loop)

    def wait(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """The result of `work`; raises `Stop` instead of beginning, or going on, once stopped.

        Raises:
            EnvironmentFailed: it takes longer than `timeout_s`, or failed.
        """

        async def begun() -> T:
            if self._switch.cause is not None:
                raise asyncio.CancelledError
            return await work()

        self._switch.check()
        future = self.start(begun)
        try:
            waited_s = 0.0
            while not wait_for([future], timeout=_POLL_S).done and waited_s < timeout_s:
                self._switch.check()
                waited_s += _POLL_S
            if future.cancelled():
                self._switch.check()
            return self.result(future, 0)
        finally:
            future.cancel()

    @staticmethod
    def result(future: Future[T], timeout_s: float) -> T:
        """What was started.

        Raises:
            EnvironmentFailed: it takes longer than `timeout_s`, or failed.
        """
        try:
            return future.result(timeout_s)
        except TimeoutError as exc:
            raise EnvironmentFailed("The browser did not answer in time.") from exc
