"""From settings and a model folder to the plan that vLLM is started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from belvedere.catalog.machine import MachineGpu, available_memory_bytes, cpu
from belvedere.catalog.models import CatalogModel, model_from_folder
from belvedere.engines.devices import Devices
from belvedere.engines.ladder import Step
from belvedere.engines.starts import StartKey, digest
from belvedere.engines.vllm_build import VllmPython, numbers
from belvedere.engines.vllm_report import MemoryReport
from belvedere.errors import DoesNotFit, SettingsError
from belvedere.plan.adjust import adjusted
from belvedere.plan.candidates import batched_tokens_default, natural_pixels
from belvedere.plan.hardware import Hardware
from belvedere.plan.memory import BLOCK_TOKENS
from belvedere.plan.planner import Plan, make_plan
from belvedere.plan.render import shortage, vllm_flags
from belvedere.plan.request import Pins, Workload
from belvedere.plan.units import GIB
from belvedere.settings import Settings

__all__ = ["KV_SPACE", "Launch", "plan_launch"]

KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""Variable of vLLM's CPU build: GiB for the KV cache. One that the user set is obeyed."""
_CPU_PROCESSES_BYTES = 3 * GIB
"""API server, engine core and worker of the CPU build, besides weights and KV cache: 3.1 GB
resident with a model of 2 million parameters (vLLM 0.32)."""
_SLACK = 1.1
_TELLS_TIMES = [0, 32]
"""vLLM's version since which a request may say where in a video its frames stand."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What one replica is started with.

    Attributes:
        kv_bytes: its KV cache where it is set outright, on the CPU; ``None`` lets vLLM take what
            is left of its share of a GPU.
        kv_space: `kv_bytes` came from the user's own `KV_SPACE`.
        asked: digest of everything that was asked for.
        changes: what the ladder changed of the plan so far.
        said: the same in words.
    """

    plan: Plan
    engine: VllmPython
    kv_bytes: int | None
    kv_space: bool
    asked: str
    changes: Mapping[str, int | float]
    said: tuple[str, ...] = ()

    @property
    def key(self) -> StartKey:
        """Under which a start with it is remembered."""
        gpu = self.plan.hardware.gpu.name
        return StartKey(gpu, digest(dict(self.plan.model.config)), self.engine.engine)

    @property
    def form(self) -> dict[str, str | int]:
        """How the weights lie on the GPUs."""
        settings = self.plan.settings
        return {
            "dtype": settings.dtype,
            "quantization": settings.quantization.name,
            "tensor": settings.split.tensor,
            "pipeline": settings.split.pipeline,
        }

    def changed(self, changes: Mapping[str, int | float], said: str) -> Launch:
        """The same with some `EngineSettings`, or ``kv_bytes``, changed."""
        rest: dict[str, Any] = dict(changes)
        kv_bytes = rest.pop("kv_bytes", self.kv_bytes)
        return replace(
            self,
            plan=adjusted(self.plan, **rest) if rest else self.plan,
            kv_bytes=kv_bytes,
            changes={**self.changes, **changes},
            said=(*self.said, said),
        )

    def after(self, step: Step) -> Launch:
        return self.changed(step.changes, step.said)

    def planned(self) -> MemoryReport:
        """The plan in the terms of vLLM's report."""
        budget = self.plan.budget
        kv_bytes = budget.kv_bytes if self.kv_bytes is None else self.kv_bytes
        blocks = kv_bytes // (BLOCK_TOKENS * budget.kv_bytes_per_token)
        return MemoryReport(
            weights_bytes=budget.weights_bytes,
            activation_bytes=budget.activation_bytes + budget.encoder_bytes,
            graph_bytes=budget.graph_bytes,
            kv_bytes=kv_bytes,
            kv_tokens=blocks * BLOCK_TOKENS,
        )

    def flags(self) -> list[str]:
        """vLLM's flags."""
        flags = vllm_flags(self.plan)
        if self.plan.settings.video_limit:  # the gateway, its only client, says times of frames
            flags.append("--trust-request-mm-kwargs")
        if self.kv_bytes is not None and not self.kv_space:
            flags += ["--kv-cache-memory-bytes", str(self.kv_bytes)]
        return flags

    def env(self) -> dict[str, str]:
        """Variables that stand for settings."""
        if self.kv_bytes is None or not self.kv_space:
            return {}
        return {KV_SPACE: str(max(1, self.kv_bytes // GIB))}


def plan_launch(
    folder: Path,
    settings: Settings,
    engine: VllmPython,
    groups: Sequence[Devices],
    machine: Sequence[MachineGpu],
    environ: Mapping[str, str],
) -> Launch:
    """The planner's settings for one of equal replicas on `groups`.

    Raises:
        DoesNotFit: with what is short by how much.
        SettingsError: build and device contradict each other, or `KV_SPACE` is no number.
        UsageError, ModelFolderError: see `make_plan`.
    """
    on_gpu = bool(groups[0].gpu_ids)
    if on_gpu != (engine.build == "cuda"):
        raise SettingsError(
            f"The {engine.build.upper()} build of vLLM cannot use the {groups[0]}.",
            remedy="Use --device cpu." if on_gpu else "Use --device auto on a machine with a GPU.",
        )
    model = model_from_folder(folder)
    hardware = _hardware(groups, machine) if on_gpu else Hardware(cpu())
    plan = _plan(model, hardware, settings, engine)
    if not plan.fits:
        message, remedy = shortage(plan)
        raise DoesNotFit(message, remedy=remedy)
    space = None if on_gpu else _kv_space(environ)
    kv_bytes = None if on_gpu else space or _cpu_kv_bytes(plan, len(groups))
    asked = digest({"pins": _pins_digest(plan.pins), "kv_space": space})
    return Launch(plan, engine, kv_bytes, space is not None, asked, {})


def _plan(model: CatalogModel, hardware: Hardware, settings: Settings, engine: VllmPython) -> Plan:
    """At the model's own image limit where a full-HD screenshot uses most of it anyway."""
    workload, pins = Workload(), _pins(model, hardware, settings, engine)
    if model.geometry is not None:
        own = model.geometry.image.max_pixels
        if natural_pixels(workload, model.geometry) >= own / _SLACK:
            plan = make_plan(model, hardware, workload, replace(pins, max_pixels=own))
            if plan.fits:
                return plan
    return make_plan(model, hardware, workload, pins)


def _pins(model: CatalogModel, hardware: Hardware, settings: Settings, engine: VllmPython) -> Pins:
    """Videos that the engine does not take as such reach it as images, one per frame."""
    images = settings.max_images_per_request * settings.max_video_frames
    clip = _clip_pixels(model, hardware, engine)
    return Pins(
        dtype=None if settings.dtype == "auto" else settings.dtype,
        quantization=settings.quantization,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_batch_size or settings.max_running_per_replica,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
        max_clip_pixels=clip,
        limits={"image": images, "video": 0 if clip is None else 1},
        tool_call_parser=settings.tool_call_parser,
        reasoning_parser=settings.reasoning_parser,
        engine_version=engine.version,
    )


def _clip_pixels(model: CatalogModel, hardware: Hardware, engine: VllmPython) -> int | None:
    """The largest video that vLLM is told to take: what it encodes in one step anyway.

    Only where the frames' times can be told (vLLM 0.32) and the model's processor bounds the whole
    clip; for Qwen2-VL and 2.5-VL vLLM sets memory aside for 14 frames of the largest image.
    """
    if model.geometry is None or model.geometry.video.bounds != "clip":
        return None
    if numbers(engine.version) < _TELLS_TIMES:
        return None
    video = model.geometry.video
    step_tokens = batched_tokens_default(hardware.gpu)
    return min(video.max_pixels, step_tokens * video.factor**2 * video.temporal_patch_size)


def _pins_digest(pins: Pins) -> str:
    return digest({name: repr(value) for name, value in asdict(pins).items()})


def _hardware(groups: Sequence[Devices], machine: Sequence[MachineGpu]) -> Hardware:
    cards = {card.index: card for card in machine}
    members = [cards[index] for group in groups for index in group.gpu_ids]
    free_bytes = min(card.free_bytes for card in members)
    return Hardware(members[0].gpu, len(groups[0].gpu_ids), free_bytes=free_bytes)


def _kv_space(environ: Mapping[str, str]) -> int | None:
    text = environ.get(KV_SPACE, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(
            f"{KV_SPACE} is {text!r}, not a number of GiB.", remedy="Write a whole number, or none."
        )
    return int(text) * GIB


def _cpu_kv_bytes(plan: Plan, replicas: int) -> int:
    """Room for all sequences at full length, as far as memory is free; for one in any case.

    Raises:
        DoesNotFit: not even for one.
    """
    per_token = plan.budget.kv_bytes_per_token
    least = (plan.settings.max_model_len + BLOCK_TOKENS) * per_token
    free = available_memory_bytes() // replicas - plan.budget.weights_bytes - _CPU_PROCESSES_BYTES
    if free < least:
        raise DoesNotFit(
            f"{plan.model.name} takes {least / GIB:.2f} GiB of KV cache for "
            f"{plan.settings.max_model_len} tokens; {max(0, free) / GIB:.2f} GiB are free for it.",
            remedy="Shorten --max-model-len, use fewer replicas, or end other programs.",
        )
    wanted = plan.settings.max_num_seqs * least
    return max(least, min(wanted, free // 2))
