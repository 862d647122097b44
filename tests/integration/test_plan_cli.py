"""``belvedere plan``, ``gpus`` and ``models`` as a user runs them: real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from belvedere.plan.vision import largest_image_tokens, largest_video_tokens

HEAVY = ("torch", "transformers", "pydantic", "fastapi", "httpx2", "PIL", "numpy", "rich")

AGENT = [
    "plan",
    "mai-ui-8b",
    "--gpus",
    "L4",
    "--image",
    "1920x1080",
    "--images",
    "3",
    "--concurrency",
    "8",
]
COMPARE = ["plan", "mai-ui-8b", "--compare", "T4,L4,A100-40GB,H100"]
CHECK = [
    "plan",
    "--check",
    "vllm serve Qwen/Qwen3-VL-8B-Instruct --max-model-len 32768",
    "--gpus",
    "L4",
]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run(
        [sys.executable, "-m", "belvedere", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        check=False,
    )


def run_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == code, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(AGENT, 0), (COMPARE, 0), (CHECK, 3), (["gpus"], 0), (["models"], 0)],
    ids=["plan", "compare", "check", "gpus", "models"],
)
@pytest.mark.parametrize("columns", [80, 120])
def test_tables_keep_within_the_terminal(arguments: list[str], code: int, columns: int) -> None:
    done = run(*arguments, COLUMNS=str(columns))
    assert done.returncode == code, done.stderr
    tables = [line for line in done.stdout.splitlines() if not line.startswith("vllm serve")]
    notes = [line for line in tables if not line.startswith(("note:", "No NVIDIA", "KV cache"))]
    assert max(len(line.rstrip()) for line in notes) <= columns
    assert "\x1b[" not in done.stdout, "colour belongs on a terminal only"


def test_a_plan_for_people() -> None:
    text = run(*AGENT).stdout
    assert text.startswith("mai-ui-8b fits on L4\n")
    for part in ("weights", "KV cache", "vision encoder", "CUDA graphs", "total", "[#"):
        assert part in text
    assert "vllm serve Tongyi-MAI/MAI-UI-8B" in text


def test_a_plan_for_programs() -> None:
    plan = run_json(*AGENT)
    assert plan["fits"] is True and plan["settings"]["quantization"] == "fp8"
    assert plan["kv_tokens"] >= 8 * plan["request_tokens"]
    assert plan["vision_tokens_per_image"] == 2040


def test_compare_is_one_object() -> None:
    plans = run_json(*COMPARE)["plans"]
    assert [plan["gpu"] for plan in plans] == ["T4", "L4", "A100-40GB", "H100 SXM"]
    assert all(plan["fits"] for plan in plans)


def test_check_says_what_to_change() -> None:
    done = run(*CHECK)
    assert done.returncode == 3
    assert "does NOT start" in done.stdout and "suggested:" in done.stdout
    value = run_json(*CHECK, code=3)
    assert value["fits"] is False and value["check"]["suggested"][:2] == ["vllm", "serve"]


def test_gpus_and_models_for_programs() -> None:
    gpus = {gpu["name"]: gpu for gpu in run_json("gpus")["gpus"]}
    assert gpus["L4"]["memory_cuda_bytes"] < gpus["L4"]["memory_nvml_bytes"]
    models = {model["name"]: model for model in run_json("models")["models"]}
    assert models["mai-ui-2b"]["parameters"]["total"] == 2127532032
    assert models["mai-ui-2b"]["kv_bytes_per_token"] == 114688


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("plan mai-ui-8b --gpus L5", 2, "'L5' is not in the catalogue. The nearest known: L4"),
        ("plan mai-ui-9b --gpus L4", 2, "nearest known: mai-ui-2b, mai-ui-8b"),
        ("plan --gpus L4", 2, "No model is named"),
        ("plan mai-ui-8b --gpus 0xL4", 2, "0 GPUs cannot be planned"),
        ("plan mai-ui-8b --gpus L4 --max-model-len -1", 2, "--max-model-len -1 is not positive"),
        ("plan mai-ui-8b --gpus L4 --image 19x", 2, "Write it like 1920x1080"),
        ("plan mai-ui-8b --gpus L4 --image 10x5000", 2, "500 times"),
        ("plan mai-ui-8b --gpu-memory 24XB", 2, "'XB' is not known"),
        ("plan mai-ui-8b --gpus L4 --compare T4", 2, "contradict each other"),
        ("plan mai-ui-8b --gpus L4 --check vllm", 2, "contradict each other"),
        ("plan mai-ui-8b --compare V100,L4", 2, "'V100' is not in the catalogue"),
        ("plan a/b --gpus L4", 2, "HF_HUB_OFFLINE is set"),
        ("plan mai-ui-235b-a22b --gpus L4", 3, "short by 202.05 GiB per GPU"),
        ("plan mai-ui-235b-a22b --compare T4,L4", 3, "fits none of: T4, L4"),
        ("plan qwen2.5-32b --gpus 3xL4 --tensor-parallel-size 3", 3, "do not divide by 3"),
    ],
)
def test_errors_are_one_line(arguments: str, code: int, message: str) -> None:
    done = run(*arguments.split())
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == "" or code == 3


def test_a_plan_that_does_not_fit_is_still_an_object() -> None:
    value = run_json("plan", "mai-ui-235b-a22b", "--gpus", "L4", code=3)
    assert value["fits"] is False and value["short_bytes"] > 10**11


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom belvedere.cli import cli\n"
        f"cli.main({[*AGENT, '--json']!r}, standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stderr == "[]\n"


VLLM_PLANS = {
    "fp8": AGENT,
    "16 bit": ["plan", "mai-ui-2b", "--gpus", "H100"],
    "text": ["plan", "qwen2.5-32b", "--gpus", "3xA100-40GB"],
    "pipeline": ["plan", "qwen2.5-32b", "--gpus", "3xA100-40GB", "--pipeline-parallel-size", "3"],
    "awq": ["plan", "qwen2.5-vl-32b", "--gpus", "RTX 4090"],
    "pinned awq": ["plan", "mai-ui-8b", "--gpus", "L4", "--quantization", "awq"],
    "pinned gptq": ["plan", "mai-ui-8b", "--gpus", "L4", "--quantization", "gptq"],
    "pinned nvfp4": ["plan", "mai-ui-8b", "--gpus", "B200", "--quantization", "nvfp4"],
    "pinned fp8 KV": [
        "plan",
        "mai-ui-8b",
        "--gpus",
        "H100",
        "--kv-cache-dtype",
        "fp8",
        "--enforce-eager",
    ],
    "T4": ["plan", "mai-ui-8b", "--gpus", "T4", "--dtype", "half"],
    "shipped model": [
        "plan",
        "mini",
        "--gpus",
        "L4",
        "--max-pixels",
        "200000",
        "--video",
        "320x240x8",
    ],
}


@pytest.fixture(scope="module")
def vllm_answers() -> dict[str, dict[str, Any]]:
    """What vLLM's own parser and encoder budget make of the rendered command lines."""
    python = os.environ.get("BELVEDERE_VLLM_PYTHON")
    if not python:
        pytest.skip("BELVEDERE_VLLM_PYTHON does not name a python with vllm 0.32")
    plans = {name: run_json(*arguments) for name, arguments in VLLM_PLANS.items()}
    argvs = {name: plan["engine"]["argv"] for name, plan in plans.items()}
    probe = Path(__file__).with_name("vllm_probe.py")
    done = subprocess.run(
        [python, str(probe)],
        input=json.dumps(argvs),
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return {name: {**plans[name], "vllm": answers[name]} for name in plans}


@pytest.mark.parametrize("name", sorted(VLLM_PLANS))
def test_vllm_accepts_the_command_line(vllm_answers: dict[str, dict[str, Any]], name: str) -> None:
    plan = vllm_answers[name]
    settings, parsed = plan["settings"], plan["vllm"]["parsed"]
    assert parsed["model_tag"] == plan["engine"]["argv"][2]
    for key in ("dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens"):
        assert parsed[key] == settings[key]
    assert parsed["gpu_memory_utilization"] == settings["gpu_memory_utilization"]
    assert parsed["enforce_eager"] is settings["enforce_eager"]
    layout = plan["layout"]
    assert parsed["tensor_parallel_size"] == layout["tensor_parallel"]
    assert parsed["pipeline_parallel_size"] == layout["pipeline_parallel"]
    if settings["max_pixels"] is not None:
        assert parsed["limit_mm_per_prompt"] == settings["limit_mm_per_prompt"]
    assert plan["vllm"]["unknown_quantization"] is False


def test_vllm_counts_the_same_vision_tokens(vllm_answers: dict[str, dict[str, Any]]) -> None:
    """The image limit reaches vLLM's processor, and its largest items are the planned ones."""
    from belvedere.catalog import resolve_model

    geometry = resolve_model("mini").geometry
    assert geometry is not None
    limited = geometry.image.with_max_pixels(200000)
    counted = vllm_answers["shipped model"]["vllm"]["encoder"]
    assert counted["largest"] == {
        "image": largest_image_tokens(limited),
        "video": largest_video_tokens(geometry, 16384),
    }
    assert counted["budget"] == 2048
