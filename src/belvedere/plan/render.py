"""A plan as an engine's command line and as the JSON contract of ``belvedere plan --json``."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from belvedere.catalog.models import MINI
from belvedere.catalog.parsers import Parsers
from belvedere.images.geometry import ImageGeometry, VideoGeometry
from belvedere.plan.budget import limited_geometry
from belvedere.plan.choices import choices
from belvedere.plan.planner import Plan

if TYPE_CHECKING:
    from belvedere.plan.check import Check

__all__ = [
    "check_dict",
    "engine_argv",
    "engine_name",
    "per_gpu_bytes",
    "plan_dict",
    "plan_parsers",
    "served_model",
    "settings_dict",
    "shortage",
    "vllm_flags",
]

GIB = 1 << 30
MOST_UTILIZATION = 0.96
"""The largest share of a card that is suggested; the CUDA context lies outside it."""


def engine_name(plan: Plan) -> str:
    """``vllm`` on GPUs, the built-in ``local`` engine on a CPU."""
    return "local" if plan.hardware.gpu.kind == "cpu" else "vllm"


def served_model(plan: Plan) -> str:
    """The hub id or folder to serve: the converted checkpoint where the format needs one."""
    fmt = plan.settings.quantization
    return plan.model.checkpoints.get(fmt.name, plan.model.served)


def engine_argv(plan: Plan) -> list[str]:
    """The command line of one replica's engine."""
    if engine_name(plan) == "local":
        return _local_argv(plan)
    return _vllm_argv(plan)


def _local_argv(plan: Plan) -> list[str]:
    """The built-in engine serves the shipped model unless it is given a folder."""
    shipped = plan.model.name == MINI
    model = [] if shipped else [plan.model.served]
    return ["belvedere", "serve", *model, "--max-model-len", str(plan.settings.max_model_len)]


def _vllm_argv(plan: Plan) -> list[str]:
    return ["vllm", "serve", served_model(plan), *vllm_flags(plan)]


def vllm_flags(plan: Plan) -> list[str]:
    """vLLM's flags for the plan's settings, without the model; for a CPU build as well."""
    settings = plan.settings
    argv = ["--dtype", settings.dtype]
    argv += _quantization_argv(plan)
    if settings.kv_cache_dtype != settings.dtype:
        argv += ["--kv-cache-dtype", settings.kv_cache_dtype]
    argv += ["--max-model-len", str(settings.max_model_len)]
    argv += ["--max-num-seqs", str(settings.max_num_seqs)]
    argv += ["--max-num-batched-tokens", str(settings.max_num_batched_tokens)]
    argv += ["--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"]
    if settings.split.tensor > 1:
        argv += ["--tensor-parallel-size", str(settings.split.tensor)]
    if settings.split.pipeline > 1:
        argv += ["--pipeline-parallel-size", str(settings.split.pipeline)]
    if settings.enforce_eager:
        argv.append("--enforce-eager")
    return argv + _image_argv(plan) + _parser_argv(plan)


def _parser_argv(plan: Plan) -> list[str]:
    """Without a parser vLLM refuses ``"tool_choice": "auto"`` and leaves thoughts in the answer."""
    parsers = plan_parsers(plan)
    argv = []
    if parsers.tool_call is not None:
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", parsers.tool_call]
    if parsers.reasoning is not None:
        argv += ["--reasoning-parser", parsers.reasoning]
    return argv


def plan_parsers(plan: Plan) -> Parsers:
    """The pinned parsers, or those of the model's family."""
    pins, known = plan.pins, plan.model.parsers
    return Parsers(
        _pinned(pins.tool_call_parser, known.tool_call),
        _pinned(pins.reasoning_parser, known.reasoning),
    )


def _pinned(name: str | None, known: str | None) -> str | None:
    if name is None:
        return known
    return None if name == "none" else name


def _quantization_argv(plan: Plan) -> list[str]:
    """Converted checkpoints say themselves how they are stored; only fp8 is made at load."""
    fmt = plan.settings.quantization
    converted = "quantization_config" in plan.model.config or fmt.name in plan.model.checkpoints
    if fmt.flag is None or (converted and plan.pins.quantization is None):
        return []
    return ["--quantization", fmt.flag]


def _image_argv(plan: Plan) -> list[str]:
    settings, geometry = plan.settings, plan.model.geometry
    if settings.max_pixels is None or geometry is None:
        return []
    limits = {"image": settings.image_limit, "video": settings.video_limit}
    seen = limited_geometry(geometry, settings)
    sizes = {"images_kwargs": {"size": _bounds(seen.image)}}
    if settings.max_clip_pixels is not None:
        sizes["videos_kwargs"] = {"size": _bounds(seen.video)}
    return [
        "--limit-mm-per-prompt",
        json.dumps(limits),
        "--mm-processor-kwargs",
        json.dumps(sizes),
    ]


def _bounds(geometry: ImageGeometry | VideoGeometry) -> dict[str, int]:
    return {"shortest_edge": geometry.min_pixels, "longest_edge": geometry.max_pixels}


