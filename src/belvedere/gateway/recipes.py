"""Which engine a model is loaded with, and how: the embedded one, or vLLM from a plan."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from belvedere.catalog.machine import MachineGpu
from belvedere.engines import vllm_build
from belvedere.engines.base import EngineSpec, EngineStatus
from belvedere.engines.devices import Devices
from belvedere.engines.ladder import advice, next_step, read_refusal
from belvedere.engines.local.folder import inspect_folder
from belvedere.engines.local_spec import check_local, local_engine_spec
from belvedere.engines.starts import Start, Starts, starts_path
from belvedere.engines.vllm_build import VllmPython
from belvedere.engines.vllm_launch import plan_launch
from belvedere.engines.vllm_report import MemoryReport, deviations, read_report
from belvedere.engines.vllm_spec import PLANNED_LABEL, vllm_engine_spec
from belvedere.errors import EngineStartFailed, MissingExtra, NotSupported, SettingsError
from belvedere.gateway.deployment import LABEL, Deployment
from belvedere.gateway.fit import check_fit, planned_weights_bytes
from belvedere.settings import Settings

__all__ = ["LocalRecipe", "Recipe", "VllmRecipe", "choose_recipe", "vllm_python"]

_log = logging.getLogger(__name__)
_MAX_STEPS = 8


class Recipe(Protocol):
    """How the engines of one deployment are started. Calls may block on the disk."""

    def specs(self, deployment: Deployment, directory: Path) -> list[EngineSpec]:
        """The engines to start now, one per replica, with sockets in `directory`."""

    def retry(self, failed: Sequence[EngineStatus], failure: EngineStartFailed) -> str:
        """Changes the next `specs` so that they may succeed, and says how.

        Raises:
            EngineStartFailed: there is nothing to change; `failure`, with advice.
        """

    def started(self, statuses: Sequence[EngineStatus]) -> None:
        """All engines are ready: learn from it."""


class LocalRecipe:
    """The embedded engine; it has no second try.

    Raises:
        ModelFolderError, SettingsError, MissingExtra, DoesNotFit: it would not start.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        groups: Sequence[Devices],
        machine: Sequence[MachineGpu],
    ) -> None:
        check_local(folder, settings)
        if settings.strict_actions:
            raise SettingsError(
                "The embedded engine has no structured outputs, which --strict-actions needs.",
                remedy="Serve with --engine vllm, or leave --strict-actions out.",
            )
        check_fit(folder, settings, groups, machine)
        self._folder, self._settings, self._groups = folder, settings, groups
        on_gpu = bool(groups[0].gpu_ids)
        self._planned = MemoryReport(planned_weights_bytes(folder, settings, on_gpu=on_gpu))

    def specs(self, deployment: Deployment, directory: Path) -> list[EngineSpec]:
        planned = {PLANNED_LABEL: json.dumps(self._planned.to_wire())}
        return [
            local_engine_spec(
                deployment.engine_name(index),
                self._folder,
                directory,
                deployment.name,
                self._settings,
                devices=group,
                cpu_share=len(self._groups),
                labels={LABEL: deployment.to_label(), "devices": str(group), **planned},
            )
            for index, group in enumerate(self._groups)
        ]

    def retry(self, failed: Sequence[EngineStatus], failure: EngineStartFailed) -> str:
        raise failure

    def started(self, statuses: Sequence[EngineStatus]) -> None:
        pass


