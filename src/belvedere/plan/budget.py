"""All memory terms of one GPU, put together for one model, card and set of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from belvedere.catalog.gpus import Gpu
from belvedere.images.geometry import ProcessorGeometry
from belvedere.plan import memory
from belvedere.plan.accounting import Accounting
from belvedere.plan.architecture import Architecture
from belvedere.plan.calibration import Calibration, scaled
from belvedere.plan.settings import EngineSettings
from belvedere.plan.vision import EncoderLoad, encoder_load
from belvedere.plan.weights import Stage, stages, weights_bytes

__all__ = ["Budget", "Subject", "budget", "limited_geometry"]

NO_ENCODER = EncoderLoad(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is planned: a model's shape, its processor, and what is known of its real size.

    `checkpoint_bytes` is that of its files, `calibration` what a start of it measured.
    """

    architecture: Architecture
    geometry: ProcessorGeometry | None
    checkpoint_bytes: int | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """One GPU's memory. `kv_bytes` is what remains for the KV cache, negative if nothing does.

    `graphs_inside` says whether the engine takes CUDA graphs from its budget or on top of it.
    `kv_bytes_per_token` and `kv_tokens` are of the stage that holds the fewest tokens.
    """

    weights_bytes: int
    activation_bytes: int
    encoder_bytes: int
    graph_bytes: int
    other_bytes: int
    budget_bytes: int
    memory_bytes: int
    kv_bytes: int
    kv_bytes_per_token: int
    graphs_inside: bool
    encoder: EncoderLoad

    @property
    def fixed_bytes(self) -> int:
        """Everything that comes off the budget before the KV cache."""
        graphs = self.graph_bytes if self.graphs_inside else 0
        return (
            self.weights_bytes
            + self.activation_bytes
            + self.encoder_bytes
            + graphs
            + self.other_bytes
        )

    @property
    def kv_tokens(self) -> int:
        return memory.kv_tokens(self.kv_bytes, self.kv_bytes_per_token)

    def short_bytes(self, tokens: int) -> int:
        """How much is missing to hold `tokens` in the KV cache; 0 if they fit."""
        blocks = -(-tokens // memory.BLOCK_TOKENS) * memory.BLOCK_TOKENS
        return max(0, blocks * self.kv_bytes_per_token - self.kv_bytes)


def limited_geometry(geometry: ProcessorGeometry, settings: EngineSettings) -> ProcessorGeometry:
    """The processor under the plan's limits on the area of images and clips."""
    image, video = geometry.image, geometry.video
    if settings.max_pixels is not None:
        image = image.with_max_pixels(settings.max_pixels)
    if settings.max_clip_pixels is not None:
        video = video.with_max_pixels(settings.max_clip_pixels)
    return ProcessorGeometry(image, video)


def budget(subject: Subject, settings: EngineSettings, gpu: Gpu, rules: Accounting) -> Budget:
    """The budget of the GPU that holds the fewest tokens."""
    parts = stages(subject.architecture.text.layers, settings.split.pipeline)
    budgets = [_stage_budget(subject, settings, gpu, rules, part) for part in parts]
    return min(budgets, key=lambda b: b.kv_bytes / b.kv_bytes_per_token)


def _stage_budget(
    subject: Subject, settings: EngineSettings, gpu: Gpu, rules: Accounting, stage: Stage
) -> Budget:
    architecture = subject.architecture
    load = _load(subject, settings) if stage.first else NO_ENCODER
    weights = weights_bytes(architecture, settings, stage, subject.checkpoint_bytes)
    language = memory.language_peak_bytes(architecture, settings, rules, stage)
    encoder = _encoder_extra(subject, settings, rules, load, language)
    total = memory.budget_bytes(gpu.memory_cuda_bytes, settings.gpu_memory_utilization)
    graphs, other = 0, memory.CPU_RUNTIME_BYTES
    if gpu.kind == "cuda":
        blackwell = gpu.compute_capability[0] == 10
        graphs = memory.graph_bytes(settings, stage.layers, blackwell=blackwell)
        other = memory.other_bytes(settings, rules)
    per_token = memory.kv_bytes_per_token(architecture.text, settings, stage.layers)
    measured = subject.calibration
    if measured is not None and measured.applies(settings):
        weights = scaled(weights, measured.weights)
        language = scaled(language, measured.activations)
        encoder = scaled(encoder, measured.activations)
        graphs = scaled(graphs, measured.graphs)
        per_token = scaled(per_token, measured.kv_token)
    fixed = weights + language + encoder + other + (graphs if rules.graphs_subtracted else 0)
    return Budget(
        weights_bytes=weights,
        activation_bytes=language,
        encoder_bytes=encoder,
        graph_bytes=graphs,
        other_bytes=other,
        budget_bytes=total,
        memory_bytes=gpu.memory_cuda_bytes,
        kv_bytes=total - fixed,
        kv_bytes_per_token=per_token,
        graphs_inside=rules.graphs_subtracted,
        encoder=load,
    )


def _load(subject: Subject, settings: EngineSettings) -> EncoderLoad:
    if subject.architecture.vision is None or subject.geometry is None:
        return NO_ENCODER
    limits: Mapping[str, int] = {"image": settings.image_limit, "video": settings.video_limit}
    return encoder_load(
        limited_geometry(subject.geometry, settings),
        limits=limits,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
    )


def _encoder_extra(
    subject: Subject,
    settings: EngineSettings,
    rules: Accounting,
    load: EncoderLoad,
    language: int,
) -> int:
    vision = subject.architecture.vision
    if vision is None or load.tokens == 0:
        return 0
    return memory.encoder_extra_bytes(
        memory.encoder_peak_bytes(vision, load, settings, rules),
        memory.encoder_cache_bytes(vision, load, settings),
        language,
    )
