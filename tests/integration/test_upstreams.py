"""Servers that run elsewhere: keys, names, shared load, deaths and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from belvedere.engines.local_spec import mini_folder
from belvedere.testing import FakeEngine, Script
from tests.integration.callers import CHAT, asking
from tests.integration.serving import (
    RunningServer,
    clean_environment,
    quiet_port,
    running_server,
    wait_until,
)
from tests.integration.stage import Stage

KEY = "key-of-the-mapped-upstream"


class Elsewhere:
    """A fake server process that can be killed and started again on its port."""

    def __init__(self, model: str) -> None:
        self._port = quiet_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._model = model
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it answers."""
        argv = [sys.executable, "-m", "belvedere.testing", "--port", str(self._port)]
        argv += ["--model", self._model, "--tokens", "2", "--ttft-s", "0.2"]
        self._process = subprocess.Popen(
            argv, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert wait_until(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def requests(self) -> int:
        return int(httpx2.get(f"{self.url}/stats", timeout=30).json()["requests"])

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health").status_code == 200
        except httpx2.TransportError:
            return False


@dataclass
class Elsewheres:
    """Two that share a model, one whose model has another name here, one that refuses the key."""

    one: Elsewhere
    two: Elsewhere
    mapped: FakeEngine
    listed: FakeEngine
    closed: FakeEngine


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewheres]:
    with ExitStack() as stack:
        yield Elsewheres(
            stack.enter_context(Elsewhere("shared")),
            stack.enter_context(Elsewhere("shared")),
            stack.enter_context(FakeEngine(Script(tokens=2), model="inner", api_key=KEY)),
            stack.enter_context(FakeEngine(Script(tokens=2), model="first")),
            stack.enter_context(FakeEngine(model="hidden", api_key="another")),
        )


@pytest.fixture(scope="module")
def server(
    elsewhere: Elsewheres, tmp_path_factory: pytest.TempPathFactory, own_folders: None
) -> Iterator[RunningServer]:
    config = tmp_path_factory.mktemp("config") / "belvedere.toml"
    tables = [
        f'[[upstreams]]\nurl = "{elsewhere.one.url}/v1"',
        f'[[upstreams]]\nurl = "{elsewhere.two.url}"',
        f'[[upstreams]]\nurl = "{elsewhere.mapped.url}"\napi_key = "{KEY}"\n'
        'models = { outer = "inner" }',
        f'[[upstreams]]\nurl = "{elsewhere.listed.url}"',
        f'[[upstreams]]\nurl = "{elsewhere.closed.url}"\napi_key = "wrong-key"',
    ]
    config.write_text("\n".join(["upstream_poll_s = 0.5", *tables]))
    with running_server("--config", str(config), "--fleet", "up") as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        assert wait_until(lambda: names(client) >= {"shared", "outer"})
        yield client


def ask(client: httpx2.Client, model: str, text: str = "Hello") -> httpx2.Response:
    return client.post(CHAT, json=asking(model, text))


def ask_many(client: httpx2.Client, count: int, text: str) -> list[int]:
    with ThreadPoolExecutor(8) as pool:
        texts = [f"{text} {number}" for number in range(count)]
        return [one.status_code for one in pool.map(lambda one: ask(client, "shared", one), texts)]


def names(client: httpx2.Client) -> set[str]:
    return {entry["id"] for entry in client.get("/v1/models").json()["data"]}


def state_of(client: httpx2.Client, url: str) -> dict[str, Any]:
    upstreams = client.get("/api/v1/inference/status").json()["upstreams"]
    (found,) = [one for one in upstreams if one["url"] == url]
    assert isinstance(found, dict)
    return found


def test_names_and_keys_are_those_of_each_upstream(
    client: httpx2.Client, elsewhere: Elsewheres
) -> None:
    assert wait_until(lambda: names(client) == {"shared", "outer", "first"})
    answer = ask(client, "outer")
    assert answer.status_code == 200
    assert elsewhere.mapped.counters.requests[-1]["model"] == "inner"
    assert ask(client, "inner").status_code == 404
    assert state_of(client, elsewhere.mapped.url)["state"] == "ready"


def test_an_upstream_that_refuses_the_key_says_what_to_set(
    client: httpx2.Client, elsewhere: Elsewheres
) -> None:
    url = elsewhere.closed.url
    assert wait_until(lambda: state_of(client, url)["state"] != "starting")
    found = state_of(client, url)
    assert (found["state"], found["models"]) == ("failed", [])
    assert "api_key" in found["error"]
    everything = client.get("/health").text + client.get("/api/v1/inference/status").text
    assert KEY not in everything
    assert "wrong-key" not in everything


def test_streams_pass_through(client: httpx2.Client) -> None:
    with client.stream("POST", CHAT, json=asking("outer", stream=True)) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert sum("tok" in line for line in lines) == 2


def test_two_upstreams_of_one_model_share_its_load(
    client: httpx2.Client, elsewhere: Elsewheres
) -> None:
    before = elsewhere.one.requests, elsewhere.two.requests
    assert ask_many(client, 16, "share") == [200] * 16
    taken = elsewhere.one.requests - before[0], elsewhere.two.requests - before[1]
    assert sum(taken) == 16
    assert min(taken) >= 4


def test_one_dies_and_comes_back_without_a_failed_request(
    client: httpx2.Client, elsewhere: Elsewheres
) -> None:
    elsewhere.one.kill()
    assert ask_many(client, 12, "one is dead") == [200] * 12
    assert wait_until(lambda: state_of(client, elsewhere.one.url)["state"] == "failed", 60)
    assert ask_many(client, 4, "it is known") == [200] * 4
    elsewhere.one.start()
    assert wait_until(lambda: state_of(client, elsewhere.one.url)["state"] == "ready", 60)
    before = elsewhere.one.requests
    assert ask_many(client, 12, "it is back") == [200] * 12
    assert elsewhere.one.requests > before


def test_a_request_is_not_to_blame_for_upstreams_that_are_away(
    client: httpx2.Client, elsewhere: Elsewheres
) -> None:
    elsewhere.one.kill()
    elsewhere.two.kill()
    for _ in range(3):
        refused = ask(client, "shared", "innocent")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert int(refused.headers["retry-after"]) > 0
    assert ask(client, "outer").status_code == 200
    elsewhere.one.start()
    elsewhere.two.start()
    assert wait_until(lambda: ask(client, "shared", "innocent").status_code == 200, 60)


def test_the_list_of_models_is_followed(client: httpx2.Client, elsewhere: Elsewheres) -> None:
    elsewhere.listed.model = "second"
    assert wait_until(lambda: names(client) == {"shared", "outer", "second"}, 60)
    assert ask(client, "second").status_code == 200
    assert ask(client, "first").status_code == 404


def test_a_local_model_hides_an_upstreams_of_its_name(
    server: RunningServer, client: httpx2.Client, elsewhere: Elsewheres
) -> None:
    body = {"model_path": str(mini_folder()), "served_model_name": "outer"}
    refused = client.post("/api/v1/inference/load", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_name_taken")
    with Stage("up", server) as stage, stage.cast("outer") as (engine,):
        assert wait_until(lambda: _replicas(client, "outer") == [engine.name], 60)
        before = len(elsewhere.mapped.counters.requests)
        assert ask(client, "outer").status_code == 200
        assert len(elsewhere.mapped.counters.requests) == before
    assert wait_until(lambda: _replicas(client, "outer") not in ([], [engine.name]), 60)
    assert ask(client, "outer").status_code == 200
    assert len(elsewhere.mapped.counters.requests) == before + 1


def _replicas(client: httpx2.Client, model: str) -> list[str]:
    replicas = client.get("/health").json()["replicas"]
    return [one["name"] for one in replicas if one["model"] == model]


def test_a_server_whose_only_upstream_is_away_is_not_ready(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{quiet_port()}"
    key = {"BELVEDERE_UPSTREAM_API_KEY": "k"}
    with (
        running_server("--upstream", url, env=key) as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        assert wait_until(lambda: state_of(client, url)["state"] == "failed")
        assert wait_until(lambda: client.get("/health").json()["status"] == "unavailable")
        assert client.get("/health/ready").status_code == 503
        assert state_of(client, url)["error"] == "It does not answer."
        assert json.loads(client.get("/v1/models").text)["data"] == []
