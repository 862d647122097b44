"""Greedy output equals `model.generate` token for token: text, images, and several at once."""

from __future__ import annotations

import queue
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import Load, picture, picture_part

from belvedere.engines.local.conversation import TextPart, Turn
from belvedere.engines.local.engine import Engine
from belvedere.engines.local.loader import LoadedModel
from belvedere.engines.local.prompt import Prompt, PromptBuilder
from belvedere.engines.local.sampler import SamplingParams
from belvedere.engines.local.sequence import Delta, Finished, Sequence

NEW_TOKENS = 24
KINDS = ["qwen3_vl", "qwen2_vl", "qwen2_5_vl", "llama"]
VISION_KINDS = KINDS[:3]
Content = list[str | Image.Image]
TEXTS: list[Content] = [
    ["Click the Login button"],
    ["the quick brown fox", "jumps; und die größte Übung, 你好世界 🙂"],
    ["0 1 2 3 4 5 6 7 8 9 " * 20],
]
PICTURES: list[Content] = [
    [picture(128, 96), "Where is the search field?"],
    ["first", picture(224, 64, 1), "second", picture(96, 192, 2), "Which one?"],
    [picture(250, 250, 3), picture(250, 250, 4)],
]


def reference(loaded: LoadedModel, content: Content, **options: float) -> list[int]:
    """What transformers alone generates, without any of our code in between."""
    messages = [{"role": "user", "content": [_block(item) for item in content]}]
    if loaded.processor is None:
        text = "\n".join(str(item) for item in content)
        messages = [{"role": "user", "content": text}]  # type: ignore[dict-item]
    renderer = loaded.processor or loaded.tokenizer
    inputs = renderer.apply_chat_template(
        messages,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        output = loaded.model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options
        )
    ids: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
    return ids


def _block(item: str | Image.Image) -> dict[str, Any]:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    return {"type": "image", "image": item}


def prompt_of(loaded: LoadedModel, content: Content) -> Prompt:
    parts = tuple(TextPart(i) if isinstance(i, str) else picture_part(i) for i in content)
    return PromptBuilder(loaded).chat([Turn("user", parts)])


class Answer:
    """A submitted sequence and its events."""

    def __init__(self, engine: Engine, prompt: Prompt, params: SamplingParams) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        loaded = engine.loaded
        self.sequence = Sequence(prompt, params, loaded.tokenizer, loaded.eos_ids, self._events.put)
        with engine.scheduler.reserve(1) as places:
            places.submit([self.sequence])

    def ids(self) -> list[int]:
        while isinstance(event := self._events.get(timeout=300), Delta):
            pass
        assert isinstance(event, Finished)
        return self.sequence.output_ids


GREEDY = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", TEXTS, ids=["short", "parts", "long"])
def test_text(load: Load, kind: str, content: Content) -> None:
    check_equal(load(kind), [content], seats=1)


@pytest.mark.parametrize("kind", VISION_KINDS)
@pytest.mark.parametrize("content", PICTURES, ids=["one", "interleaved", "two"])
def test_images(load: Load, kind: str, content: Content) -> None:
    check_equal(load(kind), [content], seats=1)


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_turns_of_several_sequences_do_not_mix(load: Load, kind: str) -> None:
    """The rope offsets of one sequence's images must not leak into another's positions."""
    check_equal(load(kind), [*PICTURES, *TEXTS], seats=4)


@pytest.mark.parametrize("kind", ["qwen3_vl", "llama"])
def test_with_a_repetition_penalty(load: Load, kind: str) -> None:
    loaded, content = load(kind), TEXTS[0]
    expected = reference(loaded, content, repetition_penalty=1.3)
    assert expected != reference(loaded, content)
    engine = Engine(loaded, seats=1, queue_limit=16)
    engine.start()
    params = replace(GREEDY, repetition_penalty=1.3)
    assert Answer(engine, prompt_of(loaded, content), params).ids() == expected
    assert engine.stop(60)


def check_equal(loaded: LoadedModel, contents: list[Content], seats: int) -> None:
    expected = [reference(loaded, content) for content in contents]
    engine = Engine(loaded, seats=seats, queue_limit=16)
    engine.start()
    try:
        answers = [Answer(engine, prompt_of(loaded, content), GREEDY) for content in contents]
        assert [answer.ids() for answer in answers] == expected
    finally:
        assert engine.stop(60)
