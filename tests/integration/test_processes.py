"""However ``belvedere serve`` ends, nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.integration.serving import RunningServer, running_server, wait_gone, wait_until

pytestmark = pytest.mark.engine

LONG = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 12_000,
    "ignore_eos": True,
    "temperature": 0,
    "stream": True,
}
SHORT = {**LONG, "max_tokens": 2, "stream": False}
SUPERVISOR = "belvedere.engines.supervisor"
ENGINE = "belvedere.engines.local"


def replica(client: httpx2.Client) -> dict[str, Any]:
    """The only engine, as ``/health`` shows it."""
    (found,) = client.get("/health").json()["replicas"]
    assert isinstance(found, dict)
    return found


@contextlib.contextmanager
def watched_server(
    *arguments: str, env: dict[str, str] | None = None
) -> Iterator[tuple[RunningServer, list[psutil.Process]]]:
    """A running server and its child processes; its private folder must be gone at the end."""
    with tempfile.TemporaryDirectory(prefix="bv-") as temporary:
        with running_server(*arguments, env={"TMPDIR": temporary, **(env or {})}) as server:
            children = server.descendants()
            assert len(children) == 2, "a supervisor and an engine"
            assert private_folders(temporary)
            yield server, children
        assert wait_until(lambda: not private_folders(temporary))


def private_folders(temporary: str) -> list[Path]:
    return list(Path(temporary).glob("belvedere-*"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_end_leaves_nothing(signum: signal.Signals) -> None:
    with watched_server() as (server, children):
        server.process.send_signal(signum)
        assert server.ended() == 0
        assert wait_gone(children) == []
        assert "Traceback" not in "".join(server.stderr)


def test_a_killed_gateway_leaves_nothing() -> None:
    with watched_server() as (server, children):
        server.process.kill()
        server.process.wait()
        assert wait_gone(children) == []


def test_a_killed_supervisor_takes_the_engine_along_and_is_reported() -> None:
    with watched_server() as (server, children):
        server.descendant(SUPERVISOR).kill()
        assert server.ended() == 4
        assert wait_gone(children) == []
        assert "supervisor" in "".join(server.stderr)
        assert "Traceback" not in "".join(server.stderr)


HELD = f"""
import os, sys, time

while {ENGINE!r} in sys.orig_argv and os.path.exists(os.environ["HOLD"]):
    time.sleep(0.05)
"""
"""Engines do not start while the file is there: their start can be looked at."""


def test_a_killed_engine_breaks_its_stream_and_comes_back_until_it_crashed_too_often(
    tmp_path: Path,
) -> None:
    hold = tmp_path / "hold"
    (tmp_path / "sitecustomize.py").write_text(HELD)
    env = {"BELVEDERE_MAX_CRASHES": "2", "PYTHONPATH": str(tmp_path), "HOLD": str(hold)}
    with (
        watched_server(env=env) as (server, _),
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        with client.stream("POST", "/v1/chat/completions", json=LONG) as response:
            lines = (line for line in response.iter_lines() if line.startswith("data:"))
            for _ in range(3):
                next(lines)
            hold.touch()
            server.descendant(ENGINE).kill()
            rest = [line.removeprefix("data:").strip() for line in lines]
        last = json.loads(rest[-1])
        assert last["error"]["code"] == "engine_error"
        assert not any('"finish_reason":"' in line for line in rest)

        assert wait_until(lambda: replica(client)["state"] in ("backoff", "starting"))
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        refused = client.post("/v1/chat/completions", json=SHORT)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        hold.unlink()

        assert wait_until(lambda: replica(client)["state"] == "ready", 180)
        assert client.post("/v1/chat/completions", json=SHORT).status_code == 200
        server.descendant(ENGINE).kill()
        assert wait_until(lambda: replica(client)["state"] == "failed")
        assert "signal 9" in replica(client)["error"]
        assert client.post("/v1/chat/completions", json=SHORT).status_code == 503


def test_running_requests_finish_and_new_ones_are_refused_during_shutdown() -> None:
    """The engine is held meanwhile, so that its request is not over too early."""
    with (
        watched_server(env={"BELVEDERE_SHUTDOWN_GRACE_S": "90"}) as (server, _),
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        engine = server.descendant(ENGINE)
        body = {**LONG, "max_tokens": 400}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            engine.suspend()
            server.process.terminate()
            assert wait_until(lambda: client.get("/health/ready").status_code == 503)
            late = client.post("/v1/chat/completions", json={**LONG, "stream": False})
            engine.resume()
            rest = list(lines)
        assert late.status_code == 503
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(60) == 0


def test_a_client_that_leaves_cancels_the_engines_work() -> None:
    with watched_server() as (server, _), httpx2.Client(base_url=server.url, timeout=30) as client:
        with client.stream("POST", "/v1/chat/completions", json=LONG) as response:
            lines = response.iter_lines()  # held: httpx closes the stream with its iterator
            assert any(line.startswith("data:") for line in lines)
            assert client.get("/health").json()["replicas"][0]["in_flight"] == 1
        idle = wait_until(
            lambda: client.get("/health").json()["replicas"][0]["in_flight"] == 0, timeout_s=30
        )
        assert idle, "the lease is still out long after the client left"
        with pytest.raises(httpx2.TimeoutException):
            client.post("/v1/chat/completions", json={**LONG, "stream": False}, timeout=0.5)
        quick = client.post(
            "/v1/chat/completions", json={**LONG, "stream": False, "max_tokens": 1}, timeout=30
        )
        assert quick.status_code == 200


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running_server("--port", str(port), ready=False) as server:
            assert server.ended() == 2
        (line,) = "".join(server.stderr).strip().splitlines()
    assert line.startswith(f"error: Port {port} on 127.0.0.1 is in use.")
