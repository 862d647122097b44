"""The models: those of ``models/*.json``, the shipped one, a local folder or a hub repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from belvedere.catalog.names import nearest
from belvedere.catalog.parsers import NO_PARSERS, Parsers, chat_template, parsers_of
from belvedere.errors import ModelFolderError, NotSupported, UnknownName
from belvedere.images.geometry import ProcessorGeometry

__all__ = [
    "MINI",
    "CatalogModel",
    "CoordinateSpace",
    "known_coordinates",
    "load_catalog",
    "model_from_folder",
    "resolve_model",
]

_HERE = Path(__file__).parent
MINI = "mini"
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""


@dataclass(frozen=True, slots=True)
class CoordinateSpace:
    """How a model writes points: ``relative`` runs from 0 to `max` over each side of the image."""

    space: Literal["relative"]
    max: int


_MINI_COORDINATES = CoordinateSpace("relative", 999)
"""The shipped model was trained with MAI-UI's grounding protocol."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """What is known about a model before anything is loaded.

    `served` is what an engine is given as model: a hub id or a folder. `checkpoint_bytes` is the
    size of its tensors where safetensors metadata tells it.
    `geometry` is None for text models and for processors whose rule is not known, `coordinates`
    where the model's convention is not. `parsers` are vLLM's.
    """

    name: str
    served: str
    config: Mapping[str, Any]
    geometry: ProcessorGeometry | None
    names: tuple[str, ...] = ()
    source: str = ""
    note: str = ""
    config_seen: bool = True
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    checkpoint_bytes: int | None = None
    params_total: int | None = None
    coordinates: CoordinateSpace | None = None
    parsers: Parsers = NO_PARSERS


def load_catalog() -> tuple[CatalogModel, ...]:
    """Every model of ``models/*.json`` and the shipped one, by name."""
    entries = {}
    for path in sorted((_HERE / "models").glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        entries[entry["hf_id"]] = entry
    models = [_from_entry(entry, entries) for entry in entries.values()]
    mini = _HERE.parent / MINI
    if (mini / "config.json").exists():
        models.append(replace(model_from_folder(mini, name=MINI), coordinates=_MINI_COORDINATES))
    return tuple(models)


def _from_entry(entry: dict[str, Any], entries: Mapping[str, dict[str, Any]]) -> CatalogModel:
    base = entries[entry["config_of"]] if "config_of" in entry else entry
    image = base.get("preprocessor")
    return CatalogModel(
        name=entry["names"][-1],
        served=entry["hf_id"],
        config=base["config"],
        geometry=ProcessorGeometry.from_config(image, base.get("video_preprocessor"))
        if image
        else None,
        names=(entry["hf_id"], *entry["names"]),
        source=entry["source"],
        note=entry.get("note", ""),
        config_seen=entry["config_seen"],
        checkpoints=entry.get("checkpoints", {}),
        params_total=entry["params_total"],
        coordinates=CoordinateSpace(**entry["coordinates"]) if "coordinates" in entry else None,
        parsers=parsers_of(base["config"]),
    )


def known_coordinates(folder: Path, served_name: str) -> CoordinateSpace | None:
    """The convention of the model in `folder`: the shipped one, or one that bears a known name.

    Known are catalogue names and hub ids, as the served name, the folder's own or that of its
    place in a Hugging Face cache; None for all others.
    """
    if folder.resolve() == (_HERE.parent / MINI).resolve():
        return _MINI_COORDINATES
    cached = (part.replace("--", "/") for part in folder.parts if part.startswith("models--"))
    wanted = {_bare(name) for name in (served_name, folder.resolve().name, *cached)}
    for model in load_catalog():
        if model.name != MINI and wanted & {_bare(known) for known in (model.name, *model.names)}:
            return model.coordinates
    return None


def _bare(name: str) -> str:
    """A model's name without its organisation, in lower case."""
    return name.rpartition("/")[2].lower()


def resolve_model(name: str, *, hub: bool = True) -> CatalogModel:
    """The model called `name`: catalogue name, folder path or hub id, in this order.

    Raises:
        UnknownName: none of them, or the hub cannot be reached and does not help.
        ModelFolderError: the folder has no readable config.json.
    """
    catalog = load_catalog()
    wanted = name.lower()
    for model in catalog:
        if wanted in {known.lower() for known in (model.name, *model.names)}:
            return model
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return model_from_folder(folder)
    reason = ""
    if hub and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        from belvedere.catalog.hub import HubError, model_from_hub  # imports an HTTP client

        try:
            return model_from_hub(name)
        except HubError as exc:
            reason = f" {exc}"
    known = [known for model in catalog for known in (model.name, *model.names[:1])]
    raise UnknownName(
        f"The model {name!r} is not in the catalogue and not a folder.{reason}",
        remedy=nearest(name, known),
    )


def model_from_folder(folder: Path, *, name: str | None = None) -> CatalogModel:
    """A model in the standard Hugging Face layout; weights need not be there.

    Raises:
        ModelFolderError: no config.json, or not a JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFolderError(
            f"{str(folder)!r} has no config.json.", remedy="Give a Hugging Face model folder."
        ) from None
    except (OSError, ValueError) as exc:
        raise ModelFolderError(f"{str(folder)!r}: config.json cannot be read as JSON.") from exc
    if not isinstance(config, dict):
        raise ModelFolderError(f"{str(folder)!r}: config.json is not a JSON object.")
    try:
        geometry = ProcessorGeometry.from_folder(folder)
    except (ModelFolderError, NotSupported):
        geometry = None
    return CatalogModel(
        name=name or folder.resolve().name,
        served=str(folder),
        config=config,
        geometry=geometry,
        names=(name,) if name else (),
        source="config.json of the folder",
        checkpoint_bytes=safetensors_bytes(folder),
        parsers=parsers_of(config, chat_template(folder)),
    )


def safetensors_bytes(folder: Path) -> int | None:
    """Bytes of all tensors in the folder's ``*.safetensors``, from their headers alone.

    Format: 8 bytes little-endian header length, then a JSON header with data offsets
    (https://huggingface.co/docs/safetensors). None where there is no such file.
    """
    try:
        sizes = [_tensor_bytes(path) for path in sorted(folder.glob("*.safetensors"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelFolderError(
            f"{folder.name!r} has a *.safetensors file that is not a readable safetensors file."
        ) from exc
    return sum(sizes) or None


def _tensor_bytes(path: Path) -> int:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(length)
        header = json.loads(file.read(length))
    tensors = (entry for key, entry in header.items() if key != "__metadata__")
    return sum(end - start for start, end in (tensor["data_offsets"] for tensor in tensors))
