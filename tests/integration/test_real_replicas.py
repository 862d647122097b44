"""Two embedded engines with the shipped model under the main faults of a fleet."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest

from tests.integration.callers import (
    CHAT,
    Reader,
    asking,
    busy_one,
    in_background,
    raw_request,
)
from tests.integration.serving import RunningServer, running_server, wait_until
from tests.integration.stage import LiveEngine, Stage

pytestmark = pytest.mark.engine
LONG = {"max_tokens": 12_000, "ignore_eos": True, "temperature": 0}
Two = tuple[RunningServer, list[LiveEngine]]


@pytest.fixture(scope="module")
def two(own_folders: None) -> Iterator[Two]:
    times = {"BELVEDERE_FIRST_TOKEN_TIMEOUT_S": "20", "BELVEDERE_INTER_TOKEN_TIMEOUT_S": "10"}
    with (
        running_server("--replicas", "2", "--fleet", "two", env=times) as server,
        Stage("two", server) as stage,
    ):
        yield server, stage.engines("belvedere-mini")


@pytest.fixture
def api(two: Two) -> Iterator[httpx2.Client]:
    server, engines = two
    with httpx2.Client(base_url=server.url, timeout=180) as client:
        assert wait_until(lambda: client.get("/health").json()["status"] == "ok", 180)
        assert wait_until(lambda: not any(engine.busy for engine in engines))
        yield client


def test_a_kill_is_retried_before_and_told_after_the_first_byte(
    two: Two, api: httpx2.Client
) -> None:
    engines = two[1]
    body = asking("belvedere-mini", "whole", **{**LONG, "max_tokens": 1500})
    with in_background(api, body) as answer:
        hit = busy_one(engines)
        hit.process.kill()
        response = answer.result(180)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 1500
    assert hit.comes_back(1)
    reader = Reader(api, asking("belvedere-mini", "stream", **LONG))
    assert wait_until(lambda: len(reader.events) >= 3)
    hit = busy_one(engines)
    launch = hit.status.launch
    hit.process.kill()
    events = reader.rest()
    assert json.loads(events[-1])["error"]["code"] == "engine_error"
    assert not any('"finish_reason":"' in event for event in events)
    assert hit.comes_back(launch)


def test_a_stopped_engine_is_a_timeout_and_replaced(two: Two, api: httpx2.Client) -> None:
    engines = two[1]
    reader = Reader(api, asking("belvedere-mini", "hang", **LONG))
    hit = busy_one(engines)
    assert wait_until(lambda: len(reader.events) >= 3)
    launch = hit.status.launch
    hit.process.send_signal(signal.SIGSTOP)
    assert json.loads(reader.rest()[-1])["error"]["code"] == "engine_timeout"
    short = asking("belvedere-mini", max_tokens=2)
    assert [api.post(CHAT, json=short).status_code for _ in range(3)] == [200] * 3
    assert hit.comes_back(launch)


def test_clients_that_leave_free_the_engine_within_two_seconds(
    two: Two, api: httpx2.Client
) -> None:
    server, engines = two
    body = asking("belvedere-mini", "leaving", stream=True, **LONG)
    with ExitStack() as connections:
        for _ in range(4):
            connections.enter_context(raw_request(server.url, body))
        assert wait_until(lambda: sum(engine.busy for engine in engines) == 4)
        assert any(engine.stats["waiting"] for engine in engines), "some are queued"
    assert wait_until(lambda: not any(engine.busy for engine in engines), 30)
