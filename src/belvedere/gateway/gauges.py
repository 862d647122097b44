"""What is so right now: queues, replicas, caches. Read at each scrape, kept nowhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import get_args

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from belvedere._version import __version__
from belvedere.engines.base import EngineState
from belvedere.gateway.state import Gateway

__all__ = ["gauges"]

_STATES: tuple[str, ...] = get_args(EngineState)
_REPLICA = ("replica", "model")
_Sample = tuple[Sequence[str], float]


def gauges(gateway: Gateway) -> list[Metric]:
    """All of them; to be called in the event loop."""
    cache, waiting = gateway.pipeline.usage(), gateway.admission.waiting()
    models = [model.name for model in gateway.router.models]
    uptime_s = time.monotonic() - gateway.started_at_s
    return [
        _gauge("build_info", "The version that runs.", ("version",), [((__version__,), 1)]),
        _gauge("uptime_seconds", "Since the gateway started.", (), [((), uptime_s)]),
        _gauge(
            "queue_length",
            "Requests that wait for their turn.",
            ("model",),
            [((name,), waiting.get(name, 0)) for name in models],
        ),
        *_of_replicas(gateway),
        *_of_engines(gateway),
        _gauge("image_cache_bytes", "Prepared images remembered.", (), [((), cache.cached_bytes)]),
        _gauge("image_cache_entries", "How many they are.", (), [((), cache.cached_images)]),
        _gauge(
            "image_bytes_in_flight",
            "Memory of images that are being decoded.",
            (),
            [((), cache.in_flight_bytes)],
        ),
    ]


def _of_replicas(gateway: Gateway) -> list[Metric]:
    replicas = [
        ((replica.name, replica.model.name), replica.state(), replica)
        for replica in gateway.router.replicas
    ]
    states = [
        ((*labels, state), float(state == present))
        for labels, present, _ in replicas
        for state in _STATES
    ]
    return [
        _gauge("replica_state", "1 for the state it is in.", (*_REPLICA, "state"), states),
        _gauge(
            "replica_in_flight",
            "Requests that it computes.",
            _REPLICA,
            [(labels, replica.in_flight) for labels, _, replica in replicas],
        ),
        _gauge(
            "replica_suspect",
            "1 while a request that timed out on it is not explained.",
            _REPLICA,
            [(labels, float(replica.seen.suspect)) for labels, _, replica in replicas],
        ),
        _counter(
            "replica_requests",
            "Requests that it was given, second tries included.",
            _REPLICA,
            [(labels, replica.leases) for labels, _, replica in replicas],
        ),
        _counter(
            "replica_timeouts",
            "Requests that timed out on it.",
            _REPLICA,
            [(labels, replica.timeouts) for labels, _, replica in replicas],
        ),
    ]


def _of_engines(gateway: Gateway) -> list[Metric]:
    statuses = gateway.engine_statuses()
    engines = [
        ((replica.name, replica.model.name), statuses[replica.name])
        for replica in gateway.router.replicas
        if replica.name in statuses
    ]
    return [
        _counter(
            "engine_launches",
            "Starts of its process.",
            _REPLICA,
            [(labels, status.launch) for labels, status in engines],
        ),
        _gauge(
            "engine_crashes",
            "Crashes in a row.",
            _REPLICA,
            [(labels, status.crashes) for labels, status in engines],
        ),
    ]


def _gauge(name: str, what: str, labels: Sequence[str], samples: Iterable[_Sample]) -> Metric:
    return _filled(GaugeMetricFamily(f"belvedere_{name}", what, labels=labels), samples)


def _counter(name: str, what: str, labels: Sequence[str], samples: Iterable[_Sample]) -> Metric:
    return _filled(CounterMetricFamily(f"belvedere_{name}", what, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[_Sample]) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
