"""An engine that tells nothing by itself: phases, times and reasons from its own lines."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

from engine_scripts import ONCE, QUICK, Kept, script_spec

from belvedere.engines.base import Endpoint, EngineSpec, EngineStatus, LogRules, ReadyProbe

RULES = LogRules(
    phases=(("reading", "configuring"), ("Loading weights", "weights")),
    notes=("took", "no room", "root"),
    final=("no room for.*", "root cause.*"),
)
PROBE = ReadyProbe("/v1/chat/completions", {"messages": [], "max_tokens": 1}, announced=False)
TALK = """
import sys, time
for line in ("reading", "Loading weights", "weights took 3 GiB", "reading again", "more"):
    print(line, flush=True)
    time.sleep(0.05)
"""
GIVE_UP = TALK + "print('ERROR: no room for x\\nroot cause above', flush=True)\nsys.exit(1)\n"


def over(spec: EngineSpec, directory: Path) -> Kept:
    """The keeper of `spec` when it has failed; it answers nowhere."""
    spec = replace(spec, endpoint=Endpoint("http://e", str(directory / "e.sock")))

    async def run() -> Kept:
        kept = Kept(spec, directory)
        await kept.until_state("failed")
        await kept.task
        return kept

    return asyncio.run(run())


def phases(seen: list[EngineStatus]) -> list[str]:
    found = [status.phase for status in seen if status.state == "starting"]
    return list(dict.fromkeys(found))


def test_phases_go_forward_and_a_final_line_ends_it(tmp_path: Path) -> None:
    kept = over(script_spec(GIVE_UP, log=RULES, restart=QUICK, probe=PROBE), tmp_path)
    assert phases(kept.seen) == ["spawning", "configuring", "weights"]
    assert kept.status.launch == 1
    assert kept.status.error == "The engine gave up: no room for x"
    assert kept.status.notes == ("weights took 3 GiB", "ERROR: no room for x", "root cause above")
    assert set(kept.status.phase_s) >= {"spawning", "configuring"}


def test_an_end_without_a_final_line_is_tried_again(tmp_path: Path) -> None:
    kept = over(script_spec(TALK + "sys.exit(1)\n", log=RULES, restart=QUICK), tmp_path)
    assert kept.status.launch == QUICK.max_crashes
    assert kept.status.notes == ("weights took 3 GiB",)


def test_a_process_that_was_killed_is_tried_again(tmp_path: Path) -> None:
    code = GIVE_UP.replace("sys.exit(1)", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    kept = over(script_spec(code, log=RULES, restart=QUICK), tmp_path)
    assert kept.status.launch == QUICK.max_crashes


def test_what_is_left_is_told_by_an_earlier_start(tmp_path: Path) -> None:
    expected = {"spawning": 100.0, "configuring": 20.0, "weights": 300.0}
    kept = over(
        script_spec(GIVE_UP, log=RULES, restart=ONCE, expected_s=expected, probe=PROBE), tmp_path
    )
    left = {
        status.phase: status.remaining_s
        for status in kept.seen
        if status.state == "starting" and status.remaining_s is not None
    }
    assert 300 < left["spawning"] <= 420
    assert 280 < left["configuring"] <= 320
    assert 200 < left["weights"] <= 300


def test_a_socket_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """vLLM cannot bind to a socket that is there."""
    path = tmp_path / "e.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    code = f"import os, sys\nprint('took', os.path.exists({str(path)!r}), flush=True)\nsys.exit(1)"
    kept = over(script_spec(code, log=RULES), tmp_path)
    assert kept.status.notes == ("took False",)
