"""A server of the OpenAI protocol that somebody else runs: which models does it have, is it up?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from belvedere.engines.base import Endpoint, EngineState

__all__ = ["RemoteModel", "RemoteServer", "remote_endpoint"]

_log = logging.getLogger(__name__)
_FORGIVEN_FAILURES = 2


def remote_endpoint(url: str, api_key: str | None) -> Endpoint:
    """Where the server at `url`, given with or without ``/v1``, answers."""
    return Endpoint(url.rstrip("/").removesuffix("/v1"), api_key=api_key)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model that the server lists.

    Attributes:
        name: its ``id`` there.
        max_model_len: context in tokens, where the server says so (vLLM and SGLang do).
        owner: its ``owned_by``, which names the program: ``vllm``, ``sglang``, ``llamacpp``.
    """

    name: str
    max_model_len: int | None = None
    owner: str = ""


class RemoteServer:
    """Asks ``GET /v1/models`` again and again, so that requests go only where somebody answers.

    One missed answer does not take a server out of rotation; two in a row do, until the next
    answer.

    Attributes:
        state: ``starting`` until the first answer, then ``ready`` or ``failed``.
        models: what it listed last.
        launch: how often it has come up, as far as it was seen.
        error: why the last look failed, for people; ``None`` after a good one.

    Args:
        interval_s: between two looks.
        timeout_s: of one look.
        on_look: called in the event loop after each look.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        interval_s: float = 5.0,
        timeout_s: float = 5.0,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        self.endpoint = endpoint
        self.state: EngineState = "starting"
        self.launch = 0
        self.models: tuple[RemoteModel, ...] = ()
        self.error: str | None = None
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._on_look = on_look
        self._failures = 0

    @property
    def name(self) -> str:
        """Host, port and path, for people."""
        parts = urlsplit(self.endpoint.base_url)
        return parts.netloc + parts.path

    async def run(self) -> None:
        """Looks until cancelled."""
        key = self.endpoint.api_key
        async with httpx2.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=self._timeout_s,
            trust_env=False,
        ) as client:
            while True:
                await self._look(client)
                await asyncio.sleep(self._interval_s)

    async def _look(self, client: httpx2.AsyncClient) -> None:
        before = self.error
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await client.get(f"{self.endpoint.base_url}/v1/models")
            self.models = _listed(response)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, _NotAListing) as exc:
            self._failed(exc)
        else:
            self.launch += self.state != "ready"
            self.state, self.error, self._failures = "ready", None, 0
        if self.error is not None and self.error != before:
            _log.warning("upstream %s: %s", self.name, self.error)
        self._on_look()

    def _failed(self, exc: Exception) -> None:
        self._failures += 1
        self.error = str(exc) if isinstance(exc, _NotAListing) else "It does not answer."
        if self.state != "ready" or self._failures >= _FORGIVEN_FAILURES:
            self.state = "failed"


class _NotAListing(Exception):
    """The answer is no list of models; the text says what it is instead."""


def _listed(response: httpx2.Response) -> tuple[RemoteModel, ...]:
    if response.status_code in (401, 403):
        raise _NotAListing("It refuses the key; set upstream_api_key.")
    if response.status_code != httpx2.codes.OK:
        raise _NotAListing(f"GET /v1/models gives HTTP status {response.status_code}.")
    try:
        entries = response.json()["data"]
        return tuple(
            RemoteModel(str(entry["id"]), _length(entry), str(entry.get("owned_by")))
            for entry in entries
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise _NotAListing("GET /v1/models gives no list of models.") from exc


def _length(entry: dict[str, object]) -> int | None:
    value = entry.get("max_model_len")
    return value if isinstance(value, int) and value > 0 else None
