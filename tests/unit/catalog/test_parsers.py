"""Which of vLLM's parsers a model gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from belvedere.catalog.models import load_catalog, model_from_folder, resolve_model
from belvedere.catalog.parsers import Parsers, chat_template, parsers_of
from belvedere.errors import SettingsError
from belvedere.plan.hardware import read_hardware
from belvedere.plan.planner import make_plan
from belvedere.plan.render import engine_argv, settings_dict
from belvedere.plan.request import Pins
from belvedere.settings import load_settings

THINKS = "{{ '<|im_start|>assistant\n<think>\n' }}"
ANSWERS = "{{ '<|im_start|>assistant\n' }}"


@pytest.mark.parametrize(
    ("model_type", "template", "expected"),
    [
        ("qwen3_vl", ANSWERS, Parsers("hermes")),
        ("qwen3_vl_moe", THINKS, Parsers("hermes", "qwen3")),
        ("qwen2_5_vl", ANSWERS, Parsers("hermes")),
        ("qwen2_vl", ANSWERS, Parsers()),
        ("llama", THINKS, Parsers()),
        (None, "", Parsers()),
    ],
)
def test_the_family_and_the_template_decide(
    model_type: str | None, template: str, expected: Parsers
) -> None:
    assert parsers_of({"model_type": model_type}, template) == expected


def test_every_vision_model_of_the_catalogue_since_qwen25_takes_tools() -> None:
    for model in load_catalog():
        expected = not model.name.startswith(("qwen2-vl", "tinyllama"))
        assert (model.parsers.tool_call == "hermes") is expected, model.name
        assert model.parsers.reasoning is None


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_folder_is_asked_for_its_template(tmp_path: Path, file: str) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]})
    )
    text = THINKS if file.endswith("jinja") else json.dumps({"chat_template": THINKS})
    (tmp_path / file).write_text(text)
    assert model_from_folder(tmp_path).parsers == Parsers("hermes", "qwen3")
    (tmp_path / file).write_text("[")
    assert chat_template(tmp_path) == ("[" if file.endswith("jinja") else "")


def argv_of(**pins: str) -> list[str]:
    model = resolve_model("mai-ui-2b", hub=False)
    return engine_argv(make_plan(model, read_hardware("L4"), pins=Pins(**pins)))


def test_the_planned_command_has_them_and_a_pin_wins() -> None:
    argv = argv_of()
    assert argv[argv.index("--tool-call-parser") + 1] == "hermes"
    assert "--enable-auto-tool-choice" in argv
    assert "--reasoning-parser" not in argv
    argv = argv_of(tool_call_parser="qwen3_xml", reasoning_parser="qwen3")
    assert argv[argv.index("--tool-call-parser") + 1] == "qwen3_xml"
    assert argv[argv.index("--reasoning-parser") + 1] == "qwen3"
    argv = argv_of(tool_call_parser="none")
    assert not {"--tool-call-parser", "--enable-auto-tool-choice"} & set(argv)


def test_a_parsers_name_is_no_flag() -> None:
    assert load_settings({"tool_call_parser": "qwen3_xml"}, environ={}).tool_call_parser
    for name in ("--port=1", "", "a b"):
        with pytest.raises(SettingsError):
            load_settings({"tool_call_parser": name}, environ={})


def test_the_plan_says_which() -> None:
    model = resolve_model("mai-ui-2b", hub=False)
    shown = settings_dict(make_plan(model, read_hardware("L4")))
    assert (shown["tool_call_parser"], shown["reasoning_parser"]) == ("hermes", None)
