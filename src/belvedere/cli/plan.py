"""``belvedere plan``: which settings make this model fit these GPUs?"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from belvedere.errors import DoesNotFit, UsageError

if TYPE_CHECKING:
    from belvedere.plan.hardware import Hardware
    from belvedere.plan.planner import Plan
    from belvedere.plan.request import Pins, Workload

__all__ = ["command"]


@dataclass(frozen=True, slots=True)
class _Question:
    """The command line, read."""

    model: str | None
    gpus: str | None
    gpu_memory: str | None
    reserve: int
    workload: Workload
    pins: Pins


def _workload_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--image", metavar="WxH", help="Size of the images (1920x1080)."),
            click.option("--images", type=int, metavar="N", help="Images in one request."),
            click.option("--video", metavar="WxHxFRAMES", help="A video in each request."),
            click.option("--concurrency", type=int, metavar="N", help="Requests at once."),
            click.option("--prompt-tokens", type=int, metavar="N", help="Text in (512)."),
            click.option("--output-tokens", type=int, metavar="N", help="Tokens out (512)."),
        )
    ):
        command = option(command)
    return command


def _pin_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--max-model-len", type=int, metavar="N", help="Context in tokens."),
            click.option("--max-num-seqs", type=int, metavar="N", help="Running requests."),
            click.option("--max-num-batched-tokens", type=int, metavar="N", help="Tokens a step."),
            click.option(
                "--gpu-memory-utilization", type=float, metavar="SHARE", help="Share of a card."
            ),
            click.option("--tensor-parallel-size", type=int, metavar="N", help="GPUs a layer."),
            click.option(
                "--pipeline-parallel-size", type=int, metavar="N", help="Pipeline stages."
            ),
            click.option("--quantization", help="none, fp8, awq, gptq, nvfp4, bitsandbytes."),
            click.option("--dtype", help="auto, bfloat16, half or float."),
            click.option("--kv-cache-dtype", help="auto, fp8, fp8_e4m3, fp8_e5m2."),
            click.option(
                "--enforce-eager/--no-enforce-eager", default=None, help="No CUDA graphs."
            ),
            click.option("--limit-mm-per-prompt", metavar="JSON", help='{"image": 3, "video": 0}'),
            click.option("--max-pixels", type=int, metavar="N", help="Largest image area."),
            click.option("--tool-call-parser", metavar="NAME", help="For tool calls; none."),
            click.option("--reasoning-parser", metavar="NAME", help="For thoughts; none."),
            click.option("--engine-version", metavar="VERSION", help="vLLM's accounting (0.32)."),
        )
    ):
        command = option(command)
    return command


@click.command("plan", context_settings={"max_content_width": 100})
@click.argument("model", required=False)
@click.option("--gpus", metavar="GPUS", help="L4, 4xA100-40GB, cpu; default: this machine's.")
@click.option("--gpu-memory", metavar="GIB", help="Memory of a card not in the catalogue.")
@click.option("--reserve", type=int, default=0, metavar="N", help="GPUs kept for other work.")
@_workload_options
@_pin_options
@click.option("--compare", metavar="LIST", help="Plan for each: T4,L4,A100-40GB,H100.")
@click.option("--check", metavar="COMMAND", help="What will this vLLM command line do?")
@click.option(
    "--calibrated", is_flag=True, help="With what vLLM reported here when it started last."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: str | None,
    gpus: str | None,
    gpu_memory: str | None,
    reserve: int,
    compare: str | None,
    check: str | None,
    calibrated: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Which settings make MODEL fit these GPUs, and what remains?

    MODEL is a name of "belvedere models", a Hugging Face folder or a hub id. Flags with vLLM's
    names pin a setting; the rest is chosen, each with its reason. Exit code 3: it does not fit.

    \b
    belvedere plan mai-ui-8b --gpus L4 --image 1920x1080 --images 3 --concurrency 8
    belvedere plan mai-ui-2b --compare T4,L4,A100-40GB,H100
    belvedere plan --check "vllm serve Qwen/Qwen3-VL-8B-Instruct --max-model-len 32768" --gpus L4
    """
    question = _question(model, gpus, gpu_memory, reserve, flags)
    if calibrated and (check is not None or compare is not None):
        raise UsageError(
            "--calibrated is for one plan; --check and --compare make several.",
            remedy="Leave one of them out.",
        )
    if check is not None:
        _check(question, check, flags, as_json=as_json)
    elif question.model is None:
        raise UsageError("No model is named.", remedy="Give one, for example mai-ui-8b.")
    elif compare is not None:
        _compare(question, compare, as_json=as_json)
    else:
        _one(question, calibrated=calibrated, as_json=as_json)


def _question(
    model: str | None,
    gpus: str | None,
    gpu_memory: str | None,
    reserve: int,
    flags: dict[str, Any],
) -> _Question:
    return _Question(model, gpus, gpu_memory, reserve, _workload(flags), _pins(flags))


