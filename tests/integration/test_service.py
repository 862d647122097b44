"""The Python API on the real embedded engine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil
import pytest
from PIL import Image, ImageDraw

from belvedere import BelvedereError, InferenceService
from belvedere.engines.local_spec import mini_folder
from belvedere.errors import (
    EngineFailed,
    EngineStartFailed,
    InputFileError,
    InvalidRequest,
    ModelFolderError,
    ModelNotFound,
    SettingsError,
    UsageError,
)
from tests.integration.serving import RunningServer, clean_environment, wait_gone, wait_until

pytestmark = pytest.mark.engine

T = TypeVar("T")
DOCS = Path(__file__).resolve().parents[2] / "docs"
PROMPT = "Click the button."
GREEDY: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0}
LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": 12_000,
    "temperature": 0.0,
    "ignore_eos": True,
}


def picture() -> Image.Image:
    image = Image.new("RGB", (320, 224), "white")
    ImageDraw.Draw(image).rectangle((200, 120, 280, 160), fill="navy")
    return image


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a screen.png"
    picture().save(path)
    return path


class Program:
    """An event loop in a thread, with a service that has loaded the shipped model."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.service = InferenceService(device="cpu", access_log="json")
        before = set(psutil.Process().children(recursive=True))
        self.name = self.run(self.service.load_model())
        self.started = set(psutil.Process().children(recursive=True)) - before

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(300)

    def ask(self, question: Callable[[InferenceService], Awaitable[T]]) -> T:
        async def asking() -> T:
            return await question(self.service)

        return self.run(asking())

    @property
    def in_flight(self) -> int:
        models = self.service.status()["models"]
        return sum(one["in_flight"] for model in models for one in model["replicas"])

    def end(self) -> None:
        try:
            self.run(self.service.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    program = Program()
    try:
        assert len(program.started) == 2, "a supervisor and an engine"
        yield program
    finally:
        program.end()
    assert wait_gone(list(program.started)) == []


def code_of(document: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    return str(code)


def test_both_import_paths_are_the_same_class() -> None:
    """Programs of the model-garden document import it from ``.inference``."""
    assert importlib.import_module("belvedere.inference").InferenceService is InferenceService


def test_the_example_of_the_document_runs_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "my-model").symlink_to(mini_folder())
    picture().save(tmp_path / "screenshot.png")
    code = code_of((DOCS / "python-api.md").read_text())
    check = "\nimport psutil; print('left:', psutil.Process().children(recursive=True))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + check],
        cwd=tmp_path,
        env=clean_environment({"OMP_WAIT_POLICY": "PASSIVE"}),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith("left: []\n")


def test_the_same_words_as_the_server(program: Program, server: RunningServer, png: Path) -> None:
    ours = program.ask(lambda it: it.generate(PROMPT, images=[png], **GREEDY))
    data_url = "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
    body = {"prompt": PROMPT, "images": [data_url], **GREEDY}
    theirs = httpx2.post(f"{server.url}/api/v1/inference/generate", json=body, timeout=60).json()
    assert ours["text"] == theirs["text"] != ""
    assert ours["usage"] == theirs["usage"]
    assert ours["belvedere"] == theirs["belvedere"]
    assert ours["finish_reason"] in ("stop", "length")


def test_every_kind_of_image_reference_is_the_same_image(program: Program, png: Path) -> None:
    kinds: list[Any] = [png, str(png), png.as_uri(), png.read_bytes(), picture()]
    answers = [program.ask(lambda it, i=kind: it.generate(PROMPT, [i], **GREEDY)) for kind in kinds]
    assert len({one["text"] for one in answers}) == 1
    assert {tuple(one["belvedere"]["images"][0]["seen_size"]) for one in answers} == {(320, 224)}


def test_chunks_are_the_text_in_pieces(program: Program, png: Path) -> None:
    async def pieces(service: InferenceService) -> list[dict[str, Any]]:
        generation = service.generate(PROMPT, [png], stream=True, **GREEDY)
        return [chunk async for chunk in generation]

    chunks = program.ask(pieces)
    whole = program.ask(lambda it: it.generate(PROMPT, [png], stream=True, **GREEDY))
    assert len(chunks) > 2
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    assert [chunk["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1] == {"text": "", "finish_reason": whole["finish_reason"]}


def test_a_chat_is_openais(program: Program, png: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": str(png)}}
    messages = [
        {"role": "system", "content": "You point at things."},
        {"role": "user", "content": [image, {"type": "text", "text": PROMPT}]},
    ]

    async def pieces(service: InferenceService) -> list[dict[str, Any]]:
        return [one async for one in service.chat_completion(messages, stream=True, **GREEDY)]

    whole = program.ask(lambda it: it.chat_completion(messages, **GREEDY))
    chunks = program.ask(pieces)
    text = whole["choices"][0]["message"]["content"]
    assert whole["object"] == "chat.completion"
    assert whole["belvedere"]["images"][0]["original_size"] == [320, 224]
    assert {one["object"] for one in chunks} == {"chat.completion.chunk"}
    said = [one["choices"][0]["delta"].get("content") or "" for one in chunks if one["choices"]]
    assert "".join(said) == text
    assert messages[1]["content"][0] == image, "the caller's messages are left alone"


def test_requests_run_beside_each_other(program: Program) -> None:
    async def several(service: InferenceService) -> list[dict[str, Any]]:
        task = asyncio.create_task(service.generate(PROMPT, **GREEDY))
        timed = asyncio.wait_for(service.generate(PROMPT, **GREEDY), 60)
        return list(await asyncio.gather(service.generate(PROMPT, **GREEDY), timed, task))

    assert len({one["text"] for one in program.ask(several)}) == 1


def test_leaving_the_loop_early_ends_the_work(program: Program) -> None:
    async def one_chunk(service: InferenceService) -> None:
        async for _ in service.chat_completion(stream=True, **LONG):
            assert program.in_flight == 1
            break

    program.ask(one_chunk)
    assert wait_until(lambda: program.in_flight == 0, 30)


def test_cancelling_ends_the_work(program: Program) -> None:
    async def cancelled(service: InferenceService) -> None:
        task = asyncio.create_task(service.chat_completion(**LONG))
        while not program.in_flight and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    program.ask(cancelled)
    assert wait_until(lambda: program.in_flight == 0, 30)
    assert program.ask(lambda it: it.generate(PROMPT, **GREEDY))["text"]


@pytest.mark.parametrize(
    ("arguments", "error", "param"),
    [
        ({"prompt": ""}, InvalidRequest, "prompt"),
        ({"prompt": PROMPT, "temperature": 9.0}, InvalidRequest, "temperature"),
        ({"prompt": PROMPT, "max_tokens": 0}, InvalidRequest, "max_tokens"),
        ({"prompt": PROMPT, "made_up": 1}, InvalidRequest, "made_up"),
        ({"prompt": PROMPT, "model": "another"}, ModelNotFound, "model"),
        ({"prompt": PROMPT, "images": ["no-such-file.png"]}, InputFileError, None),
        ({"prompt": PROMPT, "images": [7]}, InvalidRequest, None),
        ({"prompt": PROMPT, "images": ["http://127.0.0.1/x.png"]}, InvalidRequest, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_with_a_request_is_raised(
    program: Program,
    arguments: dict[str, Any],
    error: type[BelvedereError],
    param: str | None,
    stream: bool,
) -> None:
    async def ask(service: InferenceService) -> None:
        generation = service.generate(**arguments, stream=stream)
        if stream:
            async for _ in generation:
                pass
        else:
            await generation

    with pytest.raises(error) as raised:
        program.ask(ask)
    if param is not None:
        assert raised.value.param == param


def test_a_generation_is_used_once(program: Program) -> None:
    async def twice(service: InferenceService) -> None:
        whole = service.generate(PROMPT, **GREEDY)
        with pytest.raises(UsageError, match="stream=True"):
            aiter(whole)
        await whole
        with pytest.raises(RuntimeError):
            await whole
        chunks = service.generate(PROMPT, stream=True, **GREEDY)
        async for _ in chunks:
            pass
        with pytest.raises(UsageError, match="only once"):
            aiter(chunks)

    program.ask(twice)


def test_a_generation_that_nobody_awaits_is_warned_of(program: Program) -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        program.service.generate(PROMPT)
        gc.collect()


def test_another_event_loop_is_refused(program: Program) -> None:
    async def elsewhere() -> None:
        await program.service.generate(PROMPT, **GREEDY)

    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(elsewhere())


def test_requests_are_lines_of_the_access_log(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="belvedere.access")

    async def asked(service: InferenceService) -> None:
        await service.generate(PROMPT, **GREEDY)
        async for _ in service.generate(PROMPT, stream=True, **GREEDY):
            pass
        with pytest.raises(InvalidRequest):
            await service.generate(PROMPT, temperature=9.0)

    program.ask(asked)
    lines = [json.loads(one.getMessage()) for one in caplog.records]
    assert [one["status"] for one in lines] == [200, 200, 400]
    assert {one["route"] for one in lines} == {one["key"] for one in lines} == {"python"}
    assert lines[0]["prompt_tokens"] == lines[1]["prompt_tokens"] > 0
    assert lines[0]["completion_tokens"] == lines[1]["completion_tokens"] > 0
    assert lines[1]["ttft_ms"] > 0
    assert PROMPT not in caplog.text


def test_two_models(program: Program) -> None:
    async def second(service: InferenceService) -> None:
        name = await service.load_model(mini_folder(), name="other", max_model_len=256)
        try:
            assert name == "other"
            with pytest.raises(ModelNotFound, match="names no model"):
                await service.generate(PROMPT, **GREEDY)
            both = [
                service.generate(PROMPT, model=one, **GREEDY) for one in (program.name, "other")
            ]
            first, other = await asyncio.gather(*both)
            assert first["text"] == other["text"]
            with pytest.raises(InvalidRequest):
                await service.generate("word " * 400, model="other", **GREEDY)
            with pytest.raises(ModelNotFound):
                await service.unload_model()
        finally:
            await service.unload_model("other")
        assert [one["model"] for one in service.status()["models"]] == [program.name]
        assert (await service.generate(PROMPT, **GREEDY))["text"] == first["text"]

    program.ask(second)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_an_engine_that_dies_is_started_again(program: Program) -> None:
    async def crashed(service: InferenceService) -> None:
        (engine,) = (one for one in program.started if "belvedere.engines.local" in _command(one))
        with pytest.raises(BelvedereError):
            async for _ in service.chat_completion(stream=True, **LONG):
                with contextlib.suppress(psutil.NoSuchProcess):
                    engine.kill()

    program.ask(crashed)
    assert wait_until(lambda: program.service.is_loaded, 180)

    def answers() -> bool:
        try:
            return bool(program.ask(lambda it: it.generate(PROMPT, **GREEDY))["text"])
        except BelvedereError:
            return False

    assert wait_until(answers, 180)
    (replica,) = program.service.status()["models"][0]["replicas"]
    assert replica["launches"] == 2


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(SettingsError, match="gpu_memory_utilization"):
        InferenceService(gpu_memory_utilization=1.5)
    with pytest.raises(SettingsError):
        InferenceService(no_such_setting=1)


def test_without_a_model() -> None:
    async def asked() -> None:
        service = InferenceService()
        assert service.status()["is_loaded"] is False
        with pytest.raises(ModelNotFound, match="No model is loaded"):
            await service.generate(PROMPT)
        with pytest.raises(ModelNotFound):
            await service.unload_model()
        await service.close()

    asyncio.run(asked())


def test_a_load_that_fails_leaves_nothing(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))

    async def loading() -> None:
        service = InferenceService(device="cpu")
        with pytest.raises(ModelFolderError):
            await service.load_model(tmp_path / "nothing")
        with pytest.raises(SettingsError, match="cannot share"):
            await service.load_model(tensor_parallel_size=2)
        broken = tmp_path / "broken"
        broken.mkdir()
        for file in mini_folder().iterdir():
            if file.is_file():
                (broken / file.name).symlink_to(file)
        (broken / "model.safetensors").unlink()
        (broken / "model.safetensors").write_bytes(b"\0" * 64)
        with pytest.raises((ModelFolderError, EngineStartFailed)):
            await service.load_model(broken)
        assert not service.is_loaded

    asyncio.run(loading())
    assert wait_gone(list(set(psutil.Process().children(recursive=True)) - before)) == []


ENDINGS = {
    "with the block, by an exception": """
        try:
            async with InferenceService(device="cpu") as service:
                await service.load_model()
                say()
                raise ValueError
        except ValueError:
            pass
        check()
    """,
    "with the service, forgotten": """
        service = InferenceService(device="cpu")
        await service.load_model()
        say()
        del service
        check()
    """,
    "with the event loop": """
        service = InferenceService(device="cpu")
        await service.load_model()
        say()
        globals()["kept"] = service
    """,
    "with a stream that is under way": """
        async with InferenceService(device="cpu", shutdown_grace_s=0.2) as service:
            await service.load_model()
            stream = aiter(service.generate("Hello", max_tokens=4000, stream=True))
            await anext(stream)
            say()
        check()
    """,
    "with a load that is cancelled": """
        service = InferenceService(device="cpu")
        task = asyncio.create_task(service.load_model())
        while len(family()) < 2:
            await asyncio.sleep(0.02)
        say()
        task.cancel()
        await asyncio.wait({task})
        check()
    """,
    "with SIGKILL": """
        service = InferenceService(device="cpu")
        await service.load_model()
        say()
        os.kill(os.getpid(), signal.SIGKILL)
    """,
    "with Ctrl-C": """
        service = InferenceService(device="cpu")
        await service.load_model()
        say()
        os.kill(os.getpid(), signal.SIGINT)
        await service.generate("Hello", max_tokens=4000)
    """,
}

FRAME = """
import asyncio, os, signal, time
import psutil
from belvedere import InferenceService

def family():
    return psutil.Process().children(recursive=True)

def say():
    print(*(one.pid for one in family()), flush=True)

def check():
    globals()["checks"] = True

async def main():
{body}
    if globals().get("checks"):
        deadline_s = time.monotonic() + 60
        while family() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
        assert not family(), family()

asyncio.run(main())
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left(ending: str) -> None:
    body = "\n".join(line[4:] for line in ENDINGS[ending].splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", FRAME.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment({"OMP_WAIT_POLICY": "PASSIVE"}),
    )
    assert process.stdout is not None
    children = [_process(int(pid)) for pid in process.stdout.readline().split()]
    _, errors = process.communicate(timeout=300)
    assert len(children) == 2, errors
    expected = {"with SIGKILL": -signal.SIGKILL, "with Ctrl-C": -signal.SIGINT}.get(ending, 0)
    assert process.returncode == expected, errors
    assert "never retrieved" not in errors
    assert "ResourceWarning" not in errors
    assert wait_gone([one for one in children if one is not None]) == []


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def test_a_supervisor_that_dies_is_told_and_replaced() -> None:
    async def lost() -> None:
        async with InferenceService(device="cpu") as service:
            before = set(psutil.Process().children())
            await service.load_model()
            (supervisor,) = set(psutil.Process().children()) - before
            os.kill(supervisor.pid, signal.SIGKILL)
            with pytest.raises(BelvedereError):
                while True:
                    await service.generate(PROMPT, max_tokens=1)
            async with asyncio.timeout(180):
                while True:
                    try:
                        await service.generate(PROMPT, max_tokens=1)
                    except EngineFailed as exc:
                        if "supervisor" in exc.message:
                            break
                    except BelvedereError:
                        await asyncio.sleep(0.05)
            await service.load_model()
            assert (await service.generate(PROMPT, **GREEDY))["text"]

    asyncio.run(lost())
