"""What an engine is told when a request's answer has to be an action."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from belvedere.agent.coordinates import View
from belvedere.agent.grounding import GroundingAgent, GroundingOptions
from belvedere.agent.protocols.loader import load_protocol
from belvedere.agent.protocols.writing import grounding_messages, navigation_system, text_part
from belvedere.engines.local_spec import LOCAL_FEATURES
from belvedere.errors import ActionError
from belvedere.images.geometry import ImageGeometry
from belvedere.router.replica import Model
from belvedere.testing import FakeEngine
from tests.integration.scripted import gateway_for

ON_VLLM = Model("MAI-UI-2B", 0, protocol="mai-ui", takes_cache_salt=True)
CHAT = "/v1/chat/completions"
VIEW = View.whole((640, 400), (640, 400))
MAI_UI = load_protocol("mai-ui")
QWEN = load_protocol("qwen2.5-vl")
TOOLS = [{"name": "search_web", "description": 'Finds "pages"', "parameters": {"type": "object"}}]
FITS = '<answer>\n{"coordinate":[12,999]}\n</answer>'


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as running:
        yield running


@pytest.fixture
def strict(engine: FakeEngine) -> Iterator[httpx2.Client]:
    """A server with --strict-actions before vLLM."""
    with gateway_for(engine, model=ON_VLLM, strict_actions=True) as client:
        yield client


@pytest.fixture
def loose(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine, model=Model("MAI-UI-2B", 0, protocol="mai-ui")) as client:
        yield client


def picture_bytes(width: int = 640, height: int = 400) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return file.getvalue()


def picture(width: int = 640, height: int = 400) -> str:
    return "data:image/png;base64," + base64.b64encode(picture_bytes(width, height)).decode()


def grounding(**more: Any) -> dict[str, Any]:
    return {"messages": grounding_messages(MAI_UI, "Click OK", picture(), VIEW), **more}


def step(**more: Any) -> dict[str, Any]:
    system = navigation_system(MAI_UI, VIEW, tools=TOOLS, ask_user=True, apps=["Mail"])
    task = {"role": "user", "content": [text_part("Open the mail")]}
    return {"messages": [{"role": "system", "content": system}, task], **more}


def constraint(client: httpx2.Client, engine: FakeEngine, body: dict[str, Any]) -> str | None:
    """The pattern that the engine was given; ``strict_actions`` itself is not for engines."""
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    sent = engine.counters.requests[-1]
    assert "strict_actions" not in sent
    pattern = sent.get("structured_outputs", {}).get("regex")
    told = answer.json()["belvedere"].get("strict_actions")
    assert (told is None) == (pattern is None)
    return pattern


def test_a_grounding_can_only_be_answered_by_a_point(
    strict: httpx2.Client, engine: FakeEngine
) -> None:
    pattern = constraint(strict, engine, grounding())
    assert pattern is not None
    assert re.fullmatch(pattern, FITS)
    assert not re.fullmatch(pattern, "At the top.")


def test_a_step_can_only_be_answered_by_an_action_or_a_tool(
    strict: httpx2.Client, engine: FakeEngine
) -> None:
    pattern = constraint(strict, engine, step())
    assert pattern is not None
    assert not re.fullmatch(pattern, FITS)
    for call in (
        '{"name": "mobile_use", "arguments": {"action": "click", "coordinate": [1, 2]}}',
        '{"name":"search_web","arguments":{"query":"cats"}}',
    ):
        assert re.fullmatch(pattern, f"<tool_call>\n{call}\n</tool_call>")
    other = '<tool_call>\n{"name":"pages","arguments":{}}\n</tool_call>'
    assert not re.fullmatch(pattern, other)


def test_other_conversations_are_free(strict: httpx2.Client, engine: FakeEngine) -> None:
    for messages in (
        [{"role": "user", "content": "Hello"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    ):
        assert constraint(strict, engine, {"messages": messages}) is None


@pytest.mark.parametrize(
    "own",
    [
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_constraint_of_the_client_is_its_own(
    strict: httpx2.Client, engine: FakeEngine, own: dict[str, Any]
) -> None:
    assert strict.post(CHAT, json=grounding(**own)).status_code == 200
    sent = engine.counters.requests[-1]
    assert sent.get("structured_outputs") == own.get("structured_outputs")
    refused = strict.post(CHAT, json=grounding(**own, strict_actions=True))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "strict_actions"


def test_a_request_decides_for_itself(
    strict: httpx2.Client, loose: httpx2.Client, engine: FakeEngine
) -> None:
    assert constraint(strict, engine, grounding(strict_actions=False)) is None
    assert constraint(loose, engine, grounding()) is None
    asked = constraint(loose, engine, grounding(strict_actions=True))
    assert asked is not None
    bare = [{"role": "user", "content": "OK"}]
    named = constraint(loose, engine, {"messages": bare, "strict_actions": "grounding"})
    assert named == asked


def test_what_cannot_be_constrained_is_refused(loose: httpx2.Client) -> None:
    bare = {"messages": [{"role": "user", "content": "OK"}], "strict_actions": True}
    refused = loose.post(CHAT, json=bare)
    assert refused.status_code == 400
    assert "prompt" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model("mini", 0, protocol="mai-ui", features=LOCAL_FEATURES), "--engine vllm"),
        (Model("llama", 0, takes_cache_salt=True), "No action protocol"),
    ],
    ids=["embedded", "unknown family"],
)
def test_models_that_cannot_are_told_apart(engine: FakeEngine, model: Model, words: str) -> None:
    with gateway_for(engine, model=model, strict_actions=True) as client:
        assert constraint(client, engine, grounding()) is None
        refused = client.post(CHAT, json=grounding(strict_actions=True))
    assert refused.status_code == 400
    assert words in refused.json()["error"]["message"]


def test_long_prompts_that_nearly_are_one_take_no_time(strict: httpx2.Client) -> None:
    """Recognising a prompt must not go back and forth in it: the server serves others meanwhile."""
    system = navigation_system(MAI_UI, VIEW, tools=TOOLS, ask_user=True, apps=["Mail"])
    half = len(system) // 2
    text = system[:half] + system[half:-1] * 2_000
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "Hi"}]
    answer = strict.post(CHAT, json={"messages": messages})
    assert answer.status_code == 200
    assert "strict_actions" not in answer.json()["belvedere"]
    assert answer.elapsed.total_seconds() < 10


def test_an_unknown_server_is_only_told_what_a_request_asks_for(engine: FakeEngine) -> None:
    model = Model("MAI-UI-2B", 0, protocol="mai-ui")
    with gateway_for(engine, model=model, strict_actions=True) as client:
        assert constraint(client, engine, grounding()) is None
        assert constraint(client, engine, grounding(strict_actions=True)) is not None


def test_routes_that_do_not_act_on_it_refuse_it(strict: httpx2.Client) -> None:
    refused = strict.post("/v1/responses", json={"input": "OK", "strict_actions": True})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "strict_actions"


def test_pixels_end_with_the_image(engine: FakeEngine) -> None:
    messages = grounding_messages(
        QWEN, "Click OK", picture(308, 196), View.whole((308, 196), (308, 196))
    )
    geometry = ImageGeometry(14, 2, 3136, 12845056)
    model = Model(
        "Qwen2.5-VL-3B", 0, geometry=geometry, protocol="qwen2.5-vl", takes_cache_salt=True
    )
    frame = (
        '<tool_call>\n{{"name":"computer_use","arguments":'
        '{{"action":"left_click","coordinate":[{x},{y}]}}}}\n</tool_call>'
    )
    with gateway_for(engine, model=model, strict_actions=True) as client:
        pattern = constraint(client, engine, {"messages": messages})
    assert pattern is not None
    assert re.fullmatch(pattern, frame.format(x=307, y=195))
    assert not re.fullmatch(pattern, frame.format(x=308, y=195))


def test_an_agent_asks_for_it(loose: httpx2.Client, engine: FakeEngine) -> None:
    options = GroundingOptions(strict_actions=True, confidence=False, attempts=1)
    with (
        GroundingAgent(str(loose.base_url), options=options) as agent,
        pytest.raises(ActionError, match="no <answer>"),
    ):
        agent.ground(picture_bytes(), "Click OK")
    assert "regex" in engine.counters.requests[-1]["structured_outputs"]
