"""The fake engine's bodies, in the shapes of OpenAI and of vLLM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

__all__ = ["Shape", "error", "event", "metrics", "usage"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Chat completions, or plain completions, of the model `model`."""

    model: str
    is_chat: bool

    def first(self) -> dict[str, Any]:
        """The chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""}, "", None)

    def chunk(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text}, text, None)

    def last(self, reason: str) -> dict[str, Any]:
        return self._chunk({}, "", reason)

    def counted(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk of ``stream_options.include_usage``."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": counts}

    def whole(self, text: str, counts: Mapping[str, Any], reason: str) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return {**self._head("chat.completion"), "choices": [choice], "usage": counts}

    def _chunk(self, delta: dict[str, str], text: str, reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": reason}
        if not self.is_chat:
            choice = {"index": 0, "text": text, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        kind = kind if self.is_chat else "text_completion"
        return {"id": "fake", "object": kind, "created": 0, "model": self.model}


def usage(prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def error(status: int, message: str, code: str | None = None) -> Response:
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": body}, status_code=status)


def metrics(stats: Mapping[str, int], model: str) -> str:
    """`stats` as vLLM's Prometheus text."""
    names = {
        "running": ("vllm:num_requests_running", "gauge"),
        "waiting": ("vllm:num_requests_waiting", "gauge"),
        "prompt_tokens": ("vllm:prompt_tokens_total", "counter"),
        "generated_tokens": ("vllm:generation_tokens_total", "counter"),
        "cached_tokens": ("vllm:prefix_cache_hits_total", "counter"),
    }
    lines: list[str] = []
    for key, (name, kind) in names.items():
        lines += [f"# HELP {name} fake", f"# TYPE {name} {kind}"]
        lines.append(f'{name}{{engine="0",model_name="{model}"}} {float(stats[key])}')
    return "\n".join(lines) + "\n"
