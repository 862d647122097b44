"""An engine's refusal, in whatever shape it comes, as one of our errors."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from belvedere.errors import (
    BelvedereError,
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    NotSupported,
    PayloadTooLarge,
    RateLimited,
    Unavailable,
)

__all__ = ["refusal"]

_MESSAGE_CHARS = 1000
_TOO_LONG = re.compile(
    r"maximum context length|max(imum)?_model_len|longer than the (model|maximum|context)"
    r"|exceeds? the (available |model'?s? )?context|context (length|window|size) (is )?exceeded",
    re.IGNORECASE,
)
_PROMPTS = ("messages", "prompt", "input")
_LIMITS = frozenset({None, "max_tokens", "max_completion_tokens", "max_output_tokens", *_PROMPTS})
_NOT_FIELDS = frozenset({"audio", "image", "input_tokens", "video"})
"""What vLLM calls parameters, and are none: the prompt is meant."""

_SUFFIX = re.compile(r"\(parameter=(\w+)(?:, value=|\)$)")
_FIRST_WORD = re.compile(r"\W?(\w+)")
_DUMPED = re.compile(r"\d+ validation errors?:\s+\{.*?'loc': '([^']*)'", re.DOTALL)
_DUMPED_MESSAGE = re.compile(r"'msg': ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_INNER_STATE = re.compile(r":? \{'json': ")
_GRAMMAR = re.compile(
    r"(Grammar error|Invalid grammar|Invalid regex|Choice ')|structured outputs constraint"
    r"|constraints for structured outputs|Failed to convert"
)
_GRAMMARS = ("structured_outputs", "response_format", "tools")


@dataclass(frozen=True, slots=True)
class _Said:
    message: str
    code: str | None = None
    param: str | None = None


def refusal(status: int, content: bytes, sent: Collection[str] = ()) -> BelvedereError:
    """What a response with an error `status` means for the client.

    Refused input (4xx) is the client's, in the engine's words. Of everything else the words stay
    here: they may name paths or keys.

    Args:
        sent: names of the request's fields, one of which the words may be about.
    """
    said = _said(content) or _Said(f"The engine answered with HTTP status {status}.")
    match status:
        case 401 | 403:
            return EngineFailed("The engine refuses the gateway's key.")
        case 404 | 405:
            return _not_there(said)
        case 413:
            return PayloadTooLarge(_short(said.message))
        case 429:
            return RateLimited(_short(said.message), retry_after_s=1)
        case 501:
            return NotSupported(_short(said.message))
        case 503:
            return Unavailable(
                "The engine cannot take the request now.",
                remedy="Try again shortly.",
                retry_after_s=2,
            )
    if 400 <= status < 500 and status != 408:
        return _refused_input(_told_plainly(said, sent))
    return EngineFailed("The engine failed on this request.", remedy="Its log has the details.")


def _refused_input(said: _Said) -> InvalidRequest:
    too_long = _TOO_LONG.search(said.message) and said.param in _LIMITS
    if said.code == ContextLengthExceeded.code or too_long:
        return ContextLengthExceeded(_short(said.message), param=said.param)
    return InvalidRequest(_short(said.message), param=said.param, code=said.code)


def _told_plainly(said: _Said, sent: Collection[str]) -> _Said:
    """vLLM's words without what it prints of its own objects, and the field they are about."""
    message, param = said.message.rstrip(), said.param
    if message.endswith(")") and (found := _SUFFIX.search(message)):
        message, param = message[: found.start()].rstrip(), param or found[1]
    if found := _DUMPED.match(message):
        told = _DUMPED_MESSAGE.search(message, found.start())
        message = f"{found[1].removeprefix('body.')}: {_unquoted(told[1]) if told else 'not valid'}"
    if message.endswith("}") and (found := _INNER_STATE.search(message)):
        message = message[: found.start()] + "."
    param = (param or _field_of(message, sent) or "").removeprefix("body.") or None
    if param in _NOT_FIELDS:
        param = next((name for name in _PROMPTS if name in sent), None)
    return replace(said, message=message, param=param)


def _unquoted(literal: str) -> str:
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):
        return literal


def _field_of(message: str, sent: Collection[str]) -> str | None:
    """The field that `message` begins with, or that holds the grammar it is about."""
    first = _FIRST_WORD.match(message)
    if first and first[1] in sent:
        return first[1]
    if _GRAMMAR.search(message):
        return next((name for name in _GRAMMARS if name in sent), None)
    return None


def _not_there(said: _Said) -> BelvedereError:
    if said.param == "model" or said.code == ModelNotFound.code:
        return ModelNotFound(_short(said.message), param="model")
    return NotSupported(
        "The engine of this model does not offer this.",
        remedy="Serve the model on an engine that does.",
    )


def _said(content: bytes) -> _Said | None:
    """OpenAI's shape, vLLM's older one, FastAPI's ``detail`` and llama.cpp's and TGI's."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    error = body.get("error", body)
    if isinstance(error, str):
        return _Said(error)
    if not isinstance(error, dict):
        return None
    if isinstance(error.get("message"), str):
        return _Said(error["message"], _text(error.get("code")), _text(error.get("param")))
    return _from_detail(error.get("detail"))


def _from_detail(detail: Any) -> _Said | None:
    if isinstance(detail, str):
        return _Said(detail)
    first = detail[0] if isinstance(detail, list) and detail else None
    if not isinstance(first, dict) or not isinstance(first.get("msg"), str):
        return None
    steps = first.get("loc")
    path = ".".join(map(str, steps[1:])) if isinstance(steps, list) else ""
    return _Said(f"{path}: {first['msg']}" if path else first["msg"], None, path or None)


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) and value else None


def _short(message: str) -> str:
    return message if len(message) <= _MESSAGE_CHARS else message[: _MESSAGE_CHARS - 3] + "..."
