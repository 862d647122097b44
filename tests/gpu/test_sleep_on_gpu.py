"""Sleep on a real card: two models that do not fit it together, swapped by requests.

Needs an NVIDIA GPU and a Python with vLLM's CUDA build in BELVEDERE_VLLM_PYTHON.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from belvedere.catalog.machine import machine_gpus
from belvedere.engines.local_spec import mini_folder
from tests.integration.callers import CHAT, asking
from tests.integration.serving import RunningServer, running_server, wait_gone

INFERENCE = "/api/v1/inference"
SHARE = 0.55
"""Of the card's memory, for each of the two."""
SWAP_S = 60.0
"""Bound of a swap; a start takes longer than that."""

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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    env = {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}
    python = os.environ["BELVEDERE_VLLM_PYTHON"]
    arguments = ["--no-model", "--sleep-mode", "--engine", "vllm", "--engine-python", python]
    arguments += ["--gpu-memory-utilization", str(SHARE), "--max-model-len", "4096"]
    with running_server(*arguments, env=env) as server:
        for name in ("a", "b"):
            body = {"model_path": str(mini_folder()), "served_model_name": name}
            loaded = httpx2.post(server.url + f"{INFERENCE}/load", json=body, timeout=900)
            assert loaded.status_code == 200, loaded.text
        yield server
        started = server.descendants()
    assert wait_gone(started, 30.0) == []


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=300) as client:
        yield client


def free_share() -> float:
    card = machine_gpus()[0]
    return card.free_bytes / card.total_bytes


def states(client: httpx2.Client) -> dict[str, str]:
    replicas: list[dict[str, Any]] = client.get("/health").json()["replicas"]
    return {replica["model"]: replica["state"] for replica in replicas}


def said(client: httpx2.Client, model: str) -> str:
    body = asking(model, "Click the login button.", max_tokens=12, temperature=0)
    response = client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def order(client: httpx2.Client, what: str, **body: Any) -> None:
    response = client.post(f"{INFERENCE}/{what}", json=body)
    assert response.status_code == 200, response.text


def test_the_second_load_put_the_first_model_to_sleep(client: httpx2.Client) -> None:
    assert states(client) == {"a": "asleep", "b": "ready"}


@pytest.mark.parametrize("level", [1, 2])
def test_a_sleep_frees_the_memory_and_the_answer_stays(client: httpx2.Client, level: int) -> None:
    before = said(client, "a")
    assert states(client) == {"a": "ready", "b": "asleep"}
    awake = free_share()
    order(client, "sleep", model="a", level=level)
    assert free_share() - awake > 0.7 * SHARE
    order(client, "wake", model="a")
    assert free_share() == pytest.approx(awake, abs=0.05)
    assert said(client, "a") == before


def test_requests_swap_the_models_faster_than_a_load(
    server: RunningServer, client: httpx2.Client
) -> None:
    pids = {process.pid for process in server.running("vllm.entrypoints.openai.api_server")}
    answers = {"a": said(client, "a"), "b": said(client, "b")}
    for model in ("a", "b", "a", "b"):
        started_s = time.monotonic()
        assert said(client, model) == answers[model]
        assert time.monotonic() - started_s < SWAP_S
        assert states(client)[model] == "ready"
    after = {process.pid for process in server.running("vllm.entrypoints.openai.api_server")}
    assert after == pids
