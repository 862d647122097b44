"""The supervisor and its engines, with small scripts as engines: real processes, no torch."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest
from engine_scripts import alive, gone_within, script_spec

from belvedere.engines.base import Endpoint, EngineSpec, EngineStatus
from belvedere.engines.fleet import Fleet
from belvedere.errors import EngineStartFailed

READY = "import time\nprint('@phase weights', flush=True)\nprint('@phase ready', flush=True)\n"
FOREVER = READY + "time.sleep(600)\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER
WITH_CHILD = (
    "import subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n" + FOREVER
)


def with_fleet(work: Callable[[Fleet], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Fleet.open() as fleet:
            await asyncio.wait_for(work(fleet), 180)

    asyncio.run(run())


def test_phases_are_reported_and_the_end_leaves_nothing() -> None:
    seen: list[EngineStatus] = []

    async def work(fleet: Fleet) -> None:
        await fleet.start(script_spec(FOREVER))
        status = await fleet.wait_ready("e", seen.append)
        assert status.state == "ready"
        assert fleet.directory.stat().st_mode & 0o077 == 0

    with_fleet(work)
    assert seen[-1].phase == "ready"
    assert not alive(seen[-1].pid)


@pytest.mark.parametrize("script", [STUBBORN, WITH_CHILD], ids=["ignores SIGTERM", "has a child"])
def test_no_engine_survives_the_fleet(script: str) -> None:
    pids: list[int | None] = []

    async def work(fleet: Fleet) -> None:
        await fleet.start(script_spec(script, stop_grace_s=0.3))
        status = await fleet.wait_ready("e")
        assert status.pid is not None
        pids.append(status.pid)
        pids.extend(child.pid for child in psutil.Process(status.pid).children(recursive=True))

    with_fleet(work)
    assert gone_within(pids, 30)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        ("pass", "exit code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ('print(\'@error {"message": "no weights", "remedy": "copy"}\')', "no weights"),
        ("print('the last words'); raise SystemExit(1)", "the last words"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\x00' * 3_000_000); sys.exit(5)", "code 5"),
    ],
)
def test_a_failed_start_says_why(script: str, words: str) -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.start(script_spec(script))
        with pytest.raises(EngineStartFailed, match=words):
            await fleet.wait_ready("e")
        assert fleet.statuses["e"].state == "failed"

    with_fleet(work)


def test_a_program_that_does_not_exist() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.start(EngineSpec("e", ("/no/such/program",), Endpoint("http://e")))
        with pytest.raises(EngineStartFailed, match="cannot be started"):
            await fleet.wait_ready("e")

    with_fleet(work)


def test_an_engine_that_is_never_ready_is_killed() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.start(script_spec("import time; time.sleep(600)", ready_timeout_s=0.5))
        with pytest.raises(EngineStartFailed, match="not ready after"):
            await fleet.wait_ready("e")
        assert psutil.Process(fleet._line.pid).children(recursive=True) == []

    with_fleet(work)


def test_stopping_one_engine_keeps_the_other() -> None:
    async def work(fleet: Fleet) -> None:
        for name in ("a", "b"):
            await fleet.start(script_spec(FOREVER, name))
            await fleet.wait_ready(name)
        await fleet.stop("a")
        assert await fleet.wait_stopped("a", 60)
        assert fleet.statuses["a"].state == "stopped"
        assert alive(fleet.statuses["b"].pid)
        assert not alive(fleet.statuses["a"].pid)

    with_fleet(work)


def test_a_killed_supervisor_takes_its_engines_along() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.start(script_spec(FOREVER))
        pid = (await fleet.wait_ready("e")).pid
        assert pid is not None
        os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
        await fleet.lost.wait()
        assert gone_within([pid], 30)

    with_fleet(work)


@pytest.mark.parametrize(("linger_s", "survives"), [(0.0, False), (120.0, True)])
def test_a_dead_client_ends_the_engines_after_the_linger(linger_s: float, survives: bool) -> None:
    """A gateway that is killed leaves nothing behind, or warm engines for its successor."""
    code = (
        "import asyncio, os, signal, sys\n"
        "from belvedere.engines.base import Endpoint, EngineSpec\n"
        "from belvedere.engines.fleet import Fleet\n"
        "async def main():\n"
        f"    async with Fleet.open(linger_s={linger_s}) as fleet:\n"
        f"        argv = (sys.executable, '-c', {FOREVER!r})\n"
        "        await fleet.start(EngineSpec('e', argv, Endpoint('http://e')))\n"
        "        print((await fleet.wait_ready('e')).pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=180, check=False
    )
    pid = int(done.stdout)
    if survives:
        time.sleep(0.5)
        assert alive(pid)
        psutil.Process(psutil.Process(pid).ppid()).terminate()
    assert gone_within([pid], 30)
