"""The API through vLLM: sampling, logprobs, grammars, tools, completions, tokens, errors.

The shipped model writes bytes and numbers; it was never taught JSON, and would fill it with white
space. `COMPACT` forbids it that wherever a grammar leaves the choice.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from tests.integration.serving import RunningServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
COMPACT = {str(ord(character)): -100.0 for character in "\t\n\r "}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}, "side": {"enum": ["a"]}},
    "required": ["x", "side"],
    "additionalProperties": False,
}
CLICK = {"type": "function", "function": {"name": "click", "parameters": POINT}}
WAIT = {"type": "function", "function": {"name": "wait", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "click"}}


@pytest.fixture(scope="module")
def client(vllm: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(vllm: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=vllm.url, timeout=120) as http:
        yield http


def said(client: openai.OpenAI, **parameters: Any) -> str:
    wanted = {"model": "mini", "messages": HELLO, "max_tokens": 24, **parameters}
    return str(client.chat.completions.create(**wanted).choices[0].message.content)


def test_sampling_follows_the_seed_and_the_filters(client: openai.OpenAI) -> None:
    wild = {"temperature": 1.9, "top_p": 1.0}
    assert said(client, seed=7, **wild) == said(client, seed=7, **wild)
    assert len({said(client, seed=seed, **wild) for seed in range(4)}) > 1
    greedy = said(client, temperature=0)
    for filters in ({"top_k": 1}, {"min_p": 1.0}):
        assert said(client, temperature=1.9, extra_body=filters) == greedy
    assert said(client, temperature=1.9, top_p=1e-6) == greedy


def test_penalties_change_what_repeats(client: openai.OpenAI) -> None:
    """Among letters, none of which the model is sure of."""
    letters = {"structured_outputs": {"regex": "[a-z]{20}"}}
    plain = said(client, temperature=0, extra_body=letters)
    assert len(set(plain)) < len(plain)
    assert said(client, temperature=0, presence_penalty=2.0, extra_body=letters) != plain
    assert said(client, temperature=0, frequency_penalty=2.0, extra_body=letters) != plain
    strong = {**letters, "repetition_penalty": 5.0}
    assert said(client, temperature=0, extra_body=strong) != plain


def test_answers_end_where_they_are_told_to(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": "mini", "messages": HELLO, "temperature": 0}
    (short,) = client.chat.completions.create(**wanted, max_completion_tokens=2).choices
    assert short.finish_reason == "length"
    ended = client.chat.completions.create(**wanted, max_tokens=24, stop=["/answer"])
    (choice,) = ended.choices
    assert choice.finish_reason == "stop"
    assert "/answer" not in str(choice.message.content)
    assert str(choice.message.content).endswith("<")


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="mini", messages=HELLO, max_tokens=12, n=3, temperature=1.5, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 36


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="mini", messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    (choice,) = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        best = token.top_logprobs[0]
        assert len(token.top_logprobs) == 3
        assert (token.token, token.logprob) == (best.token, best.logprob)
        assert token.logprob <= 0


def test_a_stream_is_the_same_answer_with_its_logprobs_and_usage(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {
        "model": "mini",
        "messages": HELLO,
        "max_tokens": 4,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = client.chat.completions.create(**wanted)
    options: Any = {"include_usage": True}
    events = list(client.chat.completions.create(**wanted, stream=True, stream_options=options))
    deltas = [event.choices[0] for event in events if event.choices]
    pieces = [delta.delta.content or "" for delta in deltas]
    assert "".join(pieces) == whole.choices[0].message.content
    tokens = [
        token.token
        for delta in deltas
        if delta.logprobs and delta.logprobs.content
        for token in delta.logprobs.content
    ]
    assert "".join(tokens) == "".join(pieces)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [
        whole.choices[0].finish_reason
    ]
    last, usage = events[-1].usage, whole.usage
    assert last is not None
    assert usage is not None
    assert (last.prompt_tokens, last.completion_tokens) == (usage.prompt_tokens, 4)


def test_json_schema(client: openai.OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "point", "schema": POINT}}
    text = said(client, response_format=schema, max_tokens=60, logit_bias=COMPACT)
    found = json.loads(text)
    assert found.keys() == {"x", "side"}
    assert 0 <= found["x"] <= 9


def test_json_object(client: openai.OpenAI) -> None:
    bias = {**COMPACT, str(ord("}")): 100.0}
    kind: Any = {"type": "json_object"}
    assert json.loads(said(client, response_format=kind, logit_bias=bias)) == {}


def test_structured_outputs(client: openai.OpenAI) -> None:
    regex = {"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}}
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", said(client, extra_body=regex))
    choice = {"structured_outputs": {"choice": ["left", "right"]}}
    assert said(client, extra_body=choice) in ("left", "right")


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_call_that_must_be_made_fits_the_tools_schema(
    client: openai.OpenAI, choice: Any, streamed: bool
) -> None:
    tools: Any = [CLICK] if choice == "required" else [CLICK, WAIT]
    wanted: dict[str, Any] = {
        "model": "mini",
        "messages": HELLO,
        "tools": tools,
        "tool_choice": choice,
        "max_tokens": 120,
        "temperature": 0,
        "logit_bias": COMPACT,
    }
    if streamed:
        name, arguments, reason = _streamed_call(client, wanted)
    else:
        (answer,) = client.chat.completions.create(**wanted).choices
        assert answer.message.tool_calls
        call = answer.message.tool_calls[0]
        assert call.id
        assert call.type == "function"
        name, arguments, reason = call.function.name, call.function.arguments, answer.finish_reason
    assert name == "click"
    assert json.loads(arguments).keys() == {"x", "side"}
    assert reason in ("tool_calls", "stop")


def _streamed_call(client: openai.OpenAI, wanted: dict[str, Any]) -> tuple[str, str, str]:
    name = arguments = reason = ""
    for event in client.chat.completions.create(**wanted, stream=True):
        for choice in event.choices:
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or ():
                if call.index == 0 and call.function is not None:
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
    return name, arguments, reason


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_call_in_the_models_own_words_is_parsed(client: openai.OpenAI, streamed: bool) -> None:
    """What Qwen3-VL's template asks for, here put into the shipped model's mouth."""
    call = '<tool_call>\n{"name": "click", "arguments": {"x": 1, "side": "a"}}\n</tool_call>'
    wanted: dict[str, Any] = {
        "model": "mini",
        "messages": HELLO,
        "tools": [CLICK],
        "tool_choice": "auto",
        "max_tokens": 120,
        "extra_body": {"structured_outputs": {"choice": [call]}},
    }
    if streamed:
        name, arguments, reason = _streamed_call(client, wanted)
    else:
        (answer,) = client.chat.completions.create(**wanted).choices
        assert answer.message.tool_calls
        function = answer.message.tool_calls[0].function
        name, arguments, reason = function.name, function.arguments, answer.finish_reason
    assert (name, json.loads(arguments)) == ("click", {"x": 1, "side": "a"})
    assert reason == "tool_calls"


def test_tools_may_be_offered_and_answers_to_calls_told(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        assert said(client, tools=[CLICK], tool_choice=choice) != "None"
    call = {"id": "c1", "type": "function", "function": {"name": "click", "arguments": '{"x":1}'}}
    talk = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    assert said(client, messages=talk, tools=[CLICK])


def test_arguments_of_the_chat_template(client: openai.OpenAI) -> None:
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    assert said(client, temperature=0, extra_body=body) == said(client, temperature=0)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="mini", prompt=["a", "b"], max_tokens=3, temperature=0, logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == answer.choices[0].text
    pieces = client.completions.create(
        model="mini", prompt="a", max_tokens=3, temperature=0, stream=True
    )
    text = "".join(event.choices[0].text for event in pieces if event.choices)
    assert text == answer.choices[0].text


def test_tokens_of_texts_and_chats_and_back(http: httpx2.Client) -> None:
    tokens = http.post("/tokenize", json={"prompt": "Hello"}).json()
    assert tokens["count"] == len(tokens["tokens"])
    text = http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert text["prompt"] == "Hello"
    chat = http.post("/tokenize", json={"messages": HELLO}).json()
    asked = http.post(CHAT, json={"messages": HELLO, "max_tokens": 1}).json()
    assert chat["count"] == asked["usage"]["prompt_tokens"] > tokens["count"]


def image_part(width: int, height: int, colour: str) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def test_a_conversation_with_two_images(http: httpx2.Client) -> None:
    talk = [
        {"role": "user", "content": [image_part(320, 200, "red"), {"type": "text", "text": "A"}]},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": [{"type": "text", "text": "B"}, image_part(640, 96, "blue")]},
    ]
    body = {"messages": talk, "max_tokens": 4, "return_token_ids": True}
    answer = http.post(CHAT, json=body).json()
    first, second = answer["belvedere"]["images"]
    assert (first["original_size"], second["original_size"]) == ([320, 200], [640, 96])
    image_token = 1251
    assert answer["prompt_token_ids"].count(image_token) == first["tokens"] + second["tokens"]


LONG = "Say it again. " * 12_000
REFUSED: list[tuple[str, dict[str, Any], str | None]] = [
    (CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
    (CHAT, {"max_tokens": 2**30}, "max_tokens"),
    (CHAT, {"no_such_parameter": 1}, "no_such_parameter"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    (CHAT, {"temperature": -0.1}, "temperature"),
    (CHAT, {"max_tokens": -1}, "max_tokens"),
    (CHAT, {"presence_penalty": -3}, "presence_penalty"),
    (CHAT, {"top_k": -2}, "top_k"),
    (CHAT, {"n": 2, "temperature": 0}, "n"),
    (CHAT, {"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
    (CHAT, {"logit_bias": {"99999": 1}}, "logit_bias"),
    (CHAT, {"allowed_token_ids": [99999]}, "allowed_token_ids"),
    (CHAT, {"structured_outputs": {"regex": "(["}}, "structured_outputs"),
    (CHAT, {"structured_outputs": {"choice": []}}, "structured_outputs"),
    (CHAT, {"structured_outputs": {"nothing": 1}}, "structured_outputs"),
    (CHAT, {"tool_choice": "auto"}, "tool_choice"),
    (CHAT, {"tools": [WAIT], "tool_choice": NAMED}, "tool_choice"),
    (CHAT, {"thinking_token_budget": 5}, "thinking_token_budget"),
    (COMPLETIONS, {"prompt": LONG}, "prompt"),
    (COMPLETIONS, {"prompt": "a", "logprobs": 21}, "logprobs"),
    (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix"),
    (COMPLETIONS, {"prompt": "a", "best_of": 2}, "best_of"),
    (COMPLETIONS, {"prompt": [99999]}, None),
    ("/tokenize", {"prompt": 5}, "prompt"),
    ("/detokenize", {"tokens": [-5]}, "tokens.0"),
    ("/tokenize", {"messages": HELLO, "media_io_kwargs": {}}, "media_io_kwargs"),
]


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


BAD_SCHEMAS: list[tuple[str, dict[str, Any], str | None]] = [
    (CHAT, {"response_format": schema_format({"type": "nonsense"})}, "response_format"),
    (CHAT, {"response_format": schema_format(5)}, "response_format.json_schema.schema"),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format",
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [*REFUSED, *BAD_SCHEMAS],
    ids=[f"{path.rpartition('/')[2]}-{param}" for path, _, param in [*REFUSED, *BAD_SCHEMAS]],
)
def test_refusals_have_openais_shape_and_name_the_field(
    http: httpx2.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    messages = {"messages": HELLO} if path == CHAT else {}
    response = http.post(path, json={**messages, **body})
    assert response.status_code == 400, response.text
    (error,) = response.json().values()
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    for inner in ("Traceback", "site-packages", ".py", "0x", "parameter=", "'_backend'", "'loc'"):
        assert inner not in error["message"]


def test_a_prompt_that_is_too_long_has_its_code(http: httpx2.Client) -> None:
    response = http.post(CHAT, json={"messages": [{"role": "user", "content": LONG}]})
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, logit_bias={"99999": 1})
    assert caught.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, stream=True, messages=[{"role": "user", "content": LONG}])
    assert caught.value.code == "context_length_exceeded"
