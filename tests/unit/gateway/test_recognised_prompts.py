"""Strict actions know a prompt whatever a client fills in, and without a long search."""

from __future__ import annotations

import time
from typing import Any

import pytest

from belvedere.agent.protocols.loader import load_protocol
from belvedere.gateway.strict_actions import apply_strict_actions
from belvedere.gateway.wire import parse_chat
from belvedere.router.replica import Model

LONG = 1_000_000
ASK_USER = load_protocol("mai-ui").texts["mai_ui_navigation_ask_user.txt"]
COMPUTER_USE = load_protocol("qwen3-vl").texts["qwen_computer_use.txt"]


def applied(protocol: str, system: str) -> tuple[str | None, dict[str, Any]]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Go on."}]
    request = parse_chat({"messages": messages})
    body: dict[str, Any] = {}
    model = Model("some", 0, protocol=protocol, takes_cache_salt=True)
    return apply_strict_actions(body, model, request, (), default=True), body


def filled(prompt: str, **values: str) -> str:
    for name, value in values.items():
        prompt = prompt.replace(f"@@{name}@@", value)
    assert "@@" not in prompt
    return prompt


def test_tools_that_are_filled_in_can_be_called() -> None:
    section = '{"name": "find_taxi", "parameters": {}}\n\n'
    kind, body = applied("mai-ui", filled(ASK_USER, TOOL_SECTION=section, APPS='["Maps"]'))
    assert kind == "navigation"
    assert "find_taxi" in body["structured_outputs"]["regex"]


def test_a_tool_without_an_end_of_its_name_does_not_grow_the_pattern() -> None:
    section = '{"name": "' + "x" * LONG + '"}'
    kind, body = applied("mai-ui", filled(ASK_USER, TOOL_SECTION=section, APPS="[]"))
    assert kind == "navigation"
    assert len(body["structured_outputs"]["regex"]) < 100_000


@pytest.mark.parametrize("change", ["{} and more", "More: {}"])
def test_a_prompt_that_goes_on_is_another_one(change: str) -> None:
    prompt = filled(COMPUTER_USE, WIDTH="1000", HEIGHT="1000", TOOL_SECTION="")
    assert applied("qwen3-vl", prompt)[0] == "navigation"
    assert applied("qwen3-vl", change.format(prompt)) == (None, {})


@pytest.mark.parametrize(
    ("protocol", "prompt", "filler"),
    [
        ("qwen3-vl", COMPUTER_USE, "x"),
        ("mai-ui", ASK_USER, ASK_USER.partition("@@TOOL_SECTION@@")[2].partition("@@")[0]),
    ],
)
def test_a_long_text_that_almost_is_a_prompt_is_told_at_once(
    protocol: str, prompt: str, filler: str
) -> None:
    text = prompt.partition("@@")[0] + filler * (LONG // len(filler))
    started_s = time.process_time()
    assert applied(protocol, text) == (None, {})
    assert time.process_time() - started_s < 1.0
