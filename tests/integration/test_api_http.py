"""Every body and HTTP row of the bad-input list, on a raw socket where a client would not do it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from belvedere.testing import FakeEngine, Script
from tests.integration.scripted import gateway_for
from tests.integration.serving import wait_until

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
ROUTES = [CHAT, "/v1/completions", "/v1/apply_template", "/api/v1/inference/generate", "/tokenize"]
JSON = {"content-type": "application/json"}
BODIES = {
    "empty": b"",
    "truncated": b'{"messages": [',
    "bad-utf8": b'{"messages": "\xff"}',
    "utf16": '{"messages": []}'.encode("utf-16"),
    "array": b"[]",
    "null": b"null",
    "string": b'"hello"',
    "number": b"5",
    "deep": b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep-objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "long-integer": b'{"n": ' + b"9" * 5000 + b"}",
    "nan": b'{"temperature": NaN}',
    "infinity": b'{"temperature": Infinity}',
    "overflow": b'{"messages": [{"role": "user", "content": "hi"}], "prompt": "x", "top_p": 1e400}',
    "duplicate-keys": b'{"n": 1, "n": 2}',
    "very-many-keys": b"{" + b"".join(b'"%d":1,' % n for n in range(100_000)) + b'"99999":1}',
    "lone-surrogate": b'{"prompt": "\\ud800", "messages": [{"role": "user", "content": "\\ud8"}]}',
    "two-objects": b"{}{}",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(Script(tokens=2)) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine: FakeEngine) -> Iterator[httpx2.Client]:
    with gateway_for(engine) as client:
        yield client


def assert_refused(response: httpx2.Response, status: int = 400) -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ROUTES)
def test_bad_bodies(engine: FakeEngine, client: httpx2.Client, path: str, name: str) -> None:
    asked = engine.counters.received
    assert_refused(client.post(path, content=BODIES[name], headers=JSON))
    assert engine.counters.received == asked


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "", "application/jsonx"])
def test_other_content_types_are_415(client: httpx2.Client, path: str, kind: str) -> None:
    assert_refused(client.post(path, content=b"{}", headers={"content-type": kind}), 415)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "BREW"])
def test_other_methods_are_405(client: httpx2.Client, path: str, method: str) -> None:
    response = client.request(method, path)
    if method == "BREW" and response.status_code == 400:  # the parser knows the real methods only
        return
    assert_refused(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/chat/completions/", "/v1/models/a/b/c"])
def test_unknown_paths_are_404(client: httpx2.Client, path: str) -> None:
    assert_refused(client.get(path), 404)


@pytest.mark.parametrize("name", ["../../etc", "nope", "", "a" * 10_000, "fake\u0000", "FAKE"])
def test_unknown_models_are_404(client: httpx2.Client, name: str) -> None:
    response = client.post(CHAT, json={**HELLO, "model": name})
    assert_refused(response, 404)
    assert response.json()["error"]["code"] == "model_not_found"
    assert len(response.text) < 1000


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-123", True),
        ("A.b_c:d/e+f=", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("x" * 10_000, False),
        ("", False),
        ("a b", False),
        ("a\tb", False),
        ("<script>", False),
        ('a"b', False),
    ],
)
def test_request_ids_are_kept_or_replaced(client: httpx2.Client, given: str, kept: bool) -> None:
    for path in ("/health/live", "/nothing"):
        shown = client.get(path, headers={"x-request-id": given}).headers["x-request-id"]
        assert (shown == given) == kept
        assert shown
        assert len(shown) <= 128


def raw(client: httpx2.Client, content: bytes) -> bytes:
    """What the server says to bytes that no client library would send; then it hangs up."""
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(content)
        return rest_of(sock)


def rest_of(sock: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):  # it hung up although more was on its way
        while piece := sock.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # TLS to a plain port
        b"HELLO\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\rb\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        b"Content-Length: 2\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_our_shape(client: httpx2.Client, content: bytes) -> None:
    answer = raw(client, content)
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"HTTP/1.1 4" in head
    assert b"x-request-id: " in head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


LINE = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
ENDLESS_HEADS = {
    "many headers": LINE + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 60_000) for n in range(40)),
    "one header": LINE + b"X-A: " + b"y" * 30_000_000,
    "the path": b"GET /" + b"y" * 30_000_000,
}


@pytest.mark.parametrize("name", ENDLESS_HEADS)
def test_endless_heads_are_431(client: httpx2.Client, name: str) -> None:
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=60) as sock:
        received = b""
        try:
            sock.sendall(ENDLESS_HEADS[name])
            received = sock.recv(65536)
        except ConnectionError:  # it hung up while the rest was on its way
            return
    assert received.startswith(b"HTTP/1.1 431 ")


def test_an_announced_body_over_the_limit_is_refused_unread(engine: FakeEngine) -> None:
    with gateway_for(engine, max_body_bytes=1000) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = raw(client, f"{head}Content-Length: {10**12}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"payload_too_large"' in answer
        for path in ROUTES:
            chunks = (b"x" * 400 for _ in range(10))
            assert_refused(client.post(path, content=chunks, headers=JSON), 413)


def test_a_slow_body_is_408_and_others_do_not_wait(engine: FakeEngine) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with gateway_for(engine, body_timeout_s=5.0) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=60) as slow:
            slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert client.post(CHAT, json=HELLO).status_code == 200
            answer = rest_of(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer


@pytest.mark.parametrize("begun", [b"", b"GET /health/live HTTP/1.1\r\nX-A: "])
def test_a_connection_without_a_request_is_ended(engine: FakeEngine, begun: bytes) -> None:
    with gateway_for(engine, body_timeout_s=1.5) as client:
        assert raw(client, begun).startswith(b"HTTP/1.1 408 ")


def test_slow_headers_of_a_second_request_are_ended_too(engine: FakeEngine) -> None:
    with gateway_for(engine, body_timeout_s=4.0) as client:
        request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = raw(client, request + b"GET /health/live HTT")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


def test_a_connection_that_is_kept_open_outlives_the_timeout(engine: FakeEngine) -> None:
    """The time is for each request's head, not for the connection."""
    with gateway_for(engine, body_timeout_s=2.0) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=60) as sock:
            for _ in range(4):
                sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                received = b""
                while not received.endswith(b"}"):
                    piece = sock.recv(65536)
                    assert piece, "it hung up"
                    received += piece
                assert received.startswith(b"HTTP/1.1 200 ")
                time.sleep(0.7)


