"""How vLLM is started: its command line, the second try, and what is remembered."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from belvedere import catalog
from belvedere.catalog.gpus import find_gpu
from belvedere.catalog.machine import MachineGpu
from belvedere.engines.base import EngineSpec, EngineStatus, HangPolicy
from belvedere.engines.devices import Devices
from belvedere.engines.local_spec import check_local, mini_folder
from belvedere.engines.reading import LogReader
from belvedere.engines.starts import Starts
from belvedere.engines.vllm_build import VllmPython, inspect_python
from belvedere.engines.vllm_launch import KV_SPACE, plan_launch
from belvedere.engines.vllm_spec import CHANGES_LABEL, core_binding
from belvedere.errors import DoesNotFit, EngineStartFailed, MissingExtra, SettingsError
from belvedere.gateway.deployment import Deployment, describe, model_of
from belvedere.gateway.recipes import VllmRecipe, vllm_python
from belvedere.gateway.reconcile import memory_view
from belvedere.plan.adjust import adjusted
from belvedere.settings import Settings, load_settings

CPU = (Devices(),)
ENGINE = VllmPython(Path("/env/bin/python"), "0.32.0", "cpu")
NO_ROOM = (
    "(EngineCore pid=17712) ERROR 11-21 06:08:59 [core.py:1510] ValueError: To serve at least one "
    "request with the model's max seq len (16384), (1.91 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (1.0 GiB). Based on the available memory, the estimated "
    "maximum model length is 10474. Try increasing `gpu_memory_utilization`"
)


@pytest.fixture(autouse=True)
def no_kv_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KV_SPACE, raising=False)


def settings_of(**wishes: object) -> Settings:
    return load_settings({"engine": "vllm", **wishes}, environ={})


def recipe_of(folder: Path, groups: tuple[Devices, ...] = CPU, **wishes: object) -> VllmRecipe:
    starts = Starts(folder / "starts.json")
    return VllmRecipe(mini_folder(), settings_of(**wishes), groups, (), ENGINE, starts)


def specs_of(recipe: VllmRecipe, folder: Path, replicas: int = 1) -> list[EngineSpec]:
    return recipe.specs(describe(settings_of(), replicas), folder)


def option(spec: EngineSpec, name: str) -> str:
    return spec.argv[spec.argv.index(name) + 1]


def failed(*notes: str) -> list[EngineStatus]:
    return [EngineStatus("e", "failed", "kv cache", notes=notes)]


def test_the_command_line_is_the_plan(tmp_path: Path) -> None:
    (spec,) = specs_of(recipe_of(tmp_path, dtype="float32", max_batch_size=4), tmp_path)
    assert spec.argv[:3] == ("/env/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    assert option(spec, "--model") == str(mini_folder())
    assert option(spec, "--served-model-name") == "belvedere-mini"
    assert option(spec, "--dtype") == "float32"
    assert option(spec, "--max-model-len") == "16384"
    assert option(spec, "--max-num-seqs") == "4"
    assert "--enforce-eager" in spec.argv
    # 2 x 5 layers x 4 heads x 64 x 4 bytes a token, four sequences of the whole context
    assert int(option(spec, "--kv-cache-memory-bytes")) == 4 * (16384 + 16) * 10_240
    limits = json.loads(option(spec, "--limit-mm-per-prompt"))
    assert limits["image"] >= 10
    assert limits["video"] == 1
    sizes = json.loads(option(spec, "--mm-processor-kwargs"))
    assert sizes["images_kwargs"]["size"]["longest_edge"] == 486_400
    assert sizes["videos_kwargs"]["size"] == {"shortest_edge": 4096, "longest_edge": 486_400}
    assert "--trust-request-mm-kwargs" in spec.argv
    assert isinstance(spec.hang, HangPolicy)
    assert spec.hang.counters == "metrics"


def catalogued(folder: Path, name: str) -> Path:
    """A model of the catalogue as a folder without weights."""
    entry = json.loads((Path(catalog.__file__).parent / "models" / f"{name}.json").read_text())
    for key, file in (
        ("config", "config.json"),
        ("preprocessor", "preprocessor_config.json"),
        ("video_preprocessor", "video_preprocessor_config.json"),
    ):
        if key in entry:
            (folder / file).write_text(json.dumps(entry[key]))
    return folder


@pytest.mark.parametrize(
    ("name", "version", "takes_videos"),
    [
        ("qwen3-vl-8b-instruct", "0.32.0", True),
        ("qwen3-vl-8b-instruct", "0.31.2", False),
        ("qwen2.5-vl-7b-instruct", "0.32.0", False),
        ("qwen2.5-32b-instruct", "0.32.0", False),
    ],
)
def test_videos_go_as_such_where_times_can_be_told_and_take_no_further_memory(
    tmp_path: Path, name: str, version: str, takes_videos: bool
) -> None:
    folder = catalogued(tmp_path, name)
    engine = VllmPython(Path("/env/bin/python"), version, "cuda")
    wishes = settings_of(quantization="fp8", tensor_parallel_size=4)
    groups, machine = (Devices((0, 1, 2, 3)),), tuple(l4(index, 0.99) for index in range(4))
    launch = plan_launch(folder, wishes, engine, groups, machine, {})
    assert launch.plan.settings.video_limit == int(takes_videos)
    assert ("--trust-request-mm-kwargs" in launch.flags()) is takes_videos
    assert adjusted(launch.plan, video_limit=0).budget.kv_bytes == launch.plan.budget.kv_bytes


def test_the_key_is_in_the_environment_only_and_nothing_calls_out(tmp_path: Path) -> None:
    (spec,) = specs_of(recipe_of(tmp_path), tmp_path)
    key = spec.endpoint.api_key
    assert key
    assert spec.env["VLLM_API_KEY"] == key
    assert key not in " ".join(spec.argv)
    assert key not in repr(spec)
    assert option(spec, "--uds") == spec.endpoint.uds
    for name in ("VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert spec.env[name] == "1"


def test_the_probe_shows_a_vision_model_an_image(tmp_path: Path) -> None:
    (spec,) = specs_of(recipe_of(tmp_path), tmp_path)
    assert spec.probe is not None
    assert not spec.probe.announced
    parts = spec.probe.body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]


def test_a_warning_is_not_taken_for_the_cause_of_a_failed_start(tmp_path: Path) -> None:
    (spec,) = specs_of(recipe_of(tmp_path), tmp_path)
    reader = LogReader(spec.log)
    warning = (
        "WARNING [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase "
        "with error not allowed to raise maximum limit. This can cause fd limit errors like "
        "`OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n"
    )
    assert not reader.takes(warning)
    assert reader.reason() is None
    assert reader.takes("(EngineCore pid=1) OSError: [Errno 24] Too many open files: '/x'")
    assert reader.reason() == "OSError: [Errno 24] Too many open files: '/x'"


def test_tool_calls_are_parsed_as_the_family_writes_them(tmp_path: Path) -> None:
    (spec,) = specs_of(recipe_of(tmp_path), tmp_path)
    assert option(spec, "--tool-call-parser") == "hermes"
    assert "--enable-auto-tool-choice" in spec.argv
    assert "--reasoning-parser" not in spec.argv
    (other,) = specs_of(recipe_of(tmp_path, tool_call_parser="pythonic"), tmp_path)
    assert option(other, "--tool-call-parser") == "pythonic"
    (none,) = specs_of(recipe_of(tmp_path, tool_call_parser="none"), tmp_path)
    assert "--enable-auto-tool-choice" not in none.argv


def test_parsers_are_refused_where_the_embedded_engine_computes() -> None:
    with pytest.raises(SettingsError, match="--tool-call-parser is for vLLM"):
        check_local(mini_folder(), settings_of(tool_call_parser="hermes"))


def test_replicas_on_a_cpu_get_cores_of_their_own() -> None:
    from belvedere.engines.local.cores import distinct_cores

    cores = [str(core) for core in distinct_cores()]
    assert core_binding(0, 1) == {}
    bound = (
        [core_binding(i, len(cores))["VLLM_CPU_OMP_THREADS_BIND"] for i in range(len(cores))]
        if len(cores) > 1
        else cores
    )
    assert sorted(bound) == sorted(cores)


def test_the_gateway_prepares_images_as_the_engine_takes_them(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    recipe.retry(failed("torch.OutOfMemoryError: CUDA out of memory."), EngineStartFailed("x"))
    (spec,) = specs_of(recipe, tmp_path)
    seen = Deployment.from_labels(spec.labels)
    assert seen is not None
    model = model_of(seen, None)
    size = json.loads(option(spec, "--mm-processor-kwargs"))["images_kwargs"]["size"]
    assert model.geometry is not None
    assert model.geometry.max_pixels == size["longest_edge"] < 486_400
    assert model.max_model_len == 16384
    assert model.video is not None
    assert model.video.max_pixels == 486_400
    assert model.features is None
    assert model.takes_cache_salt


def test_a_lack_of_memory_is_tried_again_with_less_and_remembered(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    said = recipe.retry(failed("noise", NO_ROOM), EngineStartFailed("it failed"))
    assert "estimated maximum model length is 10474" in said
    assert said.endswith("Next: --max-model-len 10464 instead of 16384.")
    (spec,) = specs_of(recipe, tmp_path)
    assert option(spec, "--max-model-len") == "10464"
    notes = ("INFO CPU KV cache size: 10,464 tokens, Maximum concurrency",)
    ready = EngineStatus("e", "ready", "ready", elapsed_s=9, phase_s={"weights": 9.0}, notes=notes)
    recipe.started([ready])

    (again,) = specs_of(recipe_of(tmp_path), tmp_path)
    assert option(again, "--max-model-len") == "10464"
    assert again.expected_s == {"weights": 9.0}
    assert "as it worked last time" in again.labels[CHANGES_LABEL]
    (other,) = specs_of(recipe_of(tmp_path, max_batch_size=2), tmp_path)
    assert option(other, "--max-model-len") == "16384"
    (without,) = specs_of(recipe_of(tmp_path, ladder=False), tmp_path)
    assert option(without, "--max-model-len") == "16384"


def test_without_the_ladder_the_advice_comes_at_once(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ladder=False)
    with pytest.raises(EngineStartFailed) as caught:
        recipe.retry(failed(NO_ROOM), EngineStartFailed("it failed"))
    assert "To serve at least one request" in caught.value.message
    assert caught.value.remedy == "--max-model-len 10474 would fit."


def test_other_failures_are_not_tried_again(tmp_path: Path) -> None:
    failure = EngineStartFailed("The engine gave up: ValueError: nonsense")
    with pytest.raises(EngineStartFailed) as caught:
        recipe_of(tmp_path).retry(failed("ValueError: nonsense"), failure)
    assert caught.value is failure


def test_the_ladder_ends(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, max_batch_size=64)
    said = 0
    with pytest.raises(EngineStartFailed) as caught:
        for _ in range(50):
            recipe.retry(
                failed("DefaultCPUAllocator: can't allocate memory"), EngineStartFailed("x")
            )
            said += 1
    assert 1 < said <= 8
    assert "Tried: " in caught.value.message


def test_plan_and_report_stand_side_by_side(tmp_path: Path) -> None:
    (spec,) = specs_of(recipe_of(tmp_path, max_batch_size=4), tmp_path)
    notes = ("INFO CPU KV cache size: 32,000 tokens, Maximum concurrency",)
    view = memory_view(spec.labels, EngineStatus("e", "ready", "ready", notes=notes))
    assert view is not None
    assert view["planned"]["kv_tokens"] == 4 * (16384 + 16)
    assert view["reported"]["kv_tokens"] == 32_000
    assert view["deviations"] == ["kv tokens: planned 65,600, reported 32,000"]
    assert memory_view({}, EngineStatus("e", "ready", "ready")) is None


def test_the_users_own_cache_space_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KV_SPACE, "3")
    (spec,) = specs_of(recipe_of(tmp_path), tmp_path)
    assert spec.env[KV_SPACE] == "3"
    assert "--kv-cache-memory-bytes" not in spec.argv
    monkeypatch.setenv(KV_SPACE, "much")
    with pytest.raises(SettingsError, match="not a number of GiB"):
        recipe_of(tmp_path)


def test_a_context_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    for file in mini_folder().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    wishes = settings_of(max_model_len=10**9)
    with pytest.raises(DoesNotFit):
        VllmRecipe(folder, wishes, CPU, (), ENGINE, Starts(tmp_path / "s.json"))


def l4(index: int, free_share: float) -> MachineGpu:
    gpu = find_gpu("L4")
    total = gpu.memory_nvml_bytes
    return MachineGpu(index, "NVIDIA L4", gpu, total, int(free_share * total))


def test_replicas_on_gpus_see_their_own_cards_and_take_what_is_free(tmp_path: Path) -> None:
    machine = tuple(l4(index, 0.8 if index == 2 else 0.99) for index in range(4))
    groups = (Devices((0, 1)), Devices((2, 3)))
    engine = VllmPython(Path("/env/bin/python"), "0.32.0", "cuda")
    wishes = settings_of(tensor_parallel_size=2)
    recipe = VllmRecipe(mini_folder(), wishes, groups, machine, engine, Starts(tmp_path / "s"))
    specs = specs_of(recipe, tmp_path, replicas=2)
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in specs] == ["0,1", "2,3"]
    assert len({spec.endpoint.uds for spec in specs}) == 2
    for spec in specs:
        assert option(spec, "--tensor-parallel-size") == "2"
        assert 0.7 < float(option(spec, "--gpu-memory-utilization")) < 0.8
        assert "--kv-cache-memory-bytes" not in spec.argv
        assert "VLLM_CPU_OMP_THREADS_BIND" not in spec.env
        assert "--enforce-eager" not in spec.argv


def test_the_share_that_another_program_took_is_given_up(tmp_path: Path) -> None:
    engine = VllmPython(Path("/env/bin/python"), "0.32.0", "cuda")
    groups, machine = (Devices((0,)),), (l4(0, 0.99),)
    recipe = VllmRecipe(
        mini_folder(), settings_of(), groups, machine, engine, Starts(tmp_path / "s")
    )
    text = (
        "ValueError: Free memory on device cuda:0 (9.5/21.95 GiB) on startup is less than desired "
        "GPU memory utilization (0.92, 20.19 GiB). Decrease GPU memory utilization"
    )
    recipe.retry(failed(text), EngineStartFailed("x"))
    (spec,) = specs_of(recipe, tmp_path)
    assert option(spec, "--gpu-memory-utilization") == "0.42"


def test_the_cpu_build_is_not_given_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CPU build"):
        recipe_of(tmp_path, groups=(Devices((0,)),))


def fake_python(folder: Path, found: Mapping[str, str]) -> Path:
    """A program that answers as a Python with these distributions would."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps(found))})\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("found", "version", "build"),
    [
        ({"vllm-cpu": "0.32.0"}, "0.32.0", "cpu"),
        ({"vllm": "0.32.1"}, "0.32.1", "cuda"),
        ({"vllm": "0.33.0+cpu"}, "0.33.0", "cpu"),
    ],
)
def test_what_an_environment_has(
    tmp_path: Path, found: dict[str, str], version: str, build: str
) -> None:
    seen = inspect_python(fake_python(tmp_path, found))
    assert (seen.version, seen.build) == (version, build)


def test_pythons_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match="has no vLLM"):
        inspect_python(Path(sys.executable))
    with pytest.raises(SettingsError, match="no Python that can be run"):
        inspect_python(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"older than 0\.11"):
        inspect_python(fake_python(tmp_path, {"vllm": "0.9.2"}))


def test_which_engine_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    python = str(fake_python(tmp_path, {"vllm-cpu": "0.32.0"}))
    assert vllm_python(settings_of(engine="local", engine_python=python), on_gpu=False) is None
    assert vllm_python(settings_of(engine="auto"), on_gpu=False) is None
    assert vllm_python(settings_of(engine="auto"), on_gpu=True) is None
    assert vllm_python(settings_of(engine="auto", engine_python=python), on_gpu=False) is not None
    with pytest.raises(MissingExtra) as caught:
        vllm_python(settings_of(), on_gpu=False)
    assert caught.value.remedy is not None
    assert "belvedere engine install vllm" in caught.value.remedy
