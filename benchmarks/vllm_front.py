"""What the gateway costs in front of the real vLLM, and vLLM's own load client against it.

``python benchmarks/vllm_front.py [--quick] [--json FILE]`` starts ``belvedere serve --engine vllm``
with the shipped model (BELVEDERE_VLLM_PYTHON names a Python with vLLM; without it the installed
environment is used) and asks one and the same engine about the same images: straight, on its Unix
socket, and through the gateway.

- One client: both ways in turn, request by request; the difference of the median latencies.
- Eight clients: rounds of both ways in changing order; the ratio of the throughputs.
- ``vllm.benchmarks.serve``, vLLM's load client, unchanged, with random images, against the gateway.

No image is sent twice on one way, the gateway's image cache is off, and 640x400 is no size that
the model takes as it is: the engine sees pixels of its own processor on one way and ours on the
other, so nothing that was computed for one is found again for the other. Exit status 1 when the
throughput is below 0.95 of the straight one or the median is more than 5 ms above it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
from gateway import going_first
from pictures import screenshot

from belvedere.engines.local_spec import mini_folder

MODEL = "mini"
SIZE = (640, 400)
OUTPUT_TOKENS = 16
CLIENTS = 8
LEAST_THROUGHPUT = 0.95
MOST_ADDED_MS = 5.0
START_TIMEOUT_S = 600.0
PEER = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main; "
    "parser = argparse.ArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)


@dataclass(frozen=True)
class Effort:
    """How much is asked."""

    single: int
    rounds: int
    per_round: int
    peer: int


FULL = Effort(single=60, rounds=5, per_round=64, peer=48)
QUICK = Effort(single=10, rounds=2, per_round=24, peer=8)


@dataclass(frozen=True)
class Result:
    """Medians; `ratio` of requests a second, gateway over straight, and the worst round's."""

    straight_p50_ms: float
    gateway_p50_ms: float
    added_p50_ms: float
    straight_rps: float
    gateway_rps: float
    ratio: float
    worst_ratio: float
    peer: dict[str, Any]


@dataclass(frozen=True)
class Way:
    """Where requests go."""

    name: str
    client: httpx2.AsyncClient

    async def ask(self, body: dict[str, Any]) -> float:
        """Milliseconds to the whole answer."""
        started = time.perf_counter()
        answer = await self.client.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            raise SystemExit(f"{self.name}: {answer.status_code} {answer.text[:300]}")
        tokens = answer.json()["usage"]["completion_tokens"]
        assert tokens == OUTPUT_TOKENS, f"{self.name} wrote {tokens} tokens"
        return (time.perf_counter() - started) * 1e3


def body(number: int) -> dict[str, Any]:
    file = io.BytesIO()
    screenshot(SIZE, seed=number).save(file, "PNG", compress_level=1)
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Click the Login button"},
    ]
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": OUTPUT_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    }


@contextmanager
def served() -> Iterator[tuple[str, str, str]]:
    """URL of the gateway; socket and key of its engine."""
    env = {**os.environ, "IMAGE_CACHE_BYTES": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    env.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    arguments = ["--port", "0", "--engine", "vllm", "--dtype", "float32"]
    arguments += ["--served-model-name", MODEL, "--max-model-len", "8192"]
    if python := os.environ.get("BELVEDERE_VLLM_PYTHON"):
        arguments += ["--engine-python", python]
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "belvedere", "serve", *arguments]
        server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1:]
            if not url:
                log.seek(0)
                raise SystemExit(f"The server did not start:\n{log.read()[-2000:]}")
            yield url[0].removesuffix("/v1"), *engine_of(server.pid)
        finally:
            server.terminate()
            server.wait(60)


def engine_of(pid: int) -> tuple[str, str]:
    for process in psutil.Process(pid).children(recursive=True):
        argv = process.cmdline()
        if "--uds" in argv and "vllm.entrypoints.openai.api_server" in argv:
            return argv[argv.index("--uds") + 1], process.environ()["VLLM_API_KEY"]
    raise SystemExit("No vLLM runs behind the server.")


