"""Answers that always are an action: what an agent's protocol may say, as a constraint.

Whoever asks for a grounding or a step of a navigation gives the prompt of the model's protocol;
that is how a request is recognised. The engine then writes nothing outside the protocol's pattern
(structured outputs), at the price of a mask per token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from belvedere.agent.protocols.data import Protocol
from belvedere.agent.protocols.loader import load_protocol
from belvedere.agent.protocols.pattern import grounding_pattern, navigation_pattern
from belvedere.errors import InvalidRequest
from belvedere.gateway.messages import Message, TextPart
from belvedere.gateway.wire import ChatCompletionRequest
from belvedere.images.prepared import PreparedImage
from belvedere.router.replica import Model

__all__ = ["apply_strict_actions"]

Kind = Literal["grounding", "navigation"]
_MOST_TOOLS = 128
_TOOL_NAME = re.compile(r'"name":\s*"([^"\\\x00-\x1f]{1,128})"')
_PLACEHOLDER = re.compile(r"@@([A-Z_]+)@@")


def apply_strict_actions(
    body: dict[str, Any],
    model: Model,
    request: ChatCompletionRequest,
    images: Sequence[PreparedImage],
    *,
    default: bool,
) -> Kind | None:
    """Adds the constraint to an engine's `body`; returns which, ``None`` for none.

    Args:
        default: what holds for requests that say nothing, and only for those that the protocol's
            prompt begins and that constrain nothing themselves, of models on vLLM: an unknown
            server might refuse the constraint, or ignore it.

    Raises:
        InvalidRequest: it is asked for and cannot be: the engine has no structured outputs, no
            protocol is known for the model, none of its prompts begins the conversation, or the
            answer is constrained otherwise.
    """
    default = default and model.takes_cache_salt
    wanted = default if request.strict_actions is None else request.strict_actions
    if wanted is False:
        return None
    explicit = request.strict_actions is not None
    obstacle = _obstacle(model, request)
    if obstacle is not None:
        if explicit:
            raise _refusal(*obstacle)
        return None
    assert model.protocol is not None
    protocol = load_protocol(model.protocol)
    found = _recognised(protocol, request.messages)
    kind: Kind | None = None if wanted is True else wanted
    tools: tuple[str, ...] = ()
    if found is not None and kind in (None, found[0]):
        kind, tools = found
    if kind is None:
        if explicit:
            raise _refusal(
                "No prompt of the model's protocol begins the conversation",
                'Begin it with one, or say which: "grounding" or "navigation".',
            )
        return None
    pattern = _pattern(model.protocol, kind, tools, _size(images))
    body["structured_outputs"] = {"regex": pattern}
    return kind


def _obstacle(model: Model, request: ChatCompletionRequest) -> tuple[str, str] | None:
    """Why nothing can be constrained, and what to do about it."""
    if model.features is not None and "structured_outputs" not in model.features:
        return (
            f"The engine of {model.name!r} has no structured outputs",
            "Serve the model with --engine vllm.",
        )
    if model.protocol is None:
        return (
            f"No action protocol is known for {model.name!r}",
            "Serve it under a name that tells its family, such as MAI-UI-2B.",
        )
    formatted = request.response_format is not None and request.response_format.type != "text"
    calling = bool(request.tools) and request.tool_choice != "none"
    if formatted or calling or request.structured_outputs is not None:
        return (
            "The request constrains its answer otherwise",
            "Leave out strict_actions, or response_format, structured_outputs and tools.",
        )
    return None


def _refusal(message: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{message}.", remedy=remedy, param="strict_actions")


def _recognised(
    protocol: Protocol, messages: Sequence[Message]
) -> tuple[Kind, tuple[str, ...]] | None:
    """What the first message asks for, and the names of the tools that it offers.

    Where one prompt serves both, as with Qwen, any action may answer.
    """
    first = messages[0]
    text = _text(first) if first.role in ("system", "developer") else None
    if text is None:
        return None
    steps = protocol.navigation
    if steps is not None:
        for file in (steps.system, steps.system_with_tools):
            filled = _filled(protocol.texts[file], text) if file else None
            if filled is not None:
                return "navigation", _tools(filled.get("TOOL_SECTION", ""))
    rules = protocol.grounding
    if rules is not None and _filled(protocol.texts[rules.system], text) is not None:
        return "grounding", ()
    return None


def _tools(section: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_TOOL_NAME.findall(section)))[:_MOST_TOOLS]


def _filled(prompt: str, text: str) -> dict[str, str] | None:
    """What stands in `text` for the placeholders of `prompt`; ``None`` where it is another text.

    Each piece between two placeholders is searched once, from where the last one ended: clients
    send texts of any length, and a regular expression would go back and forth in them.
    """
    text = text.strip()
    first, *rest = _PLACEHOLDER.split(prompt.strip())
    if not text.startswith(first):
        return None
    found: dict[str, str] = {}
    place = len(first)
    for index in range(0, len(rest), 2):
        name, piece, is_last = rest[index], rest[index + 1], index + 2 == len(rest)
        end = len(text) - len(piece) if is_last else text.find(piece, place)
        if end < place or (is_last and not text.endswith(piece)):
            return None
        found.setdefault(name, text[place:end])
        place = end + len(piece)
    return found if place == len(text) else None


def _text(message: Message) -> str | None:
    if message.content is None or isinstance(message.content, str):
        return message.content
    texts = [part.text for part in message.content if isinstance(part, TextPart)]
    return "".join(texts) if len(texts) == len(message.content) else None


def _size(images: Sequence[PreparedImage]) -> tuple[int, int] | None:
    """Of the screenshot that an answer's pixels belong to: the last image."""
    seen = images[-1].seen_size if images else None
    return None if seen is None else (seen.width, seen.height)


@lru_cache(maxsize=256)
def _pattern(name: str, kind: Kind, tools: tuple[str, ...], size: tuple[int, int] | None) -> str:
    protocol = load_protocol(name)
    if kind == "grounding":
        return grounding_pattern(protocol, seen_size=size)
    return navigation_pattern(protocol, tools=tools, seen_size=size)
