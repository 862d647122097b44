"""Engines and servers that cannot start: one clear error each, and the others keep serving."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere.engines.base import RestartPolicy
from belvedere.engines.local_spec import mini_folder
from tests.integration.callers import CHAT, asking, view_of
from tests.integration.serving import running_server, wait_until
from tests.integration.stage import Stage

LOAD = "/api/v1/inference/load"
TWICE = RestartPolicy(max_crashes=2, base_s=0.05, cap_s=0.1)
FAULTS: list[tuple[str, dict[str, Any], str, int]] = [
    ("exit0", {}, "exit code 0", 1),
    ("garbage", {}, "exit code 1", 2),
    ("crash", {}, "exit code 7", 2),
    ("error", {}, "No weights.", 1),
    ("never-ready", {"ready_timeout_s": 1.0}, "not ready after 1 s", 1),
]


@pytest.mark.parametrize(("fault", "changes", "text", "launches"), FAULTS)
def test_an_engine_that_cannot_start_is_failed_with_its_reason(
    stage: Stage,
    client: httpx2.Client,
    fault: str,
    changes: dict[str, Any],
    text: str,
    launches: int,
) -> None:
    with (
        stage.cast("well"),
        stage.cast("bad", "--start-fail", fault, restart=TWICE, ready=False, **changes) as (bad,),
    ):
        assert wait_until(lambda: view_of(client, bad).get("state") == "failed", 60)
        view = view_of(client, bad)
        assert text in view["error"]
        assert view["launches"] == launches
        refused = client.post(CHAT, json=asking("bad"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "retry-after" in refused.headers
        assert client.post(CHAT, json=asking("well")).status_code == 200
        assert client.get("/health").json()["status"] == "degraded"


def test_a_failed_engine_can_be_unloaded(stage: Stage, client: httpx2.Client) -> None:
    with stage.cast("bad", "--start-fail", "exit0", ready=False) as (bad,):
        assert wait_until(lambda: view_of(client, bad).get("state") == "failed", 60)
        gone = client.post("/api/v1/inference/unload", json={"model": "bad"})
        assert gone.status_code == 200
        assert view_of(client, bad) == {}
        assert client.post(CHAT, json=asking("bad")).status_code == 404


@pytest.mark.engine
def test_a_load_whose_engine_gives_up_is_told_and_leaves_nothing(
    stage: Stage, client: httpx2.Client, tmp_path: Path
) -> None:
    """All files are whole, so only the engine can find out that the architecture is none."""
    folder = tmp_path / "strange"
    folder.mkdir()
    for file in mini_folder().iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    (folder / "config.json").write_text('{"model_type": "no_such_model", "architectures": ["X"]}')
    unwatched = {"model_path": str(folder), "served_model_name": "later", "wait": False}
    with stage.cast("well"):
        assert client.post(LOAD, json=unwatched).status_code == 202
        answer = client.post(LOAD, json={"model_path": str(folder)}, timeout=300)
        assert client.post(CHAT, json=asking("well")).status_code == 200
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert error["code"] == "engine_start_failed"
        assert "no_such_model" in error["message"]
        assert "Traceback" not in error["message"]
        assert wait_until(lambda: len(_failed_loads(client)) == 2, 180)
        failed = _failed_loads(client)
        assert {one["model"] for one in failed} == {"later", "strange"}
        assert {one["model_path"] for one in failed} == {str(folder)}
        assert all("no_such_model" in one["error"] for one in failed)
        assert wait_until(lambda: _models(client) == ["well"])


def _failed_loads(client: httpx2.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/v1/inference/status").json()["failed_loads"]
    return found


def _models(client: httpx2.Client) -> list[str]:
    models = client.get("/api/v1/inference/status").json()["models"]
    return [one["model"] for one in models]


SERVER_MISTAKES: list[tuple[tuple[str, ...], str, int]] = [
    (("/no/such/model",), "does not exist", 2),
    (("--gpu-ids", "97"), "GPU", 2),
    (("--replicas", "0"), "replicas", 2),
    (("--upstream", "ftp://x"), "upstreams", 2),
    (("--fleet", "../up"), "fleet", 2),
    (("--alias", "nonsense"), "alias=model", 2),
    (("--strict-actions",), "--engine vllm", 2),
]


@pytest.mark.parametrize(("arguments", "text", "exit_code"), SERVER_MISTAKES)
def test_a_server_that_cannot_start_says_why_on_one_line(
    arguments: tuple[str, ...], text: str, exit_code: int
) -> None:
    with running_server(*arguments, ready=False) as server:
        assert server.process.wait(60) == exit_code
    told = "".join(server.stderr)
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert text in line
    assert "Traceback" not in told


def test_a_port_in_use_stops_nobody_elses_engines(stage: Stage, client: httpx2.Client) -> None:
    address = client.base_url
    with stage.cast("well"), socket.create_connection((address.host, address.port or 0)):
        taken = ("--port", str(address.port), "--fleet", "stage")
        with running_server("--no-model", *taken, ready=False) as server:
            assert server.process.wait(60) == 2
        assert f"Port {address.port} on 127.0.0.1 is in use." in "".join(server.stderr)
        assert client.post(CHAT, json=asking("well")).status_code == 200
