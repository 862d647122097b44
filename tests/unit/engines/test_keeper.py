"""One engine over many launches: every state, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from engine_scripts import (
    KEY,
    ONCE,
    PROBE,
    QUICK,
    TIMEOUT_S,
    Kept,
    alive,
    fake_spec,
    gone_within,
    script_spec,
)

from belvedere.engines.base import Endpoint, EngineSpec, HangPolicy, ReadyProbe, RestartPolicy

FOREVER = "import time\nprint('@phase weights\\n@phase ready', flush=True)\ntime.sleep(600)\n"
CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "x"}], "stream": True}
HANG = HangPolicy(timeout_s=2.0, suspect_timeout_s=1.0, poll_s=0.05)
PATIENT = HangPolicy(timeout_s=600.0, suspect_timeout_s=2.0, poll_s=0.05)


def keep(
    spec: EngineSpec,
    directory: Path,
    work: Callable[[Kept], Awaitable[None]],
    log_directory: Path | None = None,
) -> Kept:
    """Runs `work` beside a keeper, stops it and returns what it told."""

    async def run() -> Kept:
        kept = Kept(spec, directory, log_directory)
        try:
            await work(kept)
        finally:
            await kept.end()
        return kept

    return asyncio.run(run())


def client(directory: Path, name: str = "e") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url="http://engine",
        headers={"authorization": f"Bearer {KEY}"},
        transport=httpx2.AsyncHTTPTransport(uds=str(directory / f"{name}.sock")),
        timeout=TIMEOUT_S,
    )


async def end_of(kept: Kept) -> None:
    await kept.until_state("failed", "stopped")


async def play(directory: Path, **script: Any) -> None:
    async with client(directory) as http:
        assert (await http.post("/script", json={"queue": [script]})).status_code == 200


async def until_counted(directory: Path, **counts: int) -> None:
    """Until the engine's statistics say at least this."""
    async with asyncio.timeout(TIMEOUT_S), client(directory) as http:
        while True:
            stats = (await http.get("/stats")).json()
            if all(stats[name] >= count for name, count in counts.items()):
                return
            await asyncio.sleep(0.01)


async def one_request(directory: Path) -> None:
    """A request that may be cut off."""
    try:
        async with client(directory) as http:
            await http.post(CHAT, json={**LONG, "stream": False})
    except httpx2.TransportError:
        pass


