"""The fleet as the router sees it.

The supervisor's table of engines is the truth. Every gateway that is attached to it mirrors the
table in its router, so a gateway that was restarted, or a second one beside it, serves what is
there without being told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from belvedere.engines.base import EngineState
from belvedere.engines.fleet import Fleet
from belvedere.gateway.deployment import Deployment, model_of
from belvedere.gateway.names import Names
from belvedere.router.replica import Model, Replica
from belvedere.router.router import Router
from belvedere.settings import Settings

__all__ = ["Mirror"]


class Mirror:
    """Keeps the router's own replicas equal to the fleet's engines; call `sync` after changes."""

    def __init__(self, settings: Settings, fleet: Fleet, router: Router) -> None:
        self.names = Names(settings, router)
        self._max_model_len = settings.max_model_len
        self._fleet = fleet
        self._router = router
        self._promoted: set[str] = set()
        self._retiring: set[str] = set()
        self._resting: dict[str, frozenset[str]] = {}
        self._resting_engines: frozenset[str] = frozenset()

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """All generations that have an engine, oldest first."""
        found = {
            deployment.id: deployment
            for spec in self._fleet.specs.values()
            if (deployment := Deployment.from_labels(spec.labels)) is not None
        }
        return tuple(sorted(found.values(), key=lambda entry: entry.created_s))

    @property
    def loaded_names(self) -> set[str]:
        """Names of the models that have an engine here."""
        return {deployment.name for deployment in self.deployments}

    def engines(self, deployment: Deployment) -> list[str]:
        """Names of its engines."""
        return [
            name
            for name, spec in self._fleet.specs.items()
            if (owner := Deployment.from_labels(spec.labels)) and owner.id == deployment.id
        ]

    def labels(self, engine: str) -> Mapping[str, str]:
        """What the spec of `engine` says about it; empty for none."""
        spec = self._fleet.specs.get(engine)
        return spec.labels if spec is not None else {}

    def state(self, engine: str) -> EngineState:
        """``stopped`` for an engine that is gone, ``asleep`` for one that is about to sleep."""
        status = self._fleet.status(engine)
        if status is None:
            return "stopped"
        is_resting = status.state == "ready" and engine in self._resting_engines
        return "asleep" if is_resting else status.state

    @contextmanager
    def resting(self, deployment: Deployment) -> Iterator[None]:
        """Its engines are about to sleep: for the time of the block they get no new requests."""
        self._resting[deployment.id] = frozenset(self.engines(deployment))
        self._resting_engines = frozenset().union(*self._resting.values())
        try:
            yield
        finally:
            self._resting.pop(deployment.id, None)
            self._resting_engines = frozenset().union(*self._resting.values())

    def is_retiring(self, deployment: Deployment) -> bool:
        """Whether it is on its way out."""
        return deployment.id in self._retiring

    def is_up(self, deployment: Deployment) -> bool:
        """Whether all of its engines answer, or would when they are woken."""
        states = [self.state(name) for name in self.engines(deployment)]
        return len(states) >= deployment.replicas and set(states) <= {"ready", "asleep"}

    def model(self, deployment: Deployment) -> Model | None:
        """Its model, while the router has a replica of it."""
        for replica in self._router.replicas:
            if replica.model.deployment == deployment.id:
                return replica.model
        return None

    def promote(self, deployment: Deployment) -> Model:
        """New requests for its names go to this generation."""
        self.sync()
        model = self.model(deployment)
        assert model is not None, "its engines are in the fleet"
        self._serve(deployment, model)
        return model

    def retire(self, deployment: Deployment) -> Model | None:
        """It gets no new requests, and is not promoted again. Returns its model, if it has one."""
        self._retiring.add(deployment.id)
        model = self.model(deployment)
        if model is not None:
            self._router.retire(model)
        return model

    def sync(self) -> None:
        """Adds and removes replicas so that they are the fleet's engines."""
        specs = self._fleet.specs
        present = {replica.name for replica in self._router.replicas if not replica.remote}
        for name in present - specs.keys():
            self._router.remove(name)
        deployments = self.deployments
        for deployment in deployments:
            model = self.model(deployment) or model_of(deployment, self._max_model_len)
            for name in self.engines(deployment):
                if name not in present:
                    self._add(name, model)
                if self.state(name) == "asleep":
                    self._router.forget_cache(name)
            if deployment.id not in self._retiring and self.is_up(deployment):
                self._serve(deployment, model)
        self.names.withdraw(self.loaded_names)
        ids = {deployment.id for deployment in deployments}
        self._promoted &= ids
        self._retiring &= ids

    def _serve(self, deployment: Deployment, model: Model) -> None:
        self._router.promote(model)
        if deployment.id not in self._promoted:
            self._promoted.add(deployment.id)
            self._router.touch(model)
            self.names.grant(deployment)

    def _launch(self, engine: str) -> int:
        status = self._fleet.status(engine)
        return status.launch if status is not None else 0

    def _add(self, name: str, model: Model) -> None:
        self._router.add(
            Replica(
                name,
                model,
                self._fleet.specs[name].endpoint,
                state=lambda: self.state(name),
                launch=lambda: self._launch(name),
            )
        )
