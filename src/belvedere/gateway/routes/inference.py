"""Models at run time: ``/api/v1/inference/load``, ``sleep``, ``wake``, ``unload``, ``status``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from belvedere.errors import EngineStartFailed, NotSupported
from belvedere.gateway.auth import require_admin, require_key
from belvedere.gateway.body import read_object, read_optional_object
from belvedere.gateway.hosting import Host
from belvedere.gateway.loading import (
    LoadRequest,
    SleepRequest,
    UnloadRequest,
    WakeRequest,
    load_settings_of,
)
from belvedere.gateway.openapi import request_schema
from belvedere.gateway.replies import unless_left
from belvedere.gateway.state import Gateway, gateway_of
from belvedere.gateway.view import failure_views, model_views, upstream_views
from belvedere.gateway.wire import parse
from belvedere.router.replica import Model

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/inference", tags=["inference"])


@router.post(
    "/load",
    dependencies=[Depends(require_admin)],
    summary="Load a model",
    openapi_extra=request_schema(LoadRequest),
)
async def load(request: Request) -> Response:
    """Loads a model beside the others, or in the place of one of its name.

    Answers when the model serves, or, when "wait" is false, with 202 as soon as nothing speaks
    against it; the status tells the rest. A client that leaves before that takes its wish back.
    """
    gateway = gateway_of(request)
    gateway.check_open()
    body = await read_object(request, max_body_bytes=gateway.settings.max_body_bytes)
    wanted = parse(LoadRequest, body)
    host = _host(gateway)
    settings = load_settings_of(gateway.settings, wanted)
    checked = asyncio.Event()
    work = host.load(
        settings,
        aliases=tuple(wanted.aliases),
        replacing=wanted.replace,
        on_checked=checked.set,
    )
    if not wanted.wait:
        await _until_checked(gateway, work, checked)
        return JSONResponse({"success": True, "message": "loading"}, status_code=202)
    return await unless_left(request, _loaded(gateway, work))


async def _loaded(gateway: Gateway, work: Coroutine[Any, Any, Model]) -> Response:
    model = await _public(work)
    view = next(view for view in reversed(model_views(gateway)) if view["model"] == model.name)
    return JSONResponse({"success": True, "message": f"{model.name} is loaded.", **view})


@router.post(
    "/unload",
    dependencies=[Depends(require_admin)],
    summary="Unload a model",
    openapi_extra=request_schema(UnloadRequest, required=False),
)
async def unload(request: Request) -> Response:
    """Takes a model out of service; its running requests finish first.

    Without a body the only loaded model is meant.
    """
    gateway = gateway_of(request)
    body = await read_optional_object(request, max_body_bytes=gateway.settings.max_body_bytes)
    wanted = parse(UnloadRequest, body)
    gone = await asyncio.shield(_host(gateway).unload(wanted.model))
    return JSONResponse({"success": True, "message": f"{gone.name} is unloaded."})


@router.post(
    "/sleep",
    dependencies=[Depends(require_admin)],
    summary="Put a model to sleep",
    openapi_extra=request_schema(SleepRequest, required=False),
)
async def sleep(request: Request) -> Response:
    """Frees the GPU memory of a model and keeps its engines; its running requests finish first.

    Only for models that were loaded with "sleep_mode". The next request wakes it.
    """
    gateway = gateway_of(request)
    body = await read_optional_object(request, max_body_bytes=gateway.settings.max_body_bytes)
    wanted = parse(SleepRequest, body)
    model = await asyncio.shield(_host(gateway).sleep(wanted.model, wanted.level))
    return JSONResponse({"success": True, "message": f"{model.name} is asleep."})


@router.post(
    "/wake",
    dependencies=[Depends(require_admin)],
    summary="Wake a model",
    openapi_extra=request_schema(WakeRequest, required=False),
)
async def wake(request: Request) -> Response:
    """Answers when the model has its GPU memory again and has generated a token."""
    gateway = gateway_of(request)
    body = await read_optional_object(request, max_body_bytes=gateway.settings.max_body_bytes)
    wanted = parse(WakeRequest, body)
    model = await _host(gateway).wake(wanted.model)
    return JSONResponse({"success": True, "message": f"{model.name} is awake."})


@router.get("/status", dependencies=[Depends(require_key)], summary="What is loaded")
async def status(request: Request) -> dict[str, Any]:
    """All models that are loaded here with their engines, and the upstreams."""
    gateway = gateway_of(request)
    models = model_views(gateway)
    loaded = [view for view in models if view["is_loaded"]]
    return {
        "is_loaded": bool(loaded),
        "model_path": loaded[-1]["model_path"] if loaded else None,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": models,
        "failed_loads": failure_views(gateway),
        "upstreams": upstream_views(gateway),
    }


def _host(gateway: Gateway) -> Host:
    if gateway.host is None:
        raise NotSupported(
            "This gateway owns no engines.", remedy="Load models on the server that does."
        )
    return gateway.host


async def _until_checked(
    gateway: Gateway, work: Coroutine[Any, Any, Model], checked: asyncio.Event
) -> None:
    """Raises what speaks against the load; otherwise it goes on in the background."""
    loading = asyncio.create_task(work)
    told = asyncio.create_task(checked.wait())
    try:
        await asyncio.wait({loading, told}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        loading.cancel()
        raise
    finally:
        told.cancel()
    if loading.done():
        loading.result()
    else:
        gateway.in_background(_rest(loading))


async def _rest(loading: asyncio.Task[Model]) -> None:
    await loading


async def _public(work: Any) -> Any:
    """An engine's log lines name paths: they stay in the server's own log."""
    try:
        return await work
    except EngineStartFailed as exc:
        raise EngineStartFailed(
            exc.message, remedy=(exc.remedy or "").partition("\n")[0] or None
        ) from exc