def test_start_shows_phases_with_their_times_and_the_stop_is_clean(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = (
        "import pathlib, sys, time\n"
        "from belvedere.testing.__main__ import main\n"
        "print('@phase weights', flush=True)\n"
        f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
        "main(sys.argv[1:])\n"
    )

    async def work(kept: Kept) -> None:
        await kept.until(lambda status: status.phase == "weights")
        await asyncio.sleep(0.2)
        gate.touch()
        ready = await kept.until_state("ready")
        assert ready.launch == 1
        assert ready.crashes == 0
        assert alive(ready.pid)
        assert set(ready.phase_s) == {"spawning", "weights", "probe"}
        assert ready.phase_s["weights"] >= 0.2
        assert sum(ready.phase_s.values()) == pytest.approx(ready.elapsed_s, abs=0.05)

    made = fake_spec(tmp_path)
    spec = replace(made, argv=(made.argv[0], "-c", code, *made.argv[3:]))
    kept = keep(spec, tmp_path, work)
    assert kept.states == ["starting", "ready", "stopping", "stopped"]
    assert not alive(kept.seen[1].pid)
    assert kept.status.pid is None


def test_a_crash_is_followed_by_a_backoff_and_another_launch(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        first = await kept.until_state("ready")
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        backoff = await kept.until_state("backoff")
        assert backoff.retry_in_s == 0.015  # three quarters of base_s, with the injected chance
        assert backoff.pid is None
        assert backoff.crashes == 1
        assert backoff.exit_code == -signal.SIGKILL
        assert "signal 9" in str(backoff.error)
        second = await kept.until(lambda status: status.state == "ready")
        assert second.launch == 2
        assert second.pid != first.pid
        assert second.error is None
        assert second.retry_in_s is None

    keep(fake_spec(tmp_path), tmp_path, work)


def test_a_crash_loop_fails_after_n_with_the_last_lines(tmp_path: Path) -> None:
    kept = keep(fake_spec(tmp_path, "--start-fail", "crash"), tmp_path, end_of)
    status = kept.status
    assert kept.states == ["starting", "backoff"] * 2 + ["starting", "failed"]
    assert (status.launch, status.crashes, status.exit_code) == (3, 3, 7)
    assert "exit code 7" in str(status.error)
    assert status.log_tail == ("RuntimeError: the fake engine crashes at its start",)


def test_the_count_starts_anew_after_a_stable_time(tmp_path: Path) -> None:
    restart = RestartPolicy(max_crashes=2, base_s=0.01, stable_s=0.2)

    async def work(kept: Kept) -> None:
        for launch in (1, 2, 3, 4):
            status = await kept.until(
                lambda status, launch=launch: status.state == "ready" and status.launch == launch
            )
            status = await kept.until(lambda status: status.crashes == 0)
            assert status.pid is not None
            os.kill(status.pid, signal.SIGKILL)
            await kept.until(lambda status: status.state != "ready")

    kept = keep(script_spec(FOREVER, restart=restart), tmp_path, work)
    assert kept.status.state == "stopped"


@pytest.mark.parametrize(
    ("fault", "words"),
    [("exit0", "exit code 0"), ("error", "No weights.")],
)
def test_ends_that_would_be_the_same_again_are_final(
    tmp_path: Path, fault: str, words: str
) -> None:
    kept = keep(fake_spec(tmp_path, "--start-fail", fault), tmp_path, end_of)
    assert kept.states == ["starting", "failed"]
    assert kept.status.launch == 1
    assert words in str(kept.status.error)
    assert kept.status.remedy


def test_garbage_on_the_output_is_one_clear_error(tmp_path: Path) -> None:
    kept = keep(fake_spec(tmp_path, "--start-fail", "garbage", restart=ONCE), tmp_path, end_of)
    assert kept.states == ["starting", "failed"]
    assert "exit code 1" in str(kept.status.error)
    assert all(line.isprintable() and len(line) <= 1000 for line in kept.status.log_tail)


def test_an_error_report_after_it_was_ready_once_is_not_final(tmp_path: Path) -> None:
    flag, seen = tmp_path / "was-here", tmp_path / "seen"
    code = (
        "import pathlib, sys, time\n"
        f"flag, seen = pathlib.Path({str(flag)!r}), pathlib.Path({str(seen)!r})\n"
        "if flag.exists() and flag.read_text() == '1':\n"
        "    flag.write_text('2')\n"
        '    print(\'@error {"message": "memory is not free yet"}\')\n'
        "    sys.exit(1)\n"
        "print('@phase ready', flush=True)\n"
        "if not flag.exists():\n"
        "    while not seen.exists(): time.sleep(0.01)\n"
        "    flag.write_text('1'); sys.exit(1)\n"
        "time.sleep(600)\n"
    )

    async def work(kept: Kept) -> None:
        await kept.until_state("ready")
        seen.touch()
        await kept.until(lambda status: status.launch == 3 and status.state == "ready")

    kept = keep(script_spec(code, restart=QUICK), tmp_path, work)
    assert "memory is not free yet" in [status.error for status in kept.seen]


def test_an_engine_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    spec = fake_spec(tmp_path, "--start-fail", "never-ready", ready_timeout_s=0.5)
    kept = keep(spec, tmp_path, end_of)
    assert kept.states == ["starting", "failed"]
    assert "not ready after 0.5 s (phase" in str(kept.status.error)
    assert gone_within([kept.seen[1].pid], 30)


def test_a_silent_engine_is_asked_until_it_answers(tmp_path: Path) -> None:
    probe = ReadyProbe(PROBE.path, PROBE.body, announced=False)
    spec = fake_spec(tmp_path, "--silent", "--start-delay-s", "0.3", probe=probe)

    async def work(kept: Kept) -> None:
        status = await kept.until_state("ready")
        assert set(status.phase_s) == {"spawning", "probe"}

    keep(spec, tmp_path, work)


@pytest.mark.parametrize(
    ("fault", "words", "launches"),
    [("error", "HTTP status 500", 3), ("refuse", "HTTP status 400", 1), ("garbage", "without", 1)],
)
def test_a_failing_probe_is_a_failed_start(
    tmp_path: Path, fault: str, words: str, launches: int
) -> None:
    kept = keep(fake_spec(tmp_path, "--fail", fault), tmp_path, end_of)
    assert "ready" not in kept.states
    assert kept.status.state == "failed"
    assert words in str(kept.status.error)
    assert PROBE.path in str(kept.status.error)
    assert kept.status.launch == launches


def test_an_engine_that_ends_in_its_probe_is_told_by_its_end(tmp_path: Path) -> None:
    """The broken connection is seen before the end of the process that broke it."""
    uds = str(tmp_path / "e.sock")
    code = (
        "import os, socket, time\n"
        "server = socket.socket(socket.AF_UNIX)\n"
        f"server.bind({uds!r})\n"
        "server.listen()\n"
        "print('@phase ready', flush=True)\n"
        "server.accept()[0].close()\n"
        "time.sleep(0.3)\n"
        "os._exit(7)\n"
    )
    spec = replace(script_spec(code, probe=PROBE), endpoint=Endpoint("http://engine", uds))
    status = keep(spec, tmp_path, end_of).status
    assert "exit code 7" in str(status.error)
    assert status.exit_code == 7


def test_an_answer_without_choices_is_no_generation(tmp_path: Path) -> None:
    probe = ReadyProbe("/tokenize", {"prompt": "x"})
    kept = keep(fake_spec(tmp_path, probe=probe), tmp_path, end_of)
    assert "without a generation" in str(kept.status.error)


def test_an_open_port_that_generates_nothing_is_not_ready(tmp_path: Path) -> None:
    uds = str(tmp_path / "e.sock")
    code = (
        "import socket, time\n"
        f"server = socket.socket(socket.AF_UNIX)\nserver.bind({uds!r})\nserver.listen()\n"
        "print('@phase ready', flush=True)\ntime.sleep(600)\n"
    )
    made = script_spec(code, probe=PROBE, ready_timeout_s=10)
    kept = keep(replace(made, endpoint=Endpoint("http://engine", uds)), tmp_path, end_of)
    assert kept.states == ["starting", "failed"]
    assert "phase 'probe'" in str(kept.status.error)


@pytest.mark.parametrize("counters", ["stats", "metrics"])
def test_running_requests_without_progress_are_a_hang(tmp_path: Path, counters: Any) -> None:
    hang = HangPolicy(counters, timeout_s=2.0, poll_s=0.05)

    async def work(kept: Kept) -> None:
        first = await kept.until_state("ready")
        request = asyncio.create_task(one_request(tmp_path))
        backoff = await kept.until_state("backoff")
        assert "made no progress for" in str(backoff.error)
        second = await kept.until_state("ready")
        assert second.launch == 2
        assert not alive(first.pid)
        await request

    # Without a script that the test sends first: that would be one more chance to be too slow.
    arguments = ("--fail", "stall", "--fail-after", "2")
    keep(fake_spec(tmp_path, *arguments, hang=hang, probe=None), tmp_path, work)


@pytest.mark.parametrize("how", ["freeze", "stop signal"])
def test_an_engine_that_does_not_answer_is_replaced(tmp_path: Path, how: str) -> None:
    async def work(kept: Kept) -> None:
        first = await kept.until_state("ready")
        assert first.pid is not None
        request = None
        if how == "freeze":
            request = asyncio.create_task(one_request(tmp_path))
        else:
            os.kill(first.pid, signal.SIGSTOP)
        await kept.until(lambda status: status.state == "ready" and status.launch == 2)
        assert not alive(first.pid)
        if request is not None:
            await request

    fault = "freeze" if how == "freeze" else "none"
    keep(fake_spec(tmp_path, "--fail", fault, hang=HANG, probe=None), tmp_path, work)


def test_a_reported_timeout_finds_a_hang_long_before_the_watch_would(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        await kept.until_state("ready")
        await play(tmp_path, fail="stall")
        request = asyncio.create_task(one_request(tmp_path))
        await until_counted(tmp_path, running=1)
        kept.keeper.suspect()
        await kept.until(lambda status: status.launch == 2)
        await request

    keep(fake_spec(tmp_path, hang=PATIENT), tmp_path, work)


def test_a_suspect_that_works_is_left_alone(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        first = await kept.until_state("ready")
        await play(tmp_path, tokens=80, itl_s=0.1)
        request = asyncio.create_task(one_request(tmp_path))
        await until_counted(tmp_path, running=1)
        kept.keeper.suspect()
        await request
        await asyncio.sleep(0.5)
        assert kept.status.pid == first.pid
        assert kept.status.state == "ready"

    keep(fake_spec(tmp_path, hang=replace(PATIENT, suspect_timeout_s=5.0)), tmp_path, work)


def test_a_stop_lets_running_and_waiting_requests_finish(tmp_path: Path) -> None:
    spec = fake_spec(tmp_path, "--tokens", "40", "--itl-s", "0.1", "--max-num-seqs", "1")
    spec = replace(spec, drain_s=120)
    answers: list[dict[str, Any]] = []

    async def ask() -> None:
        async with client(tmp_path) as http:
            answers.append((await http.post(CHAT, json={**LONG, "stream": False})).json())

    async def work(kept: Kept) -> None:
        await kept.until_state("ready")
        requests = [asyncio.create_task(ask()) for _ in range(3)]
        await until_counted(tmp_path, requests=1 + 3)  # the first was the probe
        kept.keeper.stop(drain=True)
        await kept.until_state("draining")
        await asyncio.gather(*requests)
        await kept.until_state("stopped")

    kept = keep(spec, tmp_path, work)
    assert kept.states == ["starting", "ready", "draining", "stopping", "stopped"]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [40] * 3


def test_a_drain_ends_after_its_time_and_the_kill_after_the_grace(tmp_path: Path) -> None:
    arguments = ("--tokens", "100000", "--itl-s", "0.05", "--ignore-sigterm")
    spec = fake_spec(tmp_path, *arguments, drain_s=0.3, stop_grace_s=0.3, probe=None)

    async def work(kept: Kept) -> None:
        ready = await kept.until_state("ready")
        request = asyncio.create_task(one_request(tmp_path))
        await until_counted(tmp_path, running=1)
        kept.keeper.stop(drain=True)
        status = await kept.until_state("stopped")
        assert status.exit_code == -signal.SIGKILL
        assert not alive(ready.pid)
        await request

    kept = keep(spec, tmp_path, work)
    assert kept.states == ["starting", "ready", "draining", "stopping", "stopped"]


def test_a_stop_during_the_start_and_during_the_backoff_is_immediate(tmp_path: Path) -> None:
    async def starting(kept: Kept) -> None:
        await kept.until(lambda status: status.phase == "weights")
        kept.keeper.stop(drain=True)
        await asyncio.wait_for(asyncio.shield(kept.task), TIMEOUT_S)

    async def backoff(kept: Kept) -> None:
        await kept.until_state("backoff")
        kept.keeper.stop(drain=True)
        await asyncio.wait_for(asyncio.shield(kept.task), TIMEOUT_S)

    slow = fake_spec(tmp_path, "--start-delay-s", "600")
    assert keep(slow, tmp_path, starting).states == ["starting", "stopping", "stopped"]
    crashing = script_spec("raise SystemExit(1)", restart=RestartPolicy(base_s=600, cap_s=600))
    assert keep(crashing, tmp_path, backoff).states == ["starting", "backoff", "stopped"]


def test_a_child_in_a_session_of_its_own_dies_with_its_engine(tmp_path: Path) -> None:
    """Even one that holds the engine's output open."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        "print('child', child.pid, flush=True)\nprint('@phase ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    pids: list[int | None] = []

    async def work(kept: Kept) -> None:
        status = await kept.until_state("ready")
        (line,) = kept.keeper._log.tail(1)
        pids.extend([status.pid, int(line.split()[1])])
        assert alive(pids[1])

    keep(script_spec(code), tmp_path, work)
    assert gone_within(pids, 30)


def test_the_log_file_has_every_launch_is_private_and_knows_no_key(tmp_path: Path) -> None:
    code = "import os\nprint('key', os.environ['BELVEDERE_ENGINE_KEY'])\nraise SystemExit(1)"
    base = fake_spec(tmp_path, restart=RestartPolicy(max_crashes=2, base_s=0.01))
    spec = EngineSpec(
        "e", (base.argv[0], "-c", code), base.endpoint, base.env, restart=base.restart
    )
    logs = tmp_path / "logs"
    keep(spec, tmp_path, end_of, logs)
    path = logs / "e.log"
    text = path.read_text()
    assert text.count("key ***") == 2
    assert "--- launch 1 of e ---" in text
    assert "--- launch 2 of e ---" in text
    assert KEY not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_log_file_rotates(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        f"log, line = pathlib.Path({str(tmp_path / 'e.log')!r}), 'x' * 900\n"
        "def written():\n"
        "    try:\n"
        "        with log.open('rb') as file:\n"
        "            file.seek(max(0, log.stat().st_size - 100))\n"
        "            return file.read().strip()\n"
        "    except OSError:\n"
        "        return b''\n"
        "for batch in range(60):\n"
        "    print('\\n'.join([line] * 500) + f'\\nbatch {batch}', flush=True)\n"
        "    while not written().endswith(b'batch %d' % batch): time.sleep(0.01)\n"
        "raise SystemExit(1)"
    )
    keep(script_spec(code), tmp_path, end_of, tmp_path)
    files = sorted(path.name for path in tmp_path.glob("e.log*"))
    assert files == ["e.log", "e.log.1", "e.log.2"]
    assert all(path.stat().st_size <= 10_000_000 for path in tmp_path.glob("e.log*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("e.log*")} == {0o600}


def test_a_flood_of_log_lines_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    code = "import sys\nwhile True: sys.stdout.write('x' * 5000 + '\\n')"

    async def work(kept: Kept) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not kept.keeper._log.tail(1):
                await asyncio.sleep(0.01)
            for _ in range(100):
                await asyncio.sleep(0)
        assert kept.status.state == "starting"

    keep(script_spec(code), tmp_path, work, tmp_path)


def test_specs_survive_the_wire(tmp_path: Path) -> None:
    spec = fake_spec(tmp_path, labels={"model": "m"})
    assert EngineSpec.from_wire(json.loads(json.dumps(spec.to_wire()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"},
        {"name": ""},
        {"name": 3},
        {"argv": []},
        {"argv": [1]},
        {"argv": ["a\0b"]},
        {"env": {"A": 1}},
        {"env": ["A"]},
        {"endpoint": {"nonsense": 1}},
        {"drain_s": "soon"},
        {"unknown": 1},
        {"restart": 5},
    ],
)
def test_specs_that_are_none_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    wire = {**fake_spec(tmp_path).to_wire(), **change}
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        EngineSpec.from_wire(wire)
