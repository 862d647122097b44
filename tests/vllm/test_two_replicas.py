"""Two real vLLMs with images behind one gateway: load balance, and the main faults of a fleet."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from belvedere import MAIUIClient
from belvedere.engines.local_spec import mini_folder
from tests.integration.callers import CHAT, Reader, asking, busy_one, others, raw_request
from tests.integration.serving import RunningServer, running_server, wait_gone, wait_until
from tests.integration.stage import LiveEngine, Stage

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
MODEL = "mini"
LONG = {"max_tokens": 6000, "ignore_eos": True, "temperature": 0}
START_S = 300.0
Two = tuple[RunningServer, list[LiveEngine]]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def two(own_folders: None) -> Iterator[Two]:
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MAX_BATCH_SIZE": "8",
        "BELVEDERE_FIRST_TOKEN_TIMEOUT_S": "90",
        "BELVEDERE_INTER_TOKEN_TIMEOUT_S": "20",
    }
    arguments = ["--engine", "vllm", "--engine-python", os.environ["BELVEDERE_VLLM_PYTHON"]]
    arguments += ["--dtype", "float32", "--max-model-len", "8192"]
    arguments += ["--served-model-name", MODEL, "--replicas", "2", "--fleet", "vllms"]
    with (
        running_server(*arguments, env=env, start_timeout_s=START_S) as server,
        Stage("vllms", server) as stage,
    ):
        yield server, stage.engines(MODEL)


@pytest.fixture
def api(two: Two) -> Iterator[httpx2.Client]:
    """Once both are ready, with nothing to do."""
    with client_of(two) as client:
        assert wait_until(lambda: client.get("/health").json()["status"] == "ok", START_S)
        assert wait_until(lambda: not any(engine.busy for engine in two[1]))
        yield client


@contextmanager
def client_of(two: Two) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=two[0].url, timeout=120) as client:
        yield client


def ready(engines: list[LiveEngine]) -> list[LiveEngine]:
    return [engine for engine in engines if engine.status.state == "ready"]


def ground(url: str, row: dict[str, Any]) -> bool:
    """Whether the click hits."""
    with MAIUIClient(url, model=MODEL) as client:
        action = client.ground(EXAMPLES / row["image"], row["instruction"]).action
    left, top, right, bottom = row["box"]
    return bool(left <= action.x < right and top <= action.y < bottom)


@contextmanager
def grounding_all_the_time(
    url: str, *, agents: int = 4, pause_s: float = 0.0
) -> Iterator[Callable[[], int]]:
    """Agents that ask about images again and again; every answer must be right.

    Yields how many were answered so far.
    """
    done, over = [0], threading.Event()

    def work(start: int) -> None:
        number = start
        while not over.is_set():
            row = ROWS[number % len(ROWS)]
            assert ground(url, row), row["image"]
            done[0] += 1
            number += 1
            over.wait(pause_s)

    with ThreadPoolExecutor(agents) as pool:
        running = [pool.submit(work, start) for start in range(agents)]

        def answered() -> int:
            for agent in running:
                if agent.done():
                    agent.result()
            return done[0]

        try:
            yield answered
        finally:
            over.set()
        for agent in running:
            agent.result(120)


def test_both_serve_images(two: Two, api: httpx2.Client) -> None:
    server, engines = two
    before = api.get("/metrics").text
    with grounding_all_the_time(server.url) as answered:
        assert wait_until(lambda: answered() >= 4 * len(ROWS), START_S)
    after = api.get("/metrics").text
    for engine in engines:
        assert served(after, engine.name) > served(before, engine.name)


def served(metrics: str, replica: str) -> float:
    """Requests that a replica was given, by the gateway's own metrics."""
    lines = (
        line
        for line in metrics.splitlines()
        if line.startswith("belvedere_replica_requests_total") and f'"{replica}"' in line
    )
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_a_killed_engine_loses_no_answer_that_had_not_begun(two: Two, api: httpx2.Client) -> None:
    server, engines = two
    reader = Reader(api, asking(MODEL, "stream", **LONG))
    hit = busy_one(engines)
    launch = hit.status.launch
    assert wait_until(lambda: len(reader.events) >= 3)
    with grounding_all_the_time(server.url) as answered:
        assert wait_until(lambda: answered() >= 4, START_S)
        hit.process.kill()
        events = reader.rest()
        sofar = answered()
        assert wait_until(lambda: answered() >= sofar + 12, START_S)
    assert json.loads(events[-1])["error"]["code"] == "engine_error"
    assert not any('"finish_reason":"' in event for event in events)
    assert hit.status.launch > launch or hit.status.state != "ready"


def test_clients_that_leave_free_the_engine(two: Two) -> None:
    """Not waiting for the killed one: the other serves."""
    server, engines = two
    assert ready(engines)
    body = asking(MODEL, "leaving", stream=True, **LONG)
    with ExitStack() as connections:
        for _ in range(4):
            connections.enter_context(raw_request(server.url, body))
        assert wait_until(lambda: sum(engine.busy for engine in ready(engines)) == 4, 120)
    assert wait_until(lambda: not any(engine.busy for engine in ready(engines)), 60)


def test_a_stopped_engine_is_a_timeout_and_replaced(two: Two, api: httpx2.Client) -> None:
    server, engines = two
    reader = Reader(api, asking(MODEL, "hang", **LONG))
    hit = busy_one(engines)
    assert wait_until(lambda: len(reader.events) >= 3)
    launch, process = hit.status.launch, hit.process
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGSTOP)
    assert json.loads(reader.rest()[-1])["error"]["code"] == "engine_timeout"
    assert [ground(server.url, row) for row in ROWS] == [True] * len(ROWS)
    (other,) = others(engines, hit)
    assert other.status.state == "ready"
    assert wait_until(lambda: hit.status.launch > launch, START_S)
    assert wait_gone([process]) == []


def test_a_second_model_comes_and_goes_while_the_first_serves(
    two: Two, api: httpx2.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is unloaded while it answers: that answer is finished, later requests are refused."""
    server, _ = two
    folder = tmp_path_factory.mktemp("models") / "second"
    folder.symlink_to(mini_folder(), target_is_directory=True)
    wanted = {
        "model_path": str(folder),
        "replicas": 1,
        "engine": "vllm",
        "max_model_len": 4096,
    }
    with grounding_all_the_time(server.url, agents=1, pause_s=2.0) as answered:
        before = answered()
        loaded = api.post("/api/v1/inference/load", json=wanted, timeout=2 * START_S)
        assert loaded.status_code == 200, loaded.text
        assert answered() > before
        assert {one["id"] for one in api.get("/v1/models").json()["data"]} == {MODEL, "second"}
        reader = Reader(api, asking("second", "to the end", **{**LONG, "max_tokens": 500}))
        assert wait_until(lambda: len(reader.events) >= 3)
        gone = api.post("/api/v1/inference/unload", json={"model": "second"}, timeout=120)
        assert gone.status_code == 200, gone.text
        events = reader.rest()
        assert events[-1] == "[DONE]"
        assert sum('"finish_reason":"length"' in event for event in events) == 1
        assert api.post(CHAT, json=asking("second")).status_code == 404
    assert not [one for one in server.running("vllm") if str(folder) in " ".join(one.cmdline())]
