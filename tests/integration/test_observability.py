"""What an operator sees of requests: the access log, the metrics and the traces."""

from __future__ import annotations

import base64
import fcntl
import gzip
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from belvedere.gateway.access_log import write_access_log
from belvedere.gateway.observe import Observation
from belvedere.gateway.state import Gateway
from belvedere.gateway.tracing import Tracing
from belvedere.testing import FakeEngine, Script
from tests.integration.callers import raw_request
from tests.integration.scripted import gateway_for
from tests.integration.serving import (
    BELVEDERE,
    clean_environment,
    quiet_port,
    running_server,
    wait_until,
)
from tests.integration.stepped import SteppedEngine
from tests.unit.images.image_files import raw_png

CHAT = "/v1/chat/completions"
SECRET = "the words of the user"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}]}
STREAM = {**HELLO, "stream": True}
KEY = "a-key-of-somebody"
PIXELS = "data:image/png;base64," + base64.b64encode(raw_png(64, 32, b"\7" * 64 * 32 * 3)).decode()
PICTURE: dict[str, Any] = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": SECRET},
                {"type": "image_url", "image_url": {"url": PIXELS}},
            ],
        }
    ]
}


class Lines:
    """The access log of the gateways in this process."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def raw(self) -> list[str]:
        records = list(self._caplog.records)
        return [one.getMessage() for one in records if one.name == "belvedere.access"]

    def of(self, response: httpx2.Response) -> dict[str, Any]:
        """The line of this very answer; it is written after the last byte."""
        wanted = response.headers["x-request-id"]
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [one for one in map(json.loads, self.raw) if one["request_id"] == wanted]
            return bool(found)

        assert wait_until(is_there), f"no line for {wanted}"
        (line,) = found
        return line


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.INFO, logger="belvedere.access")
    return Lines(caplog)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=5)) as engine:
        yield engine


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine) as client:
        yield client


def streamed(client: httpx2.Client, body: dict[str, Any], **options: Any) -> httpx2.Response:
    """The response of a stream, read to its end."""
    with client.stream("POST", CHAT, json=body, **options) as response:
        response.read()
        return response


def samples(client: httpx2.Client, **options: Any) -> dict[str, dict[frozenset[str], float]]:
    """Name -> label values -> value, as Prometheus' own parser reads them."""
    response = client.get("/metrics", **options)
    assert response.status_code == 200
    found: dict[str, dict[frozenset[str], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for one in family.samples:
            found.setdefault(one.name, {})[frozenset(one.labels.values())] = one.value
    return found


def total(client: httpx2.Client, name: str) -> float:
    return sum(samples(client).get(name, {}).values())


def test_a_line_says_what_a_request_took_and_nothing_that_was_said(
    engine: FakeEngine, lines: Lines
) -> None:
    keys = [{"name": "somebody", "key": KEY}]
    with gateway_for(engine, api_keys=keys) as client:
        headers = {"authorization": f"Bearer {KEY}"}
        line = lines.of(client.post(CHAT, json=PICTURE, headers=headers))
        again = lines.of(client.post(CHAT, json=PICTURE, headers=headers))
    assert line["route"] == CHAT
    assert line["status"] == 200
    assert line["key"] == "somebody"
    assert (line["model"], line["replica"], line["launch"]) == ("fake", "r0", 1)
    assert line["stream"] is False
    assert line["completion_tokens"] == 5
    assert line["prompt_tokens"] > 0
    assert line["vision_tokens"] == 2
    assert line["finish_reason"] == "stop"
    assert (line["images"], line["image_cache_hits"], line["retries"]) == (1, 0, 0)
    assert (again["images"], again["image_cache_hits"]) == (1, 1)
    assert again["prefix_hit_tokens"] > line["prefix_hit_tokens"]
    assert line["decode_ms"] > 0 == again["decode_ms"]
    stages = line["queue_ms"] + line["images_ms"] + line["engine_ms"]
    assert 0 < line["first_byte_ms"] <= line["engine_ms"] < stages <= line["total_ms"]
    everything = "\n".join(lines.raw)
    assert not any(secret in everything for secret in (SECRET, KEY, PIXELS[30:60], "data:"))


def test_a_stream_is_counted_by_the_engine_although_the_client_did_not_ask(
    client: httpx2.Client, engine: FakeEngine, lines: Lines
) -> None:
    response = streamed(client, STREAM)
    events = [one for one in response.text.split("\n\n") if one]
    assert "usage" not in response.text
    assert len(events) == 8, "the role, five tokens, the end and [DONE]"
    line = lines.of(response)
    assert engine.counters.requests[-1]["stream_options"] == {"include_usage": True}
    assert line["stream"] is True
    assert line["completion_tokens"] == 5
    assert line["prompt_tokens"] == engine.counters.prompt_tokens
    assert line["finish_reason"] == "stop"
    assert 0 < line["first_byte_ms"] <= line["ttft_ms"] <= line["total_ms"]


def test_a_client_that_wants_the_usage_of_a_stream_gets_it_once(client: httpx2.Client) -> None:
    body = {**STREAM, "stream_options": {"include_usage": True}}
    assert streamed(client, body).text.count('"usage"') == 1


def test_the_pauses_of_a_stream_are_metrics(client: httpx2.Client, engine: FakeEngine) -> None:
    """Each token is sent when the one before it has reached the client: none come together."""
    engine.play(Script(ttft_s=0.2, tokens=1))
    streamed(client, STREAM)
    assert wait_until(lambda: total(client, "belvedere_time_to_first_token_seconds_count") == 1)
    found = samples(client)
    (ttft_s,) = found["belvedere_time_to_first_token_seconds_sum"].values()
    assert ttft_s >= 0.2
    with (
        SteppedEngine() as stepped,
        gateway_for(stepped) as other,  # type: ignore[arg-type]  # only its URL is used
    ):
        stepped.step()
        with other.stream("POST", CHAT, json=STREAM) as response:
            lines = response.iter_lines()
            for index in range(4):
                assert any(f"tok{index}" in line for line in lines)
                time.sleep(0.15)
                if index < 3:
                    stepped.step()
            stepped.finish()
            assert "data: [DONE]" in lines
        found = samples(other)
    (gaps,) = found["belvedere_inter_token_latency_seconds_count"].values()
    (gaps_s,) = found["belvedere_inter_token_latency_seconds_sum"].values()
    assert gaps == 3
    assert gaps_s > 0.3


def test_a_stream_that_breaks_has_the_status_of_its_error(
    client: httpx2.Client, engine: FakeEngine, lines: Lines
) -> None:
    engine.play(Script(tokens=9, itl_s=0.05, fail="cut", fail_after=3))
    response = streamed(client, STREAM)
    assert response.status_code == 200
    line = lines.of(response)
    assert (line["status"], line["error"], line["engine_deaths"]) == (502, "engine_error", 1)
    assert "finish_reason" not in line
    found = samples(client)
    labels = frozenset({CHAT, "fake", "502", "anonymous"})
    assert found["belvedere_requests_total"][labels] == 1
    assert found["belvedere_engine_deaths_total"][frozenset({"fake"})] == 1


def test_another_replica_is_a_retry(lines: Lines) -> None:
    with FakeEngine() as first, FakeEngine() as second, gateway_for(first, second) as client:
        asked = lines.of(client.post(CHAT, json=HELLO))["replica"]
        (first if asked == "r0" else second).play(Script(fail="cut"))
        line = lines.of(streamed(client, STREAM))
        found = samples(client)
    assert (line["status"], line["retries"], line["engine_deaths"]) == (200, 1, 1)
    assert line["replica"] != asked
    assert found["belvedere_retries_total"][frozenset({"fake"})] == 1


def test_a_client_that_leaves_is_told_apart(
    client: httpx2.Client, engine: FakeEngine, lines: Lines
) -> None:
    engine.play(Script(tokens=1000, itl_s=0.05), Script(ttft_s=30))
    with client.stream("POST", CHAT, json=STREAM) as response:
        next(response.iter_lines())
    line = lines.of(response)
    assert (line["status"], line["client_left"]) == (499, True)
    with raw_request(str(client.base_url), HELLO):
        assert wait_until(lambda: engine.counters.received == 2)
    assert wait_until(lambda: total(client, "belvedere_client_disconnects_total") == 2)


def test_the_wait_for_a_turn_is_in_the_line_the_header_and_the_metrics(lines: Lines) -> None:
    with (
        FakeEngine() as engine,
        gateway_for(engine, max_running_per_replica=1) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        engine.play(Script(tokens=100_000, itl_s=0.05))
        with client.stream("POST", CHAT, json=STREAM) as first:
            kept_open = first.iter_lines()
            next(kept_open)
            second = pool.submit(client.post, CHAT, json=HELLO)
            assert wait_until(lambda: total(client, "belvedere_queue_length") == 1)
        line = lines.of(second.result())
        timing = second.result().headers["server-timing"]
        queue_s = samples(client)["belvedere_queue_wait_seconds_sum"][frozenset({"fake"})]
    assert line["queue_ms"] > 0
    header_ms = next(part for part in timing.split(", ") if part.startswith("queue;dur="))
    assert float(header_ms.removeprefix("queue;dur=")) >= line["queue_ms"] - 0.01
    assert queue_s * 1e3 >= line["queue_ms"] - 0.01


def test_names_of_strangers_never_become_labels(client: httpx2.Client, lines: Lines) -> None:
    for index in range(5):
        missing = client.post(CHAT, json={**HELLO, "model": f"made-up-{index}"})
        assert missing.status_code == 404
        client.get(f"/made-up-path-{index}")
        client.get(f"/v1/models/made-up-{index}")
    line = lines.of(missing)
    assert (line["status"], line["error"]) == (404, "model_not_found")
    assert wait_until(lambda: total(client, "belvedere_requests_total") >= 15)
    text = client.get("/metrics").text
    assert "made-up" not in text
    assert "made-up" not in "\n".join(lines.raw)
    assert 'route="/v1/models/{' in text
    assert 'route="",' in text


def test_probes_and_scrapes_are_no_lines(client: httpx2.Client, lines: Lines) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert client.get(path).status_code == 200
    lines.of(client.get("/health"))
    assert [json.loads(one)["route"] for one in lines.raw] == ["/health"]


def test_metrics_need_a_key_unless_the_operator_says_otherwise(engine: FakeEngine) -> None:
    with gateway_for(engine, api_key=KEY) as client:
        assert client.get("/metrics").status_code == 401
        samples(client, headers={"authorization": f"Bearer {KEY}"})
    with gateway_for(engine, api_key=KEY, metrics_without_key=True) as client:
        samples(client)
        assert client.get("/health").status_code == 401


def test_openmetrics_for_who_asks_for_it(client: httpx2.Client) -> None:
    client.post(CHAT, json=PICTURE)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    response = client.get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(response.text)}
    assert families["belvedere_requests"].type == "counter"
    assert families["belvedere_image_stage_seconds"].type == "histogram"
    assert families["belvedere_replica_in_flight"].type == "gauge"


def test_replicas_and_caches_are_gauges(client: httpx2.Client) -> None:
    client.post(CHAT, json=PICTURE)
    assert wait_until(lambda: total(client, "belvedere_request_duration_seconds_count") == 1)
    assert wait_until(lambda: total(client, "belvedere_image_cache_misses_total") == 1)
    found = samples(client)
    states = found["belvedere_replica_state"]
    assert states[frozenset({"r0", "fake", "ready"})] == 1
    assert states[frozenset({"r0", "fake", "failed"})] == 0
    assert found["belvedere_replica_in_flight"][frozenset({"r0", "fake"})] == 0
    (entries,) = found["belvedere_image_cache_entries"].values()
    (used_bytes,) = found["belvedere_image_cache_bytes"].values()
    assert (entries, used_bytes > 0) == (1, True)
    assert found["belvedere_image_cache_misses_total"][frozenset({"fake"})] == 1


def test_scrapes_while_requests_run(client: httpx2.Client, engine: FakeEngine) -> None:
    """Counters never go back, however scrapes and requests interleave."""
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(client.post, CHAT, json=HELLO) for _ in range(40)]
        counts = [total(client, "belvedere_request_duration_seconds_count") for _ in range(10)]
        assert {one.result().status_code for one in work} == {200}
    assert counts == sorted(counts)
    assert wait_until(lambda: total(client, "belvedere_request_duration_seconds_count") == 40)


@contextmanager
def traced(*engines: FakeEngine) -> Iterator[tuple[httpx2.Client, Any]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def observe(gateway: Gateway) -> None:
        gateway.observation = Observation(gateway.settings, tracing=Tracing(provider))

    with gateway_for(*engines, on_gateway=observe) as client:
        yield client, exporter


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """By name, when the one of the request has come, which ends last."""

    def finished() -> dict[str, ReadableSpan]:
        return {span.name: span for span in exporter.get_finished_spans()}

    assert wait_until(lambda: CHAT in finished())
    return finished()


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("stream", [False, True])
def test_a_trace_goes_through_to_the_engine(engine: FakeEngine, stream: bool) -> None:
    with traced(engine) as (client, exporter):
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=value"}
        response = streamed(client, {**PICTURE, "stream": stream}, headers=headers)
        assert response.status_code == 200
        found = spans(exporter)
    request = found[CHAT]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    stages = [found[name] for name in ("queue", "images", "engine")]
    assert [span.parent.span_id for span in stages if span.parent] == 3 * [request.context.span_id]
    starts = [span.start_time or 0 for span in (request, *stages)]
    assert starts == sorted(starts)
    assert all((span.end_time or 0) <= (request.end_time or 0) for span in stages)
    sent = engine.counters.headers[-1]
    assert sent["traceparent"] == f"00-{TRACE}-{found['engine'].context.span_id:016x}-01"
    assert sent["tracestate"] == "vendor=value"
    attributes = dict(request.attributes or {})
    assert attributes["gen_ai.request.model"] == "fake"
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["http.response.status_code"] == 200
    assert SECRET not in str([dict(span.attributes or {}) for span in found.values()])


def test_a_failed_engine_is_a_failed_span(engine: FakeEngine) -> None:
    engine.play(Script(fail="error"))
    with traced(engine) as (client, exporter):
        assert client.post(CHAT, json=HELLO).status_code == 502
        found = spans(exporter)
    assert not found["engine"].status.is_ok
    assert not found[CHAT].status.is_ok
    assert (found[CHAT].attributes or {})["error.type"] == "engine_error"
    assert engine.counters.headers[-1]["traceparent"].count("-") == 3, "a trace of its own"


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


def test_traces_reach_a_collector(engine: FakeEngine) -> None:
    received: list[tuple[str, bytes]] = []
    handler = type("Handler", (Collector,), {"received": received})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_port}"
        with gateway_for(engine, otlp_endpoint=url) as client:
            assert client.post(CHAT, json=HELLO).status_code == 200
        collector.shutdown()
    assert {path for path, _ in received} == {"/v1/traces"}
    names = set()
    for _, body in received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert attributes["service.name"] == "belvedere"
            names |= {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {CHAT, "queue", "images", "engine"}


def test_a_missing_extra_is_named_with_its_remedy() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from belvedere.errors import MissingExtra\n"
        "from belvedere.gateway.observe import Observation\n"
        "from belvedere.settings import Settings\n"
        "Observation(Settings())\n"
        "try: Observation(Settings(otlp_endpoint='http://127.0.0.1:4318'))\n"
        "except MissingExtra as exc: print(exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'pip install "belvedere[otel]"' in done.stdout


@pytest.mark.parametrize("style", ["json", "text", "off"])
def test_the_server_writes_its_lines_on_stderr(style: str) -> None:
    with running_server("--no-model", env={"BELVEDERE_ACCESS_LOG": style}) as server:
        client_id = f"mine-{time.monotonic_ns()}"
        response = httpx2.get(f"{server.url}/v1/models", headers={"x-request-id": client_id})
        assert response.headers["x-request-id"] == client_id
        server.process.terminate()
        assert server.ended() == 0
    written = [one for one in server.stderr if client_id in one]
    match style:
        case "json":
            (line,) = map(json.loads, written)
            assert (line["route"], line["status"]) == ("/v1/models", 200)
        case "text":
            (text,) = written
            assert text.startswith(f"200 /v1/models request_id={client_id} ")
        case "off":
            assert written == []


def test_a_server_whose_lines_nobody_reads_answers_and_ends() -> None:
    """As when standard error goes to a pager, or to a collector that hangs."""
    port = quiet_port()
    process = subprocess.Popen(
        [*BELVEDERE, "serve", "--no-model", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    assert process.stderr is not None
    try:
        room_bytes = fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert wait_until(lambda: listens(client), 300)
            for _ in range(room_bytes // 50):
                assert client.get("/v1/models").status_code == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def listens(client: httpx2.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def test_more_lines_than_can_wait_are_dropped() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(reader, "rb") as unread, os.fdopen(writer, "w", encoding="utf-8") as stream:
        with write_access_log("json", stream):
            for number in range(12_000):
                logging.getLogger("belvedere.access").info("line %d", number)
            (thread,) = (one for one in threading.enumerate() if one.name == "belvedere-access")
        stream.close()
        lines = unread.read().splitlines()
    assert lines == [b"line %d" % number for number in range(len(lines))]
    assert 0 < len(lines) < 12_000
    thread.join(60)
    assert not thread.is_alive()


def test_a_request_that_two_engines_died_of_is_counted_and_both_spans_failed() -> None:
    with FakeEngine() as first, FakeEngine() as second:
        for engine in (first, second):
            engine.play(Script(fail="cut"))
        with traced(first, second) as (client, exporter):
            refused = streamed(client, STREAM)
            assert refused.status_code == 400
            spans(exporter)
            assert total(client, "belvedere_quarantined_total") == 1
            assert total(client, "belvedere_engine_deaths_total") == 2
        engines = [one for one in exporter.get_finished_spans() if one.name == "engine"]
    assert [one.status.is_ok for one in engines] == [False, False]
    assert {(one.attributes or {})["replica"] for one in engines} == {"r0", "r1"}


def test_routes_that_engines_have_are_counted_too(client: httpx2.Client, lines: Lines) -> None:
    line = lines.of(client.post("/tokenize", json={"prompt": SECRET}))
    assert (line["route"], line["status"], line["replica"]) == ("/tokenize", 200, "r0")
    assert line["retries"] == 0
    assert SECRET not in "\n".join(lines.raw)


def test_a_stream_that_breaks_is_a_failed_span(engine: FakeEngine) -> None:
    engine.play(Script(tokens=9, itl_s=0.02, fail="cut", fail_after=3))
    with traced(engine) as (client, exporter):
        assert "engine_error" in streamed(client, STREAM).text
        found = spans(exporter)
    assert not found["engine"].status.is_ok
    assert not found[CHAT].status.is_ok
