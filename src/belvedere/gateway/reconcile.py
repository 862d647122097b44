"""What an engine took beside what the plan said, for ``/health`` and ``belvedere status``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from belvedere.engines.base import EngineStatus
from belvedere.engines.vllm_report import MemoryReport, deviations, read_report
from belvedere.engines.vllm_spec import CHANGES_LABEL, PLANNED_LABEL

__all__ = ["memory_view", "sleeping_bytes"]


def sleeping_bytes(labels: Mapping[str, str]) -> int | None:
    """What a sleep gives back of each GPU of an engine, as planned: weights and KV cache.

    Args:
        labels: of the engine's spec.
    """
    if PLANNED_LABEL not in labels:
        return None
    planned = MemoryReport.from_wire(json.loads(labels[PLANNED_LABEL]))
    return (planned.weights_bytes or 0) + (planned.kv_bytes or 0)


def memory_view(labels: Mapping[str, str], status: EngineStatus) -> dict[str, Any] | None:
    """Plan, report, where they differ by more than 10 %, and what the ladder changed.

    ``None`` for an engine that was not started from a plan.

    Args:
        labels: of the engine's spec.
    """
    if PLANNED_LABEL not in labels:
        return None
    planned = MemoryReport.from_wire(json.loads(labels[PLANNED_LABEL]))
    reported = read_report(status.notes)
    return {
        "planned": planned.to_wire(),
        "reported": reported.to_wire(),
        "deviations": [str(one) for one in deviations(planned, reported)],
        "changes": json.loads(labels.get(CHANGES_LABEL, "[]")),
    }
