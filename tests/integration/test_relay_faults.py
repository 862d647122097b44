"""What clients of the gateway meet when an engine misbehaves; the engine is scripted."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from belvedere.engines.base import Endpoint
from belvedere.gateway.state import Gateway
from belvedere.router.replica import Replica
from belvedere.testing import FakeEngine, Script, SleepScript
from belvedere.testing.script import Failure
from tests.integration.callers import raw_request
from tests.integration.scripted import FAKE, deaf, gateway_for
from tests.integration.serving import wait_until
from tests.integration.stepped import held

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**HELLO, "stream": True}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=5)) as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine) as client:
        yield client


def events(client: httpx2.Client, body: dict[str, object]) -> list[str]:
    with client.stream("POST", CHAT, json=body) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        return [line.removeprefix("data: ") for line in lines if line.startswith("data:")]


REFUSALS = [
    (Script(fail="refuse"), 400, "context_length_exceeded"),
    (Script(fail="overload"), 429, "rate_limit_exceeded"),
    (Script(fail="error"), 502, "engine_error"),
]
BROKEN_ANSWERS = [
    (Script(fail="garbage"), 502, "engine_error"),
    (Script(fail="cut"), 502, "engine_error"),
]


@pytest.mark.parametrize(
    ("stream", "script", "status", "code"),
    [(False, *row) for row in REFUSALS + BROKEN_ANSWERS] + [(True, *row) for row in REFUSALS],
)
def test_failures_before_the_first_byte_are_http_errors(
    engine: FakeEngine,
    client: httpx2.Client,
    stream: bool,
    script: Script,
    status: int,
    code: str,
) -> None:
    engine.play(script)
    response = client.post(CHAT, json={**HELLO, "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert (status == 429) == ("retry-after" in response.headers)
    assert client.post(CHAT, json=HELLO).status_code == 200


@pytest.mark.parametrize(
    ("fail", "status", "code", "patience_s"),
    [("cut", 503, "engine_unavailable", 60), ("hang", 504, "engine_timeout", 0.6)],
)
def test_an_opening_without_a_token_is_not_an_answer_yet(
    engine: FakeEngine, fail: Failure, status: int, code: str, patience_s: float
) -> None:
    """The fake engine sends the message with the role at once, as SGLang and llama.cpp do."""
    engine.play(Script(tokens=5, fail=fail))
    with gateway_for(engine, first_token_timeout_s=patience_s) as client:
        response = client.post(CHAT, json=STREAM)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("after", [1, 2])
def test_an_engine_that_dies_in_mid_stream_is_an_error_event(
    engine: FakeEngine, client: httpx2.Client, after: int
) -> None:
    engine.play(Script(tokens=5, itl_s=0.05, fail="cut", fail_after=after))
    got = events(client, STREAM)
    assert json.loads(got[-1])["error"]["code"] == "engine_error"
    assert "[DONE]" not in got
    assert sum("tok" in event for event in got) == after
    assert not any('"finish_reason":"' in event for event in got)


@pytest.mark.parametrize("after", [1, 2])
def test_a_hanging_engine_is_a_timeout(engine: FakeEngine, after: int) -> None:
    engine.play(Script(tokens=5, fail="hang", fail_after=after))
    with gateway_for(engine, inter_token_timeout_s=0.4) as client:
        got = events(client, STREAM)
        assert json.loads(got[-1])["error"]["code"] == "engine_timeout"
        assert wait_until(lambda: engine.counters.running == 0)


def test_a_hanging_engine_without_stream_is_a_504(engine: FakeEngine) -> None:
    with gateway_for(engine, request_timeout_s=0.4) as client:
        engine.play(Script(fail="hang"))
        response = client.post(CHAT, json=HELLO)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "engine_timeout"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ttft_s", [0.0, 30.0], ids=["while decoding", "in prefill"])
def test_a_client_that_leaves_frees_the_engine_within_two_seconds(
    engine: FakeEngine, stream: bool, ttft_s: float
) -> None:
    with gateway_for(engine) as client:
        engine.play(Script(tokens=10_000, ttft_s=ttft_s, itl_s=0.01))
        with raw_request(str(client.base_url), {**HELLO, "stream": stream}):
            assert wait_until(lambda: engine.counters.running == 1)
            assert ttft_s or wait_until(lambda: engine.counters.generated_tokens >= 3)
        assert wait_until(lambda: engine.counters.cancelled == 1)
        assert engine.counters.running == 0
        assert wait_until(lambda: client.get("/health").json()["replicas"][0]["in_flight"] == 0)


def test_leases_spread_over_the_replicas() -> None:
    holdable = SleepScript(sleep_mode=True)
    with (
        FakeEngine(sleep=holdable) as one,
        FakeEngine(sleep=holdable) as two,
        gateway_for(one, two) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        with held(one, two):
            sent = [pool.submit(client.post, CHAT, json=HELLO) for _ in range(6)]
            assert wait_until(lambda: one.counters.waiting + two.counters.waiting == 6)
        assert {answer.result().status_code for answer in sent} == {200}
        assert {len(one.counters.requests), len(two.counters.requests)} == {3}


def test_chunks_pass_untouched_but_for_the_last(engine: FakeEngine, client: httpx2.Client) -> None:
    direct = httpx2.post(engine.url + CHAT, json=STREAM).text
    relayed = client.post(CHAT, json=STREAM).text
    *same, last, done, _ = relayed.split("\n\n")
    *expected, direct_last, _, _ = direct.split("\n\n")
    assert same == expected
    assert done == "data: [DONE]"
    payload = json.loads(last.removeprefix("data: "))
    assert payload.pop("belvedere") == {"images": []}
    assert payload == json.loads(direct_last.removeprefix("data: "))


def test_server_defaults_reach_the_engine_and_requests_win(engine: FakeEngine) -> None:
    defaults = {
        "top_k_default": 7,
        "repetition_penalty_default": 1.2,
        "max_new_tokens_default": 3,
    }
    with gateway_for(engine, **defaults) as client:
        client.post(CHAT, json=HELLO)
        client.post(CHAT, json={**HELLO, "top_k": 1, "max_completion_tokens": 4, "user": "u"})
    first, second = engine.counters.requests
    assert (first["top_k"], first["repetition_penalty"], first["max_tokens"]) == (7, 1.2, 3)
    assert (second["top_k"], second["max_completion_tokens"]) == (1, 4)
    assert "max_tokens" not in second
    assert "user" not in second


def test_clients_that_leave_at_any_moment_keep_no_lease(engine: FakeEngine) -> None:
    """Also between the engine's acceptance and the first byte to the client."""
    body = json.dumps(STREAM).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    engine.script = Script(tokens=50, itl_s=0.01)
    with gateway_for(engine) as client:
        address = (client.base_url.host, client.base_url.port)
        for turn in range(40):
            with socket.create_connection(address) as leaving:
                leaving.sendall(request)
                time.sleep(turn * 0.0005)
        assert wait_until(lambda: engine.counters.running == 0)
        assert wait_until(lambda: client.get("/health").json()["replicas"][0]["in_flight"] == 0)


def test_a_request_is_not_to_blame_for_engines_that_it_never_reached() -> None:
    """Two that do not even accept a connection are away; the request is not quarantined."""
    with deaf() as one, deaf() as other:

        def add(gateway: Gateway) -> None:
            for name, url in (("one", one), ("other", other)):
                gateway.router.add(Replica(name, FAKE, Endpoint(url), lambda: "ready"))

        with gateway_for(on_gateway=add) as client:
            refused = client.post(CHAT, json=HELLO)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
