"""Keys with roles and limits, the queue, and foreign hosts, on a real socket."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from belvedere.testing import FakeEngine, Script, SleepScript
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until
from tests.integration.stepped import held

USER, BATCH, ADMIN = "user-key-123", "batch-key-123", "admin-key-123"
KEYS = [
    {"name": "user", "key": USER},
    {"name": "batch", "key": BATCH, "priority": 10, "max_concurrency": 1},
    {"name": "operator", "key": ADMIN, "role": "admin"},
]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
PATH = "/v1/chat/completions"
HOLDABLE = SleepScript(sleep_mode=True)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx2.Client]:
    with FakeEngine() as engine, gateway_for(engine, api_keys=KEYS) as client:
        yield client


@pytest.mark.parametrize("key", [USER, BATCH, ADMIN])
def test_each_key_may_ask(guarded: httpx2.Client, key: str) -> None:
    assert guarded.post(PATH, json=CHAT, headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer("x" * 20_000),
        {"authorization": "Bearer"},
        {"authorization": f"Basic {USER}"},
        {"authorization": USER},
        {"authorization": "Bearer sha256:" + "0" * 64},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PATH),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/health"),
        ("GET", "/api/v1/inference/status"),
        ("POST", "/api/v1/inference/load"),
    ],
)
def test_nobody_else_may(
    guarded: httpx2.Client, headers: dict[str, str], method: str, path: str
) -> None:
    body = CHAT if method == "POST" else None
    answer = guarded.request(method, path, headers=headers, json=body)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("what", ["load", "unload"])
def test_models_are_managed_by_admins_only(guarded: httpx2.Client, what: str) -> None:
    path, body = f"/api/v1/inference/{what}", {"model_path": "x"} if what == "load" else {}
    refused = guarded.post(path, json=body, headers=bearer(USER))
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "permission_denied"
    assert guarded.post(path, json=body, headers=bearer(ADMIN)).status_code == 501


def test_liveness_needs_no_key_and_tells_nothing(guarded: httpx2.Client) -> None:
    assert guarded.get("/health/live").json() == {"status": "ok"}
    assert guarded.get("/health/ready").json() == {"status": "ok"}


def test_a_name_that_points_here_is_not_enough(guarded: httpx2.Client) -> None:
    for headers in ({"host": "rebound.example"}, {"origin": "https://evil.example"}):
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            answer = guarded.request(method, PATH, headers={**bearer(USER), **headers})
            assert answer.status_code == 403
            assert answer.headers["x-request-id"]


def test_pages_are_allowed_by_the_operator_only() -> None:
    preflight = {"origin": "https://tool.example", "access-control-request-method": "POST"}
    with FakeEngine() as engine:
        with gateway_for(engine) as client:
            assert client.options(PATH, headers=preflight).status_code == 403
        with gateway_for(engine, cors_origins="https://tool.example") as client:
            answer = client.options(PATH, headers=preflight)
            assert answer.headers["access-control-allow-origin"] == "https://tool.example"
            other = client.options(PATH, headers={**preflight, "origin": "https://evil.example"})
            assert other.status_code == 403


def test_tenants_do_not_see_each_others_pictures(guarded: httpx2.Client) -> None:
    body = picture_chat(PICTURE)
    content_id = ask(guarded, body, USER)["belvedere"]["images"][0]["id"]
    assert guarded.get(f"/v1/media/{content_id}/seen", headers=bearer(USER)).status_code == 200
    assert guarded.get(f"/v1/media/{content_id}/seen", headers=bearer(ADMIN)).status_code == 404


def test_a_cache_hit_tells_nothing_about_other_tenants(guarded: httpx2.Client) -> None:
    body = picture_chat(picture(b"\x10\x20\x30"))
    timings = [
        guarded.post(PATH, json=body, headers=bearer(key)).headers["server-timing"]
        for key in (USER, ADMIN, USER)
    ]
    assert ['desc="hit"' in timing for timing in timings] == [False, False, True]


@contextmanager
def busy(client: httpx2.Client, count: int, key: str = USER) -> Iterator[None]:
    """`count` requests under way or queued."""
    with ThreadPoolExecutor(count) as pool:
        sent = [
            pool.submit(client.post, PATH, json=CHAT, headers=bearer(key)) for _ in range(count)
        ]
        yield
        assert all(one.result().status_code == 200 for one in sent)


def test_a_full_queue_is_told_at_once_and_before_images_are_decoded() -> None:
    limits = {"max_running_per_replica": 1, "queue_limit": 1}
    with (
        FakeEngine(Script(tokens=1), sleep=HOLDABLE) as engine,
        gateway_for(engine, api_keys=KEYS, **limits) as client,
        held(engine) as release,
        busy(client, 2),
    ):
        assert wait_until(lambda: in_queue(client) == 1)
        broken = picture_chat("data:image/png;base64,iVBORw0KGgo=")
        refused = client.post(PATH, json=broken, headers=bearer(ADMIN))
        assert refused.status_code == 429, "the broken picture was not looked at"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert engine.counters.finished == 0, "it did not wait for a turn"
        release()


def in_queue(client: httpx2.Client) -> int:
    queued: int = client.get("/health", headers=bearer(ADMIN)).json()["queue"].get("fake", 0)
    return queued


def test_a_queued_client_that_leaves_costs_nothing() -> None:
    with (
        FakeEngine(Script(tokens=1), sleep=HOLDABLE) as engine,
        gateway_for(engine, api_keys=KEYS, max_running_per_replica=1) as client,
        held(engine),
        leaving(client, ADMIN),
    ):
        assert wait_until(lambda: engine.counters.waiting == 1)
        with leaving(client, ADMIN):
            assert wait_until(lambda: in_queue(client) == 1)
        assert wait_until(lambda: in_queue(client) == 0)
        assert engine.counters.received == 1


@contextmanager
def leaving(client: httpx2.Client, key: str) -> Iterator[None]:
    """A request whose client leaves at the end of the block."""
    content = json.dumps(CHAT).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.encode() + content)
        yield


def test_a_better_priority_passes_a_crowd() -> None:
    def send(client: httpx2.Client, name: str, key: str) -> None:
        ask(client, {"messages": [{"role": "user", "content": name}]}, key)

    with (
        FakeEngine(Script(tokens=1), sleep=HOLDABLE) as engine,
        gateway_for(engine, api_keys=KEYS, max_running_per_replica=1) as client,
        ThreadPoolExecutor(5) as pool,
    ):
        with held(engine):
            jobs = [pool.submit(send, client, "batch", BATCH) for _ in range(4)]
            assert wait_until(lambda: in_queue(client) == 3)
            jobs.append(pool.submit(send, client, "user", USER))
            assert wait_until(lambda: in_queue(client) == 4)
        for job in jobs:
            job.result()
        order = [body["messages"][0]["content"] for body in engine.counters.requests]
    assert order.index("user") <= 1
    assert len(order) == 5


def test_a_key_has_its_own_limit_of_requests_at_once() -> None:
    with (
        FakeEngine(Script(tokens=1), sleep=HOLDABLE) as engine,
        gateway_for(engine, api_keys=KEYS) as client,
        held(engine) as release,
        busy(client, 3, BATCH),
        busy(client, 1, USER),
    ):
        assert wait_until(lambda: (in_queue(client), engine.counters.waiting) == (2, 2))
        assert engine.counters.received == 2, "one of batch, and one of user"
        release()


def test_requests_per_minute() -> None:
    keys = [{"name": "slow", "key": USER, "requests_per_minute": 2}]
    with FakeEngine() as engine, gateway_for(engine, api_keys=keys) as client:
        codes = [client.post(PATH, json=CHAT, headers=bearer(USER)).status_code for _ in range(3)]
        assert codes == [200, 200, 429]


def ask(client: httpx2.Client, body: dict[str, Any], key: str) -> dict[str, Any]:
    answer = client.post(PATH, json=body, headers=bearer(key))
    assert answer.status_code == 200, answer.text
    payload: dict[str, Any] = answer.json()
    return payload


def picture_chat(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part]}]}


def picture(colour: bytes) -> str:
    """A flat 120x110 bitmap as a data URL."""
    width, height = 120, 110
    pixels = colour * (width * height)
    sizes = [54 + len(pixels), 0, 54, 40, width, height]
    head = b"BM" + b"".join(number.to_bytes(4, "little") for number in sizes)
    head += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    return "data:image/bmp;base64," + base64.b64encode(head + pixels).decode()


PICTURE = picture(b"\x01\x02\x03")
