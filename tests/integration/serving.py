"""Starts ``belvedere serve`` as a user would, and looks after it."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from belvedere.engines.cpu_instructions import ISA_VARIABLE

START_TIMEOUT_S = 300.0
BELVEDERE = [sys.executable, "-m", "belvedere"]


@dataclass
class RunningServer:
    """A server process and what it has printed up to now."""

    process: subprocess.Popen[str]
    url: str
    stderr: list[str] = field(default_factory=list)
    drain: threading.Thread | None = field(default=None, repr=False)

    def ended(self, timeout_s: float = 120.0) -> int:
        """Its exit code; all that it and its children wrote is in `stderr` then."""
        code = self.process.wait(timeout_s)
        assert self.drain is not None
        self.drain.join(timeout_s)
        assert not self.drain.is_alive(), "a child of the server lives on"
        return code

    def descendants(self) -> list[psutil.Process]:
        """The supervisor, the engine and whatever they started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def running(self, module: str) -> list[psutil.Process]:
        """The descendants that run ``python -m module``."""
        return [one for one in self.descendants() if module in _command_line(one)]

    def descendant(self, module: str) -> psutil.Process:
        """The one descendant that runs ``python -m module``."""
        (found,) = self.running(module)
        return found


@contextmanager
def running_server(
    *arguments: str,
    env: dict[str, str] | None = None,
    ready: bool = True,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[RunningServer]:
    """``belvedere serve --port 0``; ended at the end if it still runs.

    Args:
        arguments: further ones; the last ``--port`` counts.
        ready: wait until the model answers; otherwise only until the process was started.
    """
    process = subprocess.Popen(
        [*BELVEDERE, "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(env),
    )
    server = RunningServer(process, url="")
    drain = threading.Thread(target=_collect, args=(process, server.stderr), daemon=True)
    server.drain = drain
    drain.start()
    try:
        if ready:
            server.url = _url(process, server.stderr, start_timeout_s)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        drain.join(60)
        assert process.stdout is not None
        process.stdout.close()


@cache
def private_state() -> dict[str, str]:
    """Variables that keep sockets, logs and state of this test run out of the user's folders.

    The path is short, because those of sockets may have no more than 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="bv-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    places = {"XDG_STATE_HOME": folder / "state", "XDG_RUNTIME_DIR": folder / "run"}
    for place in places.values():
        place.mkdir(mode=0o700)
    return {name: str(place) for name, place in places.items()}


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This environment without what only the tests or whoever runs them have set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BELVEDERE_") and name != ISA_VARIABLE
    }
    return {**kept, **private_state(), "PYTHONUNBUFFERED": "1", **(extra or {})}


def quiet_port() -> int:
    """A free port that is none of those that the kernel gives to whoever asks for any.

    One of those might be somebody else's before the test has bound it, or bound it again.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    first, last = map(int, limits)
    quiet = [*range(10_000, first), *range(last + 1, 65_536)] or range(first, last)
    while True:
        port = random.SystemRandom().choice(quiet)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_gone(processes: list[psutil.Process], timeout_s: float = 60.0) -> list[psutil.Process]:
    """Those of `processes` that still run after `timeout_s`."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return [one for one in alive if _runs(one)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> bool:
    """Whether `condition` became true in time."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _url(process: subprocess.Popen[str], stderr: list[str], timeout_s: float) -> str:
    assert process.stdout is not None
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            if found := re.search(r"at (http://\S+)/v1", line):
                return found.group(1)
    finally:
        timer.cancel()
    raise AssertionError(f"the server did not start:\n{''.join(stderr)}")


def _collect(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stderr is not None
    with process.stderr as stream:
        lines.extend(stream)
