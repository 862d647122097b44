"""The shipped model on the real, unmodified vLLM: the same clicks as on the embedded engine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from belvedere import MAIUIClient
from belvedere.engines.local_spec import mini_folder
from tests.integration.serving import RunningServer, quiet_port
from tests.training.sampling import agreement, png, reference_points, sample

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
TARGETS = 120
START_TIMEOUT_S = 300.0
OPTIONS = [
    "--served-model-name=mini",
    "--dtype=float32",
    "--enforce-eager",
    "--max-model-len=4096",
    "--max-num-seqs=4",
    "--host=127.0.0.1",
]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = quiet_port()
    log = tmp_path_factory.mktemp("vllm") / "log"
    argv = [os.environ["BELVEDERE_VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(mini_folder()), f"--port={port}", *OPTIONS]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=env)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline_s, log.read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=10).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("row", ROWS, ids=[row["image"] for row in ROWS])
def test_the_examples_are_grounded_as_on_the_embedded_engine(
    vllm_url: str, server: RunningServer, row: dict[str, object]
) -> None:
    screenshot, instruction = EXAMPLES / str(row["image"]), str(row["instruction"])
    with MAIUIClient(vllm_url) as vllm, MAIUIClient(server.url) as ours:
        there, here = (client.ground(screenshot, instruction) for client in (vllm, ours))
    left, top, right, bottom = row["box"]  # type: ignore[misc]  # a JSON row
    assert left <= there.action.x < right
    assert top <= there.action.y < bottom
    assert abs(there.action.x - here.action.x) <= 3
    assert abs(there.action.y - here.action.y) <= 3


def test_a_sample_of_the_test_set_gets_the_same_points_everywhere(
    vllm_url: str, server: RunningServer
) -> None:
    trials = sample(TARGETS)
    with MAIUIClient(vllm_url) as vllm, MAIUIClient(server.url) as ours:
        answers = [
            [client.ground(png(trial), trial.instruction).action for trial in trials]
            for client in (vllm, ours)
        ]
    there, here = ([(click.x, click.y) for click in clicks] for clicks in answers)
    reference = list(reference_points(trials))
    assert len(reference) >= TARGETS
    assert agreement(there, reference) >= 0.99
    assert agreement(here, reference) >= 0.99
    assert agreement(there, here) >= 0.99
