"""The fake engine behaves as its scripts and its pretended hardware say."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere.testing import Capacity, FakeEngine, Script
from belvedere.testing.hardware import Hardware
from belvedere.testing.prompt_cache import Prompt

TIMEOUT_S = 60.0
CHAT = "/v1/chat/completions"
PIXELS = "data:image/png;base64,AAAA"


def chat(*texts: str, images: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return {"messages": [{"role": "user", "content": parts}], **options}


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def in_background(engine: FakeEngine, body: dict[str, Any]) -> threading.Thread:
    def send() -> None:
        with contextlib.suppress(httpx2.TransportError):
            httpx2.post(engine.url + CHAT, json=body, timeout=2 * TIMEOUT_S)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def usage(engine: FakeEngine, body: dict[str, Any]) -> tuple[int, int]:
    counts = httpx2.post(engine.url + CHAT, json=body, timeout=TIMEOUT_S).json()["usage"]
    return counts["prompt_tokens"], counts["prompt_tokens_details"]["cached_tokens"]


def get(engine: FakeEngine, path: str, **headers: str) -> httpx2.Response:
    return httpx2.get(engine.url + path, headers=headers, timeout=TIMEOUT_S)


def test_a_repeated_prompt_is_cached_in_whole_blocks() -> None:
    with FakeEngine() as engine:
        first = usage(engine, chat("a" * 400))
        second = usage(engine, chat("a" * 400))
        longer = usage(engine, chat("a" * 400 + "b" * 400))
        other = usage(engine, chat("b" * 400))
    assert first == (102, 0)
    assert second == (102, 96)
    assert longer == (202, 96)
    assert other == (102, 0)


def test_a_whole_prompt_in_the_cache_still_computes_one_token() -> None:
    text = "a" * (16 * 4 - len("<user>"))
    with FakeEngine() as engine:
        usage(engine, chat(text))
        tokens, cached = usage(engine, chat(text))
    assert cached < tokens


def test_the_prefix_cache_forgets_when_it_is_full() -> None:
    with FakeEngine(capacity=Capacity(prefix_cache_tokens=128)) as engine:
        usage(engine, chat("a" * 400))
        usage(engine, chat("b" * 400))
        assert usage(engine, chat("b" * 400))[1] == 96
        assert usage(engine, chat("a" * 400))[1] < 96


def test_images_are_encoded_once_while_there_is_room() -> None:
    capacity = Capacity(image_tokens=64, image_cache_tokens=64, prefix_cache_tokens=0)
    with FakeEngine(capacity=capacity) as engine:
        encoded = []
        for image in ("a", "a", "b", "a"):
            usage(engine, chat("x", images=(PIXELS + image,)))
            encoded.append(engine.counters.vision_tokens)
    assert encoded == [64, 64, 128, 192]


def test_an_image_in_a_cached_prefix_is_not_encoded_again() -> None:
    capacity = Capacity(image_tokens=64, image_cache_tokens=0)
    body = {"messages": chat(images=(PIXELS,))["messages"] + chat("y" * 200)["messages"]}
    with FakeEngine(capacity=capacity) as engine:
        usage(engine, body)
        usage(engine, body)
        assert engine.counters.vision_tokens == 64


class Skipping(asyncio.SelectorEventLoop):
    """Its clock jumps to whatever is awaited next, so that pretended times are exact."""

    class Selector(selectors.DefaultSelector):
        skipped_s = 0.0

        def select(self, timeout: float | None = None) -> Any:
            self.skipped_s += timeout or 0.0
            return super().select(0)

    def __init__(self) -> None:
        self._skipping = self.Selector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped_s


def test_prefill_takes_time_for_what_is_not_cached() -> None:
    capacity = Capacity(prefill_s_per_token=0.005)

    async def times() -> list[float]:
        hardware, loop = Hardware(capacity), asyncio.get_running_loop()
        prompt = Prompt.from_body(chat("a" * 800), capacity.image_tokens)
        ends = [loop.time()]
        for _ in range(2):
            await hardware.prefill(prompt)
            ends.append(loop.time())
        return [after - before for before, after in itertools.pairwise(ends)]

    with asyncio.Runner(loop_factory=Skipping) as runner:
        assert runner.run(times()) == pytest.approx([202 * 0.005, 10 * 0.005])
    with FakeEngine(Script(tokens=1), capacity=capacity) as engine:
        started_s = time.monotonic()
        usage(engine, chat("a" * 800))
        assert time.monotonic() - started_s >= 202 * 0.005


def test_requests_beyond_the_seats_wait() -> None:
    with (
        FakeEngine(Script(tokens=100), capacity=Capacity(max_num_seqs=2)) as engine,
        contextlib.ExitStack() as seated,
    ):
        engine.play(*[Script(fail="hang", fail_after=1)] * 2)
        for _ in range(2):
            body = chat("x", stream=True)
            url = engine.url + CHAT
            seated.enter_context(httpx2.stream("POST", url, json=body, timeout=TIMEOUT_S))
        threads = [in_background(engine, chat("x")) for _ in range(3)]
        until(lambda: (engine.counters.running, engine.counters.waiting) == (2, 3))
        stats = get(engine, "/stats").json()
        assert (stats["running"], stats["waiting"], stats["requests"]) == (2, 3, 5)
        assert stats["generated_tokens"] <= 2
        seated.close()
        for thread in threads:
            thread.join(TIMEOUT_S)
        until(lambda: engine.counters.cancelled == 2)
        stats = get(engine, "/stats").json()
    assert (stats["running"], stats["waiting"], stats["finished"]) == (0, 0, 3)
    assert stats["generated_tokens"] == 302


def test_metrics_have_vllms_names() -> None:
    with FakeEngine(Script(tokens=3)) as engine:
        tokens, _ = usage(engine, chat("x"))
        lines = get(engine, "/metrics").text.splitlines()
    values = {line.split("{")[0]: float(line.split()[-1]) for line in lines if line[0] != "#"}
    assert values["vllm:num_requests_running"] == 0
    assert values["vllm:generation_tokens_total"] == 3
    assert values["vllm:prompt_tokens_total"] == tokens


def test_scripts_over_http() -> None:
    with FakeEngine() as engine, httpx2.Client(base_url=engine.url, timeout=TIMEOUT_S) as client:
        body = {"queue": [{"fail": "overload"}, {"tokens": 2}], "default": {"tokens": 4}}
        assert client.post("/script", json=body).json() == {"queued": 2}
        answers = [client.post(CHAT, json=chat("x")) for _ in range(3)]
        lengths = [answer.json()["usage"]["completion_tokens"] for answer in answers[1:]]
    assert answers[0].status_code == 429
    assert lengths == [2, 4]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"queue": 3},
        {"queue": [{"nonsense": 1}]},
        {"default": {"tokens": "many"}},
        {"default": {"tokens": True}},
        {"default": {"fail": "nonsense"}},
    ],
)
def test_what_is_no_script_is_refused_and_nothing_changes(body: Any) -> None:
    with FakeEngine(Script(tokens=3)) as engine:
        refused = httpx2.post(engine.url + "/script", json=body, timeout=TIMEOUT_S)
        assert refused.status_code == 400
        assert engine.script == Script(tokens=3)


def test_a_flood_has_no_end_and_large_chunks() -> None:
    script = Script(fail="flood", token_bytes=100_000)
    with FakeEngine(script) as engine:
        received = 0
        body = chat("x", stream=True, max_tokens=1)
        with httpx2.stream("POST", engine.url + CHAT, json=body, timeout=TIMEOUT_S) as response:
            for chunk in response.iter_raw():
                received += len(chunk)
                if received > 5_000_000:
                    break
        until(lambda: engine.counters.cancelled == 1)
        assert engine.counters.running == 0


def test_a_stall_stops_all_requests_but_not_the_statistics() -> None:
    with FakeEngine(Script(tokens=100_000, itl_s=0.001)) as engine:
        in_background(engine, chat("x"))
        until(lambda: engine.counters.generated_tokens > 10)
        engine.play(Script(fail="stall"))
        in_background(engine, chat("x"))
        until(lambda: engine.counters.running == 2)
        until(lambda: _is_still(engine))
        assert get(engine, "/stats").json()["running"] == 2


def _is_still(engine: FakeEngine) -> bool:
    before = engine.counters.generated_tokens
    time.sleep(0.2)
    return before == engine.counters.generated_tokens


def test_a_freeze_stops_everything() -> None:
    with FakeEngine() as engine:
        engine.play(Script(fail="freeze"))
        in_background(engine, chat("x"))
        until(lambda: _is_mute(engine))
        assert _is_mute(engine)
        assert engine.counters.running == 1


def _is_mute(engine: FakeEngine) -> bool:
    try:
        httpx2.get(engine.url + "/health", timeout=0.5)
    except httpx2.ReadTimeout:
        return True
    return False


def test_the_key_is_asked_for() -> None:
    with FakeEngine(api_key="k") as engine:
        assert get(engine, "/health").status_code == 200
        assert get(engine, "/stats").status_code == 401
        assert get(engine, "/stats", authorization="Bearer k").status_code == 200


def test_completions_and_tokenize() -> None:
    with (
        FakeEngine(Script(tokens=2)) as engine,
        httpx2.Client(base_url=engine.url, timeout=TIMEOUT_S) as client,
    ):
        answer = client.post("/v1/completions", json={"prompt": "a" * 40}).json()
        assert answer["choices"][0]["text"] == "tok0 tok1 "
        assert answer["usage"]["prompt_tokens"] == 10
        assert client.post("/tokenize", json={"prompt": "a" * 40}).json()["count"] == 10
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream = client.post("/v1/completions", json={"prompt": "a", **options}).text
    *_, counted, done, _ = stream.split("\n\n")
    assert done == "data: [DONE]"
    assert json.loads(counted.removeprefix("data: "))["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("fault", "exit_code", "words"),
    [
        ("exit0", 0, b"@phase weights"),
        ("crash", 7, b"crashes at its start"),
        ("error", 1, b'@error {"message": "No weights."'),
        ("garbage", 1, b""),
    ],
)
def test_start_faults(fault: str, exit_code: int, words: bytes) -> None:
    command = [sys.executable, "-m", "belvedere.testing", "--start-fail", fault]
    done = subprocess.run(command, capture_output=True, timeout=2 * TIMEOUT_S, check=False)
    assert done.returncode == exit_code
    assert words in done.stdout
    assert b"Traceback" not in done.stderr


def test_as_a_process_it_announces_itself_and_ends_on_sigterm(tmp_path: Path) -> None:
    uds = str(tmp_path / "s")
    command = [sys.executable, "-m", "belvedere.testing", "--uds", uds, "--tokens", "2"]
    env = {**os.environ, "BELVEDERE_ENGINE_KEY": "k"}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"@phase weights\n"
        assert process.stdout.readline() == b"@phase ready\n"
        transport = httpx2.HTTPTransport(uds=uds)
        headers = {"authorization": "Bearer k"}
        with httpx2.Client(transport=transport, headers=headers, timeout=TIMEOUT_S) as client:
            answer = client.post("http://engine" + CHAT, json=chat("x")).json()
        assert answer["usage"]["completion_tokens"] == 2
        process.terminate()
        assert process.wait(TIMEOUT_S) in (0, -15)
