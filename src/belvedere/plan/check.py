"""What an existing ``vllm serve`` command line will do, and what to change."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field, replace

from belvedere.catalog.models import CatalogModel, resolve_model
from belvedere.errors import UsageError
from belvedere.plan import candidates
from belvedere.plan.hardware import Hardware
from belvedere.plan.layout import impossible, nearest_tensor_sizes
from belvedere.plan.planner import Plan, fixed_plan, make_plan
from belvedere.plan.quantization import find_format
from belvedere.plan.request import Pins, Workload, read_limits
from belvedere.plan.settings import EngineSettings

__all__ = ["Check", "CommandLine", "Finding", "check_command", "parse_command"]

UNLIMITED = 999
"""Items per prompt where ``--limit-mm-per-prompt`` does not name the kind (vLLM 0.32)."""

_BOOLEAN = {
    "enable-auto-tool-choice",
    "enforce-eager",
    "trust-remote-code",
    "enable-prefix-caching",
    "no-enable-prefix-caching",
}
_SHORT = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "q": "quantization"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A parsed command: the model, its flags (names with hyphens) and its environment."""

    model: str
    flags: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a flag: `change` is None where nothing needs changing."""

    flag: str
    problem: str
    change: str | None


@dataclass(frozen=True, slots=True)
class Check:
    """What the command does (`plan`), what is wrong with it, and a plan that works if any does."""

    plan: Plan
    findings: tuple[Finding, ...]
    suggestion: Plan | None


def parse_command(text: str) -> CommandLine:
    """Read ``vllm serve MODEL ...`` or ``python -m vllm.entrypoints... --model MODEL ...``.

    Raises:
        UsageError: neither, no model, or quotes that do not match.
    """
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as exc:
        raise UsageError(f"--check: the command's quotes do not match ({exc}).") from exc
    environment = {}
    while words and _VARIABLE.fullmatch(words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    rest = _after_program(words)
    positional, flags = _flags(rest)
    model = flags.pop("model", None) or (positional[0] if positional else None)
    if model is None:
        raise UsageError("--check: the command names no model.")
    return CommandLine(model, flags, environment)


def _after_program(words: list[str]) -> list[str]:
    if words[:2] == ["vllm", "serve"]:
        return words[2:]
    if (
        "-m" in words
        and words[words.index("-m") + 1 :][:1]
        and "vllm" in words[words.index("-m") + 1]
    ):
        return words[words.index("-m") + 2 :]
    raise UsageError(
        "--check: this is not a vLLM server's command line.",
        remedy='Write it like "vllm serve MODEL --max-model-len 8192".',
    )


def _flags(words: list[str]) -> tuple[list[str], dict[str, str]]:
    positional: list[str] = []
    flags: dict[str, str] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            positional.append(word)
            continue
        name, sep, value = word.lstrip("-").partition("=")
        name = name.replace("_", "-")
        name = _SHORT.get(name, name)
        if not sep:
            takes = name not in _BOOLEAN and queue and not queue[0].startswith("--")
            value = queue.pop(0) if takes else "true"
        flags[name] = value
    return positional, flags


def check_command(
    text: str, hardware: Hardware, workload: Workload, engine_version: str, *, hub: bool = True
) -> Check:
    """Plan exactly what the command says, with vLLM's defaults for the rest.

    Raises:
        UsageError: the command cannot be read or contradicts itself.
        UnknownName: the model is not known.
    """
    line = parse_command(text)
    model = resolve_model(line.model, hub=hub)
    pins = _pins(line, engine_version)
    plan = fixed_plan(
        model, hardware, workload, pins, lambda base: _defaults(base, line, hardware, model)
    )
    findings = list(_findings(line, plan))
    suggestion = _suggestion(model, hardware, workload, pins)
    return Check(plan, tuple(findings), suggestion)


def _suggestion(
    model: CatalogModel, hardware: Hardware, workload: Workload, pins: Pins
) -> Plan | None:
    """The plan that keeps the command's context and sequences where it can."""
    for kept in (
        replace(pins, max_num_batched_tokens=None, limits={}),
        Pins(engine_version=pins.engine_version),
    ):
        free = replace(kept, tensor_parallel_size=None, enforce_eager=None, quantization=None)
        try:
            plan = make_plan(model, hardware, workload, free)
        except UsageError:
            continue
        if plan.fits:
            return plan
    return None


def _pins(line: CommandLine, engine_version: str) -> Pins:
    flags = line.flags
    return Pins(
        dtype=flags.get("dtype"),
        quantization=flags.get("quantization"),
        kv_cache_dtype=flags.get("kv-cache-dtype"),
        max_model_len=_integer(flags, "max-model-len"),
        max_num_seqs=_integer(flags, "max-num-seqs"),
        max_num_batched_tokens=_integer(flags, "max-num-batched-tokens"),
        gpu_memory_utilization=_share(flags),
        tensor_parallel_size=_integer(flags, "tensor-parallel-size"),
        pipeline_parallel_size=_integer(flags, "pipeline-parallel-size"),
        enforce_eager="enforce-eager" in flags,
        max_pixels=_max_pixels(flags.get("mm-processor-kwargs")),
        limits=read_limits(flags.get("limit-mm-per-prompt")),
        tool_call_parser=flags.get("tool-call-parser"),
        reasoning_parser=flags.get("reasoning-parser"),
        engine_version=engine_version,
    )


