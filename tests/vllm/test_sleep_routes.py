"""The routes of vLLM's sleep mode as the supervisor uses them, on the real vLLM.

The CPU build has no sleep mode: with the development routes on, ``/sleep`` stops its scheduler and
frees nothing, and the weights of level 2 are read again over the ones that are there. That is
enough to prove the order of the calls and what requests meet. That memory is freed needs a GPU:
``tests/gpu``.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere.engines.base import EngineSpec, SleepPolicy
from belvedere.engines.devices import ANY_DEVICE
from belvedere.engines.fleet import Fleet
from belvedere.engines.local_spec import MINI_NAME, mini_folder
from belvedere.engines.vllm_build import inspect_python
from belvedere.engines.vllm_launch import plan_launch
from belvedere.engines.vllm_spec import vllm_engine_spec
from belvedere.settings import load_settings

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
CHAT = "/v1/chat/completions"
ASK = {"model": MINI_NAME, "messages": [{"role": "user", "content": "Click Login"}]}


def spec_in(directory: Path) -> EngineSpec:
    """As `vllm_engine_spec` makes it with sleep mode, but for the flag that the CPU refuses."""
    engine = inspect_python(Path(os.environ["BELVEDERE_VLLM_PYTHON"]))
    wishes = {"dtype": "float32", "max_model_len": 4096, "max_batch_size": 4, "sleep_mode": True}
    settings = load_settings(wishes, environ={})
    folder, environ = mini_folder(), {"VLLM_CPU_KVCACHE_SPACE": "1"}
    launch = plan_launch(folder, settings, engine, (ANY_DEVICE,), (), environ)
    made = vllm_engine_spec("real", folder, directory, MINI_NAME, settings, launch)
    assert made.sleep == SleepPolicy(reload_timeout_s=settings.start_timeout_s)
    wire = made.to_wire()
    wire["argv"].remove("--enable-sleep-mode")
    return EngineSpec.from_wire(wire)


def client(spec: EngineSpec, *, key: bool = True) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url="http://engine",
        transport=httpx2.AsyncHTTPTransport(uds=spec.endpoint.uds),
        headers={"authorization": f"Bearer {spec.endpoint.api_key}"} if key else {},
        timeout=120,
    )


async def ask(spec: EngineSpec, max_tokens: int = 12) -> dict[str, Any]:
    body = {**ASK, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    async with client(spec) as http:
        response = await http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json()["choices"][0])


async def running(spec: EngineSpec) -> bool:
    async with client(spec) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return any(
        line.startswith("vllm:num_requests_running") and not line.endswith(" 0.0") for line in lines
    )


def test_sleep_and_waking_on_the_real_routes() -> None:
    async def work(fleet: Fleet, spec: EngineSpec) -> None:
        said = await ask(spec)
        for level in (1, 2):
            await fleet.sleep("real", level)
            assert fleet.statuses["real"].state == "asleep"
            async with client(spec, key=False) as stranger:
                assert (await stranger.get("/v1/models")).status_code == 401
                # vLLM asks for no key here: the private folder of the socket is what guards it
                assert (await stranger.get("/is_sleeping")).json() == {"is_sleeping": True}
            waiting = asyncio.create_task(ask(spec))
            await asyncio.sleep(2)
            assert not waiting.done(), "a request that comes in a sleep waits"
            await fleet.wake("real")
            assert (fleet.statuses["real"].state, fleet.statuses["real"].launch) == ("ready", 1)
            assert await waiting == said
            assert await ask(spec) == said

        long = asyncio.create_task(ask(spec, 3000))
        while not long.done() and not await running(spec):
            await asyncio.sleep(0.05)
        await fleet.sleep("real", 1, abort=True)
        assert (await long)["finish_reason"] == "abort"
        await fleet.wake("real")
        assert await ask(spec) == said

    async def run() -> None:
        async with Fleet.open() as fleet:
            spec = spec_in(fleet.directory)
            await fleet.start(spec)
            await fleet.wait_ready("real")
            await work(fleet, spec)

    asyncio.run(run())


def test_the_cpu_build_itself_says_that_it_has_no_sleep_mode() -> None:
    """What `belvedere` refuses before it starts anything."""
    code = "from vllm.platforms import current_platform as p; print(p.is_sleep_mode_available())"
    done = subprocess.run(
        [os.environ["BELVEDERE_VLLM_PYTHON"], "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"
