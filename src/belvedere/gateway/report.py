"""What a response says besides the model's words: what the model saw, and where time went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from belvedere.images.prepared import PreparedImage, StageTimes
from belvedere.router.replica import Model

__all__ = ["seen_block", "server_timing", "with_block"]

_LAST_EVENT_MARK = b'"finish_reason":'
_UNFINISHED_MARKS = (b'"finish_reason":null', b'"finish_reason": null')


def seen_block(
    images: Sequence[PreparedImage], model: Model, *, strict_actions: str | None = None
) -> dict[str, Any]:
    """The ``belvedere`` block of a response, as docs/api.md describes it."""
    block: dict[str, Any] = {"images": [_seen(image, model) for image in images]}
    return block if strict_actions is None else {**block, "strict_actions": strict_actions}


def _seen(image: PreparedImage, model: Model) -> dict[str, Any]:
    seen = image.seen_size
    tokens = None
    if seen is not None and model.geometry is not None:
        tokens = (seen.width // model.geometry.factor) * (seen.height // model.geometry.factor)
    frame = image.frame
    if frame is not None and not frame.leads and tokens is not None:
        tokens = 0
    time = {} if frame is None else {"time_s": round(frame.time_s, 3)}
    if frame is not None and frame.step_s is not None:
        time["step_s"] = round(frame.step_s, 3)
    return {
        "id": image.content_id,
        "original_size": [image.original_size.width, image.original_size.height],
        "seen_size": [seen.width, seen.height] if seen is not None else None,
        "tokens": tokens,
        "transform": _transform(image),
        "coordinates": asdict(model.coordinates) if model.coordinates is not None else None,
        "warnings": list(image.warnings),
        **time,
    }


def _transform(image: PreparedImage) -> dict[str, Any] | None:
    """From seen to original: multiply by `scale`; nothing is cropped or padded."""
    original, seen = image.original_size, image.seen_size
    if seen is None:
        return None
    return {
        "scale": [original.width / seen.width, original.height / seen.height],
        "resample": None if seen == original else "bicubic",
    }


def with_block(events: bytes, block: dict[str, Any]) -> bytes:
    """Adds `block` to the event that ends a choice; the others pass untouched.

    Args:
        events: one or more whole events, each with its closing blank line.
    """
    if events.count(_LAST_EVENT_MARK) == sum(map(events.count, _UNFINISHED_MARKS)):
        return events
    return b"".join(_with_block(event + b"\n\n", block) for event in events.split(b"\n\n")[:-1])


def _with_block(event: bytes, block: dict[str, Any]) -> bytes:
    if _LAST_EVENT_MARK not in event or any(mark in event for mark in _UNFINISHED_MARKS):
        return event
    try:
        payload = json.loads(event.removeprefix(b"data:"))
    except ValueError:
        return event
    payload["belvedere"] = block
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def server_timing(images: Sequence[PreparedImage], *, queue_ms: float, engine_ms: float) -> str:
    """A ``Server-Timing`` header: milliseconds of each stage, summed over the images.

    `engine_ms` lasts until the whole answer, or until the first event of a stream.
    """
    parts = [*(_image_parts(images) if images else ())]
    parts += [f"queue;dur={queue_ms:.2f}", f"engine;dur={engine_ms:.2f}"]
    return ", ".join(parts)


def _image_parts(images: Sequence[PreparedImage]) -> list[str]:
    parts = []
    for stage in fields(StageTimes):
        total_ms = sum(getattr(image.times, stage.name) for image in images)
        parts.append(f"{stage.name.removesuffix('_ms')};dur={total_ms:.2f}")
    hits = sum(image.cached for image in images)
    words = ("hit" if hits else "miss") if len(images) == 1 else f"{hits} of {len(images)} hit"
    return [*parts, f'cache;desc="{words}"']
