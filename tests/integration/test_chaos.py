"""A thousand bad inputs, disconnects and engine kills, all mixed: is the house still standing?

``CHAOS_REQUESTS`` makes it longer (``make soak``).
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import psutil
import pytest

from belvedere.engines.base import RestartPolicy
from tests.integration.callers import CHAT, asking
from tests.integration.serving import wait_until
from tests.integration.stage import LiveEngine, Stage

REQUESTS = int(os.environ.get("CHAOS_REQUESTS", "1000"))
WORKERS = 8
RESTLESS = RestartPolicy(max_crashes=10_000, base_s=0.1, cap_s=0.2)
KILL_EVERY_S = 1.0
FINE = {200}
REFUSED = {400, 404, 405, 408, 413, 415}
ENGINE_GONE = {502, 503, 504}
DEEP = b'{"messages":' + b"[" * 200_000


def bodies(model: str) -> list[tuple[bytes, set[int]]]:
    """Raw bodies and the statuses that they may get."""
    good = f'{{"model":"{model}","messages":[{{"role":"user","content":"Hi"}}]'.encode()
    bad = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{\x00}\x00",
        DEEP,
        good + b',"n":' + b"9" * 5000 + b"}",
        good + b',"temperature":NaN}',
        good + b',"temperature":1e400}',
        good + b',"n":1,"n":2}',
        good + b',"stop":"\\ud800"}',
        good + b',"stream":"yes"}',
        good + b',"n":1000000000}',
        good + b',"max_tokens":-1}',
        good + b',"wish":"unknown"}',
        good.replace(b'"Hi"', b'[{"type":"image","image":"file:///etc/passwd"}]') + b"}",
        good.replace(b'"Hi"', b'[{"type":"image","image":"http://127.0.0.1:1/a.png"}]') + b"}",
        good.replace(b'"Hi"', b'[{"type":"image","image":"data:image/png;base64,AAAA"}]') + b"}",
        good.replace(model.encode(), b"../../etc") + b"}",
    ]
    return [(body, REFUSED) for body in bad] + [(good + b"}", FINE | ENGINE_GONE)] * 6


@dataclass
class Toll:
    """What came back."""

    statuses: Counter[int]
    surprises: list[str]


class Mob:
    """Clients that send everything at once, one step a call."""

    def __init__(self, client: httpx2.Client, model: str) -> None:
        self.model = model
        self._client = client
        self.toll = Toll(Counter(), [])
        self._bodies = bodies(model)
        self._lock = threading.Lock()

    def step(self, number: int) -> None:
        chance = random.Random(number)
        acts: list[Callable[[random.Random], None]] = [self.send] * 7 + [self.leave, self.break_off]
        chance.choice(acts)(chance)

    def send(self, chance: random.Random) -> None:
        body, allowed = chance.choice(self._bodies)
        if allowed != REFUSED:  # one and the same request on two killed engines is quarantined
            body = body.replace(b'"Hi"', f'"Hi {chance.random()}"'.encode())
        headers = {"content-type": "application/json"}
        answer = self._client.post(CHAT, content=body, headers=headers, timeout=60)
        self._note(answer.status_code, allowed, body)
        if answer.status_code >= 400 and "message" not in answer.json()["error"]:
            self._surprise(f"{answer.text[:200]!r} is no error of ours")

    def leave(self, chance: random.Random) -> None:
        """Reads a bit of a stream and hangs up."""
        body = asking(self.model, f"Hello {chance.random()}", stream=True)
        with self._client.stream("POST", CHAT, json=body, timeout=60) as response:
            self._note(response.status_code, FINE | ENGINE_GONE, b"a stream")
            pieces = response.iter_raw(64)
            for _ in range(chance.randrange(4)):
                next(pieces, None)

    def break_off(self, chance: random.Random) -> None:
        """Hangs up in the middle of its own request."""
        host, port = self._client.base_url.host, self._client.base_url.port
        with socket.create_connection((host, port), timeout=10) as raw:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 5000\r\n"
            raw.sendall((head + "content-type: application/json\r\n\r\n{").encode())
            time.sleep(chance.random() / 50)

    def _note(self, status: int, allowed: set[int], body: bytes) -> None:
        with self._lock:
            self.toll.statuses[status] += 1
        if status not in allowed:
            self._surprise(f"{status} for {body[:100]!r}")

    def _surprise(self, what: str) -> None:
        with self._lock:
            self.toll.surprises.append(what)


def killing(engines: list[LiveEngine], stop: threading.Event) -> None:
    while not stop.wait(KILL_EVERY_S):
        pid = random.choice(engines).status.pid
        if pid is not None:
            try:
                psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                continue


def footprint(process: psutil.Process) -> tuple[int, int, int]:
    return process.memory_info().rss, process.num_fds(), process.num_threads()


@pytest.mark.timeout(0 if REQUESTS > 1000 else 300)
def test_the_house_stands_after_a_thousand_blows(stage: Stage, client: httpx2.Client) -> None:
    gateway = psutil.Process(stage.server.process.pid)
    mob = Mob(client, "chaos")
    options = ("--tokens", "6", "--itl-s", "0.01")
    with stage.cast("chaos", *options, replicas=3, restart=RESTLESS) as engines:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(mob.step, range(200)))
            before = settled(gateway)
            calm = threading.Event()
            pool.submit(killing, engines, calm)
            try:
                list(pool.map(mob.step, range(200, 200 + REQUESTS)))
            finally:
                calm.set()
        assert mob.toll.surprises == []
        assert mob.toll.statuses[200] > REQUESTS // 20
        assert wait_until(lambda: all(one.status.state == "ready" for one in engines), 60)
        assert wait_until(lambda: all(is_idle(one) for one in engines))
        assert wait_until(lambda: client.post(CHAT, json=asking("chaos")).status_code == 200)
        health = client.get("/health").json()
        assert health["queue"].get("chaos", 0) == 0
        grown_bytes = footprint(gateway)[0] - before[0]
        flat = wait_until(lambda: is_flat(before, footprint(gateway)), 120)
        assert flat, f"descriptors and threads grew: {before} -> {footprint(gateway)}"
    assert grown_bytes < 20 * 1024**2


def is_idle(engine: LiveEngine) -> bool:
    """Whether it has no request; of one that was killed just now nobody may have heard yet."""
    try:
        return engine.busy == 0
    except httpx2.TransportError:
        return False


def is_flat(before: tuple[int, int, int], now: tuple[int, int, int]) -> bool:
    """Idle connections end by themselves; what leaked would stay."""
    return now[1] - before[1] <= 5 and now[2] - before[2] <= 2


def settled(process: psutil.Process) -> tuple[int, int, int]:
    """Its footprint once closed connections are gone."""
    seen: list[Any] = [footprint(process)]
    for _ in range(20):
        time.sleep(0.2)
        seen.append(footprint(process))
        if seen[-1][1:] == seen[-2][1:]:
            break
    return footprint(process)
