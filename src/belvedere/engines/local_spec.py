"""How the embedded engine is started: checks that need no torch, and its `EngineSpec`."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from belvedere.engines.base import (
    Endpoint,
    EngineSpec,
    HangPolicy,
    LogRules,
    ReadyProbe,
    RestartPolicy,
)
from belvedere.engines.devices import ANY_DEVICE, Devices
from belvedere.engines.local.cores import physical_cores
from belvedere.engines.local.folder import inspect_folder
from belvedere.errors import MissingExtra, SettingsError
from belvedere.settings import Settings

__all__ = ["LOCAL_FEATURES", "MINI_NAME", "check_local", "local_engine_spec", "mini_folder"]

MINI_NAME = "belvedere-mini"
_QUANTIZATIONS = ("awq", "gptq", "fp8", "bitsandbytes")
_WEIGHTS_NOTE = r"Model loading took [\d.]+ GiB"
"""vLLM's words, which `belvedere.engines.vllm_report` reads."""
_NEEDED_MODULES = ("torch", "transformers", "torchvision", "safetensors")

LOCAL_FEATURES = frozenset(
    {
        "/apply_template",
        "/detokenize",
        "/tokenize",
        "/v1/completions",
        "chat_template_kwargs",
        "frequency_penalty",
        "ignore_eos",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)
"""The parameters and routes of the embedded engine, as `Model.features` names them."""


def mini_folder() -> Path:
    """The folder of the model that ships in the package."""
    return Path(str(resources.files("belvedere") / "mini"))


def check_local(folder: Path, settings: Settings) -> None:
    """Refuses at once what the embedded engine would refuse after loading its libraries.

    Raises:
        MissingExtra: torch or transformers are not installed.
        ModelFolderError: a file of the model is missing or broken.
        SettingsError: a setting that this engine or this folder cannot meet.
    """
    has_weights = settings.load_format == "auto"
    config = inspect_folder(folder, has_weights=has_weights).config
    _check_quantization(config, settings.quantization)
    if settings.tensor_parallel_size != 1:
        raise SettingsError(
            f"The embedded engine cannot share a model among {settings.tensor_parallel_size} GPUs.",
            remedy="Leave out --tensor-parallel-size.",
        )
    defaults = {"load_format": "auto", "tool_call_parser": None, "reasoning_parser": None}
    for setting, default in defaults.items():
        if getattr(settings, setting) != default:
            flag = "--" + setting.replace("_", "-")
            raise SettingsError(
                f"{flag} is for vLLM, and the model runs on the embedded engine.",
                remedy=f"Leave out {flag}, or use --engine vllm.",
            )
    missing = [module for module in _NEEDED_MODULES if find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"The embedded engine needs {', '.join(missing)}.",
            remedy='Install it with: pip install "belvedere[local]"',
        )


def local_engine_spec(
    name: str,
    folder: Path,
    directory: Path,
    served_name: str,
    settings: Settings,
    *,
    devices: Devices = ANY_DEVICE,
    cpu_share: int = 1,
    labels: Mapping[str, str] | None = None,
) -> EngineSpec:
    """The embedded engine on a Unix socket in `directory`, with a fresh random key.

    Args:
        name: of the engine; also of its socket.
        devices: the GPUs it may see.
        cpu_share: engines that share the cores of this machine.
        labels: for the gateway that serves it.
    """
    socket = directory / f"{secrets.token_hex(4)}.sock"
    key = secrets.token_urlsafe(32)
    argv = [sys.executable, "-m", "belvedere.engines.local", "--model", str(folder)]
    argv += ["--served-model-name", served_name, "--uds", str(socket)]
    device = settings.device.partition(":")[0] if devices.gpu_ids else settings.device
    argv += ["--device", device, "--dtype", settings.dtype]
    if settings.max_model_len is not None:
        argv += ["--max-model-len", str(settings.max_model_len)]
    if settings.max_batch_size is not None:
        argv += ["--max-num-seqs", str(settings.max_batch_size)]
    if settings.batch_timeout_ms:
        argv += ["--batch-timeout-ms", str(settings.batch_timeout_ms)]
    if settings.gpu_memory_utilization is not None:
        argv += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    if settings.trust_remote_code:
        argv.append("--trust-remote-code")
    env = {"BELVEDERE_ENGINE_KEY": key, "PYTHONUNBUFFERED": "1", **devices.env}
    if cpu_share > 1 and not devices.gpu_ids:
        env["OMP_NUM_THREADS"] = str(max(1, physical_cores() // cpu_share))
    hello = {"model": served_name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    return EngineSpec(
        name=name,
        argv=tuple(argv),
        endpoint=Endpoint("http://engine", uds=str(socket), api_key=key),
        env=env,
        labels=dict(labels or {}),
        probe=ReadyProbe("/v1/chat/completions", hello),
        log=LogRules(notes=(_WEIGHTS_NOTE,)),
        hang=HangPolicy(timeout_s=settings.hang_timeout_s),
        restart=RestartPolicy(max_crashes=settings.max_crashes),
        ready_timeout_s=settings.start_timeout_s,
        drain_s=settings.drain_timeout_s,
    )


def _check_quantization(config: dict[str, Any], wanted: str | None) -> None:
    """transformers loads what the folder was saved with; a flag can only confirm that."""
    if wanted is None:
        return
    if wanted not in _QUANTIZATIONS:
        gone = " (vLLM removed it)" if wanted == "squeezellm" else ""
        raise SettingsError(
            f"The quantisation {wanted!r} is not supported{gone}.",
            remedy=f"Choose among {', '.join(_QUANTIZATIONS)}.",
        )
    saved = (config.get("quantization_config") or {}).get("quant_method")
    if saved != wanted:
        how = f"saved with {saved!r}" if saved else "not quantised"
        raise SettingsError(
            f"--quantization {wanted} does not fit the model folder: it is {how}.",
            remedy="Leave out --quantization, or use a folder saved that way.",
        )
