"""The fake engine as a process: ``python -m belvedere.testing``, with faults at its start."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import TypeVar

import uvicorn

from belvedere.testing.fake_engine import FakeEngine, server_config
from belvedere.testing.script import Capacity, Script
from belvedere.testing.sleep_mode import SleepScript

_KEY_VARIABLE = "BELVEDERE_ENGINE_KEY"
_START_FAULTS = ("none", "exit0", "garbage", "crash", "never-ready", "error")
_GRACE_S = 5
T = TypeVar("T", Script, Capacity, SleepScript)


def main(argv: list[str] | None = None) -> None:
    """Runs the engine until it is terminated; the bearer key is `BELVEDERE_ENGINE_KEY`."""
    parser = argparse.ArgumentParser(prog="python -m belvedere.testing", description=__doc__)
    parser.add_argument("--uds", help="Unix socket to listen on")
    parser.add_argument("--port", type=int, default=0, help="loopback port, without --uds")
    parser.add_argument("--model", default="fake", help="the name it serves")
    parser.add_argument("--start-delay-s", type=float, default=0.0, help="phase 'weights'")
    parser.add_argument("--start-fail", choices=_START_FAULTS, default="none")
    parser.add_argument("--ignore-sigterm", action="store_true", help="only SIGKILL ends it")
    parser.add_argument("--silent", action="store_true", help="announce no phases, like vLLM")
    for options in (Script, Capacity, SleepScript):
        for entry in fields(options):
            _add_flag(parser, entry.name, entry.default)
    given = parser.parse_args(argv)
    _start(given.start_fail, given.start_delay_s, given.silent)
    engine = FakeEngine(
        _chosen(Script, given),
        model=given.model,
        api_key=os.environ.get(_KEY_VARIABLE),
        capacity=_chosen(Capacity, given),
        sleep=_chosen(SleepScript, given),
    )
    where = {"uds": given.uds} if given.uds else {"host": "127.0.0.1", "port": given.port}
    config = server_config(engine.app(), timeout_graceful_shutdown=_GRACE_S, **where)
    if given.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = _Stubborn(config) if given.ignore_sigterm else uvicorn.Server(config)
    asyncio.run(_serve(server, given.silent))


class _Stubborn(uvicorn.Server):
    """Does not listen to signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _add_flag(parser: argparse.ArgumentParser, name: str, default: object) -> None:
    flag = "--" + name.replace("_", "-")
    if default is False:
        parser.add_argument(flag, action="store_true")
    else:
        parser.add_argument(flag, type=type(default), default=default)


def _chosen(kind: type[T], given: argparse.Namespace) -> T:
    return kind(**{entry.name: getattr(given, entry.name) for entry in fields(kind)})


def _start(fault: str, delay_s: float, silent: bool) -> None:
    """The start-up phase, and the faults that happen in it."""
    if not silent:
        _say("@phase weights")
    time.sleep(delay_s)
    match fault:
        case "exit0":
            sys.exit(0)
        case "crash":
            _say("RuntimeError: the fake engine crashes at its start")
            os._exit(7)
        case "error":
            _say("@error " + json.dumps({"message": "No weights.", "remedy": "Copy them."}))
            sys.exit(1)
        case "garbage":
            sys.stdout.buffer.write(os.urandom(200_000))
            sys.stdout.buffer.flush()
            sys.exit(1)
        case "never-ready":
            while True:
                time.sleep(3600)


async def _serve(server: uvicorn.Server, silent: bool) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started and not silent:
        _say("@phase ready")
    await serving


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the engine's word to its supervisor


if __name__ == "__main__":
    main()
