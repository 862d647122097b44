"""``belvedere status``: what a running server has loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from belvedere.cli.admin import ask, running_server_options

__all__ = ["command"]

_TIMEOUT_S = 10.0
_NAMES = {
    "weights_bytes": "weights",
    "activation_bytes": "activations",
    "graph_bytes": "CUDA graphs",
    "kv_bytes": "KV cache",
    "kv_tokens": "KV tokens",
}


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")
@running_server_options
def command(*, as_json: bool, url: str, api_key: str | None) -> None:
    """Show the models of a running server, their engines and the upstreams."""
    from belvedere.cli.output import print_json

    answer = ask(url, api_key, "GET", "/api/v1/inference/status", timeout_s=_TIMEOUT_S)
    if as_json:
        print_json(answer)
        return
    for line in _lines(answer):
        click.echo(line)


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    if not answer["models"] and not answer["upstreams"]:
        yield "No model is loaded."
    for model in answer["models"]:
        aliases = f" (also {', '.join(model['aliases'])})" if model["aliases"] else ""
        yield f"{model['model']}{aliases}  {model['model_path']}"
        for replica in model["replicas"]:
            yield f"  {_replica(replica)}"
            yield from _memory(replica.get("report"))
    for failure in answer["failed_loads"]:
        yield f"{failure['model']}  {failure['model_path']}  did not start: {failure['error']}"
    for upstream in answer["upstreams"]:
        names = ", ".join(upstream["models"]) or "no model known"
        error = f"  {upstream['error']}" if upstream["error"] else ""
        yield f"{upstream['url']}  {upstream['state']}  {names}{error}"


def _replica(replica: Mapping[str, Any]) -> str:
    parts = [f"{replica['name']:<32} {replica['state']:<9} {replica['in_flight']} in flight"]
    if replica["state"] == "starting":
        left = replica.get("remaining_s")
        about = f", about {left:.0f} s left" if left is not None else ""
        parts.append(f"{replica['phase']}, {replica['start_s']:.1f} s{about}")
    elif replica["state"] == "ready":
        parts.append(f"started in {replica['start_s']:.1f} s")
    elif replica["state"] == "asleep":
        level = replica["sleep_level"]
        parts.append(f"{replica['phase']}, level {level}" if level else replica["phase"])
    elif replica["retry_in_s"] is not None:
        parts.append(f"starts again in {replica['retry_in_s']:.1f} s")
    if replica["crashes"]:
        parts.append(f"{replica['crashes']} crashes in a row")
    if replica["error"]:
        parts.append(replica["error"])
    return "  ".join(parts)


def _memory(report: Mapping[str, Any] | None) -> Iterator[str]:
    """Plan beside report, one term a line; what the ladder changed; what was planned wrong."""
    if report is None:
        return
    yield f"    {'memory':<14} {'planned':>12} {'reported':>12}"
    for term, planned in report["planned"].items():
        reported = report["reported"][term]
        if planned or reported:
            amounts = f"{_amount(term, planned):>12} {_amount(term, reported):>12}"
            yield f"    {_NAMES[term]:<14} {amounts}"
    for change in report["changes"]:
        yield f"    changed: {change}"
    for deviation in report["deviations"]:
        yield f"    more than 10 % off: {deviation}"


def _amount(term: str, value: int | None) -> str:
    from belvedere.cli.output import format_bytes, format_count

    if value is None:
        return "-"
    return format_bytes(value) if term.endswith("_bytes") else format_count(value)
