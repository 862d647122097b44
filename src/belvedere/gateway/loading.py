"""The shapes of ``/api/v1/inference/load`` and its kin, and the settings they stand for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from belvedere.errors import InvalidRequest, PermissionDenied, SettingsError
from belvedere.gateway.wire import Wire
from belvedere.settings import Settings, with_changes

__all__ = ["LoadRequest", "SleepRequest", "UnloadRequest", "WakeRequest", "load_settings_of"]

Name = Annotated[str, Field(min_length=1, max_length=200)]
_SERVER_SIDE = frozenset({"aliases", "replace", "wait"})


class LoadRequest(Wire):
    """Which model, under which names, how; what is left out is as the server was started."""

    model_path: Annotated[str, Field(min_length=1, max_length=4096)]
    served_model_name: Name | None = None
    aliases: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)
    replicas: int | None = None
    gpu_count: int | None = None
    gpu_ids: list[int] | None = None
    engine: Literal["auto", "local", "vllm"] | None = None
    ladder: bool | None = None
    device: str | None = None
    dtype: str | None = None
    tensor_parallel_size: int | None = None
    gpu_memory_utilization: float | None = None
    quantization: str | None = None
    load_format: Literal["auto", "dummy"] | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    max_model_len: int | None = None
    trust_remote_code: bool | None = None
    idle_unload_s: float | None = None
    sleep_mode: bool | None = None
    idle_sleep_s: float | None = None
    replace: bool = False
    wait: bool = True


class UnloadRequest(Wire):
    """Which model; the only one when it is left out."""

    model: Name | None = None


class SleepRequest(UnloadRequest):
    """Which model, and whether its weights stay in host memory (1) or are dropped (2)."""

    level: Literal[1, 2] = 1


class WakeRequest(UnloadRequest):
    """Which model; the only one when it is left out."""


def load_settings_of(server: Settings, wanted: LoadRequest) -> Settings:
    """The server's settings with the wishes of one load.

    Raises:
        InvalidRequest: a value is out of range.
        PermissionDenied: the operator did not allow code of model folders.
    """
    if wanted.trust_remote_code and not server.trust_remote_code:
        raise PermissionDenied(
            "This server does not run code of model folders.",
            remedy="The operator can allow it: belvedere serve --trust-remote-code.",
            param="trust_remote_code",
        )
    wishes = wanted.model_dump(exclude=set(_SERVER_SIDE), exclude_none=True)
    wishes.setdefault("served_model_name", None)
    if wanted.sleep_mode is False:
        wishes.setdefault("idle_sleep_s", None)
    if {"replicas", "gpu_count", "gpu_ids"} & wishes.keys():
        wishes = {"replicas": None, "gpu_count": None, "gpu_ids": None, **wishes}
    try:
        return with_changes(server, wishes)
    except SettingsError as exc:
        raise InvalidRequest(exc.message, remedy=exc.remedy) from exc
