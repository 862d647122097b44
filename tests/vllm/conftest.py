"""One ``belvedere serve --engine vllm`` for all modules that only ask it things.

The model is the shipped one with a longer context in its configuration, so that the gigabyte of
KV cache that the user allows does not hold it: vLLM refuses the first start and names a length.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from belvedere.engines.local_spec import mini_folder
from tests.integration.serving import RunningServer, running_server, wait_gone

ASKED = 250_000


@pytest.fixture(scope="session", autouse=True)
def vllm_python() -> str:
    """A Python with vLLM; every test of this folder is skipped without one."""
    python = os.environ.get("BELVEDERE_VLLM_PYTHON")
    if python is None:
        pytest.skip("BELVEDERE_VLLM_PYTHON names no Python with vLLM; scripts/vllm-env makes one")
    return python


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "long"
    shutil.copytree(mini_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 262_144
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def vllm(
    vllm_python: str, long_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """vLLM with less room than was asked for; its starts are remembered in a folder of its own.

    The model is called ``mini``.
    """
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    arguments = [str(long_model), "--engine", "vllm", "--dtype", "float32"]
    arguments += ["--engine-python", vllm_python]
    arguments += ["--max-model-len", str(ASKED), "--served-model-name", "mini"]
    with running_server(*arguments, env=env, start_timeout_s=500.0) as server:
        yield server
        started = server.descendants()
    assert wait_gone(started, 30.0) == []
