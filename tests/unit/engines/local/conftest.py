from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# torch and transformers warn while they are imported; what they say is not about this code.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from tiny_models import Load, write_model

from belvedere.engines.local.engine import Engine
from belvedere.engines.local.folder import inspect_folder
from belvedere.engines.local.loader import LoadedModel, load_model
from belvedere.engines.local.options import EngineOptions, Listen


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes each kind of tiny model once."""
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = write_model(kind, tmp_path_factory.mktemp(kind))
        return folders[kind]

    return folder


@pytest.fixture(scope="session")
def load(model_folder: Callable[[str], Path]) -> Load:
    """Loads each kind of tiny model once, the way the process does."""
    loaded: dict[str, LoadedModel] = {}

    def once(kind: str) -> LoadedModel:
        if kind not in loaded:
            options = EngineOptions(model_folder(kind), ("tiny",), Listen())
            loaded[kind] = load_model(inspect_folder(options.model), options)
        # More cannot help models this small, and the machine may be busy.
        torch.set_num_threads(1)
        return loaded[kind]

    return once


@pytest.fixture
def engine(load: Load, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A started engine; parametrise indirectly with the kind, default a text model."""
    engine = Engine(load(getattr(request, "param", "llama")), seats=1, queue_limit=16)
    engine.start()
    yield engine
    assert engine.stop(60)
