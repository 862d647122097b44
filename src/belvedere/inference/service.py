"""`InferenceService`: models in a Python program."""

from __future__ import annotations

import asyncio
import json
import secrets
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from types import TracebackType
from typing import Any, Self

from belvedere.engines.base import EngineStatus
from belvedere.errors import BelvedereError, EngineFailed, ModelNotFound, UsageError
from belvedere.gateway import chat, generation
from belvedere.gateway.keys import ANYONE
from belvedere.gateway.pace import EventSource
from belvedere.gateway.record import RequestRecord, recording
from belvedere.gateway.state import Gateway
from belvedere.gateway.view import model_views
from belvedere.gateway.wire import GenerateRequest, parse, parse_chat
from belvedere.images.reference import ImageLike, as_references, with_references
from belvedere.inference.generation import Generation, Result
from belvedere.inference.house import House, host_of
from belvedere.settings import load_settings, with_changes

__all__ = ["InferenceService"]

_CALLER = replace(ANYONE, name="python")
_ROUTE = "python"
_OK = 200
OnStatus = Callable[[EngineStatus], None]


class InferenceService:
    """Loads models and asks them, in this program's event loop; see docs/python-api.md.

    Its engines are processes of their own. They end with `close`, with the last `unload_model`,
    when the service is forgotten, and with this process, however it ends. An async context manager
    closes it at the end of the block.

    Args:
        tensor_parallel_size: GPUs that share a model; the embedded engine uses one device.
        gpu_memory_utilization: share of a GPU's memory the engine may take; no effect on the CPU.
        quantization: must be what the model folder was saved with.
        max_model_len: context in tokens; the model's own when ``None``.
        settings: further ones, by the names of docs/settings.md. The environment is not read.

    Raises:
        SettingsError: a setting is unknown or out of range.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        quantization: str | None = None,
        max_model_len: int | None = None,
        **settings: Any,
    ) -> None:
        wishes = {
            "access_log": "off",
            **settings,
            "no_model": True,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "quantization": quantization,
            "max_model_len": max_model_len,
        }
        self._settings = load_settings(wishes, environ={})
        self._house: House | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(None if exc_type is None else 0.0)

    async def load_model(
        self,
        path: str | PathLike[str] | None = None,
        *,
        name: str | None = None,
        on_status: OnStatus | None = None,
        **settings: Any,
    ) -> str:
        """Loads a local Hugging Face folder; returns the name it answers to when it does.

        Further models are loaded beside the others. One that is loaded already, or has the name of
        one, is loaded anew and takes its place when it answers.

        Args:
            path: of the folder; the small model that ships with Belvedere when ``None``.
            name: for ``model=``; the folder's own when ``None``.
            on_status: hears of each step of the start-up.
            settings: for this model, such as ``device`` or ``replicas``, instead of the service's.

        Raises:
            ModelFolderError, SettingsError, MissingExtra, DoesNotFit: nothing was started.
            EngineStartFailed: the engine did not come up, with its reason.
        """
        wanted = {"model_path": None if path is None else str(path), "served_model_name": name}
        chosen = with_changes(self._settings, {**settings, **wanted})
        gateway = await self._opened()
        try:
            model = await host_of(gateway).load(
                chosen, replacing=True, on_status=on_status or (lambda _: None)
            )
        except BaseException:
            await self._close_if_empty(gateway)
            raise
        return model.name

    async def unload_model(self, name: str | None = None) -> None:
        """Takes a model out of service; its running requests finish first.

        With the last model everything ends that the service has started; `load_model` starts anew.

        Args:
            name: the only loaded model when ``None``.

        Raises:
            ModelNotFound: no such model, or none is named while several are loaded.
        """
        gateway = self._gateway()
        await asyncio.shield(host_of(gateway).unload(name))
        await self._close_if_empty(gateway)

    async def sleep_model(self, name: str | None = None, level: int = 1) -> None:
        """Frees the GPU memory of a model and keeps its engines; its running requests finish first.

        The next request for it wakes it. It must have been loaded with ``sleep_mode=True``, which
        vLLM has on a GPU.

        Args:
            name: the only loaded model when ``None``.
            level: 1 keeps the weights in host memory, 2 reads them from the disk again.

        Raises:
            ModelNotFound: no such model, or none is named while several are loaded.
            NotSupported: it was loaded without sleep mode.
            InvalidRequest: it sleeps at another level already.
            Unavailable: it did not fall asleep; its engine is started again.
        """
        if level not in (1, 2):
            raise UsageError(f"level is {level!r}.", remedy="Give 1 or 2.")
        await asyncio.shield(host_of(self._gateway()).sleep(name, level))

    async def wake_model(self, name: str | None = None) -> None:
        """Wakes a model before a request does; nothing happens to one that is awake.

        Raises:
            ModelNotFound, NotSupported: as for `sleep_model`.
            Unavailable: it did not wake up; its engine is started again.
        """
        await host_of(self._gateway()).wake(name)

    def generate(
        self,
        prompt: str,
        images: Sequence[ImageLike] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stream: bool = False,
        *,
        model: str | None = None,
        **parameters: Any,
    ) -> Generation:
        """Asks the model: ``await`` it for the result, or iterate it with ``stream=True``.

        The result is ``{"text", "usage", "finish_reason"}``, with images also ``"belvedere"``: what
        the model saw. A chunk is ``{"text", "finish_reason"}``; the last one has the reason.

        Args:
            images: paths, URLs, data URLs, bytes of image files or Pillow images, before the text.
            max_tokens, temperature, top_p: the service's defaults, and then the engine's, when
                ``None``.
            model: its name or alias, where several are loaded.
            parameters: ``top_k``, ``repetition_penalty``, ``seed`` and ``stop``.

        Raises:
            BelvedereError: from ``await`` and ``async for``; see docs/python-api.md.
        """
        named = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        body = _given({**parameters, **named, "model": model, "prompt": prompt})

        async def request(*, stream: bool) -> GenerateRequest:
            urls = {"images": await _urls(images), "stream": stream}
            return parse(GenerateRequest, {**body, **_given(urls)})

        async def whole() -> Result:
            gateway = self._gateway()
            with _observed(gateway) as record:
                wanted = await request(stream=False)
                plain, _ = await generation.generate(gateway, wanted, _CALLER)
                return {**plain, "finish_reason": record.finish_reason}

        async def opened(gateway: Gateway) -> EventSource:
            wanted = await request(stream=True)
            return (await generation.open_generation(gateway, wanted, _CALLER)).events

        return Generation(whole(), (lambda: self._chunks(opened)) if stream else None)

    def chat_completion(
        self,
        messages: Sequence[dict[str, Any]],
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stream: bool = False,
        *,
        model: str | None = None,
        **parameters: Any,
    ) -> Generation:
        """OpenAI's chat completion: ``await`` it for the answer, or iterate its chunks.

        Both are as ``POST /v1/chat/completions`` gives them, chunks with ``stream=True``. The image
        of an ``image_url`` part may also be a path, bytes or a Pillow image.

        Args:
            parameters: every other one that docs/api.md lists.

        Raises:
            BelvedereError: as for `generate`.
        """
        named = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        body = _given({**parameters, **named, "model": model})

        async def whole() -> Result:
            gateway = self._gateway()
            with _observed(gateway):
                wanted = parse_chat({**body, "messages": await with_references(messages)})
                return (await chat.answer(gateway, wanted, _CALLER)).payload

        async def opened(gateway: Gateway) -> EventSource:
            said = {**body, "messages": await with_references(messages), "stream": True}
            return (await chat.stream(gateway, parse_chat(said), _CALLER)).events

        return Generation(whole(), (lambda: self._chunks(opened)) if stream else None)

    @property
    def is_loaded(self) -> bool:
        """Whether a model answers."""
        return bool(self.status()["is_loaded"])

    def status(self) -> dict[str, Any]:
        """The models with their engines, as ``GET /api/v1/inference/status`` shows them."""
        house = self._house
        gateway = house.gateway if house is not None and not house.is_over else None
        models = model_views(gateway) if gateway is not None else []
        loaded = [view for view in models if view["is_loaded"]]
        return {
            "is_loaded": bool(loaded),
            "model_path": loaded[-1]["model_path"] if loaded else None,
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "models": models,
        }

    async def close(self, grace_s: float | None = None) -> None:
        """Ends everything that the service has started. It can be used again afterwards.

        Args:
            grace_s: for running requests; the setting ``shutdown_grace_s`` when ``None``.
        """
        house, self._house = self._house, None
        if house is not None:
            await house.close(self._settings.shutdown_grace_s if grace_s is None else grace_s)

    async def _close_if_empty(self, gateway: Gateway) -> None:
        host = host_of(gateway)
        if not host.mirror.deployments and not host.is_loading:
            await self.close()

    async def _opened(self) -> Gateway:
        """The gateway; started where there is none."""
        house = self._house
        if house is None or house.is_over:
            house = self._house = House(self._settings)
            weakref.finalize(self, house.abandon).atexit = False
        house.check_loop()
        return await house.opened()

    def _gateway(self) -> Gateway:
        """The gateway that runs.

        Raises:
            ModelNotFound: none does.
            EngineFailed: its supervisor has died.
        """
        house = self._house
        if house is not None:
            house.check_loop()
            if house.gateway is not None and not house.is_over:
                return house.gateway
            if house.is_lost:
                raise EngineFailed(
                    "The supervisor process ended, and the engines with it.",
                    remedy="Load the model again.",
                )
        raise ModelNotFound("No model is loaded.", remedy="Await load_model(path) first.")

    async def _chunks(
        self, open_events: Callable[[Gateway], Coroutine[Any, Any, EventSource]]
    ) -> AsyncGenerator[Result]:
        gateway = self._gateway()
        record = _begun(gateway)
        try:
            with recording(record):
                events = await open_events(gateway)
            try:
                source = aiter(events)
                while True:
                    with recording(record):
                        item = await anext(source, None)
                    if item is None:
                        return
                    for chunk in _payloads(item):
                        yield chunk
            finally:
                await events.aclose()
        except BelvedereError as exc:
            record.failed(exc)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            record.left()
            raise
        finally:
            gateway.observation.end(record)


def _begun(gateway: Gateway) -> RequestRecord:
    record = gateway.observation.begin(f"py-{secrets.token_hex(12)}", route=_ROUTE)
    record.key, record.status = _CALLER.name, _OK
    return record


@contextmanager
def _observed(gateway: Gateway) -> Iterator[RequestRecord]:
    """A record that knows how the block ended."""
    record = _begun(gateway)
    try:
        with recording(record):
            yield record
    except BelvedereError as exc:
        record.failed(exc)
        raise
    except asyncio.CancelledError:
        record.left()
        raise
    finally:
        gateway.observation.end(record)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


async def _urls(images: Sequence[ImageLike] | None) -> list[str] | None:
    return None if images is None else await as_references(images)


def _payloads(events: bytes) -> Iterator[Result]:
    """The JSON of whole server-sent events; comments and the end mark have none."""
    for event in events.split(b"\n\n"):
        data = event.removeprefix(b"data:").strip()
        if not event.startswith(b"data:") or data == b"[DONE]":
            continue
        payload = json.loads(data)
        if "error" in payload:
            raise EngineFailed(str((payload["error"] or {}).get("message", "The engine failed.")))
        yield payload
