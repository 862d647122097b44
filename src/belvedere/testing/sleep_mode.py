"""The fake engine's sleep: vLLM's ``/sleep``, ``/wake_up``, ``/is_sleeping`` and reload."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Literal, get_args

from belvedere.testing.hardware import Hardware

__all__ = ["SleepFailure", "SleepMode", "SleepScript"]

SleepFailure = Literal["none", "error", "hang", "exit"]
_TAGS = frozenset({"weights", "kv_cache"})
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class SleepScript:
    """How sleeps fare.

    Attributes:
        sleep_mode: the routes are there, as with vLLM's ``--enable-sleep-mode``.
        sleep_s, wake_s, reload_s: what they take, also where they fail.
        sleep_fail, wake_fail: ``error`` answers 500, ``hang`` never, ``exit`` ends the process.
    """

    sleep_mode: bool = False
    sleep_s: float = 0.0
    wake_s: float = 0.0
    reload_s: float = 0.0
    sleep_fail: SleepFailure = "none"
    wake_fail: SleepFailure = "none"

    def __post_init__(self) -> None:
        for value in (self.sleep_fail, self.wake_fail):
            if value not in get_args(SleepFailure):
                raise ValueError(f"{value!r} is not one of {', '.join(get_args(SleepFailure))}")


class SleepMode:
    """Puts the hardware of one fake engine to sleep. Use it in one event loop.

    As with vLLM, requests that come during a sleep wait until its end, and weights that were
    dropped (level 2) are garbage after a wake until they are loaded again.
    """

    def __init__(self, hardware: Hardware, script: SleepScript) -> None:
        self._hardware = hardware
        self._script = script
        self._asleep: set[str] = set()

    @property
    def is_sleeping(self) -> bool:
        return bool(self._asleep) or self._hardware.is_paused

    async def sleep(self, level: int, mode: str) -> bool:
        """Whether it sleeps now; ``mode`` is ``abort``, or ``wait`` for the running requests."""
        self._hardware.counters.sleeps += 1
        self._hardware.pause(abort=mode == "abort")
        while self._hardware.counters.running:
            await asyncio.sleep(_POLL_S)
        if not await _fares(self._script.sleep_fail, self._script.sleep_s):
            return False
        if level and not self._asleep:
            self._hardware.forget(weights=level > 1)
            self._asleep = set(_TAGS)
        return True

    async def wake(self, tags: list[str]) -> bool:
        """Whether what `tags` name, or everything, is there again."""
        self._hardware.counters.wakes += 1
        if not await _fares(self._script.wake_fail, self._script.wake_s):
            return False
        self._asleep -= set(tags) or _TAGS
        if not self._asleep:
            self._hardware.resume()
        return True

    async def reload(self) -> None:
        """The weights are read again; where they are still asleep that fails."""
        if "weights" in self._asleep:
            raise RuntimeError("the weights have no memory")
        self._hardware.counters.reloads += 1
        await asyncio.sleep(self._script.reload_s)
        self._hardware.has_weights = True


async def _fares(fault: SleepFailure, takes_s: float) -> bool:
    if fault == "hang":
        await asyncio.Event().wait()
    await asyncio.sleep(takes_s)
    if fault == "exit":
        os._exit(9)
    return fault != "error"
