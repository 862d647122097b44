"""The fake engine sleeps as vLLM does."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx2

from belvedere.testing import FakeEngine, Script, SleepScript

BODY = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


def sleeper(script: Script | None = None, **how: Any) -> FakeEngine:
    return FakeEngine(script, sleep=SleepScript(sleep_mode=True, **how))


def post(engine: FakeEngine, path: str, body: object = None) -> Any:
    response = httpx2.post(engine.url + path, json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()


def is_sleeping(engine: FakeEngine) -> bool:
    return bool(httpx2.get(f"{engine.url}/is_sleeping").json()["is_sleeping"])


def said(engine: FakeEngine) -> tuple[str, str]:
    (choice,) = post(engine, "/v1/chat/completions", BODY)["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def test_without_sleep_mode_the_routes_are_not_there() -> None:
    with FakeEngine() as engine:
        assert httpx2.post(f"{engine.url}/sleep").status_code == 404
        assert httpx2.get(f"{engine.url}/is_sleeping").status_code == 404


def test_a_request_that_comes_in_a_sleep_waits_for_its_end() -> None:
    with sleeper() as engine:
        assert post(engine, "/sleep?level=1") == {"status": "sleeping", "level": 1}
        assert is_sleeping(engine)
        answers: list[tuple[str, str]] = []
        waiting = threading.Thread(target=lambda: answers.append(said(engine)))
        waiting.start()
        time.sleep(0.3)
        assert not answers
        assert post(engine, "/wake_up") == {"status": "awake", "tags": None}
        waiting.join(30)
        assert answers == [("tok0 tok1 ", "stop")]
        assert not is_sleeping(engine)


def test_weights_that_were_dropped_are_garbage_until_they_are_read_again() -> None:
    with sleeper() as engine:
        post(engine, "/sleep?level=2")
        post(engine, "/wake_up")
        assert said(engine) == ("!!!! !!!! ", "stop")
        post(engine, "/sleep?level=2")
        assert post(engine, "/wake_up?tags=weights")["status"] == "sleeping"
        assert is_sleeping(engine)
        post(engine, "/collective_rpc", {"method": "reload_weights"})
        assert post(engine, "/wake_up?tags=kv_cache")["status"] == "awake"
        assert said(engine) == ("tok0 tok1 ", "stop")


def test_a_sleep_aborts_what_runs_or_waits_for_it() -> None:
    for mode, end in (("abort", "abort"), ("wait", "stop")):
        with sleeper(Script(itl_s=0.5)) as engine:
            answers: list[tuple[str, str]] = []
            running = threading.Thread(target=lambda a=answers, e=engine: a.append(said(e)))
            running.start()
            while not engine.counters.running:
                time.sleep(0.01)
            post(engine, f"/sleep?level=1&mode={mode}")
            running.join(30)
            assert [reason for _, reason in answers] == [end]


def test_faults() -> None:
    with sleeper(wake_fail="error") as engine:
        post(engine, "/sleep")
        assert httpx2.post(f"{engine.url}/wake_up").status_code == 500
        assert is_sleeping(engine)