def _workload(flags: dict[str, Any]) -> Workload:
    from belvedere.plan.request import DEFAULT_IMAGE, Workload
    from belvedere.plan.units import parse_clip, parse_size

    image, images, video = flags["image"], flags["images"], flags["video"]
    prompt, output = flags["prompt_tokens"], flags["output_tokens"]
    return Workload(
        image=parse_size(image, "--image") if image is not None else DEFAULT_IMAGE,
        images=images if images is not None else 1,
        video=parse_clip(video, "--video") if video is not None else None,
        prompt_tokens=512 if prompt is None else prompt,
        output_tokens=512 if output is None else output,
        concurrency=flags["concurrency"],
        images_asked=image is not None or bool(images),
        text_asked=prompt is not None or output is not None,
    )


def _pins(flags: dict[str, Any]) -> Pins:
    from belvedere.plan.accounting import DEFAULT_VERSION
    from belvedere.plan.request import Pins, read_limits

    return Pins(
        **{name: flags[name] for name in _PINNED if name != "limit_mm_per_prompt"},
        limits=read_limits(flags["limit_mm_per_prompt"]),
        engine_version=flags["engine_version"] or DEFAULT_VERSION,
    )


def _hardware(question: _Question) -> Hardware:
    from belvedere.plan.hardware import read_hardware

    return read_hardware(question.gpus, gpu_memory=question.gpu_memory, reserve=question.reserve)


def _one(question: _Question, *, calibrated: bool, as_json: bool) -> None:
    from belvedere.catalog.models import resolve_model
    from belvedere.cli.output import print_json
    from belvedere.plan.planner import make_plan
    from belvedere.plan.render import plan_dict

    assert question.model is not None, "checked by the command"
    hardware = _hardware(question)
    plan = make_plan(resolve_model(question.model), hardware, question.workload, question.pins)
    if calibrated:
        plan = _calibrated(plan)
    if as_json:
        measured = plan.pins.calibration
        extra = {"calibrated": dict(measured.terms())} if measured is not None else {}
        print_json(plan_dict(plan) | extra)
    else:
        from belvedere.cli.plan_view import show_plan

        show_plan(plan)
    _raise_if_short(plan)


def _calibrated(plan: Plan) -> Plan:
    """`plan` made again with what the newest start of its model on its GPU measured."""
    from belvedere.engines.calibrate import calibration_of, find_start
    from belvedere.engines.starts import Starts, starts_path
    from belvedere.plan.planner import make_plan

    start = find_start(Starts(starts_path()), plan)
    measured = calibration_of(start) if start is not None else None
    if start is None or measured is None:
        what = "reported nothing that could be used" if start else "was never started here"
        raise UsageError(
            f"{plan.model.name} on {plan.hardware.gpu.name} with vLLM {plan.rules.version} {what}.",
            remedy="Start it once: belvedere serve MODEL --engine vllm",
        )
    day = time.strftime("%Y-%m-%d", time.localtime(start.time_s))
    form = f"{measured.dtype}, {measured.quantization}, tensor_parallel={measured.tensor}"
    click.echo(
        f"Calibrated by the start of {day} ({start.key.engine}; {form}): {measured}. "
        "The rest is computed.",
        err=True,
    )
    pins = replace(plan.pins, calibration=measured)
    return make_plan(plan.model, plan.hardware, plan.workload, pins)


def _raise_if_short(plan: Plan) -> None:
    from belvedere.plan.render import shortage

    if not plan.fits:
        message, remedy = shortage(plan)
        raise DoesNotFit(message, remedy=remedy)


def _compare(question: _Question, compare: str, *, as_json: bool) -> None:
    from belvedere.catalog.models import resolve_model
    from belvedere.cli.output import print_json
    from belvedere.plan.hardware import read_hardware
    from belvedere.plan.planner import make_plan
    from belvedere.plan.render import plan_dict

    assert question.model is not None, "checked by the command"
    if question.gpus is not None or question.gpu_memory is not None:
        raise UsageError("--compare and --gpus contradict each other.", remedy="Give one of them.")
    names = [name.strip() for name in compare.split(",") if name.strip()]
    if not names:
        raise UsageError("--compare names no GPU.", remedy="Write it like T4,L4,H100.")
    model = resolve_model(question.model)
    cards = [read_hardware(name, reserve=question.reserve) for name in names]
    plans = [make_plan(model, card, question.workload, question.pins) for card in cards]
    if as_json:
        print_json({"plans": [plan_dict(plan) for plan in plans]})
    else:
        from belvedere.cli.plan_view import show_comparison

        show_comparison(plans)
    if not any(plan.fits for plan in plans):
        raise DoesNotFit(f"{model.name} fits none of: {', '.join(names)}.")


def _check(question: _Question, text: str, flags: dict[str, Any], *, as_json: bool) -> None:
    from belvedere.cli.output import print_json
    from belvedere.plan.check import check_command
    from belvedere.plan.render import check_dict

    pinned = [name for name in _PINNED if flags[name] is not None]
    if question.model is not None or pinned:
        given = "a model" if question.model is not None else "--" + pinned[0].replace("_", "-")
        raise UsageError(
            f"--check and {given} contradict each other.", remedy="Put it into the command."
        )
    result = check_command(
        text, _hardware(question), question.workload, question.pins.engine_version
    )
    if as_json:
        print_json(check_dict(result))
    else:
        from belvedere.cli.plan_view import show_check

        show_check(result)
    _raise_if_short(result.plan)


_PINNED = (
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "enforce_eager",
    "max_pixels",
    "limit_mm_per_prompt",
    "tool_call_parser",
    "reasoning_parser",
)
