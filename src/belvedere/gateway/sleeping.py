"""Models that sleep: put to sleep by wish, woken by wish or by the next request.

Those that share a GPU take turns on it. One that wakes, or is loaded, puts the others to sleep
first, when their requests have finished; requests for these wait and wake them afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from belvedere.catalog.machine import machine_gpus
from belvedere.engines.fleet import Fleet
from belvedere.errors import (
    EngineFailed,
    InvalidRequest,
    NotSupported,
    Unavailable,
)
from belvedere.gateway.deployment import Deployment
from belvedere.gateway.mirror import Mirror
from belvedere.gateway.reconcile import sleeping_bytes
from belvedere.router.replica import Model
from belvedere.router.router import Router

__all__ = ["Sleeping"]

_log = logging.getLogger(__name__)
_RETRY_AFTER_S = 5
_START_POLL_S = 0.2
_LEAST_AWAKE_S = 2.0
"""A model that was woken stays so for at least so long, so that what it was woken for gets there
before another one takes its place."""


class Sleeping:
    """Puts the models of one host to sleep and wakes them.

    Args:
        drain_timeout_s: running requests may finish within this time before a sleep.
    """

    def __init__(
        self, fleet: Fleet, router: Router, mirror: Mirror, *, drain_timeout_s: float
    ) -> None:
        self._fleet = fleet
        self._router = router
        self._mirror = mirror
        self._drain_timeout_s = drain_timeout_s
        self._turns: defaultdict[int | str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._wakes: dict[str, asyncio.Task[None]] = {}
        self._woken_s: dict[str, float] = {}

    async def sleep(
        self,
        deployment: Deployment,
        level: int = 1,
        *,
        is_due: Callable[[], bool] = lambda: True,
    ) -> None:
        """Puts a model to sleep; returns when all of its engines do.

        Its requests may finish first; those that have not after `drain_timeout_s` are cut off.

        Args:
            is_due: asked when it is the model's turn; it stays awake where that is false.

        Raises:
            NotSupported: its engines have no sleep mode.
            InvalidRequest: it sleeps already, at another level.
            Unavailable: an engine is not up, or did not fall asleep.
        """
        _check_mode(deployment)
        async with self._turn(deployment.gpu_ids or (deployment.id,)):
            self.check_up(deployment)
            self._check_level(deployment, level)
            if not is_due():
                return
            await self._put_to_sleep(deployment, level, abort=True)

    async def wake(self, deployment: Deployment) -> None:
        """Wakes a model, once for all who ask; returns when all of its engines answer.

        Raises:
            NotSupported: its engines have no sleep mode.
            Unavailable: an engine did not wake up, or another model keeps the GPU busy.
        """
        _check_mode(deployment)
        await asyncio.shield(self._waking(deployment))

    @asynccontextmanager
    async def place_for(self, gpu_ids: tuple[int, ...]) -> AsyncIterator[None]:
        """These GPUs are free of models that can sleep, and stay so for the time of the block.

        Raises:
            Unavailable: one of them is busy.
        """
        async with self._turn(gpu_ids):
            await self._make_room(gpu_ids)
            yield

    async def hold_place(self, deployment: Deployment) -> None:
        """Its GPUs are kept free for engines that are being started again, until they answer.

        Not between two starts: others may have the GPUs while an engine that crashes again and
        again is waited for.

        Raises:
            Unavailable: as for `place_for`.
        """
        async with self._turn(deployment.gpu_ids):
            if self.is_starting(deployment) and not await self._fits(deployment):
                await self._make_room(deployment.gpu_ids, but=deployment)
            while self.is_starting(deployment):
                await asyncio.sleep(_START_POLL_S)

    def is_starting(self, deployment: Deployment) -> bool:
        """Whether some of its engines are being started now."""
        return bool(self._engines(deployment, "starting"))

    async def aclose(self) -> None:
        """Ends the wakes that are under way here; the engines go on with theirs."""
        for task in self._wakes.values():
            task.cancel()
        await asyncio.gather(*self._wakes.values(), return_exceptions=True)

    def is_asleep(self, deployment: Deployment) -> bool:
        """Whether any of its engines sleeps, falls asleep or wakes, or is to sleep soon."""
        engines = self._mirror.engines(deployment)
        return any(self._mirror.state(name) == "asleep" for name in engines)

    def check_up(self, deployment: Deployment) -> None:
        """Raises `Unavailable` while an engine is neither ready nor asleep."""
        if not self._mirror.is_up(deployment):
            raise Unavailable(
                f"The model {deployment.name!r} is not up.",
                remedy="Try again shortly; GET /health shows the state.",
                retry_after_s=_RETRY_AFTER_S,
            )

    def is_asked_asleep(self, deployment: Deployment) -> bool:
        """Whether requests are with engines that sleep."""
        sleeping = {
            name
            for name in self._engines(deployment, "asleep")
            if (status := self._fleet.status(name)) is not None and status.phase == "asleep"
        }
        return bool(sleeping) and any(
            replica.in_flight
            for replica in self._router.replicas
            if replica.model.deployment == deployment.id
        )

    def sleeper(self, model: Model) -> Deployment | None:
        """What a request for `model` has to wake: the one that serves its name now, if it sleeps.

        Raises:
            ModelNotFound: it is gone.
        """
        current = self._router.model(model.name).deployment
        for deployment in self._mirror.deployments:
            if deployment.id == current and self.is_asleep(deployment):
                return None if self._mirror.is_retiring(deployment) else deployment
        return None

    def _waking(self, deployment: Deployment) -> asyncio.Task[None]:
        task = self._wakes.get(deployment.id)
        if task is None:
            task = self._wakes[deployment.id] = asyncio.create_task(self._wake(deployment))
            task.add_done_callback(lambda done: self._woke(deployment.id, done))
        return task

    def _woke(self, key: str, done: asyncio.Task[None]) -> None:
        del self._wakes[key]
        if not done.cancelled() and (exc := done.exception()) is not None:
            _log.warning("a model did not wake up: %s", exc)

    async def _wake(self, deployment: Deployment) -> None:
        async with self._turn(deployment.gpu_ids or (deployment.id,)):
            names = self._engines(deployment, "asleep")
            if not names or self._mirror.is_retiring(deployment):
                return
            if not await self._fits(deployment):
                await self._make_room(deployment.gpu_ids, but=deployment)
            await self._all(deployment, "did not wake up", (self._fleet.wake(n) for n in names))
            self._woken_s[deployment.id] = time.monotonic()
            if (model := self._mirror.model(deployment)) is not None:
                self._router.touch(model)

    async def _make_room(self, gpu_ids: Iterable[int], but: Deployment | None = None) -> None:
        """The other models of these GPUs sleep."""
        for rival in self._rivals(gpu_ids, but):
            awake_s = time.monotonic() - self._woken_s.get(rival.id, -_LEAST_AWAKE_S)
            await asyncio.sleep(max(0.0, _LEAST_AWAKE_S - awake_s))
            await self._put_to_sleep(rival, 1, abort=False)

    async def _put_to_sleep(self, deployment: Deployment, level: int, *, abort: bool) -> None:
        """New requests wait; the running ones finish, or are cut off where `abort` allows it."""
        with self._mirror.resting(deployment):
            model = self._mirror.model(deployment)
            idle = model is None or await self._router.idle(model, self._drain_timeout_s)
            if not idle and not abort:
                raise Unavailable(
                    f"The model {deployment.name!r} keeps the GPU busy.",
                    remedy="Try again later.",
                    retry_after_s=_RETRY_AFTER_S,
                )
            names = self._engines(deployment, "ready")
            calls = (self._fleet.sleep(name, level, abort=not idle) for name in names)
            await self._all(deployment, "did not fall asleep", calls)

    async def _all(
        self, deployment: Deployment, what: str, calls: Iterable[Coroutine[Any, Any, None]]
    ) -> None:
        results = await asyncio.gather(*calls, return_exceptions=True)
        for exc in results:
            if isinstance(exc, EngineFailed):
                _log.warning("%r %s: %s", deployment.name, what, exc)
                raise Unavailable(
                    f"The model {deployment.name!r} {what}.",
                    remedy="Its engine is started again; GET /health shows the state.",
                    retry_after_s=_RETRY_AFTER_S,
                ) from exc
            if isinstance(exc, BaseException):
                raise exc

    def _check_level(self, deployment: Deployment, level: int) -> None:
        for name in self._mirror.engines(deployment):
            status = self._fleet.status(name)
            if status is not None and status.sleep_level not in (None, level):
                raise InvalidRequest(
                    f"The model {deployment.name!r} sleeps at level {status.sleep_level} already.",
                    remedy="Wake it first.",
                    param="level",
                )

    def _engines(self, deployment: Deployment, state: str) -> list[str]:
        """Those in this state, as the fleet knows them."""
        found = ((name, self._fleet.status(name)) for name in self._mirror.engines(deployment))
        return [name for name, status in found if status is not None and status.state == state]

    def _rivals(self, gpu_ids: Iterable[int], but: Deployment | None) -> list[Deployment]:
        """Models that can sleep and are awake on some of these GPUs."""
        return [
            other
            for other in self._mirror.deployments
            if other.sleep_mode
            and set(other.gpu_ids) & set(gpu_ids)
            and (but is None or other.id != but.id)
            and self._engines(other, "ready")
        ]

    async def _fits(self, deployment: Deployment) -> bool:
        """Whether its GPUs have room for it beside what is there now; no where nobody knows."""
        if not deployment.gpu_ids:
            return True
        engines = self._mirror.engines(deployment)
        needs = [sleeping_bytes(self._mirror.labels(name)) for name in engines]
        cards = {card.index: card.free_bytes for card in await asyncio.to_thread(machine_gpus)}
        free = min(cards.get(index, 0) for index in deployment.gpu_ids)
        return all(need is not None and need < free for need in needs)

    @asynccontextmanager
    async def _turn(self, places: Iterable[int | str]) -> AsyncIterator[None]:
        """Nobody else sleeps, wakes or is loaded on these places meanwhile."""
        async with AsyncExitStack() as stack:
            for place in sorted(set(places), key=str):
                await stack.enter_async_context(self._turns[place])
            yield


def _check_mode(deployment: Deployment) -> None:
    if not deployment.sleep_mode:
        raise NotSupported(
            f"The model {deployment.name!r} was loaded without sleep mode.",
            remedy="Load it with sleep_mode, which vLLM has on a GPU; or unload it.",
        )
