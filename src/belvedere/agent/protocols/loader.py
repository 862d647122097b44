"""Finds protocols: the built-in ones, files, and those that installed packages bring.

A package brings ``NAME.toml`` and its texts, and an entry point of the group
``belvedere.protocols`` whose name is ``NAME`` and whose value is the package::

    [project.entry-points."belvedere.protocols"]
    my-model = "my_package.protocols"
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from belvedere.agent.protocols.data import Protocol
from belvedere.errors import InputFileError, SettingsError, UnknownName

__all__ = [
    "DEFAULT",
    "ProtocolChoice",
    "known_protocol",
    "load_protocol",
    "protocol_for",
    "protocol_names",
]

GROUP = "belvedere.protocols"
DEFAULT = "mai-ui"


def protocol_names() -> list[str]:
    """Every protocol that `load_protocol` knows by name."""
    built_in = (entry.name for entry in _home().iterdir())
    names = {name.removesuffix(".toml") for name in built_in if name.endswith(".toml")}
    return sorted(names | {entry.name for entry in metadata.entry_points(group=GROUP)})


def load_protocol(name: str) -> Protocol:
    """The protocol of this name, or in the TOML file of this path (it ends in ``.toml``).

    Raises:
        UnknownName: nobody brings one of this name.
        InputFileError: a file is missing or cannot be read.
        SettingsError: it is not a protocol.
    """
    if name.endswith(".toml"):
        return _read(Path(name).parent, Path(name).stem)
    return _load_named(name)


def protocol_for(model: str) -> Protocol:
    """The protocol whose patterns fit a served model's name; MAI-UI's when none does."""
    return known_protocol(model) or load_protocol(DEFAULT)


def known_protocol(*names: str) -> Protocol | None:
    """The protocol whose patterns fit one of a model's names, the first name first."""
    protocols = [load_protocol(name) for name in protocol_names()]
    for model in names:
        for protocol in protocols:
            if any(fnmatchcase(model.lower(), pattern) for pattern in protocol.models):
                return protocol
    return None


class ProtocolChoice:
    """The protocol that somebody wanted, or the one that fits the served model; looked up once."""

    def __init__(self, wanted: Protocol | str | None) -> None:
        self._wanted = wanted
        self._found: tuple[str, Protocol] | None = None

    def of(self, model: str) -> Protocol:
        """The protocol for a model of this served name; errors as in `load_protocol`."""
        if self._found is None or self._found[0] != model:
            self._found = model, self._look_up(model)
        return self._found[1]

    def _look_up(self, model: str) -> Protocol:
        if isinstance(self._wanted, Protocol):
            return self._wanted
        return protocol_for(model) if self._wanted is None else load_protocol(self._wanted)


@cache
def _load_named(name: str) -> Protocol:
    """Remembered: protocols are constants of the installation."""
    return _read(_folder(name), name)


def _folder(name: str) -> Traversable:
    for entry in metadata.entry_points(group=GROUP, name=name):
        return resources.files(entry.value)
    if name not in protocol_names():
        raise UnknownName(
            f"{name!r} is not a protocol.",
            remedy=f"Known: {', '.join(protocol_names())}; or give the path of a .toml file.",
        )
    return _home()


def _home() -> Traversable:
    return resources.files(__package__ or "belvedere.agent.protocols")


def _read(folder: Traversable, name: str) -> Protocol:
    raw, texts = _inherited(folder, name)
    try:
        draft = Protocol.model_validate({**raw, "texts": texts})
        missing = draft.files - texts.keys()
        read = {file: _text(folder, file).removesuffix("\n") for file in missing}
        return draft.model_copy(update={"texts": {**texts, **read}})
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"The protocol {name!r}: {where}: {first['msg']}.") from exc


def _inherited(folder: Traversable, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The tables of a file over those of the protocol that it extends, and the latter's texts."""
    try:
        raw = tomllib.loads(_text(folder, f"{name}.toml"))
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"The protocol {name!r} is not a TOML file.") from exc
    if (base := raw.pop("extends", None)) is None:
        return raw, {}
    try:
        parent = load_protocol(str(base))
    except RecursionError:
        raise SettingsError(f"The protocol {name!r} extends itself.") from None
    return {**parent.model_dump(exclude={"texts"}), **raw}, dict(parent.texts)


def _text(folder: Traversable, name: str) -> str:
    if "/" in name or "\\" in name:
        raise SettingsError(f"The protocol names {name!r}, which is not in its folder.")
    try:
        return (folder / name).read_text(encoding="utf-8")
    except OSError as exc:
        raise InputFileError(f"The protocol's file {name!r} cannot be read.") from exc
