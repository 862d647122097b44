"""The few small files of a model on the Hugging Face hub that a plan needs."""

from __future__ import annotations

import json
import os
from typing import Any

import httpx2

from belvedere.catalog.models import CatalogModel
from belvedere.catalog.parsers import parsers_of
from belvedere.errors import ModelFolderError, NotSupported
from belvedere.images.geometry import ProcessorGeometry

__all__ = ["HubError", "model_from_hub"]

TIMEOUT_S = 10.0


class HubError(Exception):
    """The hub did not give the model's config; the message says why, in our words."""


def model_from_hub(hub_id: str) -> CatalogModel:
    """Read config.json, the processor configs and the safetensors index of `hub_id`.

    ``HF_ENDPOINT`` names another hub, ``HF_TOKEN`` opens gated models, ``HF_HUB_OFFLINE=1``
    forbids the attempt.

    Raises:
        HubError: offline, no such repository, or an answer that is not JSON.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise HubError("HF_HUB_OFFLINE is set, so the hub was not asked.")
    base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx2.Client(
        base_url=f"{base}/{hub_id}/resolve/main/",
        headers=headers,
        timeout=TIMEOUT_S,
        follow_redirects=True,
    ) as client:
        config = _get(client, "config.json", required=True)
        index = _get(client, "model.safetensors.index.json")
        geometry = _geometry(client)
    size = index.get("metadata", {}).get("total_size")
    return CatalogModel(
        name=hub_id.rpartition("/")[2].lower(),
        served=hub_id,
        config=config,
        parsers=parsers_of(config),
        geometry=geometry,
        names=(hub_id,),
        source=f"{base}/{hub_id}",
        checkpoint_bytes=size if isinstance(size, int) and size > 0 else None,
    )


def _geometry(client: httpx2.Client) -> ProcessorGeometry | None:
    image = _get(client, "preprocessor_config.json")
    if not image:
        return None
    try:
        video = _get(client, "video_preprocessor_config.json") or None
        return ProcessorGeometry.from_config(image, video)
    except (ModelFolderError, NotSupported):
        return None


def _get(client: httpx2.Client, name: str, *, required: bool = False) -> dict[str, Any]:
    try:
        answer = client.get(name)
    except httpx2.HTTPError as exc:
        raise HubError("The hub could not be reached.") from exc
    if answer.status_code == httpx2.codes.NOT_FOUND and not required:
        return {}
    if answer.status_code != httpx2.codes.OK:
        raise HubError(f"The hub answered {answer.status_code} for its {name}.")
    try:
        value = json.loads(answer.content)
    except ValueError as exc:
        raise HubError(f"The hub's {name} is not JSON.") from exc
    if not isinstance(value, dict):
        raise HubError(f"The hub's {name} is not a JSON object.")
    return value