async def measure(url: str, socket: str, key: str, effort: Effort) -> dict[str, float]:
    transport = httpx2.AsyncHTTPTransport(uds=socket)
    headers = {"authorization": f"Bearer {key}"}
    straight = httpx2.AsyncClient(
        transport=transport, base_url="http://engine", headers=headers, timeout=300
    )
    through = httpx2.AsyncClient(base_url=url, timeout=300)
    async with straight, through:
        ways = (Way("straight", straight), Way("gateway", through))
        for number in range(3):
            for way in ways:
                await way.ask(body(number))
        single = await one_client(ways, effort.single)
        rounds = [await eight_clients(ways, index, effort) for index in range(effort.rounds)]
    ratios = [of["gateway"] / of["straight"] for of in rounds]
    return {
        "straight_p50_ms": single["straight"],
        "gateway_p50_ms": single["gateway"],
        "added_p50_ms": single["gateway"] - single["straight"],
        "straight_rps": statistics.median(of["straight"] for of in rounds),
        "gateway_rps": statistics.median(of["gateway"] for of in rounds),
        "ratio": statistics.median(ratios),
        "worst_ratio": min(ratios),
    }


async def one_client(ways: tuple[Way, ...], count: int) -> dict[str, float]:
    took: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(count):
        asked = body(10_000 + number)
        for way in ways if number % 2 else ways[::-1]:
            took[way.name].append(await way.ask(asked))
    return {name: statistics.median(values) for name, values in took.items()}


async def eight_clients(ways: tuple[Way, ...], index: int, effort: Effort) -> dict[str, float]:
    """Requests a second of each way."""
    count = effort.per_round
    bodies = [body(20_000 + index * count + number) for number in range(count)]
    rates = {}
    for way in ways if index % 2 else ways[::-1]:
        waiting = iter(bodies)

        async def client(way: Way = way, waiting: Iterator[dict[str, Any]] = waiting) -> None:
            for asked in waiting:
                await way.ask(asked)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        rates[way.name] = count / (time.perf_counter() - started)
    return rates


def peer_client(url: str, prompts: int) -> dict[str, Any]:
    """vLLM's own load client; its summary."""
    python = os.environ.get("BELVEDERE_VLLM_PYTHON")
    if python is None:
        return {"skipped": "BELVEDERE_VLLM_PYTHON is not set"}
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "backend": "openai-chat",
            "endpoint": "/v1/chat/completions",
            "base-url": url,
            "model": MODEL,
            "tokenizer": mini_folder(),
            "dataset-name": "random-mm",
            "num-prompts": prompts,
            "max-concurrency": CLIENTS,
            "random-input-len": 32,
            "random-output-len": OUTPUT_TOKENS,
            "random-mm-base-items-per-request": 1,
            "random-mm-limit-mm-per-prompt": '{"image": 1, "video": 0}',
            "random-mm-bucket-config": f"{{({SIZE[1]}, {SIZE[0]}, 1): 1.0}}",
            "result-dir": folder,
            "result-filename": "result.json",
        }
        argv = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command = [python, "-c", PEER, *argv, "--save-result", "--ignore-eos", "--disable-tqdm"]
        quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise SystemExit(f"vllm.benchmarks.serve failed:\n{done.stderr[-2000:]}")
        result = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    names = ("completed", "failed", "request_throughput", "median_ttft_ms", "median_itl_ms")
    return {name: result.get(name) for name in names}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    with served() as (url, socket, key):
        with going_first():
            figures = asyncio.run(measure(url, socket, key, effort))
        result = Result(**figures, peer=peer_client(url, effort.peer))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("                     straight   gateway")
    print(f"1 client, p50 ms     {result.straight_p50_ms:8.1f}  {result.gateway_p50_ms:8.1f}")
    print(f"{CLIENTS} clients, requests/s {result.straight_rps:7.2f}  {result.gateway_rps:8.2f}")
    print(f"added p50 {result.added_p50_ms:.1f} ms, throughput x{result.ratio:.3f}")
    print(f"(worst round x{result.worst_ratio:.3f})")
    print(f"vllm.benchmarks.serve against the gateway: {result.peer}")
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    misses = result.ratio < LEAST_THROUGHPUT or result.added_p50_ms > MOST_ADDED_MS
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
