"""Answers that always are an action, on the real engine: also where the model writes at random."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere import MAIUIClient
from belvedere.agent.actions import Action
from belvedere.agent.coordinates import View
from belvedere.agent.grounding import GroundingAgent, GroundingOptions
from belvedere.agent.pictures import Screenshot
from belvedere.agent.protocols.loader import load_protocol
from belvedere.agent.protocols.reading import read_action, read_grounding
from belvedere.agent.protocols.writing import (
    grounding_messages,
    image_part,
    navigation_system,
    text_part,
)
from belvedere.errors import ActionError
from tests.integration.serving import RunningServer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
MAI_UI = load_protocol("mai-ui")
CODEC = MAI_UI.coordinates.codec
TRIES = 12
FINISHED, ROUNDS = 4, 15
TOOLS = [{"name": "search_web", "description": "Finds pages", "parameters": {"type": "object"}}]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture
def http(vllm: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=vllm.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def login() -> Screenshot:
    return Screenshot(EXAMPLES / ROWS[0]["image"])


def grounding(screen: Screenshot) -> dict[str, Any]:
    url = screen.picture(MAI_UI).url
    return {
        "messages": grounding_messages(MAI_UI, "Click Login", url, View.whole(screen.size)),
        "max_tokens": 400,
    }


def step(screen: Screenshot) -> dict[str, Any]:
    system = navigation_system(MAI_UI, View.whole(screen.size), tools=TOOLS)
    messages = [
        {"role": "system", "content": [text_part(system)]},
        {"role": "user", "content": [text_part("Log in")]},
        {"role": "user", "content": [image_part(screen.picture(MAI_UI).url)]},
    ]
    return {"messages": messages, "max_tokens": 600}


def at_random(http: httpx2.Client, body: dict[str, Any], tries: int, **more: Any) -> list[str]:
    """Answers of a model whose next token is nearly any, but for those that reached their limit."""

    def ask(_: int) -> str | None:
        answer = http.post("/v1/chat/completions", json={**body, "temperature": 2.0, **more})
        assert answer.status_code == 200, answer.text
        assert ("strict_actions" in more) == ("strict_actions" in answer.json()["belvedere"])
        (choice,) = answer.json()["choices"]
        return choice["message"]["content"] if choice["finish_reason"] == "stop" else None

    with ThreadPoolExecutor(FINISHED) as pool:
        return [text for text in pool.map(ask, range(tries)) if text is not None]


def strict_at_random(http: httpx2.Client, body: dict[str, Any]) -> list[str]:
    """At least `FINISHED` answers: most are cut in their thoughts, or in what they type."""
    texts: list[str] = []
    for _ in range(ROUNDS):
        texts += at_random(http, body, FINISHED, strict_actions=True)
        if len(texts) >= FINISHED:
            return texts
    raise AssertionError(f"only {len(texts)} answers of {FINISHED * ROUNDS} came to an end")


def click(text: str, screen: Screenshot) -> Action:
    return read_grounding(MAI_UI, text, View.whole(screen.size), codec=CODEC).action


def action(text: str, screen: Screenshot) -> Action:
    view = View.whole(screen.size)
    return read_action(MAI_UI, text, view, codec=CODEC, tools={"search_web"}).action


def usable(read: Any, texts: list[str], screen: Screenshot) -> int:
    count = 0
    for text in texts:
        try:
            read(text, screen)
        except ActionError:
            continue
        count += 1
    return count


def test_random_groundings_are_clicks(http: httpx2.Client, login: Screenshot) -> None:
    """The token with which the model always begins its answer is taken from it."""
    begins = {"prompt": '<answer>\n{"coordinate":[', "add_special_tokens": False}
    (token,) = http.post("/tokenize", json=begins).json()["tokens"]
    body = {**grounding(login), "logit_bias": {str(token): -100}}
    assert usable(click, at_random(http, body, TRIES), login) == 0
    texts = strict_at_random(http, body)
    assert usable(click, texts, login) == len(texts)


def test_steps_of_a_model_that_never_learned_them_are_actions(
    http: httpx2.Client, login: Screenshot
) -> None:
    assert usable(action, at_random(http, step(login), TRIES), login) == 0
    texts = strict_at_random(http, step(login))
    assert usable(action, texts, login) == len(texts)


@pytest.mark.parametrize("row", ROWS, ids=[row["image"] for row in ROWS])
def test_a_right_answer_stays_as_it_is(vllm: RunningServer, row: dict[str, Any]) -> None:
    image = EXAMPLES / row["image"]
    with MAIUIClient(vllm.url) as client:
        free = client.ground(image, row["instruction"])
    options = GroundingOptions(strict_actions=True)
    with GroundingAgent(vllm.url, options=options) as agent:
        strict = agent.ground(image, row["instruction"])
    assert strict.answer == free.answer
    left, top, right, bottom = row["box"]
    assert left <= strict.action.x < right
    assert top <= strict.action.y < bottom
