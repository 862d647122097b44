"""The fake engine sleeps as vLLM does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2

from belvedere.testing import FakeEngine, Script, SleepScript

TIMEOUT_S = 60.0
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def sleeper(script: Script | None = None, **how: Any) -> FakeEngine:
    return FakeEngine(script, sleep=SleepScript(sleep_mode=True, **how))


def post(engine: FakeEngine, path: str, body: object = None) -> Any:
    response = httpx2.post(engine.url + path, json=body, timeout=TIMEOUT_S)
    assert response.status_code == 200, response.text
    return response.json()


def get(engine: FakeEngine, path: str) -> httpx2.Response:
    return httpx2.get(engine.url + path, timeout=TIMEOUT_S)


def is_sleeping(engine: FakeEngine) -> bool:
    return bool(get(engine, "/is_sleeping").json()["is_sleeping"])


def said(engine: FakeEngine, max_tokens: int = 2) -> tuple[str, str]:
    body = {**BODY, "max_tokens": max_tokens}
    (choice,) = post(engine, "/v1/chat/completions", body)["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def test_without_sleep_mode_the_routes_are_not_there() -> None:
    with FakeEngine() as engine:
        assert httpx2.post(f"{engine.url}/sleep", timeout=TIMEOUT_S).status_code == 404
        assert get(engine, "/is_sleeping").status_code == 404


def test_a_request_that_comes_in_a_sleep_waits_for_its_end() -> None:
    with sleeper() as engine:
        assert post(engine, "/sleep?level=1") == {"status": "sleeping", "level": 1}
        assert is_sleeping(engine)
        answers: list[tuple[str, str]] = []
        waiting = threading.Thread(target=lambda: answers.append(said(engine)))
        waiting.start()
        until(lambda: engine.counters.waiting == 1)
        time.sleep(0.3)
        assert not answers
        assert post(engine, "/wake_up") == {"status": "awake", "tags": None}
        waiting.join(TIMEOUT_S)
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
    for mode, tokens, end in (("abort", 1_000_000, "abort"), ("wait", 40, "stop")):
        with sleeper(Script(tokens=tokens, itl_s=0.1)) as engine:
            answers: list[tuple[str, str]] = []
            running = threading.Thread(
                target=lambda a=answers, e=engine, n=tokens: a.append(said(e, n))
            )
            running.start()
            until(lambda e=engine: e.counters.generated_tokens > 0)  # type: ignore[misc]
            post(engine, f"/sleep?level=1&mode={mode}")
            assert engine.counters.running == 0
            running.join(TIMEOUT_S)
            assert [reason for _, reason in answers] == [end]


def test_faults() -> None:
    with sleeper(wake_fail="error") as engine:
        post(engine, "/sleep")
        assert httpx2.post(f"{engine.url}/wake_up", timeout=TIMEOUT_S).status_code == 500
        assert is_sleeping(engine)
