"""Whether an engine gets anywhere: its counters, and the verdict over a series of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from belvedere.engines.base import HangPolicy

__all__ = [
    "AttendedClock",
    "Counters",
    "HangDetector",
    "Sample",
    "counters_from_metrics",
    "counters_from_stats",
]

_STATS_PROGRESS = ("prompt_tokens", "generated_tokens", "layers")
_METRICS_PROGRESS = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total_count",
)
_SHARE_OF_A_LOOK = 0.6
"""Of a time limit, at most: no single look is enough for a verdict."""


@dataclass(frozen=True, slots=True)
class Counters:
    """One look at an engine.

    Attributes:
        running, waiting: sequences being computed, and those in the queue.
        progress: numbers that only grow, and only when something was computed. The number of
            requests is not among them: a hung engine takes requests as well.
    """

    running: int
    waiting: int
    progress: tuple[float, ...]


Sample = Counters | Literal["silent", "uncounted"]
"""``silent``: no answer; ``uncounted``: an answer without counters, which proves life only."""


def counters_from_stats(content: bytes) -> Counters | None:
    """Counters in the JSON of the embedded engine's ``/stats``; ``None`` if they are not there."""
    try:
        stats = json.loads(content)
        progress = tuple(float(stats[name]) for name in _STATS_PROGRESS if name in stats)
        return Counters(int(stats["running"]), int(stats.get("waiting", 0)), progress)
    except (ValueError, TypeError, KeyError):
        return None


def counters_from_metrics(content: bytes) -> Counters | None:
    """Counters in vLLM's Prometheus text, summed over its label sets; ``None`` without them."""
    sums: dict[str, float] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        if not line.startswith("vllm:"):
            continue
        name = line.partition("{")[0].split(" ")[0]
        try:
            value = float(line.rpartition("}")[2].split()[-1 if "}" not in line else 0])
        except (ValueError, IndexError):
            continue
        sums[name] = sums.get(name, 0.0) + value
    return _vllm_counters(sums)


def _vllm_counters(sums: Mapping[str, float]) -> Counters | None:
    if "vllm:num_requests_running" not in sums:
        return None
    progress = tuple(sums[name] for name in _METRICS_PROGRESS if name in sums)
    waiting = sums.get("vllm:num_requests_waiting", 0.0)
    return Counters(int(sums["vllm:num_requests_running"]), int(waiting), progress)


class AttendedClock:
    """Seconds in which somebody looked.

    Who looks late was paused, with the whole machine or container perhaps, and then the engine had
    no chance to get on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_s = clock()
        self._attended_s = 0.0

    def look(self, gap_s: float) -> float:
        """The time of this look; more than `gap_s` since the last one counts as `gap_s`."""
        now_s = self._clock()
        self._attended_s += min(now_s - self._looked_s, gap_s)
        self._looked_s = now_s
        return self._attended_s


class HangDetector:
    """Samples and times in, verdict out; it owns no clock and asks nobody.

    Hung is an engine that for ``timeout_s`` did not answer at all, or had requests while none of
    its counters moved. After `suspect` the shorter ``suspect_timeout_s`` counts, from the suspicion
    on and for running sequences only, until a counter moves or nothing runs any more.
    """

    def __init__(self, policy: HangPolicy, now_s: float) -> None:
        self._policy = policy
        self._fine_at_s = now_s
        self._suspect_since_s: float | None = None
        self._last: Counters | None = None

    @property
    def is_suspect(self) -> bool:
        return self._suspect_since_s is not None

    @property
    def longest_gap_s(self) -> float:
        """What may count between two looks."""
        limit_s = self._policy.suspect_timeout_s if self.is_suspect else self._policy.timeout_s
        return _SHARE_OF_A_LOOK * limit_s

    def suspect(self, now_s: float) -> None:
        """Somebody waited in vain for an answer; a second report does not start the time anew."""
        if self._suspect_since_s is None:
            self._suspect_since_s = now_s
            self._last = None

    def judge(self, sample: Sample, now_s: float) -> float | None:
        """Seconds without progress if the engine is hung, else ``None``."""
        if self._is_fine(sample):
            self._fine_at_s = now_s
            self._suspect_since_s = None
        idle_s = now_s - self._fine_at_s
        if idle_s >= self._policy.timeout_s:
            return idle_s
        return self._suspect_verdict(sample, now_s)

    def _is_fine(self, sample: Sample) -> bool:
        if not isinstance(sample, Counters):
            return sample == "uncounted"
        last, self._last = self._last, sample
        moved = last is not None and last.progress != sample.progress
        return moved or sample.running + sample.waiting == 0

    def _suspect_verdict(self, sample: Sample, now_s: float) -> float | None:
        if self._suspect_since_s is None:
            return None
        if isinstance(sample, Counters) and sample.running == 0:
            self._suspect_since_s = None
            return None
        idle_s = now_s - self._suspect_since_s
        return idle_s if idle_s >= self._policy.suspect_timeout_s else None
