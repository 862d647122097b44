"""The requests that clients may send. Nothing that is not listed here is accepted."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from belvedere.gateway.messages import (
    ImagePart,
    ImageUrl,
    ImageUrlPart,
    Message,
    Messages,
    Part,
    TextPart,
    VideoPart,
    VideoUrl,
    VideoUrlPart,
)
from belvedere.gateway.strict import Wire, field_error, parse

__all__ = [
    "INERT",
    "ChatCompletionRequest",
    "CompletionRequest",
    "GenerateRequest",
    "ImagePart",
    "ImageUrl",
    "ImageUrlPart",
    "Message",
    "Part",
    "Sampling",
    "StreamOptions",
    "TemplateKwargs",
    "TemplateRequest",
    "TextPart",
    "VideoPart",
    "VideoUrl",
    "VideoUrlPart",
    "Wire",
    "parse",
    "parse_chat",
]

INERT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""Accepted without effect; listed as such in docs/api.md."""

_MAX_TOKENS = 2**31 - 1
Finite = Annotated[float, Field(allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1, le=_MAX_TOKENS)]
TokenId = Annotated[int, Field(ge=0, le=_MAX_TOKENS)]
NonEmpty = Annotated[str, Field(min_length=1)]
TokenKey = Annotated[str, Field(pattern=r"^\d{1,10}$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(Wire):
    """What a stream carries besides tokens; the second is vLLM's."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class TextFormat(Wire):
    """``{"type": "text"}``, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Wire):
    """OpenAI's structured output; the schema is the engine's to read."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any]


ResponseFormat = Annotated[TextFormat | SchemaFormat, Field(discriminator="type")]


class Sampling(Wire):
    """OpenAI's and vLLM's parameters that chats and completions share."""

    model: str | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    max_tokens: Tokens | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MAX_TOKENS)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Finite, Field(gt=0, le=10)] | None = None
    length_penalty: Annotated[Finite, Field(ge=-10, le=10)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    logit_bias: (
        Annotated[dict[TokenKey, Annotated[Finite, Field(ge=-100, le=100)]], Field(max_length=1024)]
        | None
    ) = None
    bad_words: Annotated[list[NonEmpty], Field(max_length=256)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=4096)] | None = None
    use_beam_search: bool | None = None
    truncate_prompt_tokens: Tokens | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    echo: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _options_belong_to_streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise field_error("stream_options", 'it is only allowed with "stream": true')
        return self


class FunctionDefinition(Wire):
    """What a tool is called with; ``parameters`` is a JSON schema for the engine to read."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Wire):
    name: Name


class NamedTool(Wire):
    type: Literal["function"]
    function: FunctionName


class TemplateKwargs(Wire):
    """What a request may tell the chat template. Templates themselves are never taken."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    add_vision_id: bool | None = None


class ChatCompletionRequest(Sampling):
    """``POST /v1/chat/completions``."""

    messages: Messages
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    strict_actions: bool | Literal["grounding", "navigation"] | None = None

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise field_error("top_logprobs", 'it is only allowed with "logprobs": true')
        return self


class CompletionRequest(Sampling):
    """``POST /v1/completions``: texts or token ids; special tokens in them have their meaning."""

    prompt: (
        NonEmpty
        | Annotated[list[NonEmpty], Field(min_length=1, max_length=256)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=2_000_000)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=256)
        ]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=8)] | None = None
    suffix: str | None = None


class TemplateRequest(Wire):
    """``POST /v1/apply_template``: a chat without the wish for an answer."""

    model: str | None = None
    messages: Messages
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    chat_template_kwargs: TemplateKwargs | None = None


class GenerateRequest(Wire):
    """``POST /api/v1/inference/generate``: one prompt and its images, as one turn of a user."""

    prompt: NonEmpty
    images: Annotated[list[str], Field(max_length=1000)] | None = None
    model: str | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MAX_TOKENS)] | None = None
    repetition_penalty: Annotated[Finite, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=16)] | None = None
    stream: bool = False


def parse_chat(body: dict[str, Any]) -> ChatCompletionRequest:
    """Validates a request body.

    Raises:
        InvalidRequest: naming the first field at fault in ``param``.
    """
    return parse(ChatCompletionRequest, body)
