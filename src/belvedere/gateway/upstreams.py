"""Models of servers that run elsewhere, beside the ones loaded here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from pydantic import SecretStr

from belvedere.engines.remote import RemoteModel, RemoteServer, remote_endpoint
from belvedere.gateway.deployment import protocol_name
from belvedere.router.replica import Model, Replica
from belvedere.router.router import Router
from belvedere.settings import Settings, Upstream

__all__ = ["UPSTREAM", "UpstreamStatus", "Upstreams"]

_log = logging.getLogger(__name__)
UPSTREAM = "upstream"
"""`Model.deployment` of the models of upstreams: all servers of one name share its load."""


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """A server as ``/health`` shows it; its key is not part of it."""

    url: str
    state: str
    models: tuple[str, ...]
    error: str | None


class Upstreams:
    """Keeps the router's remote replicas in step with what the servers list.

    Models of the same name on several upstreams are replicas of one model. A name that is loaded
    here stays with the model that is loaded here.
    """

    def __init__(self, settings: Settings, router: Router) -> None:
        self._router = router
        self._settings = settings
        self._servers = [
            (upstream, self._server(upstream, settings.upstream_api_key))
            for upstream in settings.upstreams
        ]
        self._shadowed: set[str] = set()

    def _server(self, upstream: Upstream, default_key: SecretStr | None) -> RemoteServer:
        key = upstream.api_key or default_key
        endpoint = remote_endpoint(upstream.url, key.get_secret_value() if key else None)
        return RemoteServer(
            endpoint, interval_s=self._settings.upstream_poll_s, on_look=self._mirror
        )

    @property
    def statuses(self) -> tuple[UpstreamStatus, ...]:
        return tuple(
            UpstreamStatus(
                server.endpoint.base_url,
                server.state,
                tuple(name for name, _ in _served(upstream, server.models)),
                server.error,
            )
            for upstream, server in self._servers
        )

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Watches the servers for the time of the block."""
        self._mirror()
        watches = [asyncio.create_task(server.run()) for _, server in self._servers]
        try:
            yield
        finally:
            for watch in watches:
                watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*watches)

    def _mirror(self) -> None:
        wanted = {replica.name: replica for replica in self._replicas()}
        present = {replica.name: replica for replica in self._router.replicas if replica.remote}
        for name in present.keys() - wanted.keys():
            self._router.remove(name)
        for name, replica in wanted.items():
            if name in present:  # a model that the settings name is known before its server answers
                present[name].model = replica.model
            else:
                self._router.add(replica)

    def _replicas(self) -> Iterator[Replica]:
        local = {replica.model.name for replica in self._router.replicas if not replica.remote}
        for upstream, server in self._servers:
            for served, model in _served(upstream, server.models):
                if served in local:
                    self._say_shadowed(served, server.name)
                    continue
                yield Replica(
                    f"{server.name}/{served}",
                    Model(
                        served,
                        0,
                        max_model_len=model.max_model_len,
                        deployment=UPSTREAM,
                        takes_cache_salt=model.owner == "vllm",
                        protocol=protocol_name(served, model.name),
                    ),
                    server.endpoint,
                    state=partial(getattr, server, "state"),
                    launch=partial(getattr, server, "launch"),
                    engine_model=model.name,
                    remote=True,
                )

    def _say_shadowed(self, name: str, server: str) -> None:
        if name not in self._shadowed:
            self._shadowed.add(name)
            _log.warning("%r of upstream %s is hidden by the model of that name here", name, server)


def _served(upstream: Upstream, listed: Sequence[RemoteModel]) -> Iterator[tuple[str, RemoteModel]]:
    """Served name and model: those the settings name, also before the server has answered."""
    if upstream.models is None:
        yield from ((model.name, model) for model in listed)
        return
    known = {model.name: model for model in listed}
    for served, name in upstream.models.items():
        yield served, known.get(name) or RemoteModel(name)
