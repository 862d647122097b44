"""The Grafana dashboard asks only for what ``GET /metrics`` has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from belvedere.engines.base import EngineStatus
from belvedere.gateway.state import Gateway
from belvedere.testing import FakeEngine
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "belvedere.json"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
SCRAPED = {"instance", "job"}
"""Labels that Prometheus itself adds."""


def panels() -> list[dict[str, Any]]:
    return [one for one in json.loads(DASHBOARD.read_text())["panels"] if one["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.fixture(scope="module")
def exposed() -> Iterator[dict[str, set[str]]]:
    """Sample name -> its labels, of a gateway that has had a chat with an image and a stream."""

    def with_status(gateway: Gateway) -> None:
        status = EngineStatus("r0", "ready", "ready", launch=2)
        gateway.engine_statuses = lambda: {"r0": status}

    parts = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    body = {"messages": [{"role": "user", "content": parts}], "stream": True}
    found: dict[str, set[str]] = {}
    with FakeEngine() as engine, gateway_for(engine, on_gateway=with_status) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        ended = 'belvedere_time_to_first_token_seconds_count{model="fake"} 1.0'
        assert wait_until(lambda: ended in scrape(client)), "it is counted when it is over"
        for family in text_string_to_metric_families(scrape(client)):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    yield found


def scrape(client: httpx2.Client) -> str:
    return client.get("/metrics").text


def plain(expression: str) -> str:
    """Grafana's variables are filled in before Prometheus reads an expression."""
    return expression.replace("$__rate_interval", "1m")


@pytest.mark.parametrize("expression", expressions())
def test_every_query_asks_for_metrics_and_labels_that_exist(
    expression: str, exposed: dict[str, set[str]]
) -> None:
    tree = promql_parser.parse(plain(expression))
    selected = list(selectors(tree))
    assert selected
    for selector in selected:
        assert selector.name in exposed, f"there is no metric {selector.name}"
        names = {matcher.name for matcher in selector.matchers.matchers}
        assert names <= exposed[selector.name] | SCRAPED
    grouped = {
        label
        for labels in re.findall(r"by \(([^)]*)\)", expression)
        for label in labels.split(", ")
    }
    assert grouped <= set.union(*(exposed[one.name] for one in selected)) | SCRAPED


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def note(one: Any) -> bool:
        if isinstance(one, promql_parser.MatrixSelector):
            found.append(one.vector_selector)
        elif isinstance(one, promql_parser.VectorSelector):
            found.append(one)
        return True

    promql_parser.walk(node, note)
    return iter(found)


def test_the_model_has_what_grafana_needs() -> None:
    model = json.loads(DASHBOARD.read_text())
    variables = {one["name"]: one for one in model["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = {name for one in expressions() for name in re.findall(r"\$(\w+)", one)}
    assert used - {"__rate_interval"} <= variables.keys()
    ids = [panel["id"] for panel in model["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))


def test_no_panel_covers_another() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own


def test_the_file_is_what_its_script_writes() -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "dashboard.py"), "--check"], check=True, timeout=60
    )


def test_the_document_names_every_metric(exposed: dict[str, set[str]]) -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    ours = {name for name in exposed if name.startswith("belvedere_")}
    bases = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in ours}
    missing = {name for name in bases if f"`{name}`" not in text}
    assert not missing
    named = set(re.findall(r"`(belvedere_\w+)`", text))
    assert named <= ours | bases, "the document names a metric that is not there"
