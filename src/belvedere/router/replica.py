"""Models, and the engines that answer for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from belvedere.catalog.models import CoordinateSpace
from belvedere.engines.base import Endpoint, EngineState
from belvedere.images.geometry import ImageGeometry, VideoGeometry

__all__ = ["Model", "Replica"]


@dataclass(frozen=True, slots=True)
class Model:
    """What the gateway knows of a served model.

    Attributes:
        name: the name clients use.
        geometry: how its processor resizes images; ``None`` when unknown or text-only.
        takes_images: ``None`` when only the engine knows.
        max_model_len: context in tokens, ``None`` when only the engine knows.
        created_s: Unix time for ``/v1/models``.
        coordinates: how it writes points; ``None`` when unknown.
        features: what its engine can do beyond the plain conversation: names of parameters, routes
            and kinds of messages (see `belvedere.gateway.parameters`); ``None`` when only the
            engine knows.
        deployment: tells apart the old and the new one while a model is replaced.
        takes_cache_salt: whether its engine keeps prefix caches apart by ``cache_salt``, as vLLM
            does.
        protocol: name of the action protocol that it speaks; ``None`` when unknown.
        video: how its engine sizes a video that it takes as such; ``None``: frames go as images.
        is_vllm: its engine is known to be vLLM.
    """

    name: str
    created_s: int
    geometry: ImageGeometry | None = None
    takes_images: bool | None = None
    max_model_len: int | None = None
    coordinates: CoordinateSpace | None = None
    features: frozenset[str] | None = None
    deployment: str = ""
    takes_cache_salt: bool = False
    video: VideoGeometry | None = None
    is_vllm: bool = False
    protocol: str | None = None


def _first_launch() -> int:
    return 1


@dataclass(slots=True, eq=False)
class Replica:
    """One engine that answers requests for a model.

    Attributes:
        name: unique in its router.
        state: asks for the engine's present state; called at each decision.
        launch: asks which start of its process this is; another one has empty caches.
        engine_model: the name to send to the engine, where it is not `model`'s.
        remote: a server that is not ours to start or stop.
        capacity_tokens: size of its KV cache; ``None`` when unknown.
        weight: its speed in relation to other replicas of the model.
        draining: takes no new requests.
        in_flight: leases that are out.
        outstanding: their work, in prefill tokens (see `belvedere.router.policy`).
        used_s: when its last lease began or ended, by the router's clock.
        leases, assigned, hit_tokens, deaths, timeouts: totals since it was added: leases given,
            their work, prompt tokens it was believed to have cached, and how leases ended.
    """

    name: str
    model: Model
    endpoint: Endpoint
    state: Callable[[], EngineState]
    launch: Callable[[], int] = _first_launch
    engine_model: str | None = None
    remote: bool = False
    capacity_tokens: int | None = None
    weight: float = 1.0
    draining: bool = field(default=False, init=False)
    in_flight: int = field(default=0, init=False)
    outstanding: float = field(default=0.0, init=False)
    used_s: float = field(default=0.0, init=False)
    leases: int = field(default=0, init=False)
    assigned: float = field(default=0.0, init=False)
    hit_tokens: int = field(default=0, init=False)
    deaths: int = field(default=0, init=False)
    timeouts: int = field(default=0, init=False)
    seen: Launch = field(init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight is {self.weight!r}, which is not positive")
        self.seen = Launch(self.launch())
        self._idle.set()

    def take(self, work: float, hit_tokens: int) -> None:
        """A lease begins."""
        self.in_flight += 1
        self.outstanding += work
        self.leases += 1
        self.assigned += work
        self.hit_tokens += hit_tokens
        self._idle.clear()

    def give_back(self, work: float) -> None:
        """A lease ends."""
        self.in_flight -= 1
        self.outstanding -= work
        if self.in_flight == 0:
            self.outstanding = 0.0  # no rounding error stays
            self._idle.set()

    async def idle(self, timeout_s: float) -> bool:
        """Waits until no lease is out; ``False`` when one still is after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


@dataclass(slots=True)
class Launch:
    """What the router has learned about one start of an engine; void with the next.

    Attributes:
        number: which start.
        broken_s: when a connection to it broke last, by the router's clock.
        suspect: a request timed out on it and nothing came from it since.
        recent: work assigned lately, in the router's fading units.
    """

    number: int
    broken_s: float | None = None
    suspect: bool = False
    recent: float = 0.0
