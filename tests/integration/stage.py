"""Fake engines as supervised processes of a running server, and a look at engines from inside."""

from __future__ import annotations

import asyncio
import secrets
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import psutil

from belvedere.engines.base import (
    Endpoint,
    EngineSpec,
    EngineStatus,
    HangPolicy,
    ReadyProbe,
    RestartPolicy,
)
from belvedere.engines.fleet import Fleet
from belvedere.engines.progress import counters_from_metrics
from belvedere.errors import EngineFailed
from belvedere.gateway.deployment import LABEL, Deployment
from tests.integration.serving import RunningServer, wait_until

__all__ = ["FAST", "LiveEngine", "Stage"]

T = TypeVar("T")
START_TIMEOUT_S = 120.0
FAST = RestartPolicy(max_crashes=5, base_s=0.1, cap_s=0.2)
WATCHED = HangPolicy(timeout_s=60.0, suspect_timeout_s=1.0, poll_s=0.2)


@dataclass(frozen=True)
class LiveEngine:
    """One engine of a fleet, as its supervisor and its own counters see it."""

    name: str
    fleet: Fleet

    @property
    def status(self) -> EngineStatus:
        return self.fleet.statuses[self.name]

    @property
    def process(self) -> psutil.Process:
        """Its present process; waits for the next one while there is none."""
        found: list[psutil.Process] = []

        def finds() -> bool:
            if (pid := self.status.pid) is not None:
                with suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(pid))
            return bool(found)

        assert wait_until(finds)
        return found[0]

    @property
    def stats(self) -> dict[str, int]:
        """Its own counters; of vLLM only how many requests it has."""
        if self.fleet.specs[self.name].hang.counters == "metrics":
            counters = counters_from_metrics(self._ask("GET", "/metrics").content)
            assert counters is not None
            return {"running": counters.running, "waiting": counters.waiting}
        return dict(self._ask("GET", "/stats").json())

    @property
    def busy(self) -> int:
        """Requests that it computes or has in its queue."""
        stats = self.stats
        return stats["running"] + stats.get("waiting", 0)

    def play(self, *queue: Mapping[str, Any], default: Mapping[str, Any] | None = None) -> None:
        """Scripts of a fake engine's next requests, and of all others."""
        body = {"queue": list(queue), **({"default": default} if default is not None else {})}
        assert self._ask("POST", "/script", body).status_code == 200

    def comes_back(self, launch: int) -> bool:
        """Whether it is ready again, later than its launch number `launch`."""
        return wait_until(
            lambda: self.status.launch > launch and self.status.state == "ready", START_TIMEOUT_S
        )

    def _ask(self, method: str, path: str, body: object = None) -> httpx2.Response:
        endpoint = self.fleet.specs[self.name].endpoint
        transport = httpx2.HTTPTransport(uds=endpoint.uds)
        headers = {"authorization": f"Bearer {endpoint.api_key}"}
        with httpx2.Client(
            transport=transport, base_url=endpoint.base_url, headers=headers, timeout=30
        ) as client:
            return client.request(method, path, json=body)


class Stage:
    """Attached, like another gateway, to the named fleet of `server`.

    Args:
        linger_s: how long the engines wait for a gateway once there is none.
    """

    def __init__(self, name: str, server: RunningServer, *, linger_s: float = 0.0) -> None:
        self.server = server
        self._linger_s = linger_s
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._open = AsyncExitStack()
        self.fleet: Fleet

    def __enter__(self) -> Self:
        self._thread.start()
        opening = Fleet.open(name=self._name, linger_s=self._linger_s)
        self.fleet = self._run(self._open.enter_async_context(opening))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._run(self._open.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def engines(self, model: str) -> list[LiveEngine]:
        """Those that are there for the model of that name, oldest deployment first."""
        owned = {
            name: deployment
            for name, spec in self.fleet.specs.items()
            if (deployment := Deployment.from_labels(spec.labels)) and deployment.name == model
        }
        ordered = sorted(owned, key=lambda name: (owned[name].created_s, name))
        return [LiveEngine(name, self.fleet) for name in ordered]

    @contextmanager
    def cast(self, model: str, *options: str, **how: Any) -> Iterator[list[LiveEngine]]:
        """Fake engines that serve `model` for the time of a block; see `start`."""
        try:
            yield self.start(model, *options, **how)
        finally:
            for engine in self.engines(model):
                self._run(self._end(engine.name))

    def start(
        self,
        model: str,
        *options: str,
        replicas: int = 1,
        aliases: tuple[str, ...] = (),
        ready: bool = True,
        deployed: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> list[LiveEngine]:
        """Fake engines that serve `model`.

        Args:
            options: of ``python -m belvedere.testing``.
            ready: wait until the server sends them requests.
            deployed: further fields of the `Deployment`.
            changes: of the `EngineSpec`.
        """
        deployment = Deployment(
            id=secrets.token_hex(3),
            name=model,
            source=f"./{model}",
            folder="/nonexistent",
            digest="",
            created_s=time.time(),
            replicas=replicas,
            aliases=aliases,
            **(deployed or {}),
        )
        for index in range(replicas):
            spec = self._spec(deployment, index, options)
            self._run(self.fleet.start(replace(spec, **changes)))
        if ready:
            for engine in self.engines(model):
                self._run(self.fleet.wait_ready(engine.name))
            assert wait_until(lambda: self._serves(model, replicas)), f"{model} is not served"
        return self.engines(model)

    def sleep(self, engine: LiveEngine, level: int = 1) -> None:
        """Puts one engine to sleep behind the server's back."""
        self._run(self.fleet.sleep(engine.name, level))

    async def _end(self, name: str) -> None:
        with suppress(EngineFailed):  # the server may have unloaded it just now
            await self.fleet.stop(name, drain=False)
            assert await self.fleet.wait_stopped(name, START_TIMEOUT_S)
            await self.fleet.forget(name)

    def _serves(self, model: str, count: int) -> bool:
        replicas = httpx2.get(f"{self.server.url}/health", timeout=30).json()["replicas"]
        return [one["state"] for one in replicas if one["model"] == model] == ["ready"] * count

    def _spec(self, deployment: Deployment, index: int, options: tuple[str, ...]) -> EngineSpec:
        uds, key = str(self.fleet.directory / f"{secrets.token_hex(4)}.sock"), secrets.token_hex()
        argv = (sys.executable, "-m", "belvedere.testing", "--uds", uds, "--model", deployment.name)
        hello = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        return EngineSpec(
            name=deployment.engine_name(index),
            argv=(*argv, *options),
            endpoint=Endpoint("http://engine", uds=uds, api_key=key),
            env={"BELVEDERE_ENGINE_KEY": key},
            labels={LABEL: deployment.to_label()},
            probe=ReadyProbe("/v1/chat/completions", hello),
            hang=WATCHED,
            restart=FAST,
            ready_timeout_s=START_TIMEOUT_S,
            stop_grace_s=3.0,
            drain_s=20.0,
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(300)