def _defaults(
    base: EngineSettings, line: CommandLine, hardware: Hardware, model: CatalogModel
) -> EngineSettings:
    """vLLM's own defaults where the command is silent."""
    limits = read_limits(line.flags.get("limit-mm-per-prompt"))
    seqs = _integer(line.flags, "max-num-seqs") or candidates.sequences_default(hardware.gpu)
    settings = replace(base, max_num_seqs=min(seqs, base.max_num_batched_tokens))
    if model.geometry is None or (base.image_limit + base.video_limit == 0 and limits):
        return settings
    return replace(
        settings,
        image_limit=limits.get("image", UNLIMITED),
        video_limit=limits.get("video", UNLIMITED),
        max_pixels=_max_pixels(line.flags.get("mm-processor-kwargs"))
        or model.geometry.image.max_pixels,
    )


def _integer(flags: dict[str, str], name: str) -> int | None:
    """An integer flag; ``8k`` and ``8K`` as vLLM reads them (thousands, 1,024s)."""
    text = flags.get(name)
    if text is None or text == "auto":
        return None
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kKmM]?)", text)
    if match is None:
        raise UsageError(f"--check: --{name} {text!r} is not a number.")
    scale = {"": 1, "k": 1000, "K": 1 << 10, "m": 10**6, "M": 1 << 20}[match[2]]
    return int(float(match[1]) * scale)


def _share(flags: dict[str, str]) -> float | None:
    text = flags.get("gpu-memory-utilization")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--check: --gpu-memory-utilization {text!r} is not a number.") from None


def _max_pixels(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        kwargs = json.loads(text)
    except ValueError:
        raise UsageError(f"--check: --mm-processor-kwargs {text!r} is not JSON.") from None
    if not isinstance(kwargs, dict):
        raise UsageError(f"--check: --mm-processor-kwargs {text!r} is not a JSON object.")
    inner = kwargs.get("images_kwargs", kwargs)
    inner = inner if isinstance(inner, dict) else {}
    size = inner.get("size")
    value = inner.get("max_pixels") or (
        size.get("longest_edge") if isinstance(size, dict) else None
    )
    return value if isinstance(value, int) and value > 0 else None


def _findings(line: CommandLine, plan: Plan) -> list[Finding]:
    found = [*_removed(line), *_layout(plan), *_memory(plan)]
    if plan.settings.video_limit == UNLIMITED and plan.budget.encoder.tokens:
        item = plan.budget.encoder.largest_item_tokens
        found.append(
            Finding(
                "--limit-mm-per-prompt",
                f"videos are allowed, so memory is set aside for an item of {item} tokens",
                'add \'{"image": N, "video": 0}\' if no videos are sent',
            )
        )
    natural = plan.model.geometry
    if natural is not None and plan.settings.max_pixels == natural.image.max_pixels:
        found.append(
            Finding(
                "--mm-processor-kwargs",
                f"images up to {natural.image.max_pixels} pixels are allowed: the encoder takes "
                f"{plan.budget.encoder_bytes / (1 << 30):.2f} GiB",
                "limit the image area to what the screenshots need",
            )
        )
    return found


def _removed(line: CommandLine) -> list[Finding]:
    found = []
    if "VLLM_ATTENTION_BACKEND" in line.environment:
        found.append(
            Finding("VLLM_ATTENTION_BACKEND", "vLLM 0.32 ignores it", "use --attention-backend")
        )
    quantization = line.flags.get("quantization")
    if quantization is not None and find_format(quantization).name == "bitsandbytes":
        found.append(
            Finding("--quantization", "bitsandbytes left vLLM's core in 0.28", "use fp8 or awq")
        )
    return found


def _layout(plan: Plan) -> list[Finding]:
    tensor = plan.settings.split.tensor
    reason = impossible(plan.architecture, tensor)
    if reason is None:
        return []
    nearest = nearest_tensor_sizes(plan.architecture, tensor)
    return [Finding("--tensor-parallel-size", f"vLLM refuses it: {reason}", f"use {nearest}")]


def _memory(plan: Plan) -> list[Finding]:
    if plan.fits or impossible(plan.architecture, plan.settings.split.tensor) is not None:
        return []
    budget, length = plan.budget, plan.settings.max_model_len
    if budget.kv_bytes <= 0:
        short = -budget.kv_bytes / (1 << 30)
        return [
            Finding(
                "memory",
                f"no memory is left for the KV cache: short by {short:.2f} GiB before it",
                "see the suggested command",
            )
        ]
    return [
        Finding(
            "--max-model-len",
            f"{length} tokens need {length * budget.kv_bytes_per_token / (1 << 30):.2f} GiB of KV "
            f"cache, {budget.kv_bytes / (1 << 30):.2f} GiB are left",
            f"at most {budget.kv_tokens} fits",
        )
    ]
