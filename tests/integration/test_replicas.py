"""What clients meet when engines are killed, stopped, full or poisoned; several fake replicas."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import pytest

from belvedere.engines.base import RestartPolicy
from tests.integration.callers import (
    CHAT,
    Reader,
    asking,
    busy_one,
    in_background,
    others,
    raw_request,
    view_of,
)
from tests.integration.serving import wait_gone, wait_until
from tests.integration.stage import LiveEngine, Stage

SLOW = {"tokens": 8, "ttft_s": 600.0}
ENDLESS = {"tokens": 100_000, "itl_s": 0.02}
SHORT = {"tokens": 3}


@pytest.mark.parametrize("stream", [False, True])
def test_a_kill_before_the_first_byte_is_retried_once_elsewhere(
    stage: Stage, client: httpx2.Client, stream: bool
) -> None:
    with stage.cast("retried", replicas=2) as engines:
        for engine in engines:
            engine.play(default=SLOW)
        body = asking("retried", stream=stream)
        with in_background(client, body) as answer:
            hit = busy_one(engines)
            (other,) = others(engines, hit)
            other.play(default=SHORT)
            launch = hit.status.launch
            hit.process.kill()
            response = answer.result(60)
        assert response.status_code == 200
        assert response.text.count("tok0") == 1
        assert other.stats["requests"] == 2, "the ready probe and the retry"
        assert hit.comes_back(launch)
        assert wait_until(lambda: view_of(client, hit).get("state") == "ready")


def test_a_kill_of_the_only_replica_is_a_503_and_it_comes_back(
    stage: Stage, client: httpx2.Client
) -> None:
    slow = RestartPolicy(max_crashes=5, base_s=4.0, cap_s=4.0)
    with stage.cast("single", restart=slow) as (engine,):
        engine.play(SLOW)
        with in_background(client, asking("single")) as answer:
            busy_one([engine]).process.kill()
            response = answer.result(60)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_unavailable"
        assert int(response.headers["retry-after"]) > 0
        assert engine.comes_back(1)
        assert wait_until(lambda: client.post(CHAT, json=asking("single")).status_code == 200)
        view = view_of(client, engine)
        assert (view["launches"], view["crashes"], view["error"]) == (2, 1, None)


def test_a_kill_in_mid_stream_is_an_error_event_and_never_replayed(
    stage: Stage, client: httpx2.Client
) -> None:
    with stage.cast("broken", replicas=2) as engines:
        for engine in engines:
            engine.play(default=ENDLESS)
        reader = Reader(client, asking("broken"))
        hit = busy_one(engines)
        assert wait_until(lambda: reader.tokens >= 3)
        hit.process.kill()
        events = reader.rest()
        assert json.loads(events[-1])["error"]["code"] == "engine_error"
        assert "[DONE]" not in events
        assert not any('"finish_reason":"' in event for event in events)
        assert sum("tok0 " in event for event in events) == 1
        assert [one.stats["requests"] for one in others(engines, hit)] == [1], "the ready probe"


@pytest.mark.parametrize("when", ["whole", "before the first token", "in mid-stream"])
def test_a_hung_replica_is_a_timeout_and_replaced_while_the_other_serves(
    hasty_stage: Stage, when: str
) -> None:
    with (
        hasty_stage.cast("hung", replicas=2) as engines,
        httpx2.Client(base_url=hasty_stage.server.url, timeout=60) as client,
    ):
        for engine in engines:
            engine.play(default=ENDLESS if when == "in mid-stream" else SLOW)
        body = asking("hung", stream=when != "whole")
        if when == "in mid-stream":
            reader = Reader(client, body)
            hit = busy_one(engines)
            assert wait_until(lambda: reader.tokens >= 3)
            hit.process.send_signal(signal.SIGSTOP)
            assert json.loads(reader.rest()[-1])["error"]["code"] == "engine_timeout"
        else:
            with in_background(client, body) as answer:
                hit = busy_one(engines)
                hit.process.send_signal(signal.SIGSTOP)
                response = answer.result(60)
            assert response.status_code == 504
            assert response.json()["error"]["code"] == "engine_timeout"
        (other,) = others(engines, hit)
        other.play(default=SHORT)
        answers = [client.post(CHAT, json=asking("hung", str(turn))) for turn in range(4)]
        assert [one.status_code for one in answers] == [200] * 4
        assert hit.comes_back(1), "the supervisor replaces it"
        used = hit.stats["requests"]
        assert wait_until(lambda: _used_again(client, hit, used)), "it takes requests again"


def _used_again(client: httpx2.Client, engine: LiveEngine, before: int) -> bool:
    with ThreadPoolExecutor(4) as pool:
        bodies = [asking("hung", f"again {turn}") for turn in range(8)]
        list(pool.map(lambda body: client.post(CHAT, json=body), bodies))
    return engine.stats["requests"] > before


def test_a_crash_loop_ends_in_failed_with_the_reason_in_health(
    stage: Stage, client: httpx2.Client
) -> None:
    policy = RestartPolicy(max_crashes=3, base_s=0.05, cap_s=0.1)
    with (
        stage.cast("well"),
        stage.cast("looping", "--start-fail", "crash", restart=policy, ready=False) as (engine,),
    ):
        assert wait_until(lambda: view_of(client, engine).get("state") == "failed", 60)
        view = view_of(client, engine)
        assert (view["launches"], view["crashes"]) == (3, 3)
        assert "exit code 7" in view["error"]
        assert client.get("/health").json()["status"] == "degraded"
        refused = client.post(CHAT, json=asking("looping"))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert client.post(CHAT, json=asking("well")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_kills_its_engine_never_takes_a_third(
    stage: Stage, client: httpx2.Client, stream: bool
) -> None:
    with stage.cast("poisoned", replicas=3) as engines:
        for engine in engines:
            engine.play(default={"fail": "exit"})
        poison = asking("poisoned", f"poison {stream}", stream=stream)
        first = client.post(CHAT, json=poison)
        assert first.status_code == 400
        assert first.json()["error"]["code"] == "request_quarantined"
        assert wait_until(lambda: sum(engine.status.launch > 1 for engine in engines) == 2)
        (spared,) = [engine for engine in engines if engine.status.launch == 1]
        assert spared.status.state == "ready"
        assert spared.stats["requests"] == 1, "the ready probe"
        spared.play(default=SHORT)
        assert client.post(CHAT, json=poison).status_code == 400
        assert client.post(CHAT, json=asking("poisoned", "harmless")).status_code == 200
        assert all(engine.comes_back(1) for engine in others(engines, spared))
        assert client.post(CHAT, json=poison).status_code == 400, "also when all are well again"


def test_one_and_the_same_request_survives_kills_from_outside(
    stage: Stage, client: httpx2.Client
) -> None:
    """Load generators send one body; only deaths without a success between them count."""
    with stage.cast("same", replicas=2) as engines:
        body = asking("same")
        for turn in range(3):
            for engine in engines:
                engine.play(default=SLOW)
            with in_background(client, body) as answer:
                hit = busy_one(engines)
                launch = hit.status.launch
                others(engines, hit)[0].play(default=SHORT)
                hit.process.kill()
                assert answer.result(60).status_code == 200, f"kill {turn}"
            assert hit.comes_back(launch)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["queued", "in prefill", "in mid-stream"])
def test_a_client_that_leaves_frees_its_engine_within_two_seconds(
    stage: Stage, client: httpx2.Client, where: str, stream: bool
) -> None:
    seats = ("--max-num-seqs", "1") if where == "queued" else ()
    with stage.cast("left", *seats) as (engine,):
        engine.play(default=ENDLESS if where == "in mid-stream" else SLOW)
        body = asking("left", max_tokens=100_000, stream=stream)
        count = 2 if where == "queued" else 1
        with ExitStack() as connections:
            for _ in range(count):
                connections.enter_context(raw_request(stage.server.url, body))
            assert wait_until(lambda: engine.busy == count)
            assert engine.stats["waiting"] == count - 1
            if where == "in mid-stream":
                assert wait_until(lambda: engine.stats["generated_tokens"] > 5)
        assert wait_until(lambda: engine.busy == 0, 30)
        assert wait_until(lambda: view_of(client, engine)["in_flight"] == 0, 30)


def test_unloading_a_model_in_use_lets_its_stream_finish(
    stage: Stage, client: httpx2.Client
) -> None:
    with stage.cast("used", replicas=2, drain_s=60.0) as engines:
        for engine in engines:
            engine.play(default={"tokens": 100, "itl_s": 0.1})
        processes = [engine.process for engine in engines]
        reader = Reader(client, asking("used"))
        assert wait_until(lambda: reader.tokens >= 3)
        with ThreadPoolExecutor(1) as pool:
            unloading = pool.submit(client.post, "/api/v1/inference/unload", json={"model": "used"})
            brief = asking("used", max_tokens=1)
            assert wait_until(lambda: client.post(CHAT, json=brief).status_code == 503)
            events = reader.rest()
            assert unloading.result(60).json()["success"] is True
        assert events[-1] == "[DONE]"
        assert sum("tok" in event for event in events) == 100
        gone = client.post(CHAT, json=asking("used"))
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
        assert wait_gone(processes) == []
