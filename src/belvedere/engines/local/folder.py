"""Checks on a Hugging Face model folder that need no PyTorch, so that a mistake is told at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from belvedere.errors import ModelFolderError

__all__ = ["ModelFolder", "inspect_folder"]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
    "tekken.json",
)
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_MAX_HEADER_BYTES = 100 * 2**20
_COPY_AGAIN = "Copy or download the folder again."


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files are all there and whole; nothing of it was executed."""

    path: Path
    config: dict[str, Any]
    has_processor: bool

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def has_own_code(self) -> bool:
        return bool(self.config.get("auto_map"))


def inspect_folder(path: Path, *, has_weights: bool = True) -> ModelFolder:
    """Check that config, tokenizer and every weight file are present and not cut off.

    Args:
        has_weights: whether weight files are looked at; without, the folder needs none.

    Raises:
        ModelFolderError: says which file is missing or broken.
    """
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise ModelFolderError(
            f"The model folder {str(path)!r} {what}.",
            remedy="Give the path of a local Hugging Face model folder.",
        )
    config = _config(path)
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelFolderError(f"{str(path)!r} has no tokenizer.", remedy=_COPY_AGAIN)
    for file in _weight_files(path) if has_weights else ():
        _check_safetensors(file)
    has_processor = any((path / name).is_file() for name in _PROCESSOR_FILES)
    return ModelFolder(path=path, config=config, has_processor=has_processor)


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise ModelFolderError(
            f"{str(path)!r} has no config.json.", remedy="Is it a Hugging Face model folder?"
        )
    config = _json(file)
    if not isinstance(config.get("model_type"), str):
        raise ModelFolderError(
            f"{str(file)!r} names no model_type.", remedy="Is it a Hugging Face model folder?"
        )
    return config


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelFolderError(f"{str(file)!r} is not a JSON object.", remedy=_COPY_AGAIN)
    return value


def _weight_files(path: Path) -> Iterator[Path]:
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        yield single
    elif index.is_file():
        shards = _json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelFolderError(f"{str(index)!r} lists no weights.", remedy=_COPY_AGAIN)
        for name in sorted({Path(str(shard)).name for shard in shards.values()}):
            if not (path / name).is_file():
                raise ModelFolderError(
                    f"{str(path)!r} lacks the weights {name!r}.", remedy=_COPY_AGAIN
                )
            yield path / name
    else:
        raise _no_weights(path)


def _no_weights(path: Path) -> ModelFolderError:
    if any(path.glob("*.bin")) or any(path.glob("*.pth")):
        return ModelFolderError(
            f"{str(path)!r} has weights only as pickle files, which are never loaded.",
            remedy="Convert them to safetensors.",
        )
    return ModelFolderError(
        f"{str(path)!r} has no weights (model.safetensors).", remedy=_COPY_AGAIN
    )


def _check_safetensors(file: Path) -> None:
    """Compare the file's size with its header: 8 bytes length, JSON, then the tensors' bytes."""
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if not 2 <= header_bytes <= _MAX_HEADER_BYTES:
            raise _broken(file)
        try:
            header = json.loads(stream.read(header_bytes))
            ends = [int(t["data_offsets"][1]) for k, t in header.items() if k != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise _broken(file) from None
    if not ends:
        raise ModelFolderError(f"The weights {file.name!r} hold no tensor.", remedy=_COPY_AGAIN)
    if file.stat().st_size < 8 + header_bytes + max(ends):
        raise _broken(file)


def _broken(file: Path) -> ModelFolderError:
    return ModelFolderError(
        f"The weights {file.name!r} are cut off or damaged.", remedy=_COPY_AGAIN
    )
