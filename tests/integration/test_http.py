"""What raw HTTP clients meet: bodies, methods, paths, keys."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx2
import pytest

from tests.integration.serving import RunningServer, running_server

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        yield client


def nested(depth: int) -> bytes:
    return b'{"messages":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"messages": [',
        b'{"messages": "\xff"}',
        '{"messages": []}'.encode("utf-16"),
        b"[]",
        b"null",
        b'"hello"',
        nested(200_000),
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"temperature": NaN}',
        b'{"temperature": -Infinity}',
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e400}',
        b'{"n": 1, "n": 2}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "hi"}], "n": "3"}',
    ],
    ids=[
        "empty",
        "truncated",
        "bad-utf8",
        "utf16",
        "array",
        "null",
        "string",
        "deep",
        "long-integer",
        "nan",
        "infinity",
        "overflow",
        "duplicate-keys",
        "lone-surrogate",
        "number-as-string",
    ],
)
def test_a_bad_body_is_a_400_in_openais_shape(client: httpx2.Client, body: bytes) -> None:
    response = client.post(CHAT, content=body, headers=JSON)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert client.post(CHAT, json=HELLO).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", CHAT, {"content-type": "text/plain"}, 415),
        ("GET", CHAT, {}, 405),
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/models/..%2F..%2Fetc%2Fpasswd", {}, 404),
    ],
)
def test_http_mistakes(
    client: httpx2.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = client.request(
        method, path, headers=headers, content=b"" if method == "POST" else None
    )
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_an_announced_oversize_body_is_refused_unread(server: RunningServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {10**12}\r\n\r\n".encode()
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_an_oversize_chunked_body_is_refused() -> None:
    with (
        running_server(env={"BELVEDERE_MAX_BODY_BYTES": "1000"}) as small,
        httpx2.Client(base_url=small.url, timeout=30) as client,
    ):
        chunks = (b"x" * 400 for _ in range(10))
        response = client.post(CHAT, content=chunks, headers=JSON)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "payload_too_large"


def test_request_ids(client: httpx2.Client) -> None:
    assert client.get("/health/live").headers["x-request-id"]
    kept = client.get("/health/live", headers={"x-request-id": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    replaced = client.get("/health/live", headers={"x-request-id": "x" * 10_000})
    assert len(replaced.headers["x-request-id"]) < 129


def test_model_may_be_omitted_and_both_prefixes_answer(client: httpx2.Client) -> None:
    for path in (CHAT, "/api" + CHAT):
        assert client.post(path, json=HELLO).json()["model"] == "belvedere-mini"


def test_health_and_published_schema(client: httpx2.Client) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["vlm_config"]["max_images_per_request"] == 10
    assert client.get("/health/ready").json() == {"status": "ok"}
    schema = client.get("/openapi.json").json()
    body = schema["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].rsplit("/", 1)[1] in schema["components"]["schemas"]
    assert client.get("/docs").status_code == 200


def test_inert_parameters_are_accepted(client: httpx2.Client) -> None:
    inert = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert client.post(CHAT, json={**HELLO, **inert}).status_code == 200


def test_keys_guard_every_route_but_liveness() -> None:
    with (
        running_server(env={"API_KEY": "s3cret"}) as guarded,
        httpx2.Client(base_url=guarded.url, timeout=30) as client,
    ):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            for path in ("/v1/models", "/health"):
                refused = client.get(path, headers=headers)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
            assert client.post(CHAT, json=HELLO, headers=headers).status_code == 401
        huge = client.get("/v1/models", headers={"authorization": "Bearer " + "x" * 30_000})
        assert huge.status_code == 401
        key = {"authorization": "Bearer s3cret"}
        assert client.get("/v1/models", headers=key).status_code == 200
        assert client.get("/health/live").json() == {"status": "ok"}
        assert client.get("/health/ready").json() == {"status": "ok"}
        assert "s3cret" not in json.dumps(client.get("/health", headers=key).json())
        assert "s3cret" not in "".join(guarded.stderr)