class VllmRecipe:
    """vLLM from the planner's settings, with less and less where it says that memory lacks.

    Args:
        starts: what earlier starts taught, and where this one is remembered.

    Raises:
        ModelFolderError, SettingsError, UsageError, DoesNotFit: it would not start.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        groups: Sequence[Devices],
        machine: Sequence[MachineGpu],
        engine: VllmPython,
        starts: Starts,
    ) -> None:
        inspect_folder(folder, has_weights=settings.load_format == "auto")
        self._folder, self._settings, self._groups = folder, settings, groups
        self._starts = starts
        self._launch = plan_launch(folder, settings, engine, groups, machine, os.environ)
        self._known = starts.find(self._launch.key, self._launch.asked)
        self._recall()

    def specs(self, deployment: Deployment, directory: Path) -> list[EngineSpec]:
        settings = self._launch.plan.settings
        seen = replace(
            deployment,
            engine="vllm",
            max_pixels=settings.max_pixels,
            max_clip_pixels=settings.max_clip_pixels,
            max_model_len=settings.max_model_len,
        )
        return [
            vllm_engine_spec(
                deployment.engine_name(index),
                self._folder,
                directory,
                deployment.name,
                self._settings,
                self._launch,
                devices=group,
                replica=(index, len(self._groups)),
                labels={LABEL: seen.to_label(), "devices": str(group)},
                expected_s=self._known.phase_s if self._known else None,
            )
            for index, group in enumerate(self._groups)
        ]

    def retry(self, failed: Sequence[EngineStatus], failure: EngineStartFailed) -> str:
        refusals = (read_refusal(status.notes) for status in failed)
        refusal = next((found for found in refusals if found is not None), None)
        if refusal is None:
            raise failure
        launch = self._launch
        step = next_step(launch.plan, refusal, launch.kv_bytes)
        is_over = not self._settings.ladder or len(launch.said) >= _MAX_STEPS
        if step is None or is_over:
            tried = f" Tried: {'; '.join(launch.said)}." if launch.said else ""
            raise EngineStartFailed(
                f"vLLM does not fit: {refusal.text}{tried}", remedy=advice(launch.plan, refusal)
            ) from failure
        self._launch = launch.after(step)
        _log.warning("vLLM does not fit (%s); next: %s", refusal.text, step.said)
        return f"vLLM does not fit: {refusal.text} Next: {step.said}."

    def started(self, statuses: Sequence[EngineStatus]) -> None:
        """Remembers what worked and how long it took; tells where the plan was wrong."""
        launch, slowest = self._launch, max(statuses, key=lambda status: status.elapsed_s)
        reported = read_report(slowest.notes)
        planned = launch.planned()
        for deviation in deviations(planned, reported):
            _log.warning("%s differs from the plan: %s", slowest.name, deviation)
        start = Start(
            launch.key,
            launch.asked,
            changes=launch.changes,
            phase_s=dict(slowest.phase_s),
            form=launch.form,
            planned=planned,
            reported=reported,
        )
        try:
            self._starts.keep(start)
        except OSError as exc:
            _log.warning("this start cannot be remembered: %s", exc.strerror)

    def _recall(self) -> None:
        """What the ladder found for the same wishes is where this start begins."""
        if self._known is None or not self._known.changes or not self._settings.ladder:
            return
        said = ", ".join(f"{name} {value:g}" for name, value in self._known.changes.items())
        self._launch = self._launch.changed(self._known.changes, f"{said}, as it worked last time")


def choose_recipe(
    folder: Path,
    settings: Settings,
    groups: Sequence[Devices],
    machine: Sequence[MachineGpu],
) -> Recipe:
    """The engine that `settings` ask for, checked.

    Raises:
        MissingExtra: it is not installed.
        NotSupported: it has no sleep mode, which is asked for.
        ModelFolderError, SettingsError, UsageError, DoesNotFit: it would not start.
    """
    engine = vllm_python(settings, on_gpu=bool(groups[0].gpu_ids))
    _check_sleep_mode(settings, engine)
    if engine is None:
        return LocalRecipe(folder, settings, groups, machine)
    return VllmRecipe(folder, settings, groups, machine, engine, Starts(starts_path()))


def _check_sleep_mode(settings: Settings, engine: VllmPython | None) -> None:
    if settings.idle_sleep_s is not None and not settings.sleep_mode:
        raise SettingsError(
            "idle_sleep_s is set, but sleep_mode is off.", remedy="Add --sleep-mode."
        )
    if not settings.sleep_mode or (engine is not None and engine.build == "cuda"):
        return
    what = "The embedded engine" if engine is None else "The CPU build of vLLM"
    raise NotSupported(
        f"{what} has no sleep mode; only vLLM on a GPU has.",
        remedy="Leave --sleep-mode out; 'belvedere unload' and idle_unload_s free memory too.",
    )


def vllm_python(settings: Settings, *, on_gpu: bool) -> VllmPython | None:
    """The vLLM to use; ``None`` for the embedded engine.

    ``auto`` is vLLM where `Settings.engine_python` names one, or where the model runs on a GPU and
    an environment is installed.

    Raises:
        MissingExtra: vLLM is asked for and not installed.
        SettingsError: see `inspect_python`.
    """
    if settings.engine == "local":
        return None
    if settings.engine_python is not None:
        return vllm_build.inspect_python(Path(settings.engine_python).expanduser())
    build: vllm_build.Build = "cuda" if on_gpu else "cpu"
    environment = vllm_build.installed(vllm_build.engines_folder(), build)
    if environment is not None and (settings.engine == "vllm" or on_gpu):
        return VllmPython(environment.python, environment.version, environment.build)
    if settings.engine == "vllm":
        raise MissingExtra(
            f"vLLM ({build} build) is not installed.",
            remedy=f"Install it with: {vllm_build.INSTALL_COMMAND}\n"
            "Or name the Python of an environment that has it: --engine-python PATH",
        )
    return None
