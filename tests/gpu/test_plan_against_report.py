"""The plan beside what vLLM takes on a real card: the 2B shape, with random weights.

Needs an NVIDIA GPU and a Python with vLLM's CUDA build in BELVEDERE_VLLM_PYTHON.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere.catalog.machine import machine_gpus
from belvedere.catalog.models import load_catalog
from belvedere.engines.local_spec import mini_folder
from tests.integration.serving import RunningServer, running_server, wait_gone

SHAPE = "mai-ui-2b"
IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
"""They are those of the tokenizer, which is the small model's: shapes need no words."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not machine_gpus() or "BELVEDERE_VLLM_PYTHON" not in os.environ,
        reason="needs an NVIDIA GPU, and vLLM's CUDA build in BELVEDERE_VLLM_PYTHON",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue's shape with the small model's tokenizer and processor, and no weights."""
    place = tmp_path_factory.mktemp("models") / SHAPE
    shutil.copytree(mini_folder(), place, ignore=shutil.ignore_patterns("*.safetensors"))
    small = json.loads((place / "config.json").read_text())
    (model,) = [one for one in load_catalog() if one.name == SHAPE]
    config = {**model.config, **{name: small[name] for name in IDS}}
    (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    env = {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}
    arguments = [str(folder), "--engine", "vllm", "--load-format", "dummy"]
    arguments += ["--engine-python", os.environ["BELVEDERE_VLLM_PYTHON"]]
    with running_server(*arguments, env=env, start_timeout_s=1200.0) as server:
        yield server
        started = server.descendants()
    assert wait_gone(started, 60.0) == []


def test_the_card_took_what_was_planned(server: RunningServer) -> None:
    (replica,) = httpx2.get(f"{server.url}/health").json()["replicas"]
    report: dict[str, Any] = replica["report"]
    print(json.dumps(report, indent=2))
    assert replica["state"] == "ready"
    assert report["changes"] == []
    for term in ("weights_bytes", "kv_tokens"):
        planned, reported = report["planned"][term], report["reported"][term]
        assert reported == pytest.approx(planned, rel=0.1), term
    assert report["deviations"] == []
