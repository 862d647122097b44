"""Which of vLLM's parsers read a model's tool calls and thinking, by ``parsers.toml``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["NO_PARSERS", "Parsers", "chat_template", "parsers_of"]

_THINKING = "<think>"


@dataclass(frozen=True, slots=True)
class Parsers:
    """Names of ``--tool-call-parser`` and ``--reasoning-parser``; None for none."""

    tool_call: str | None = None
    reasoning: str | None = None


NO_PARSERS = Parsers()


def parsers_of(config: Mapping[str, Any], template: str = "") -> Parsers:
    """The parsers of a model's family.

    Args:
        config: its ``config.json``.
        template: its chat template. One that writes no ``<think>`` belongs to a model that does not
            think, and whose whole answer a reasoning parser would take for thoughts.
    """
    known = _families().get(str(config.get("model_type")), NO_PARSERS)
    return known if _THINKING in template else Parsers(known.tool_call)


@cache
def _families() -> dict[str, Parsers]:
    text = Path(__file__).with_name("parsers.toml").read_text(encoding="utf-8")
    return {
        model_type: Parsers(family["tool_call_parser"], family.get("reasoning_parser"))
        for family in tomllib.loads(text)["family"]
        for model_type in family["model_types"]
    }


def chat_template(folder: Path) -> str:
    """The chat template of a model folder; empty where there is none that can be read."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))["chat_template"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, str):
            return found
    return ""
