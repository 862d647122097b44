"""Thousands of simulated requests: what affinity is worth, and that it overloads nobody.

The figures have one seed and no clock; they are the same on every machine. A big replica has four
times the cache and the speed of one of four.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from tests.benchmarks import benchmark

REQUESTS = 3_000


@cache
def outcome(workload: str, policy: str, *, big: bool = False) -> Any:
    module = benchmark("router_simulation")
    size = {"replicas": 1, "big": 4} if big else {"replicas": 4}
    return module.simulate(module.WORKLOADS[workload], policy, requests=REQUESTS, **size)


def hits_of_big(workload: str, policy: str) -> float:
    ours = outcome(workload, policy).hit_share
    return float(ours / outcome(workload, "least_load", big=True).hit_share)


@pytest.mark.parametrize(
    "workload", ["agents", "agents that keep all", "saturated", "tight cache", "shared prompt"]
)
def test_affinity_has_nearly_all_hits_and_even_load(workload: str) -> None:
    assert hits_of_big(workload, "affinity") >= 0.90
    assert outcome(workload, "affinity").busiest <= 1.25
    for policy in ("least_load", "round_robin", "random"):
        assert hits_of_big(workload, policy) < 0.90
        assert hits_of_big(workload, policy) < hits_of_big(workload, "affinity") - 0.05


def test_one_hot_conversation_is_spread() -> None:
    assert hits_of_big("hot conversation", "affinity") >= 0.90
    assert outcome("hot conversation", "affinity").busiest <= 1.25


@pytest.mark.parametrize("workload", ["agents", "agents that keep all", "saturated", "tight cache"])
def test_affinity_answers_no_later_than_blind_balance(workload: str) -> None:
    ours, blind = outcome(workload, "affinity"), outcome(workload, "least_load")
    assert ours.latency_s <= 1.05 * blind.latency_s


def test_every_request_is_answered_and_the_seed_decides() -> None:
    module = benchmark("router_simulation")
    runs = [module.simulate(module.WORKLOADS["agents"], "affinity", requests=500) for _ in "ab"]
    assert runs[0] == runs[1]
    assert runs[0].requests >= 500
