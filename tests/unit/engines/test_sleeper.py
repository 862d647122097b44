"""The sleep of one engine: vLLM's routes, its states, and what goes wrong, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from engine_scripts import KEY, TIMEOUT_S, Kept, alive, fake_spec

from belvedere.engines.base import EngineSpec, HangPolicy, SleepPolicy
from belvedere.engines.sleeper import CannotSleep

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "x"}]}
WATCHFUL = HangPolicy(timeout_s=6.0, suspect_timeout_s=3.0, poll_s=0.05)
BRIEF = SleepPolicy(timeout_s=5.0, reload_timeout_s=5.0)


def spec_of(directory: Path, *arguments: str, **options: Any) -> EngineSpec:
    options.setdefault("sleep", SleepPolicy())
    return fake_spec(directory, "--sleep-mode", *arguments, **options)


def keep(spec: EngineSpec, directory: Path, work: Callable[[Kept], Awaitable[None]]) -> Kept:
    async def run() -> Kept:
        kept = Kept(spec, directory)
        try:
            await kept.until_state("ready")
            await work(kept)
        finally:
            await kept.end()
        return kept

    return asyncio.run(run())


def client(directory: Path) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url="http://engine",
        headers={"authorization": f"Bearer {KEY}"},
        transport=httpx2.AsyncHTTPTransport(uds=str(directory / "e.sock")),
        timeout=TIMEOUT_S,
    )


async def stats(directory: Path) -> dict[str, int]:
    async with client(directory) as http:
        return dict((await http.get("/stats")).json())


async def ask(directory: Path, max_tokens: int = 1) -> dict[str, Any]:
    async with client(directory) as http:
        answer = (await http.post(CHAT, json={**ASK, "max_tokens": max_tokens})).json()
    return dict(answer["choices"][0])


async def until_running(directory: Path) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not (await stats(directory))["running"]:
            await asyncio.sleep(0.01)


async def asleep(kept: Kept) -> None:
    await kept.until(lambda status: status.phase == "asleep")


@pytest.mark.parametrize("level", [1, 2])
def test_it_sleeps_and_wakes_as_the_same_process(tmp_path: Path, level: int) -> None:
    async def work(kept: Kept) -> None:
        pid = kept.status.pid
        kept.keeper.sleep(level, abort=False)
        await asleep(kept)
        assert (kept.status.state, kept.status.sleep_level) == ("asleep", level)
        kept.keeper.wake()
        await kept.until_state("ready")
        assert (kept.status.pid, kept.status.launch, kept.status.sleep_level) == (pid, 1, None)
        assert (await ask(tmp_path))["message"]["content"] == "tok0 "
        told = await stats(tmp_path)
        assert told["sleeps"] == 1
        assert told["reloads"] == (1 if level == 2 else 0)

    kept = keep(spec_of(tmp_path), tmp_path, work)
    assert kept.states == ["starting", "ready", "asleep", "ready", "stopping", "stopped"]
    phases = [status.phase for status in kept.seen if status.state == "asleep"]
    assert phases == ["falling asleep", "asleep", "waking"]


def test_a_sleep_longer_than_the_hang_timeout_is_no_hang(tmp_path: Path) -> None:
    """Not even with a request in it, nor when a gateway reports a timeout."""

    async def work(kept: Kept) -> None:
        kept.keeper.sleep(1, abort=False)
        await asleep(kept)
        waiting = asyncio.create_task(ask(tmp_path))
        kept.keeper.suspect()
        await asyncio.sleep(8)
        assert (kept.status.state, kept.status.launch) == ("asleep", 1)
        assert not waiting.done()
        kept.keeper.wake()
        await kept.until_state("ready")
        assert (await waiting)["finish_reason"] == "stop"
        await asyncio.sleep(0.5)
        assert (kept.status.state, kept.status.launch) == ("ready", 1)

    keep(spec_of(tmp_path, hang=WATCHFUL), tmp_path, work)


def test_a_timeout_reported_with_the_order_does_not_keep_it_awake(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        await asyncio.sleep(0.1)  # the watch over it has begun its long pause
        kept.keeper.sleep(1, abort=False)
        kept.keeper.suspect()
        await asleep(kept)

    keep(spec_of(tmp_path, hang=HangPolicy(poll_s=600)), tmp_path, work)


def test_running_requests_finish_first(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        running = asyncio.create_task(ask(tmp_path, 60))
        await until_running(tmp_path)
        kept.keeper.sleep(1, abort=False)
        assert kept.status.phase == "falling asleep"
        await asleep(kept)
        assert (await running)["finish_reason"] == "stop"

    keep(spec_of(tmp_path, "--tokens", "60", "--itl-s", "0.1", drain_s=120), tmp_path, work)


@pytest.mark.parametrize("abort", [True, False])
def test_they_are_cut_off_by_wish_and_after_the_drain_time(tmp_path: Path, abort: bool) -> None:
    async def work(kept: Kept) -> None:
        running = asyncio.create_task(ask(tmp_path, 100_000))
        await until_running(tmp_path)
        kept.keeper.sleep(1, abort=abort)
        await asleep(kept)
        assert (await running)["finish_reason"] == "abort"

    drain_s = 20.0 if abort else 0.3
    arguments = ("--tokens", "100000", "--itl-s", "0.03")
    keep(spec_of(tmp_path, *arguments, drain_s=drain_s), tmp_path, work)


@pytest.mark.parametrize("fault", ["error", "hang", "exit"])
@pytest.mark.parametrize("when", ["sleep", "wake"])
def test_what_fails_is_started_again_awake(tmp_path: Path, when: str, fault: str) -> None:
    async def work(kept: Kept) -> None:
        pid = kept.status.pid
        kept.keeper.sleep(1, abort=False)
        if when == "wake":
            await asleep(kept)
            kept.keeper.wake()
        backoff = await kept.until_state("backoff")
        failed = {"sleep": "did not fall asleep", "wake": "did not wake up"}[when]
        if fault == "exit":  # the end of the process and of its answer are seen in either order
            assert failed in str(backoff.error) or "exit code 9" in str(backoff.error)
        else:
            assert failed in str(backoff.error)
        again = await kept.until_state("ready")
        assert (again.launch, again.sleep_level) == (2, None)
        assert not alive(pid)
        assert (await ask(tmp_path))["finish_reason"] == "stop"

    policy = BRIEF if fault == "hang" else SleepPolicy()
    keep(spec_of(tmp_path, f"--{when}-fail", fault, sleep=policy, drain_s=2), tmp_path, work)


def test_a_crash_in_the_sleep_is_followed_by_a_start_awake(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        kept.keeper.sleep(2, abort=False)
        await asleep(kept)
        assert kept.status.pid is not None
        os.kill(kept.status.pid, signal.SIGKILL)
        await kept.until_state("backoff")
        again = await kept.until_state("ready")
        assert (again.launch, again.sleep_level) == (2, None)
        assert (await ask(tmp_path))["message"]["content"] == "tok0 "

    keep(spec_of(tmp_path), tmp_path, work)


def test_a_sleeping_engine_is_stopped_without_being_woken(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        kept.keeper.sleep(1, abort=False)
        await asleep(kept)
        kept.keeper.stop(drain=True)
        await kept.until_state("stopped")

    kept = keep(spec_of(tmp_path), tmp_path, work)
    assert kept.states == ["starting", "ready", "asleep", "stopping", "stopped"]


def test_orders_at_the_wrong_time(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        kept.keeper.wake()
        assert kept.status.state == "ready"
        kept.keeper.sleep(1, abort=False)
        kept.keeper.sleep(2, abort=False)
        kept.keeper.wake()
        with pytest.raises(CannotSleep, match="falling asleep"):
            kept.keeper.sleep(1, abort=False)
        await kept.until_state("ready")
        told = await stats(tmp_path)
        assert (told["sleeps"], told["wakes"]) == (1, 1)
        assert kept.status.pid is not None
        os.kill(kept.status.pid, signal.SIGKILL)
        await kept.until_state("backoff")
        for order in (lambda: kept.keeper.sleep(1, abort=False), kept.keeper.wake):
            with pytest.raises(CannotSleep, match="backoff"):
                order()

    keep(spec_of(tmp_path), tmp_path, work)


def test_an_engine_without_sleep_mode_is_left_alone(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        with pytest.raises(CannotSleep, match="without sleep mode"):
            kept.keeper.sleep(1, abort=False)
        assert kept.status.state == "ready"

    keep(fake_spec(tmp_path), tmp_path, work)
