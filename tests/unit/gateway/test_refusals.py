"""What engines say when they refuse, and what clients get to hear."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from belvedere.gateway.refusals import refusal

LONG = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."


@pytest.mark.parametrize(
    ("status", "body", "expected", "code", "param"),
    [
        pytest.param(
            400,
            {"error": {"message": "no", "code": "bad", "param": "top_p"}},
            400,
            "bad",
            "top_p",
            id="openai",
        ),
        pytest.param(
            400,
            {"object": "error", "message": "no", "type": "BadRequestError", "code": 400},
            400,
            None,
            None,
            id="vllm-before-0.10",
        ),
        pytest.param(
            400,
            {"error": {"message": LONG, "type": "BadRequestError", "param": None, "code": 400}},
            400,
            "context_length_exceeded",
            None,
            id="vllm-context",
        ),
        pytest.param(
            422,
            {"detail": [{"loc": ["body", "messages", 0], "msg": "field required"}]},
            400,
            None,
            "messages.0",
            id="fastapi-validation",
        ),
        pytest.param(422, {"error": "bad", "error_type": "validation"}, 400, None, None, id="tgi"),
        pytest.param(
            404,
            {"error": {"message": "The model `x` does not exist.", "param": "model", "code": 404}},
            404,
            "model_not_found",
            "model",
            id="vllm-model",
        ),
        pytest.param(404, {"detail": "Not Found"}, 501, "not_supported", None, id="fastapi-path"),
        pytest.param(405, {"detail": "Method Not Allowed"}, 501, "not_supported", None, id="405"),
        pytest.param(
            404,
            {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
            501,
            "not_supported",
            None,
            id="llama.cpp-path",
        ),
        pytest.param(401, {"error": {"message": "key k-123"}}, 502, "engine_error", None, id="401"),
        pytest.param(413, {"error": {"message": "big"}}, 413, "payload_too_large", None, id="413"),
        pytest.param(
            429, {"error": {"message": "full"}}, 429, "rate_limit_exceeded", None, id="429"
        ),
        pytest.param(500, {"error": {"message": "/a/path"}}, 502, "engine_error", None, id="500"),
        pytest.param(503, {"error": "loading"}, 503, "engine_unavailable", None, id="503"),
        pytest.param(400, None, 400, None, None, id="no-body"),
        pytest.param(400, ["x"], 400, None, None, id="array"),
        pytest.param(400, {"error": {"message": 5}}, 400, None, None, id="message-a-number"),
    ],
)
def test_every_shape_becomes_ours(
    status: int, body: Any, expected: int, code: str | None, param: str | None
) -> None:
    error = refusal(status, b"<html>" if body is None else json.dumps(body).encode())
    assert (error.status, error.code, error.param) == (expected, code, param)
    assert error.message
    assert (error.retry_after_s is not None) == (expected in (429, 503))


@pytest.mark.parametrize("status", [401, 500, 502, 503])
def test_what_is_not_the_clients_fault_keeps_its_words_here(status: int) -> None:
    body = {"error": {"message": "Traceback: /srv/secret.py line 3, key k-123"}}
    assert "secret" not in str(refusal(status, json.dumps(body).encode()))


def test_a_long_message_is_cut() -> None:
    body = json.dumps({"error": {"message": "x" * 100_000}}).encode()
    assert len(refusal(400, body).message) == 1000


DUMP = (
    "6 validation errors:\n  {'type': 'dict_type', 'loc': 'body.response_format.json_schema.schema'"
    ", 'msg': 'Input should be a valid dictionary', 'input': '5'}\n  {'type': 'literal_error', "
    "'loc': 'body.response_format.type', 'msg': \"Input should be 'structural_tag'\"}"
)
UNUSED = (
    "You must use one kind of structured outputs constraint but none are specified: {'json': None, "
    "'regex': None, '_backend': None, '_backend_was_auto': False}"
)
TOO_LONG = (
    "This model's maximum context length is 65536 tokens. However, your prompt contains at least "
    "65537 input tokens. (parameter=input_tokens, value=65537)"
)


@pytest.mark.parametrize(
    ("message", "named", "sent", "expected", "param"),
    [
        pytest.param(
            "token_id(s) [99999] in logit_bias contain out-of-vocab token ids. "
            "(parameter=logit_bias, value=[99999])",
            "logit_bias",
            {"messages", "logit_bias"},
            "token_id(s) [99999] in logit_bias contain out-of-vocab token ids.",
            "logit_bias",
            id="suffix",
        ),
        pytest.param(
            DUMP,
            "body.response_format.json_schema.schema",
            {"messages", "response_format"},
            "response_format.json_schema.schema: Input should be a valid dictionary",
            "response_format.json_schema.schema",
            id="validation",
        ),
        pytest.param(
            "1 validation error:\n  {'type': 'x', 'loc': 'body.tokens.0', 'msg': 'It\\'s 0'}",
            None,
            {"tokens"},
            "tokens.0: It's 0",
            "tokens",
            id="quotes",
        ),
        pytest.param(
            UNUSED,
            None,
            {"messages", "response_format"},
            "You must use one kind of structured outputs constraint but none are specified.",
            "response_format",
            id="inner-state",
        ),
        pytest.param(
            "n must be 1 when using greedy sampling, got 3.",
            None,
            {"messages", "n", "temperature"},
            "n must be 1 when using greedy sampling, got 3.",
            "n",
            id="first-word",
        ),
        pytest.param(
            "`prompt_logprobs` are not available when `stream=True`. (parameter=prompt_logprobs)",
            None,
            {"messages", "prompt_logprobs"},
            "`prompt_logprobs` are not available when `stream=True`.",
            "prompt_logprobs",
            id="only-in-the-suffix",
        ),
        pytest.param(
            "Grammar error: Invalid type: nonsense",
            None,
            {"messages", "response_format"},
            "Grammar error: Invalid type: nonsense",
            "response_format",
            id="grammar",
        ),
        pytest.param(
            "At most 0 audio(s) may be provided in one prompt. (parameter=audio)",
            "audio",
            {"messages", "model"},
            "At most 0 audio(s) may be provided in one prompt.",
            "messages",
            id="modality",
        ),
        pytest.param(
            TOO_LONG, "input_tokens", {"prompt"}, TOO_LONG.partition(" (")[0], "prompt", id="length"
        ),
    ],
)
def test_vllm_is_quoted_without_its_own_objects(
    message: str, named: str | None, sent: set[str], expected: str, param: str | None
) -> None:
    error = {"message": message, "type": "BadRequestError", "param": named, "code": 400}
    refused = refusal(400, json.dumps({"error": error}).encode(), sent)
    assert refused.message == expected
    assert (refused.status, refused.type, refused.param) == (400, "invalid_request_error", param)
    expected_code = "context_length_exceeded" if "context length" in message else None
    assert refused.code == expected_code


@pytest.mark.parametrize(
    "echoed",
    [
        " ",
        " (parameter=n, value=",
        " {'json': ",
        "'msg': ",
        "'msg': '\\",
        "2 validation errors: {'loc': '",
        "longer than the ",
    ],
)
def test_a_long_refusal_is_told_at_once(echoed: str) -> None:
    """An engine may quote what a client sent."""
    message = "2 validation errors: {" + echoed * (900_000 // len(echoed)) + "!"
    body = json.dumps({"error": {"message": message}}).encode()
    started_s = time.process_time()
    assert len(refusal(400, body, {"messages"}).message) <= 1000
    assert time.process_time() - started_s < 1.0
