"""A gateway dies and another takes its place: the engines never notice, unless nobody comes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import psutil
import pytest

from tests.integration.callers import CHAT, asking
from tests.integration.serving import (
    RunningServer,
    quiet_port,
    running_server,
    wait_gone,
    wait_until,
)
from tests.integration.stage import Stage

SUPERVISOR = "belvedere.engines.supervisor"


@pytest.fixture
def port() -> int:
    return quiet_port()


def kill(server: RunningServer) -> list[psutil.Process]:
    """Kills the gateway; what it had started."""
    children = server.descendants()
    server.process.kill()
    server.process.wait()
    return children


@pytest.fixture
def leftovers() -> Iterator[list[psutil.Process]]:
    """Processes that the test must have ended; whatever it left is killed."""
    processes: list[psutil.Process] = []
    yield processes
    for process in wait_gone(processes, 0):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


def ask(url: str, model: str) -> httpx2.Response:
    return httpx2.post(url + CHAT, json=asking(model, max_tokens=2), timeout=60)


def test_a_named_fleet_is_found_again_with_its_models_and_aliases(
    port: int, leftovers: list[psutil.Process]
) -> None:
    arguments = ("--no-model", "--fleet", "again", "--port", str(port), "--linger-s", "300")
    with running_server(*arguments) as first:
        with Stage("again", first, linger_s=300) as stage:
            engines = stage.start("kept", replicas=2, aliases=("also",))
            pids = {engine.name: engine.process.pid for engine in engines}
        assert ask(first.url, "also").status_code == 200
        leftovers += kill(first)
        assert set(wait_gone(leftovers, 0)) == set(leftovers)
        with running_server(*arguments) as second:
            assert wait_until(lambda: ask(second.url, "kept").status_code == 200)
            assert ask(second.url, "also").status_code == 200
            with Stage("again", second) as stage:
                found = {engine.name: engine.process.pid for engine in stage.engines("kept")}
                assert {engine.status.launch for engine in stage.engines("kept")} == {1}
            assert found == pids
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(60) == 0
        assert wait_gone(leftovers) == []


def test_without_a_successor_the_engines_end_after_the_linger(
    leftovers: list[psutil.Process],
) -> None:
    arguments = ("--no-model", "--fleet", "alone", "--linger-s", "1")
    with running_server(*arguments) as server:
        with Stage("alone", server, linger_s=1) as stage:
            stage.start("lonely", replicas=2)
        leftovers += kill(server)
        assert len(leftovers) >= 3, "a supervisor and two engines"
        assert wait_gone(leftovers, 60) == []


def test_a_killed_supervisor_ends_the_server_and_every_engine(
    leftovers: list[psutil.Process],
) -> None:
    with running_server("--no-model", "--fleet", "headless") as server:
        with Stage("headless", server) as stage:
            stage.start("headless", replicas=2)
        leftovers += server.descendants()
        server.descendant(SUPERVISOR).kill()
        assert server.ended() == 4
        assert wait_gone(leftovers) == []
        assert "supervisor" in "".join(server.stderr)
        assert "Traceback" not in "".join(server.stderr)


@pytest.mark.engine
def test_a_restarted_server_on_the_same_port_does_not_load_its_model_again(
    port: int, leftovers: list[psutil.Process]
) -> None:
    url = f"http://127.0.0.1:{port}"
    arguments = ("--port", str(port), "--linger-s", "300")
    with running_server(*arguments, ready=False) as first:
        assert wait_until(lambda: is_ready(url), 300)
        assert ask(url, "belvedere-mini").status_code == 200, "ready is said too early"
        (before,) = first.running("belvedere.engines.local")
        leftovers += kill(first)
        with running_server(*arguments) as second:
            assert ask(second.url, "belvedere-mini").status_code == 200
            (engine,) = httpx2.get(second.url + "/health").json()["replicas"]
            assert (engine["state"], engine["launches"]) == ("ready", 1)
            assert before.is_running()
    assert wait_gone(leftovers) == []