def test_a_stream_outlives_the_timeout(engine: FakeEngine) -> None:
    with gateway_for(engine, body_timeout_s=3.0) as client:
        engine.play(Script(tokens=5, itl_s=1.0))
        text = client.post(CHAT, json={**HELLO, "stream": True}).text
        assert text.endswith("data: [DONE]\n\n")


def test_keys_of_every_size_and_kind(engine: FakeEngine) -> None:
    with gateway_for(engine, api_key="s3cret-key") as client:
        for given in (
            None,
            "Bearer wrong",
            "Basic s3cret-key",
            "Bearer",
            "Bearer " + "x" * 2**20,
            "Bearer s3cret-key s3cret-key",
            "s3cret-key",
        ):
            headers = {} if given is None else {"authorization": given}
            for path in ROUTES:
                response = client.post(path, json=HELLO, headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
            assert client.get("/v1/models", headers=headers).status_code == 401
        good = {"authorization": "Bearer s3cret-key"}
        assert client.post(CHAT, json=HELLO, headers=good).status_code == 200
        for path in ("/health/live", "/health/ready", "/health/startup"):
            assert client.get(path).status_code == 200


def test_a_bad_image_with_stream_is_refused_before_the_stream(
    engine: FakeEngine, client: httpx2.Client
) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}
    body = {"messages": [{"role": "user", "content": [part]}], "stream": True}
    response = client.post(CHAT, json=body)
    assert_refused(response)
    assert response.headers["content-type"] == "application/json"
    assert wait_until(lambda: engine.counters.running == 0)
