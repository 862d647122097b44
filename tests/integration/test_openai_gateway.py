"""The ``openai`` client against scripted engines: tools, errors, retries, timeouts, async."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "click", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=3)) as engine:
        yield engine


@pytest.fixture
def gateway(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine) as client:
        yield client


def connected(gateway: httpx2.Client, **options: Any) -> openai.OpenAI:
    url = f"{str(gateway.base_url).rstrip('/')}/{options.pop('prefix', 'v1')}"
    return openai.OpenAI(base_url=url, api_key="unused", **{"max_retries": 0, **options})


@pytest.mark.parametrize("prefix", ["v1", "api/v1"])
def test_completions_whole_and_streamed(gateway: httpx2.Client, prefix: str) -> None:
    with connected(gateway, prefix=prefix) as client:
        assert [model.id for model in client.models.list()] == ["fake"]
        whole = client.completions.create(model="fake", prompt="Once", max_tokens=2)
        assert whole.choices[0].text.split() == ["tok0", "tok1"]
        assert whole.usage is not None
        pieces = client.completions.create(model="fake", prompt="Once", max_tokens=2, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def test_tools_and_formats_reach_the_engine(engine: FakeEngine, gateway: httpx2.Client) -> None:
    call: Any = {"id": "c1", "type": "function", "function": {"name": "click", "arguments": "{}"}}
    talk: list[Any] = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
    ]
    schema: Any = {"name": "a", "strict": True, "schema": {"type": "object"}}
    with connected(gateway) as client:
        client.chat.completions.create(
            model="fake",
            messages=talk,
            tools=[TOOL],
            tool_choice="auto",
            parallel_tool_calls=False,
            response_format={"type": "json_schema", "json_schema": schema},
            reasoning_effort="low",
            logprobs=True,
            top_logprobs=2,
            n=2,
            seed=3,
            user="somebody",
            extra_body={"chat_template_kwargs": {"enable_thinking": False}, "top_k": 4},
        )
    (body,) = engine.counters.requests
    assert body["messages"] == talk
    assert (body["tools"], body["tool_choice"]) == ([TOOL], "auto")
    assert body["parallel_tool_calls"] is False
    assert body["response_format"]["json_schema"] == schema
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["reasoning_effort"], body["top_logprobs"], body["n"]) == ("low", 2, 2)
    assert (body["seed"], body["top_k"]) == (3, 4)
    assert "user" not in body


@pytest.mark.parametrize(
    ("script", "error", "code"),
    [
        (Script(fail="refuse"), openai.BadRequestError, "context_length_exceeded"),
        (Script(fail="overload"), openai.RateLimitError, "rate_limit_exceeded"),
        (Script(fail="error"), openai.InternalServerError, "engine_error"),
        (Script(fail="garbage"), openai.InternalServerError, "engine_error"),
    ],
)
def test_failures_are_the_clients_own_classes(
    engine: FakeEngine,
    gateway: httpx2.Client,
    script: Script,
    error: type[openai.APIStatusError],
    code: str,
) -> None:
    engine.play(script)
    with connected(gateway) as client, pytest.raises(error) as caught:
        client.chat.completions.create(model="fake", messages=HELLO)
    assert caught.value.code == code
    assert caught.value.request_id


def test_it_comes_back_after_429_when_the_header_says(
    engine: FakeEngine, gateway: httpx2.Client
) -> None:
    engine.play(Script(fail="overload"), Script(fail="overload"))
    started_s = time.monotonic()
    with connected(gateway, max_retries=2) as client:
        answer = client.chat.completions.create(model="fake", messages=HELLO)
    assert answer.choices[0].message.content
    assert time.monotonic() - started_s >= 1.0  # Retry-After was 1 s
    assert len(engine.counters.requests) == 3


def test_wrong_input_is_not_sent_twice(engine: FakeEngine, gateway: httpx2.Client) -> None:
    engine.play(Script(fail="refuse"))
    with connected(gateway, max_retries=5) as client, pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="fake", messages=HELLO)
    assert len(engine.counters.requests) == 1


def test_a_stream_that_breaks_raises_in_the_client(
    engine: FakeEngine, gateway: httpx2.Client
) -> None:
    engine.play(Script(tokens=5, fail="cut", fail_after=2))
    said = ""
    with connected(gateway) as client:
        stream = client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="connection"):
            for event in stream:
                said += event.choices[0].delta.content or ""
    assert said.split() == ["tok0", "tok1"]


def test_comments_do_not_disturb_it(engine: FakeEngine) -> None:
    engine.play(Script(tokens=2, ttft_s=0.6))
    with gateway_for(engine, keepalive_s=0.1) as gateway, connected(gateway) as client:
        stream = client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        said = "".join(event.choices[0].delta.content or "" for event in stream if event.choices)
    assert said.split() == ["tok0", "tok1"]


def test_its_timeout_frees_the_engine(engine: FakeEngine, gateway: httpx2.Client) -> None:
    engine.play(Script(ttft_s=60))
    with connected(gateway, timeout=4.0) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="fake", messages=HELLO)
    assert wait_until(lambda: engine.counters.cancelled == 1)
    assert engine.counters.running == 0


def test_leaving_a_stream_early_frees_the_engine(
    engine: FakeEngine, gateway: httpx2.Client
) -> None:
    engine.play(Script(tokens=100_000, itl_s=0.01))
    with connected(gateway) as client:
        stream = client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        next(iter(stream))
        stream.close()
        assert wait_until(lambda: engine.counters.running == 0)


def test_many_at_once_with_the_async_client(engine: FakeEngine, gateway: httpx2.Client) -> None:
    async def ask(client: openai.AsyncOpenAI, count: int) -> int:
        stream = await client.chat.completions.create(
            model="fake", messages=HELLO, max_tokens=count, stream=True
        )
        return len([event async for event in stream if event.choices[0].delta.content])

    async def ask_all() -> list[int]:
        url = f"{str(gateway.base_url).rstrip('/')}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, 1 + index % 3) for index in range(24)))

    assert asyncio.run(ask_all()) == [1 + index % 3 for index in range(24)]
    assert engine.counters.finished == 24


def test_embeddings_of_an_engine_without_them(gateway: httpx2.Client) -> None:
    """It is told not to ask again, and does not."""
    with (
        connected(gateway, max_retries=100) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.embeddings.create(model="fake", input="x", encoding_format="float")
    assert (caught.value.status_code, caught.value.code) == (501, "not_supported")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_the_request_id_is_the_clients_own(gateway: httpx2.Client) -> None:
    with connected(gateway) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="fake", messages=HELLO, extra_headers={"x-request-id": "mine-1"}
        )
    assert raw.headers["x-request-id"] == "mine-1"