def settings_dict(plan: Plan) -> dict[str, Any]:
    """The settings under vLLM's names."""
    settings, gpu = plan.settings, plan.hardware.gpu
    backends = gpu.attention_backends
    return {
        "dtype": settings.dtype,
        "quantization": settings.quantization.name,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": settings.enforce_eager,
        "attention_backend": backends[0] if backends else "sdpa",
        "limit_mm_per_prompt": {"image": settings.image_limit, "video": settings.video_limit},
        "max_pixels": settings.max_pixels,
        "max_clip_pixels": settings.max_clip_pixels,
        "tool_call_parser": plan_parsers(plan).tool_call,
        "reasoning_parser": plan_parsers(plan).reasoning,
    }


def plan_dict(plan: Plan) -> dict[str, Any]:
    """The JSON contract. Bytes are per GPU, integers; ``kv_tokens`` is of one replica."""
    return {
        "fits": plan.fits,
        "model": served_model(plan),
        "gpu": plan.hardware.gpu.name,
        "gpus": plan.hardware.count,
        "engine": {
            "name": engine_name(plan),
            "version": plan.rules.version,
            "argv": engine_argv(plan),
        },
        "layout": {
            "tensor_parallel": plan.settings.split.tensor,
            "pipeline_parallel": plan.settings.split.pipeline,
            "replicas": plan.replicas if plan.fits else 0,
            "reserved": plan.hardware.reserved,
        },
        "per_gpu_bytes": per_gpu_bytes(plan),
        "short_bytes": plan.short_bytes if not plan.fits else 0,
        "kv_tokens": plan.budget.kv_tokens,
        "request_tokens": plan.request_tokens,
        "concurrent_requests": plan.concurrent_requests * plan.replicas if plan.fits else 0,
        "vision_tokens_per_image": plan.vision_tokens_per_image,
        "settings": settings_dict(plan),
        "choices": [
            {"setting": c.setting, "value": c.value, "reason": c.reason} for c in choices(plan)
        ],
        "rejections": [
            {"layout": r.layout, "reason": r.reason, "nearest": r.nearest} for r in plan.rejections
        ],
    }


def per_gpu_bytes(plan: Plan) -> dict[str, int]:
    """The memory terms of the tightest GPU. Where nothing fits, ``kv_cache`` is 0 and ``total``
    is what the rest would need."""
    budget = plan.budget
    kv_bytes = max(0, budget.kv_bytes)
    total = kv_bytes + budget.fixed_bytes
    if not budget.graphs_inside:
        total += budget.graph_bytes
    return {
        "weights": budget.weights_bytes,
        "kv_cache": kv_bytes,
        "activations": budget.activation_bytes,
        "encoder": budget.encoder_bytes,
        "cuda_graphs": budget.graph_bytes,
        "other": budget.other_bytes,
        "total": total,
        "budget": budget.budget_bytes,
    }


def shortage(plan: Plan) -> tuple[str, str]:
    """What is short by how much, and what would help: an error's message and remedy."""
    impossible = [r for r in plan.rejections if "do not divide" in r.reason]
    name, where = plan.model.name, str(plan.hardware)
    if plan.pins.tensor_parallel_size is not None and impossible:
        refused = impossible[0]
        return f"{name}: {refused.reason}.", f"Use {refused.nearest}."
    missing = plan.request_tokens - plan.settings.max_model_len
    if plan.settings.max_model_len < plan.request_tokens and plan.short_bytes == 0:
        message = f"One request takes {plan.request_tokens} tokens, {missing} more than fit."
        return f"{name} on {where}: {message}", "Send fewer or smaller images, or raise it."
    budget = plan.budget
    short, needed = plan.short_bytes / GIB, budget.fixed_bytes / GIB
    on_cpu = plan.hardware.gpu.kind == "cpu"
    message = (
        f"{name} does not fit on {where}: short by {short:.2f} GiB{'' if on_cpu else ' per GPU'}. "
        f"Without KV cache it takes {needed:.2f} GiB of a budget of "
        f"{budget.budget_bytes / GIB:.2f} GiB."
    )
    if on_cpu:
        return message, "Use a smaller model, or name a GPU: --gpus L4."
    share = math.ceil(100 * (budget.budget_bytes + plan.short_bytes) / budget.memory_bytes) / 100
    if share <= MOST_UTILIZATION:
        return message, f"--gpu-memory-utilization {share:g} would do."
    return message, "Use more or larger GPUs, a smaller model, or a shorter context."


def check_dict(check: Check) -> dict[str, Any]:
    """The contract for an existing command line: its plan, the findings, a plan that works."""
    suggestion = check.suggestion
    return {
        **plan_dict(check.plan),
        "check": {
            "starts": check.plan.fits,
            "findings": [
                {"flag": f.flag, "problem": f.problem, "change": f.change} for f in check.findings
            ],
            "suggested": None if suggestion is None else engine_argv(suggestion),
        },
    }
