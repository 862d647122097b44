"""Whatever an engine writes within a protocol's pattern is an action."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from belvedere.agent.actions import Click, Point, Scroll, Terminate, ToolCall, Type
from belvedere.agent.coordinates import View
from belvedere.agent.protocols.loader import load_protocol
from belvedere.agent.protocols.pattern import grounding_pattern, navigation_pattern
from belvedere.agent.protocols.reading import read_action, read_grounding
from belvedere.agent.protocols.writing import turn_text, write_call, write_grounding

SEEN = (644, 392)
VIEW = View.whole((1280, 800), SEEN)
PROTOCOLS = ["mai-ui", "qwen3-vl", "qwen2.5-vl"]
TOOLS = ("search", "mcp.read_file")
LETTERS = st.characters(codec="utf-8")


def written(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True, alphabet=LETTERS)


@pytest.mark.parametrize("name", PROTOCOLS)
@given(data=st.data())
def test_every_grounding_within_the_pattern_is_a_click(name: str, data: st.DataObject) -> None:
    protocol = load_protocol(name)
    text = data.draw(written(grounding_pattern(protocol, seen_size=SEEN)))
    reading = read_grounding(protocol, text, VIEW, codec=protocol.coordinates.codec)
    assert isinstance(reading.action, Click)
    assert 0 <= reading.action.x < 1280
    assert 0 <= reading.action.y < 800


@pytest.mark.parametrize("name", PROTOCOLS)
@given(data=st.data())
def test_every_step_within_the_pattern_is_an_action(name: str, data: st.DataObject) -> None:
    protocol = load_protocol(name)
    text = data.draw(written(navigation_pattern(protocol, seen_size=SEEN)))
    read_action(protocol, text, VIEW, codec=protocol.coordinates.codec)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(
    "action",
    [
        Click(640, 400),
        Type('Grüße, "Welt"\n世界 a < b'),
        Terminate("fail"),
        ToolCall("search", {"query": "cats", "filters": [{"size": 2.5}, None, True]}),
    ],
    ids=lambda action: action.kind,
)
def test_what_the_models_were_taught_to_write_is_within(name: str, action) -> None:
    protocol = load_protocol(name)
    assert protocol.navigation is not None
    call = write_call(protocol, action, VIEW, codec=protocol.coordinates.codec)
    text = turn_text(protocol.navigation.turn, call, "The button is there.")
    assert re.fullmatch(navigation_pattern(protocol, tools=TOOLS, seen_size=SEEN), text)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("thinking", [None, "It is at the top, <b>left</b>".replace("</b>", "")])
def test_a_taught_grounding_is_within(name: str, thinking: str | None) -> None:
    protocol = load_protocol(name)
    text = write_grounding(protocol, Click(12, 790), VIEW, thinking)
    if thinking is None:
        text = re.sub(r"<\w+_think></\w+_think>\n", "", text)
    assert re.fullmatch(grounding_pattern(protocol, seen_size=SEEN), text)


def test_scrolls_keep_their_start() -> None:
    protocol = load_protocol("qwen3-vl")
    assert protocol.navigation is not None
    action = Scroll(0, -300, Point(3, 4))
    call = write_call(protocol, action, VIEW, codec=protocol.coordinates.codec)
    text = turn_text(protocol.navigation.turn, call, None)
    assert re.fullmatch(navigation_pattern(protocol), text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mai-ui", "The button is at 3, 4."),
        ("mai-ui", '<answer>\n{"coordinate":[1000,4]}\n</answer>'),
        ("mai-ui", '<answer>\n{"coordinate":[4]}\n</answer>'),
        ("mai-ui", '<answer>\n{"coordinate":[07,4]}\n</answer>'),
        ("mai-ui", '<answer>\n{"coordinate":[7,4]}\n</answer>\n<answer>'),
        (
            "qwen2.5-vl",
            '<tool_call>\n{"name":"computer_use","arguments":'
            '{"action":"left_click","coordinate":[644,3]}}\n</tool_call>',
        ),
    ],
)
def test_what_would_not_be_read_is_outside(name: str, text: str) -> None:
    assert not re.fullmatch(grounding_pattern(load_protocol(name), seen_size=SEEN), text)


@pytest.mark.parametrize("most", [0, 7, 9, 10, 99, 100, 305, 999, 1000, 1079])
def test_points_go_to_the_edge_and_no_further(most: int) -> None:
    pattern = grounding_pattern(load_protocol("qwen2.5-vl"), seen_size=(most + 1, most + 1))
    frame = (
        '<tool_call>\n{{"name":"computer_use","arguments":'
        '{{"action":"left_click","coordinate":[{x}, 0]}}}}\n</tool_call>'
    )
    fits = [x for x in range(1200) if re.fullmatch(pattern, frame.format(x=x))]
    assert fits == list(range(most + 1))
