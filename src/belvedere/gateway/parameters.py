"""What of a request goes to the engine: its parameters as they came, the server's defaults, and
nothing that the engine would ignore or stumble over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from belvedere.errors import InvalidRequest
from belvedere.gateway.messages import AudioUrlPart, InputAudioPart, Message, RefusalPart
from belvedere.gateway.wire import (
    INERT,
    ChatCompletionRequest,
    CompletionRequest,
    Sampling,
    TemplateRequest,
)
from belvedere.router.replica import Model
from belvedere.settings import Settings

__all__ = ["check_features", "engine_body"]

_OURS = ("priority", "strict_actions")
"""What the gateway itself does."""

_PLAIN = INERT | {"model", "messages", "priority", "prompt", "stream", "stream_options"}
"""Every engine has these."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1.0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "use_beam_search": (False,),
}
"""Values that ask for nothing: an engine without the feature is not given them."""


def engine_body(
    settings: Settings, model: Model, request: ChatCompletionRequest | CompletionRequest
) -> dict[str, Any]:
    """JSON for an engine of `model`; messages are as the client wrote them.

    Raises:
        InvalidRequest: `param` names something that the engine cannot do.
    """
    given = request.model_dump(exclude_unset=True, exclude={*INERT, *_OURS})
    body = {name: value for name, value in given.items() if value is not None}
    if "tools" not in body:
        body.pop("parallel_tool_calls", None)
    if model.features is not None:
        check_features(model, request)
        for name in body.keys() - model.features - _PLAIN:
            _refuse_unless_neutral(model, name, body.pop(name))
    if model.is_vllm:
        _suit_vllm(model, body)
    body["model"] = model.name
    _apply_defaults(settings, body)
    return body


def _suit_vllm(model: Model, body: dict[str, Any]) -> None:
    """vLLM 0.32 ignores ``best_of``, and holds a call that must be made to its schema only where
    the tool is strict."""
    if body.pop("best_of", 1) != 1:
        raise _unsupported(model, "best_of")
    if body.get("tool_choice", "auto") not in ("auto", "none"):
        for tool in body.get("tools", ()):
            tool["function"].setdefault("strict", True)


def check_features(model: Model, request: Sampling | TemplateRequest) -> None:
    """Refuses messages and prompts that the engine of `model` cannot read.

    Raises:
        InvalidRequest: `param` names the first of them.
    """
    if model.features is None:
        return
    for feature, param in _demands(request):
        if feature not in model.features:
            raise _unsupported(model, param)


def _demands(request: Sampling | TemplateRequest) -> Iterator[tuple[str, str]]:
    """Feature and field of all that is not a plain conversation or a single prompt."""
    if isinstance(request, CompletionRequest):
        if isinstance(request.prompt, list) and not isinstance(request.prompt[0], int):
            yield "prompt_batch", "prompt"
    elif isinstance(request, ChatCompletionRequest | TemplateRequest):
        for index, message in enumerate(request.messages):
            yield from _demands_of(message, f"messages.{index}")


def _demands_of(message: Message, where: str) -> Iterator[tuple[str, str]]:
    if message.tool_calls is not None:
        yield "tools", f"{where}.tool_calls"
    if message.role == "tool":
        yield "tools", f"{where}.role"
    for field in ("refusal", "reasoning", "reasoning_content"):
        if getattr(message, field) is not None:
            yield "reasoning" if field != "refusal" else field, f"{where}.{field}"
    if message.content is None or isinstance(message.content, str):
        return
    for index, part in enumerate(message.content):
        if isinstance(part, InputAudioPart | AudioUrlPart):
            yield "audio", f"{where}.content.{index}.type"
        elif isinstance(part, RefusalPart):
            yield "refusal", f"{where}.content.{index}.type"


def _refuse_unless_neutral(model: Model, name: str, value: Any) -> None:
    if value not in _NEUTRAL.get(name, ()) and not (name == "logprobs" and value is False):
        raise _unsupported(model, name)


def _unsupported(model: Model, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param!r} is not supported by the engine of {model.name!r}.",
        remedy="Leave it out, or serve the model on an engine that supports it.",
        param=param,
        code="unsupported_parameter",
    )


def _apply_defaults(settings: Settings, body: dict[str, Any]) -> None:
    if settings.top_k_default is not None:
        body.setdefault("top_k", settings.top_k_default)
    if settings.repetition_penalty_default is not None:
        body.setdefault("repetition_penalty", settings.repetition_penalty_default)
    if settings.max_new_tokens_default is not None and "max_completion_tokens" not in body:
        body.setdefault("max_tokens", settings.max_new_tokens_default)
