"""Writes deploy/grafana/belvedere.json, the dashboard of our metrics; ``--check`` fails on drift.

A panel is a title, what it tells, a unit and its queries; everything else is the same for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

TARGET = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "belvedere.json"
Kind = Literal["stat", "timeseries", "state-timeline"]
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OF = 'instance=~"$instance"'
_OF_MODEL = f'{_OF}, model=~"$model"'
_QUANTILES = ("0.5", "0.95", "0.99")
_STATE_COLOURS = {
    "ready": "green",
    "asleep": "purple",
    "starting": "blue",
    "draining": "yellow",
    "backoff": "orange",
    "failed": "red",
    "stopping": "text",
    "stopped": "text",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries` are pairs of an expression and its legend."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    greatest: float | None = None


def quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    """Median, 95th and 99th percentile of a histogram of the chosen models."""
    labels = f"le, {by}" if by else "le"
    return tuple(
        (
            f"histogram_quantile({share}, sum by ({labels}) "
            f"(rate(belvedere_{metric}_bucket{{{_OF_MODEL}}}[$__rate_interval])))",
            f"p{float(share) * 100:g}",
        )
        for share in _QUANTILES
    )


def rate(metric: str, legend: str, *, by: str = "", of: str = _OF_MODEL) -> tuple[str, str]:
    """How often a counter counts in a second."""
    inner = f"rate(belvedere_{metric}{{{of}}}[$__rate_interval])"
    return (f"sum by ({by}) ({inner})" if by else f"sum({inner})", legend)


_FAILED = 'status=~"5.."'
ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Requests",
            "Completions that ended, in a second.",
            "reqps",
            (rate("request_duration_seconds_count", "requests"),),
            "stat",
            4,
        ),
        Panel(
            "Failed",
            "Share of the completions that ended with a status of 500 or more.",
            "percentunit",
            (
                (
                    f"(sum(rate(belvedere_requests_total{{{_OF_MODEL}, {_FAILED}}}"
                    "[$__rate_interval])) or vector(0)) / clamp_min(sum(rate("
                    f'belvedere_requests_total{{{_OF_MODEL}, model!=""}}[$__rate_interval])), '
                    "1e-9)",
                    "failed",
                ),
            ),
            "stat",
            4,
            greatest=0.01,
        ),
        Panel(
            "First token, p95",
            "Of streams, from their arrival.",
            "s",
            (quantiles("time_to_first_token_seconds")[1],),
            "stat",
            4,
        ),
        Panel(
            "Computed now",
            "Requests at the engines.",
            "short",
            ((f"sum(belvedere_replica_in_flight{{{_OF_MODEL}}})", "in flight"),),
            "stat",
            4,
        ),
        Panel(
            "Waiting now",
            "Requests in the queues.",
            "short",
            ((f"sum(belvedere_queue_length{{{_OF_MODEL}}})", "waiting"),),
            "stat",
            4,
            greatest=64,
        ),
        Panel(
            "Replicas not ready",
            "Engines and upstreams that take no requests.",
            "short",
            (
                (
                    f"count(belvedere_replica_in_flight{{{_OF_MODEL}}}) - "
                    f'sum(belvedere_replica_state{{{_OF_MODEL}, state="ready"}})',
                    "not ready",
                ),
            ),
            "stat",
            4,
            greatest=1,
        ),
    ),
    "Latency": (
        Panel(
            "Time to first token",
            "Of streams, from their arrival.",
            "s",
            quantiles("time_to_first_token_seconds"),
            width=6,
        ),
        Panel(
            "Between tokens",
            "Pauses between two arrivals from the engine.",
            "s",
            quantiles("inter_token_latency_seconds"),
            width=6,
        ),
        Panel(
            "Whole request",
            "From its arrival to the last byte.",
            "s",
            quantiles("request_duration_seconds"),
            width=6,
        ),
        Panel(
            "Wait for a turn",
            "In the queue before the images.",
            "s",
            quantiles("queue_wait_seconds"),
            width=6,
        ),
    ),
    "Load": (
        Panel(
            "Requests by status",
            "499: the client left. A stream that broke has the status of its error.",
            "reqps",
            (rate("requests_total", "{{status}}", by="status"),),
            stacked=True,
        ),
        Panel(
            "Tokens",
            "As the engines count them; prompts include the images.",
            "short",
            (
                rate("prompt_tokens_sum", "prompt"),
                rate("vision_tokens_sum", "of it images"),
                rate("completion_tokens_sum", "answer"),
                rate("prefix_hit_tokens_total", "prompt, expected in a cache"),
            ),
        ),
        Panel(
            "Queue",
            "Requests that wait, by model.",
            "short",
            ((f"sum by (model) (belvedere_queue_length{{{_OF_MODEL}}})", "{{model}}"),),
        ),
        Panel(
            "Requests by key",
            "Names of keys, never keys.",
            "reqps",
            (rate("requests_total", "{{key}}", by="key"),),
            stacked=True,
        ),
        Panel("Prompt", "Tokens of a prompt.", "short", quantiles("prompt_tokens")),
        Panel("Answer", "Tokens of an answer.", "short", quantiles("completion_tokens")),
    ),
    "Engines": (
        Panel(
            "State",
            "Of every engine and upstream.",
            "short",
            (
                (
                    f"max by (replica, state) (belvedere_replica_state{{{_OF_MODEL}}}) == 1",
                    "{{replica}} {{state}}",
                ),
            ),
            "state-timeline",
            12,
        ),
        Panel(
            "Requests by replica",
            "Computed now.",
            "short",
            ((f"sum by (replica) (belvedere_replica_in_flight{{{_OF_MODEL}}})", "{{replica}}"),),
            width=12,
            stacked=True,
        ),
        Panel(
            "Troubles",
            "In five minutes.",
            "short",
            tuple(
                (f"sum(increase(belvedere_{metric}{{{_OF_MODEL}}}[5m]))", legend)
                for metric, legend in (
                    ("engine_deaths_total", "engines that died with a request"),
                    ("replica_timeouts_total", "requests that timed out"),
                    ("retries_total", "second tries"),
                    ("quarantined_total", "refused: engines died of it"),
                    ("client_disconnects_total", "clients that left"),
                )
            ),
        ),
        Panel(
            "Launches",
            "Starts of engine processes in five minutes.",
            "short",
            (
                (
                    "sum by (replica) "
                    f"(increase(belvedere_engine_launches_total{{{_OF_MODEL}}}[5m]))",
                    "{{replica}}",
                ),
            ),
        ),
        Panel(
            "Crashes in a row",
            "An engine is given up after max_crashes.",
            "short",
            (
                (f"max by (replica) (belvedere_engine_crashes{{{_OF_MODEL}}})", "{{replica}}"),
                (
                    f"max by (replica) (belvedere_replica_suspect{{{_OF_MODEL}}})",
                    "{{replica}} suspect",
                ),
            ),
        ),
    ),
    "Images": (
        Panel(
            "Stages, p95",
            "Worker time of a request's images.",
            "s",
            (
                (
                    "histogram_quantile(0.95, sum by (le, stage) "
                    f"(rate(belvedere_image_stage_seconds_bucket{{{_OF}}}[$__rate_interval])))",
                    "{{stage}}",
                ),
            ),
        ),
        Panel(
            "Cache",
            "Images that had been prepared before, and that had not.",
            "short",
            (
                rate("image_cache_hits_total", "remembered"),
                rate("image_cache_misses_total", "prepared"),
            ),
            stacked=True,
        ),
        Panel(
            "Memory",
            "Prepared images remembered, and pixels being decoded.",
            "bytes",
            (
                (f"sum(belvedere_image_cache_bytes{{{_OF}}})", "remembered"),
                (f"sum(belvedere_image_bytes_in_flight{{{_OF}}})", "being decoded"),
            ),
        ),
    ),
    "Gateway": (
        Panel(
            "Memory",
            "Of the gateway process, without the engines.",
            "bytes",
            ((f"process_resident_memory_bytes{{{_OF}}}", "{{instance}}"),),
        ),
        Panel(
            "CPU",
            "Cores that it uses.",
            "short",
            ((f"rate(process_cpu_seconds_total{{{_OF}}}[$__rate_interval])", "{{instance}}"),),
        ),
        Panel(
            "Open files",
            "Sockets among them.",
            "short",
            ((f"process_open_fds{{{_OF}}}", "{{instance}}"),),
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Grafana's JSON model."""
    return {
        "uid": "belvedere",
        "title": "Belvedere",
        "description": "Requests, engines and images of Belvedere gateways.",
        "tags": ["belvedere", "inference"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    for name, metric in (
        ("instance", "belvedere_build_info"),
        ("model", "belvedere_replica_in_flight"),
    ):
        query = f"label_values({metric}, {name})"
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
        }
        top, left = top + 1, 0
        height = 4 if panels[0].kind == "stat" else 8
        for panel in panels:
            number += 1
            if left + panel.width > 24:
                top, left = top + height, 0
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left += panel.width
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": panel.kind != "stat",
                "instant": panel.kind == "stat",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.greatest is not None:
        steps.append({"color": "red", "value": panel.greatest})
    defaults = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return defaults


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind != "state-timeline":
        return []
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/ {state}$/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for state, colour in _STATE_COLOURS.items()
    ]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": reduced, "colorMode": "value", "graphMode": "none"}
    if panel.kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True, "legend": {"showLegend": False}}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def main() -> None:
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET.name} is not what scripts/dashboard.py writes: run it")
        return
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
