"""A model as somebody asked for it: what to load, under which names, on how many engines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from belvedere.agent.protocols.loader import known_protocol
from belvedere.catalog.models import known_coordinates
from belvedere.engines.local_spec import LOCAL_FEATURES, MINI_NAME, mini_folder
from belvedere.errors import BelvedereError
from belvedere.images.geometry import ProcessorGeometry
from belvedere.router.replica import Model
from belvedere.settings import Settings

__all__ = ["LABEL", "Deployment", "describe", "model_of", "protocol_name"]

LABEL = "deployment"
"""Label of an engine that holds its deployment as JSON."""

_ENGINE_SETTINGS = (
    "engine",
    "engine_python",
    "device",
    "dtype",
    "trust_remote_code",
    "max_model_len",
    "max_batch_size",
    "batch_timeout_ms",
    "tensor_parallel_size",
    "gpu_memory_utilization",
    "quantization",
    "load_format",
    "tool_call_parser",
    "reasoning_parser",
    "replicas",
    "gpu_count",
    "gpu_ids",
    "sleep_mode",
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One generation of a served model; its engines carry it in their labels.

    Attributes:
        id: unique; two generations of one served name differ in it.
        name: that clients use.
        source: the model as it was asked for.
        folder: where it lies.
        digest: of the source and everything that shapes its engines; equal for equal wishes.
        created_s: Unix time.
        replicas: how many engines it has.
        aliases: further names.
        idle_unload_s: unload it after so long without a request; ``None``: never.
        engine: what computes it.
        max_pixels: the largest image that its engine takes as it is; ``None``: the model's own.
        max_clip_pixels: the same of a video, frames times area; ``None``: it takes no videos as
            such.
        sleep_mode: its engines can sleep.
        idle_sleep_s: put it to sleep after so long without a request; ``None``: never.
        gpu_ids: all GPUs that its engines use; models that can sleep take turns on them.
        max_model_len: its context in tokens, where the engine was given one by a plan.
    """

    id: str
    name: str
    source: str
    folder: str
    digest: str
    created_s: float
    replicas: int
    aliases: tuple[str, ...] = ()
    idle_unload_s: float | None = None
    engine: Literal["local", "vllm"] = "local"
    max_pixels: int | None = None
    max_clip_pixels: int | None = None
    max_model_len: int | None = None
    sleep_mode: bool = False
    idle_sleep_s: float | None = None
    gpu_ids: tuple[int, ...] = ()

    def to_label(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Self | None:
        """The deployment an engine belongs to; ``None`` for an engine that serves no model."""
        if LABEL not in labels:
            return None
        values: dict[str, Any] = json.loads(labels[LABEL])
        tuples = {name: tuple(values.get(name, ())) for name in ("aliases", "gpu_ids")}
        return cls(**{**values, **tuples})

    def engine_name(self, index: int) -> str:
        """A readable name that no other engine has."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-._")[:40] or "model"
        return f"{slug}-{index}.{self.id}"


def describe(settings: Settings, replicas: int, aliases: tuple[str, ...] = ()) -> Deployment:
    """The deployment that `settings` ask for; nothing is checked yet."""
    folder = Path(settings.model_path).resolve() if settings.model_path else mini_folder()
    # A link's own name: what it leads to is often a version or a hash.
    given = os.path.abspath(settings.model_path or MINI_NAME)  # noqa: PTH100 - keeps links
    wishes = settings.model_dump(mode="json", include=set(_ENGINE_SETTINGS))
    wishes["folder"] = str(folder)
    return Deployment(
        id=secrets.token_hex(3),
        name=settings.served_model_name or Path(given).name,
        source=settings.model_path or MINI_NAME,
        folder=str(folder),
        digest=hashlib.sha256(json.dumps(wishes, sort_keys=True).encode()).hexdigest(),
        created_s=time.time(),
        replicas=replicas,
        aliases=aliases,
        idle_unload_s=settings.idle_unload_s,
        sleep_mode=settings.sleep_mode,
        idle_sleep_s=settings.idle_sleep_s,
    )


def model_of(deployment: Deployment, max_model_len: int | None) -> Model:
    """What is known of a local model before its engine has loaded it."""
    folder = Path(deployment.folder)
    geometry = video = None
    takes_images = (folder / "preprocessor_config.json").is_file()
    if takes_images:
        with contextlib.suppress(BelvedereError):
            both = ProcessorGeometry.from_folder(folder)
            geometry = both.image
            if deployment.max_pixels is not None:
                geometry = geometry.with_max_pixels(deployment.max_pixels)
            if deployment.max_clip_pixels is not None:
                video = both.video.with_max_pixels(deployment.max_clip_pixels)
    return Model(
        name=deployment.name,
        created_s=int(deployment.created_s),
        geometry=geometry,
        takes_images=takes_images,
        max_model_len=deployment.max_model_len or max_model_len,
        coordinates=known_coordinates(folder, deployment.name),
        features=LOCAL_FEATURES if deployment.engine == "local" else None,
        deployment=deployment.id,
        takes_cache_salt=deployment.engine == "vllm",
        video=video,
        is_vllm=deployment.engine == "vllm",
        protocol=protocol_name(deployment.name, folder.name, Path(deployment.source).name),
    )


@lru_cache(maxsize=1024)
def protocol_name(*names: str) -> str | None:
    """The action protocol of a model with one of these names; looked up on the disk only once."""
    protocol = known_protocol(*names)
    return protocol.name if protocol else None
