"""Which models run here: load, replace, sleep, wake, unload."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from belvedere.catalog.machine import machine_gpus
from belvedere.engines.base import EngineSpec, EngineStatus
from belvedere.engines.devices import assign_devices
from belvedere.engines.fleet import Fleet
from belvedere.errors import BelvedereError, EngineStartFailed, InvalidRequest, ModelNotFound
from belvedere.gateway.deployment import Deployment, describe
from belvedere.gateway.idleness import tend
from belvedere.gateway.mirror import Mirror
from belvedere.gateway.recipes import Recipe, choose_recipe
from belvedere.gateway.sleeping import Sleeping
from belvedere.router.replica import Model
from belvedere.router.router import Router
from belvedere.settings import Settings

__all__ = ["Host", "LoadFailure", "wants_model"]

_STOP_MARGIN_S = 15.0
OnStatus = Callable[[EngineStatus], None]


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A load whose engines did not come up; `failed_s` is Unix time."""

    model: str
    source: str
    error: str
    failed_s: float


def wants_model(settings: Settings) -> bool:
    """Whether a server with these settings loads a model at its start."""
    return not settings.no_model and (settings.model_path is not None or not settings.upstreams)


class Host:
    """Loads models into the fleet and keeps the router in step with it.

    Args:
        settings: the server's; the defaults of every load.

    Attributes:
        mirror: what is loaded.
        sleeping: which of it sleeps.
    """

    def __init__(self, settings: Settings, fleet: Fleet, router: Router) -> None:
        self._settings = settings
        self._fleet = fleet
        self._router = router
        self.mirror = Mirror(settings, fleet, router)
        self.sleeping = Sleeping(
            fleet, router, self.mirror, drain_timeout_s=settings.drain_timeout_s
        )
        self._changing: set[str] = set()
        self._failures: dict[str, LoadFailure] = {}
        self._is_first_due = wants_model(settings)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Mirrors the fleet, and tends idle models, for the time of the block."""
        unsubscribe = self._fleet.subscribe(self.mirror.sync)
        self.mirror.sync()
        idle = asyncio.create_task(tend(self))
        try:
            yield
        finally:
            unsubscribe()
            idle.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await idle
            await self.sleeping.aclose()

    @property
    def is_loading(self) -> bool:
        """Whether a model is on its way, also before it has an engine."""
        return self._is_first_due or bool(self._changing)

    @property
    def failures(self) -> tuple[LoadFailure, ...]:
        """The last load of each name, where its engines did not come up."""
        return tuple(self._failures.values())

    async def ensure(self, settings: Settings, on_status: OnStatus) -> Model:
        """The model that `settings` ask for, as a running fleet has it or freshly loaded.

        An engine that was started with other settings is replaced.

        Raises:
            BelvedereError: see `load`.
        """
        try:
            return await self._ensure(settings, on_status)
        finally:
            self._is_first_due = False

    async def _ensure(self, settings: Settings, on_status: OnStatus) -> Model:
        wanted = describe(settings, 1)
        for deployment in reversed(self.mirror.deployments):
            same = (deployment.name, deployment.digest) == (wanted.name, wanted.digest)
            engines = self.mirror.engines(deployment)
            if same and all(self.mirror.state(name) != "failed" for name in engines):
                await self._until_ready(engines, on_status)
                model = self.mirror.promote(deployment)
                await asyncio.shield(self._retire_others(deployment))
                return model
        return await self.load(settings, replacing=True, on_status=on_status)

    async def load(
        self,
        settings: Settings,
        *,
        aliases: tuple[str, ...] = (),
        replacing: bool = False,
        on_checked: Callable[[], None] = lambda: None,
        on_status: OnStatus = lambda _: None,
    ) -> Model:
        """Starts the engines of a model; returns when all of them answer.

        With `replacing`, a model of the same name serves until the new engines are ready; then
        new requests go to those, and the old engines end with the last of theirs.

        Args:
            on_checked: called when nothing speaks against it and the engines are about to start.

        Raises:
            InvalidRequest: the name is taken.
            ModelFolderError, SettingsError, MissingExtra, DoesNotFit: nothing was started.
            NotSupported: sleep mode is asked for, and the engine has none.
            Unavailable: with sleep mode; another model of that kind keeps the GPU busy.
            EngineStartFailed: an engine did not come up; what served before still does.
        """
        described = describe(settings, 1, aliases)
        self.mirror.names.check(described, self.mirror.loaded_names, replacing=replacing)
        with self._change(described.name):
            self._failures.pop(described.name, None)
            machine = await asyncio.to_thread(machine_gpus)
            groups = assign_devices(
                machine,
                device=settings.device,
                replicas=settings.replicas,
                gpu_count=settings.gpu_count,
                gpu_ids=settings.gpu_ids,
                gpus_per_replica=settings.tensor_parallel_size,
            )
            gpu_ids = tuple(sorted({index for group in groups for index in group.gpu_ids}))
            deployment = replace(described, replicas=len(groups), gpu_ids=gpu_ids)
            async with self._place_for(deployment):
                machine = await asyncio.to_thread(machine_gpus)
                folder = Path(deployment.folder)
                recipe = await asyncio.to_thread(choose_recipe, folder, settings, groups, machine)
                on_checked()
                with self._noting_failure(deployment):
                    await self._start(deployment, recipe, on_status)
                model = self.mirror.promote(deployment)
                await asyncio.shield(self._retire_others(deployment))
            return model

    def _place_for(self, deployment: Deployment) -> AbstractAsyncContextManager[None]:
        """Models that can sleep make room for one another."""
        if not deployment.sleep_mode:
            return contextlib.nullcontext()
        return self.sleeping.place_for(deployment.gpu_ids)

    async def _retire_others(self, current: Deployment) -> None:
        for old in self.mirror.deployments:
            if old.name == current.name and old.id != current.id:
                await self._retire(old)

    @contextlib.contextmanager
    def _noting_failure(self, deployment: Deployment) -> Iterator[None]:
        try:
            yield
        except BelvedereError as exc:
            failure = LoadFailure(deployment.name, deployment.source, exc.message, time.time())
            self._failures[deployment.name] = failure
            raise

    async def unload(self, name: str | None) -> Deployment:
        """Takes a model out of service: no new requests, the running ones finish, engines stop.

        Args:
            name: served name or alias; the only loaded model when ``None``.

        Raises:
            ModelNotFound: nothing of that name is loaded here, or none is named while several are.
            InvalidRequest: it is being loaded or unloaded.
        """
        generations = self._loaded(name)
        with self._change(generations[-1].name):
            for deployment in generations:
                await self._retire(deployment)
        return generations[-1]

    async def sleep(self, name: str | None, level: int = 1) -> Deployment:
        """Puts a model to sleep; the next request for it wakes it.

        Args:
            name: as for `unload`.
            level: 1 keeps its weights in host memory, 2 drops them.

        Raises:
            ModelNotFound, InvalidRequest: as for `unload`.
            NotSupported, Unavailable: see `Sleeping.sleep`.
        """
        deployment = self._settled(name)
        await self.sleeping.sleep(deployment, level)
        return deployment

    async def wake(self, name: str | None) -> Deployment:
        """Wakes a model; nothing happens to one that is awake.

        Raises:
            ModelNotFound, InvalidRequest: as for `unload`.
            NotSupported, Unavailable: see `Sleeping.wake`.
        """
        deployment = self._settled(name)
        await self.sleeping.wake(deployment)
        self.sleeping.check_up(deployment)
        return deployment

    def is_changing(self, name: str) -> bool:
        """Whether the model of that name is being loaded or unloaded."""
        return name in self._changing

    def idle_s(self, deployment: Deployment) -> float:
        """For how long nobody has asked for it; 0 for one that is not up."""
        model = self.mirror.model(deployment)
        if model is None or not self.mirror.is_up(deployment):
            return 0.0
        return self._router.idle_s(model)

    def _settled(self, name: str | None) -> Deployment:
        deployment = self._loaded(name)[-1]
        with self._change(deployment.name):
            return deployment

    def _loaded(self, name: str | None) -> list[Deployment]:
        names = sorted(self.mirror.loaded_names)
        listed = ", ".join(map(repr, names)) or "none"
        if name is None:
            if len(names) != 1:
                raise ModelNotFound(
                    "The request names no model.", remedy=f"Loaded here: {listed}.", param="model"
                )
            name = names[0]
        name = self._router.aliases.get(name, name)
        found = [deployment for deployment in self.mirror.deployments if deployment.name == name]
        if not found:
            raise ModelNotFound(
                f"The model {name[:200]!r} is not loaded here.",
                remedy=f"Loaded here: {listed}.",
                param="model",
            )
        return found

    @contextlib.contextmanager
    def _change(self, name: str) -> Iterator[None]:
        if name in self._changing:
            raise InvalidRequest(
                f"The model {name!r} is being loaded or unloaded.",
                remedy="Wait for that; GET /api/v1/inference/status shows it.",
                param="model",
            )
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)

    async def _start(self, deployment: Deployment, recipe: Recipe, on_status: OnStatus) -> None:
        """Starts the engines; again, with less, where they do not fit and the recipe knows how."""
        seen: dict[str, EngineStatus] = {}

        def note(status: EngineStatus) -> None:
            seen[status.name] = status
            on_status(status)

        for attempt in itertools.count(1):
            specs = await asyncio.to_thread(recipe.specs, deployment, self._fleet.directory)
            try:
                await self._start_all(specs, note)
                break
            except EngineStartFailed as failure:
                said = await asyncio.to_thread(recipe.retry, list(seen.values()), failure)
            again = EngineStatus(specs[0].name, "backoff", "backoff", attempt, retry_in_s=0.0)
            on_status(replace(again, error=said))
            seen.clear()
        await asyncio.to_thread(recipe.started, [seen[spec.name] for spec in specs])

    async def _start_all(self, specs: Sequence[EngineSpec], on_status: OnStatus) -> None:
        try:
            for spec in specs:
                await self._fleet.start(spec)
            await self._until_ready([spec.name for spec in specs], on_status)
        except BaseException:
            with contextlib.suppress(BelvedereError):
                await asyncio.shield(self._end([spec.name for spec in specs]))
            raise

    async def _until_ready(self, names: list[str], on_status: OnStatus) -> None:
        """Raises the first failure; a task group would wrap it."""
        waits = [asyncio.create_task(self._fleet.wait_ready(name, on_status)) for name in names]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    async def _retire(self, deployment: Deployment) -> None:
        """No new requests; the running ones end; then the engines do."""
        model = self.mirror.retire(deployment)
        if model is not None:
            await self._router.idle(model, self._settings.drain_timeout_s)
        await self._end(self.mirror.engines(deployment))

    async def _end(self, names: list[str]) -> None:
        for name in names:
            await self._fleet.stop(name)
        for name in names:
            spec = self._fleet.specs.get(name)
            grace_s = (spec.drain_s + spec.stop_grace_s) if spec else 0.0
            await self._fleet.wait_stopped(name, grace_s + _STOP_MARGIN_S)
            await self._fleet.forget(name)
