"""The sleep of one engine, by the routes of vLLM's sleep mode.

An engine that sleeps keeps its process and gives back most of its GPU memory. At level 1 the
weights wait in host memory, at level 2 they are dropped and read from the disk again; the KV cache
is dropped in both. It takes requests while it sleeps, but computes none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from belvedere.engines.base import EngineSpec, EngineStatus, SleepPolicy
from belvedere.engines.contact import Contact, NotYet, Refused, excerpt

__all__ = ["CannotSleep", "SleepFailed", "Sleeper"]

_OK = 200
_RELOAD = {"method": "reload_weights"}


class CannotSleep(Exception):
    """It cannot be done with this engine, or not now. The text says why."""


class SleepFailed(Exception):
    """The engine is neither awake nor asleep now. The text says what it did not do."""


class Sleeper:
    """Lets one engine sleep and wakes it when told to.

    Args:
        spec: of the engine.
        status: asks for its present status.
        change: changes fields of its status.
    """

    def __init__(
        self,
        spec: EngineSpec,
        status: Callable[[], EngineStatus],
        change: Callable[..., None],
    ) -> None:
        self._spec = spec
        self._status = status
        self._change = change
        self._sleep_wanted = asyncio.Event()
        self._wake_wanted = asyncio.Event()
        self._level = 1
        self._aborts = False

    def sleep(self, level: int, *, abort: bool) -> None:
        """Begins the sleep of an engine that is ready; nothing happens where one has begun.

        Args:
            level: 1 or 2.
            abort: cut its running requests off; otherwise they may finish, for up to ``drain_s``.

        Raises:
            CannotSleep: it has no sleep mode, or is neither ready nor asleep.
        """
        if self._spec.sleep is None:
            raise CannotSleep(f"The engine {self._spec.name!r} was started without sleep mode.")
        status = self._status()
        if status.state == "asleep" and not self._wake_wanted.is_set():
            return
        if status.state != "ready":
            raise CannotSleep(f"The engine {self._spec.name!r} is {_described(status)}.")
        self._level, self._aborts = level, abort
        self._wake_wanted.clear()
        self._sleep_wanted.set()
        self._change(state="asleep", phase="falling asleep", sleep_level=level)

    def wake(self) -> None:
        """Ends the sleep; nothing happens to an engine that is ready.

        Raises:
            CannotSleep: it is neither asleep nor ready.
        """
        status = self._status()
        if status.state not in ("asleep", "ready"):
            raise CannotSleep(f"The engine {self._spec.name!r} is {_described(status)}.")
        self._wake_wanted.set()
        if status.phase == "asleep":
            self._change(phase="waking")

    def launched(self) -> None:
        """A new process is awake."""
        self._sleep_wanted.clear()
        self._wake_wanted.clear()

    async def wanted(self) -> None:
        """Returns when the engine is to sleep."""
        await self._sleep_wanted.wait()

    async def run(self) -> None:
        """One sleep, from falling asleep until the engine has generated something again.

        Raises:
            SleepFailed: it has to be started again.
        """
        policy = self._spec.sleep
        assert policy is not None, "no other engine is told to sleep"
        self._sleep_wanted.clear()
        with _failing("did not fall asleep"):
            await self._fall_asleep(policy)
        self._change(phase="waking" if self._wake_wanted.is_set() else "asleep")
        await self._wake_wanted.wait()
        with _failing("did not wake up"):
            await self._wake_up(policy)
        self._change(state="ready", phase="ready", sleep_level=None)

    async def _fall_asleep(self, policy: SleepPolicy) -> None:
        """New requests wait in the engine from the first call on."""
        path = f"/sleep?level={self._level}&mode="
        async with Contact(self._spec.endpoint) as contact:
            if self._aborts or not await self._finishes(contact, path + "wait"):
                async with asyncio.timeout(policy.timeout_s):
                    await _post(contact, path + "abort")
            async with asyncio.timeout(policy.timeout_s):
                await _expect(contact, is_sleeping=True)

    async def _finishes(self, contact: Contact, path: str) -> bool:
        """Whether it slept by the time that its running requests have."""
        try:
            async with asyncio.timeout(self._spec.drain_s):
                await _post(contact, path)
        except TimeoutError:
            return False
        return True

    async def _wake_up(self, policy: SleepPolicy) -> None:
        is_reload = self._level > 1
        limit_s = policy.reload_timeout_s if is_reload else policy.timeout_s
        async with asyncio.timeout(limit_s), Contact(self._spec.endpoint) as contact:
            if is_reload:
                await _post(contact, "/wake_up?tags=weights")
                await _post(contact, "/collective_rpc", _RELOAD)
                await _post(contact, "/wake_up?tags=kv_cache")
            else:
                await _post(contact, "/wake_up")
            await _expect(contact, is_sleeping=False)
            if self._spec.probe is not None:
                await contact.prove(self._spec.probe)


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turns what an engine did not do within the block into `SleepFailed`."""
    try:
        yield
    except TimeoutError as exc:
        raise SleepFailed(f"{what} in time") from exc
    except (NotYet, Refused) as exc:
        raise SleepFailed(f"{what}: {exc}") from exc


async def _post(contact: Contact, path: str, body: object = None) -> None:
    status, content = await contact.ask("POST", path, body)
    if status != _OK:
        raise Refused(f"HTTP status {status} of {path}: {excerpt(content)}")


async def _expect(contact: Contact, *, is_sleeping: bool) -> None:
    status, content = await contact.ask("GET", "/is_sleeping")
    try:
        found = json.loads(content)["is_sleeping"] if status == _OK else None
    except (ValueError, KeyError, TypeError):
        found = None
    if found is not is_sleeping:
        raise Refused(f"HTTP status {status} of /is_sleeping: {excerpt(content)}")


def _described(status: EngineStatus) -> str:
    return status.phase if status.state == "asleep" else status.state
