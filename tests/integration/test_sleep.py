"""Models that sleep and wake, on fake engines with vLLM's sleep routes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere import InferenceService
from belvedere.engines.base import HangPolicy, RestartPolicy, SleepPolicy
from belvedere.engines.local_spec import mini_folder
from belvedere.errors import ModelNotFound, NotSupported, UsageError
from tests.integration.callers import CHAT, Reader, asking, in_background, raw_request
from tests.integration.serving import (
    BELVEDERE,
    clean_environment,
    quiet_port,
    running_server,
    wait_gone,
    wait_until,
)
from tests.integration.stage import LiveEngine, Stage

SLEEP, WAKE, UNLOAD, STATUS = (
    f"/api/v1/inference/{name}" for name in ("sleep", "wake", "unload", "status")
)
CAN_SLEEP: dict[str, Any] = {"sleep": SleepPolicy(), "deployed": {"sleep_mode": True}}
HASTY = HangPolicy(timeout_s=5.0, suspect_timeout_s=5.0, poll_s=0.1)


@contextmanager
def sleepers(stage: Stage, model: str, *options: str, **how: Any) -> Iterator[list[LiveEngine]]:
    with stage.cast(model, "--sleep-mode", *options, **{**CAN_SLEEP, **how}) as engines:
        yield engines


def on_gpu(*indices: int) -> dict[str, Any]:
    return {"deployed": {"sleep_mode": True, "gpu_ids": indices}}


def view(client: httpx2.Client, model: str) -> dict[str, Any]:
    models = client.get(STATUS).json()["models"]
    return next(dict(one) for one in models if one["model"] == model)


def states(client: httpx2.Client, model: str) -> list[str]:
    return [replica["state"] for replica in view(client, model)["replicas"]]


def ask(client: httpx2.Client, model: str, **more: Any) -> httpx2.Response:
    return client.post(CHAT, json=asking(model, max_tokens=2, **more))


def said(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def error(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def belvedere(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    command = [*BELVEDERE, *arguments, "--url", url]
    return subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(), timeout=120, check=False
    )


@pytest.mark.parametrize("level", [1, 2])
def test_a_model_sleeps_with_all_its_engines_and_wakes(
    stage: Stage, client: httpx2.Client, level: int
) -> None:
    with sleepers(stage, "nap", replicas=2) as engines:
        pids = [engine.process.pid for engine in engines]
        done = client.post(SLEEP, json={"model": "nap", "level": level})
        assert done.json() == {"success": True, "message": "nap is asleep."}
        seen = view(client, "nap")
        assert (seen["is_loaded"], seen["is_asleep"], seen["sleep_mode"]) == (True, True, True)
        assert [one["state"] for one in seen["replicas"]] == ["asleep"] * 2
        assert [one["sleep_level"] for one in seen["replicas"]] == [level] * 2
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        assert client.get("/health/ready").status_code == 200
        assert 'state="asleep"} 1.0' in client.get("/metrics").text
        assert "nap" in {entry["id"] for entry in client.get("/v1/models").json()["data"]}
        done = client.post(WAKE, json={"model": "nap"})
        assert done.json() == {"success": True, "message": "nap is awake."}
        assert states(client, "nap") == ["ready"] * 2
        assert said(ask(client, "nap")) == "tok0 tok1 "
        assert [engine.process.pid for engine in engines] == pids
        assert [engine.stats["reloads"] for engine in engines] == [level - 1] * 2


def test_sleeping_twice_and_waking_twice_is_once(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "twice") as (engine,):
        for _ in range(2):
            assert client.post(SLEEP, json={"model": "twice"}).status_code == 200
        other = client.post(SLEEP, json={"model": "twice", "level": 2})
        assert other.status_code == 400
        assert "sleeps at level 1 already" in other.json()["error"]["message"]
        for _ in range(2):
            assert client.post(WAKE, json={"model": "twice"}).status_code == 200
        assert (engine.stats["sleeps"], engine.stats["wakes"]) == (1, 1)


def test_twenty_requests_at_once_wake_it_once(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "woken", "--wake-s", "0.5") as (engine,):
        client.post(SLEEP, json={"model": "woken"})
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: ask(client, "woken"), range(20)))
        assert {said(answer) for answer in answers} == {"tok0 tok1 "}
        assert engine.stats["wakes"] == 1
        assert states(client, "woken") == ["ready"]


def test_a_stream_wakes_it_too(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "streamed", "--wake-s", "0.3"):
        client.post(SLEEP, json={"model": "streamed", "level": 2})
        reader = Reader(client, asking("streamed", max_tokens=3))
        assert reader.rest()[-1] == "[DONE]"
        assert (reader.status, reader.tokens) == (200, 3)


def test_a_request_that_leaves_does_not_stop_the_wake(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "left", "--wake-s", "3") as (engine,):
        client.post(SLEEP, json={"model": "left"})
        with raw_request(stage.server.url, asking("left")):
            assert wait_until(lambda: engine.stats["wakes"])
        assert wait_until(lambda: states(client, "left") == ["ready"])
        assert engine.stats["wakes"] == 1


def test_running_streams_finish_before_the_sleep_and_later_requests_after_it(
    stage: Stage, client: httpx2.Client
) -> None:
    with sleepers(stage, "busy", "--itl-s", "0.1", drain_s=60.0) as (engine,):
        engine.play({"tokens": 100, "itl_s": 0.1})
        reader = Reader(client, asking("busy"))
        assert wait_until(lambda: reader.tokens)
        with ThreadPoolExecutor(2) as pool:
            sleep = pool.submit(client.post, SLEEP, json={"model": "busy"})
            assert wait_until(lambda: states(client, "busy") == ["asleep"])
            assert view(client, "busy")["replicas"][0]["phase"] == "draining"
            assert not view(client, "busy")["is_asleep"]
            assert client.get("/health/ready").status_code == 200
            later = pool.submit(ask, client, "busy")
            assert sleep.result().status_code == 200
            assert reader.rest()[-1] == "[DONE]"
            assert reader.tokens == 100
            assert said(later.result()) == "tok0 tok1 "
        assert (engine.stats["sleeps"], engine.stats["wakes"]) == (1, 1)
        assert engine.stats["cancelled"] == 0


def test_a_long_sleep_is_no_hang(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "long", hang=HASTY) as (engine,):
        client.post(SLEEP, json={"model": "long"})
        time.sleep(8)
        assert states(client, "long") == ["asleep"]
        assert engine.status.launch == 1
        assert said(ask(client, "long")) == "tok0 tok1 "


def test_a_crash_in_the_sleep_is_followed_by_a_start_awake(
    stage: Stage, client: httpx2.Client
) -> None:
    slow = RestartPolicy(max_crashes=5, base_s=8.0, cap_s=8.0)
    with sleepers(stage, "crashed", restart=slow) as (engine,):
        client.post(SLEEP, json={"model": "crashed", "level": 2})
        os.kill(engine.process.pid, signal.SIGKILL)
        assert wait_until(lambda: states(client, "crashed") != ["asleep"])
        for path in (SLEEP, WAKE):
            assert error(client.post(path, json={"model": "crashed"}))[0] == 503
        assert engine.comes_back(1)
        assert wait_until(lambda: states(client, "crashed") == ["ready"])
        assert said(ask(client, "crashed")) == "tok0 tok1 "


@pytest.mark.parametrize("fault", ["error", "hang", "exit"])
def test_a_failed_wake_is_a_503_and_a_restart(
    stage: Stage, client: httpx2.Client, fault: str
) -> None:
    """Both requests are there before the wake, which takes a while, has failed."""
    brief = SleepPolicy(timeout_s=6.0)
    options = ("--wake-fail", fault, "--wake-s", "3")
    with sleepers(stage, "stuck", *options, sleep=brief) as (engine,):
        client.post(SLEEP, json={"model": "stuck"})
        with in_background(client, asking("stuck")) as other:
            answer = ask(client, "stuck")
            for one in (answer, other.result()):
                assert error(one) == (503, "engine_unavailable")
                assert "Retry-After" in one.headers
        assert "did not wake up" in answer.json()["error"]["message"]
        assert engine.comes_back(1)
        assert wait_until(lambda: ask(client, "stuck").status_code == 200)


def test_a_failed_sleep_is_a_503_and_a_restart(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "awake", "--sleep-fail", "error") as (engine,):
        answer = client.post(SLEEP, json={"model": "awake"})
        assert error(answer) == (503, "engine_unavailable")
        assert "did not fall asleep" in answer.json()["error"]["message"]
        assert engine.comes_back(1)
        assert wait_until(lambda: ask(client, "awake").status_code == 200)


def test_two_models_on_one_gpu_take_turns(stage: Stage, client: httpx2.Client) -> None:
    """Never both awake; requests for both, again and again, are all served."""
    with (
        sleepers(stage, "one", **on_gpu(0)) as (one,),
        sleepers(stage, "two", **on_gpu(0)) as (two,),
    ):
        client.post(SLEEP, json={"model": "two"})
        for model in ("two", "one", "two"):
            assert said(ask(client, model)) == "tok0 tok1 "
            awake = {name for name in ("one", "two") if states(client, name) == ["ready"]}
            assert awake == {model}
        with ThreadPoolExecutor(8) as pool:
            both = list(pool.map(lambda i: ask(client, ("one", "two")[i % 2]), range(8)))
        assert {answer.status_code for answer in both} == {200}
        assert sorted(states(client, "one") + states(client, "two")) == ["asleep", "ready"]
        assert one.status.launch == two.status.launch == 1


def test_a_swap_waits_for_the_other_models_requests(stage: Stage, client: httpx2.Client) -> None:
    with (
        sleepers(stage, "first", **on_gpu(0)) as (first,),
        sleepers(stage, "second", **on_gpu(0, 1)),
    ):
        client.post(SLEEP, json={"model": "second"})
        assert said(ask(client, "first")) == "tok0 tok1 "
        first.play({"tokens": 20, "itl_s": 0.1})
        reader = Reader(client, asking("first"))
        assert wait_until(lambda: reader.tokens)
        assert said(ask(client, "second")) == "tok0 tok1 "
        assert reader.rest()[-1] == "[DONE]"
        assert reader.tokens == 20
        assert states(client, "first") == ["asleep"]


def test_models_on_other_gpus_are_left_alone(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "here", **on_gpu(0)), sleepers(stage, "there", **on_gpu(1)):
        client.post(SLEEP, json={"model": "here"})
        assert said(ask(client, "here")) == "tok0 tok1 "
        assert states(client, "there") == ["ready"]


def test_a_model_that_is_started_again_gets_the_gpu(stage: Stage, client: httpx2.Client) -> None:
    slow = RestartPolicy(max_crashes=5, base_s=4.0, cap_s=4.0)
    with (
        sleepers(stage, "fallen", "--start-delay-s", "3", restart=slow, **on_gpu(0)) as (fallen,),
        sleepers(stage, "other", **on_gpu(0)) as (other,),
    ):
        client.post(SLEEP, json={"model": "fallen"})
        os.kill(fallen.process.pid, signal.SIGKILL)
        assert wait_until(lambda: states(client, "other") == ["asleep"])
        assert said(ask(client, "other")) == "tok0 tok1 "
        assert states(client, "fallen") == ["asleep"]
        assert (fallen.status.launch, other.status.launch) == (2, 1)


def test_a_model_whose_next_start_is_waited_for_leaves_the_gpu_to_others(
    stage: Stage, client: httpx2.Client
) -> None:
    waiting = RestartPolicy(max_crashes=5, base_s=60.0, cap_s=60.0)
    with (
        sleepers(stage, "down", restart=waiting, **on_gpu(0)) as (down,),
        sleepers(stage, "rival", **on_gpu(0)),
    ):
        client.post(SLEEP, json={"model": "rival"})
        os.kill(down.process.pid, signal.SIGKILL)
        assert wait_until(lambda: states(client, "down") == ["backoff"])
        time.sleep(2.0)
        assert said(ask(client, "rival")) == "tok0 tok1 "


def test_an_idle_model_goes_to_sleep_and_is_unloaded_later(
    stage: Stage, client: httpx2.Client
) -> None:
    deployed = {"sleep_mode": True, "idle_sleep_s": 1.0, "idle_unload_s": 20.0}
    with sleepers(stage, "idle", deployed=deployed) as (engine,):
        assert said(ask(client, "idle")) == "tok0 tok1 "
        assert wait_until(lambda: states(client, "idle") == ["asleep"])
        assert view(client, "idle")["idle_sleep_s"] == 1.0
        assert wait_until(lambda: engine.stats["sleeps"] == 1)  # asleep is also who falls asleep
        assert said(ask(client, "idle")) == "tok0 tok1 "
        assert wait_until(lambda: engine.stats["sleeps"] == 2)
        assert states(client, "idle") == ["asleep"]
        assert wait_until(
            lambda: "idle" not in {one["model"] for one in client.get(STATUS).json()["models"]}, 90
        )


def test_a_sleeping_model_can_be_unloaded(stage: Stage, client: httpx2.Client) -> None:
    with sleepers(stage, "gone") as (engine,):
        process = engine.process
        client.post(SLEEP, json={"model": "gone"})
        assert client.post(UNLOAD, json={"model": "gone"}).status_code == 200
        assert wait_gone([process]) == []
        assert error(ask(client, "gone")) == (404, "model_not_found")


def test_a_request_that_another_gateway_left_in_a_sleeping_engine_wakes_it(
    stage: Stage, client: httpx2.Client
) -> None:
    """The stage is attached like another gateway and tells the supervisor on its own."""
    with sleepers(stage, "shared") as (engine,):
        engine.play({"tokens": 20, "itl_s": 0.1})
        reader = Reader(client, asking("shared"))
        assert wait_until(lambda: reader.tokens)
        stage.sleep(engine)
        assert states(client, "shared") == ["asleep"]
        assert reader.rest()[-1] == "[DONE]"
        assert said(ask(client, "shared")) == "tok0 tok1 "


def test_a_killed_gateway_returns_to_a_sleeping_model() -> None:
    port = str(quiet_port())
    arguments = ("--no-model", "--fleet", "dream", "--port", port, "--linger-s", "300")
    with running_server(*arguments) as first:
        with Stage("dream", first, linger_s=300) as stage:
            (engine,) = stage.start("kept", "--sleep-mode", aliases=("also",), **CAN_SLEEP)
            pid = engine.process.pid
            body = {"model": "kept", "level": 2}
            assert httpx2.post(first.url + SLEEP, json=body, timeout=60).status_code == 200
        first.process.kill()
        first.process.wait()
        with running_server(*arguments) as second, Stage("dream", second) as stage:
            with httpx2.Client(base_url=second.url, timeout=60) as client:
                assert wait_until(lambda: states(client, "kept") == ["asleep"])
                assert client.get("/health/ready").status_code == 200
                assert said(ask(client, "also")) == "tok0 tok1 "
            (engine,) = stage.engines("kept")
            assert (engine.process.pid, engine.stats["reloads"]) == (pid, 1)


def test_the_command_line(stage: Stage, client: httpx2.Client) -> None:
    url = stage.server.url
    with sleepers(stage, "typed"):
        done = belvedere("sleep", "typed", "--level", "2", url=url)
        assert (done.returncode, done.stdout) == (0, "typed is asleep.\n")
        assert "asleep, level 2" in belvedere("status", url=url).stdout
        done = belvedere("wake", "typed", url=url)
        assert (done.returncode, done.stdout) == (0, "typed is awake.\n")
        assert states(client, "typed") == ["ready"]
        unknown = belvedere("sleep", "nobody", url=url)
        assert unknown.returncode == 2
        assert "not loaded here" in unknown.stderr
        assert belvedere("sleep", "typed", "--level", "3", url=url).returncode == 2


@pytest.mark.parametrize("path", [SLEEP, WAKE])
def test_refusals(stage: Stage, client: httpx2.Client, path: str) -> None:
    assert error(client.post(path, json={"model": "nobody"})) == (404, "model_not_found")
    assert client.post(path, json={"model": 7}).status_code == 400
    assert client.post(path, json={"model": "x", "level": 3}).status_code == 400
    assert client.get(path).status_code == 405
    foreign = client.post(path, headers={"Origin": "https://evil.example"})
    assert error(foreign) == (403, "permission_denied")
    with stage.cast("restless") as (engine,):
        refused = client.post(path, json={"model": "restless"})
        assert error(refused) == (501, "not_supported")
        assert "without sleep mode" in refused.json()["error"]["message"]
        typed = belvedere(path.rpartition("/")[2], "restless", url=stage.server.url)
        assert typed.returncode == 2
        assert "without sleep mode" in typed.stderr
        assert engine.status.state == "ready"


def test_only_admins_may(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[[api_keys]]\nname = "boss"\nkey = "boss-secret"\nrole = "admin"\n'
        '[[api_keys]]\nname = "user"\nkey = "user-secret"\n'
    )

    def post(path: str, key: str | None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx2.post(server.url + path, headers=headers, json={"model": "x"}, timeout=60)

    with running_server("--no-model", "--fleet", "keyed", "--config", str(keys)) as server:
        for path in (SLEEP, WAKE):
            assert error(post(path, None)) == (401, "invalid_api_key")
            assert error(post(path, "user-secret")) == (403, "permission_denied")
            assert error(post(path, "boss-secret")) == (404, "model_not_found")


@pytest.mark.engine
def test_the_embedded_engine_says_that_it_cannot(client: httpx2.Client) -> None:
    body = {"model_path": str(mini_folder()), "sleep_mode": True, "engine": "local"}
    refused = client.post("/api/v1/inference/load", json=body)
    assert error(refused) == (501, "not_supported")
    assert "The embedded engine has no sleep mode" in refused.json()["error"]["message"]
    del body["sleep_mode"]
    idle = client.post("/api/v1/inference/load", json={**body, "idle_sleep_s": 5})
    assert idle.status_code == 400
    assert "sleep_mode is off" in idle.json()["error"]["message"]
    served = subprocess.run(
        [*BELVEDERE, "serve", "--port", "0", "--sleep-mode", "--engine", "local"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=120,
        check=False,
    )
    assert served.returncode == 2
    assert served.stderr.count("no sleep mode") == 1


def test_the_python_service_says_that_it_cannot() -> None:
    async def work() -> None:
        async with InferenceService(engine="local") as service:
            with pytest.raises(NotSupported, match="embedded engine has no sleep mode"):
                await service.load_model(sleep_mode=True)
            with pytest.raises(UsageError, match="level is 3"):
                await service.sleep_model("nobody", level=3)
            for call in (service.sleep_model, service.wake_model):
                with pytest.raises(ModelNotFound):
                    await call()

    asyncio.run(work())
