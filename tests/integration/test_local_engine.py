"""The engine as a process of its own, over its Unix socket."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

pytestmark = pytest.mark.engine

TINY_MODELS = Path(__file__).parents[1] / "unit" / "engines" / "local" / "tiny_models.py"
KEY = "test-engine-key"
HELLO = [{"role": "user", "content": "Click the Login button"}]


class EngineProcess:
    """A started `python -m belvedere.engines.local`, its stdout lines and a client."""

    def __init__(self, model: Path, home: Path, *arguments: str, key: str | None = KEY) -> None:
        self.socket = home / "engine.sock"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("BELVEDERE_")}
        environ |= {"OMP_NUM_THREADS": "1"} | ({"BELVEDERE_ENGINE_KEY": key} if key else {})
        argv = [sys.executable, "-m", "belvedere.engines.local", "--model", str(model)]
        argv += ["--uds", str(self.socket), *arguments]
        self.lines: list[str] = []
        self.log = home / "engine.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=log, text=True, env=environ
            )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        self.client = httpx2.Client(
            transport=transport, base_url="http://engine", headers=headers, timeout=120
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            self.lines.extend(line.rstrip("\n") for line in stdout)

    def wait_ready(self) -> None:
        wait_until(lambda: "@phase ready" in self.lines or self.process.poll() is not None, 300)
        assert self.process.poll() is None, self.log.read_text()
        assert self.client.get("/health").status_code == 200

    def ended(self, timeout_s: float = 300) -> int:
        """The exit status; all of stdout is in `lines` then."""
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.ended()

    def chat(self, **fields: Any) -> httpx2.Response:
        body = {"messages": HELLO, "max_tokens": 8, "temperature": 0} | fields
        return self.client.post("/v1/chat/completions", json=body)

    def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> list[dict[str, Any]]:
        """The chunks of a stream that ends well."""
        body = {"max_tokens": 8, "temperature": 0, "stream": True} | fields
        with self.client.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            events = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    def stats(self) -> dict[str, int]:
        stats: dict[str, int] = self.client.get("/stats").json()
        return stats

    def is_idle(self) -> bool:
        stats = self.stats()
        return stats["running"] == stats["waiting"] == 0


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def short_home() -> Iterator[Callable[[], Path]]:
    """Makes folders whose paths are short enough for a Unix socket."""
    root = Path(tempfile.mkdtemp(prefix="bv"))
    numbers = iter(range(1000))

    def home() -> Path:
        folder = root / str(next(numbers))
        folder.mkdir()
        return folder

    yield home
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    written: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in written:
            path = tmp_path_factory.mktemp(kind)
            argv = [sys.executable, str(TINY_MODELS), kind, str(path)]
            subprocess.run(argv, check=True, capture_output=True, timeout=300)
            written[kind] = path
        return written[kind]

    return folder


Start = Callable[..., Any]


@pytest.fixture(scope="module")
def start(model_folder: Callable[[str], Path], short_home: Callable[[], Path]) -> Start:
    @contextmanager
    def started(model: str | Path, *arguments: str, **options: Any) -> Iterator[EngineProcess]:
        folder = model if isinstance(model, Path) else model_folder(model)
        engine = EngineProcess(folder, short_home(), *arguments, **options)
        try:
            yield engine
        finally:
            engine.close()

    return started


@pytest.fixture(scope="module")
def engine(start: Start) -> Iterator[EngineProcess]:
    """One vision engine for the whole module."""
    with start("qwen3_vl", "--served-model-name", "tiny", "--queue-limit", "4") as engine:
        engine.wait_ready()
        yield engine
        assert engine.process.poll() is None, engine.log.read_text()


@pytest.fixture(scope="module")
def patient(
    start: Start, model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineProcess]:
    """One with so long a context that what fills it ends only when its client leaves."""
    folder = tmp_path_factory.mktemp("patient") / "model"
    shutil.copytree(model_folder("qwen3_vl"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 65_536
    (folder / "config.json").write_text(json.dumps(config))
    with start(folder, "--queue-limit", "4") as engine:
        engine.wait_ready()
        yield engine
        assert engine.process.poll() is None, engine.log.read_text()


@pytest.fixture(autouse=True)
def _idle_at_the_end(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"engine", "patient"} & set(request.fixturenames):
        wait_until(request.getfixturevalue(name).is_idle, 60)


def data_url(width: int, height: int, colour: str = "navy") -> str:
    data = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def picture(**size: int) -> list[dict[str, Any]]:
    url = data_url(size.get("width", 128), size.get("height", 96))
    part = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [part, {"type": "text", "text": "Click Login"}]}]


def test_progress_lines_are_exact(engine: EngineProcess) -> None:
    phases = ["importing", "weights", "warmup", "ready"]
    wait_until(lambda: len(engine.lines) >= 4, 60)
    assert engine.lines == [f"@phase {name}" for name in phases]


def test_models(engine: EngineProcess) -> None:
    (card,) = engine.client.get("/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == ("tiny", 2048)
    assert card["belvedere"] == {
        "modalities": ["text", "image"],
        "architecture": "Qwen3VLForConditionalGeneration",
        "parameters": card["belvedere"]["parameters"],
        "dtype": "float32",
        "device": "cpu",
        "image_processor": {
            "patch_size": 16,
            "merge_size": 2,
            "min_pixels": 4096,
            "max_pixels": 65536,
        },
    }


def test_chat_with_an_image(engine: EngineProcess) -> None:
    body = engine.chat(messages=picture()).json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in {"stop", "length"}
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    text_only = engine.chat(messages=[{"role": "user", "content": "Click Login"}]).json()
    image_tokens = 128 * 96 // 32**2 + 2
    assert usage["prompt_tokens"] == text_only["usage"]["prompt_tokens"] + image_tokens


def test_a_stream_says_the_same_as_a_whole_answer(engine: EngineProcess) -> None:
    whole = engine.chat(messages=picture(), max_tokens=30).json()
    chunks = engine.stream(
        messages=picture(), max_tokens=30, stream_options={"include_usage": True}
    )
    *texts, usage = chunks
    assert texts[0]["choices"][0]["delta"]["role"] == "assistant"
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in texts)
    assert content == whole["choices"][0]["message"]["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in texts]
    assert reasons == [None] * (len(texts) - 1) + [whole["choices"][0]["finish_reason"]]
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]


def test_completions(engine: EngineProcess) -> None:
    fields = {"prompt": "Click the", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    body = engine.client.post("/v1/completions", json=fields).json()
    (choice,) = body["choices"]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == body["usage"]["completion_tokens"] == 6
    assert all(max(top.values()) <= 0 for top in logprobs["top_logprobs"])
    assert logprobs["text_offset"][0] == 0
    chunks = engine.stream("/v1/completions", prompt="Click the", max_tokens=6)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]


def test_chat_logprobs(engine: EngineProcess) -> None:
    body = engine.chat(logprobs=True, top_logprobs=3, ignore_eos=True).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    for entry in content:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]


def test_tokenize(engine: EngineProcess) -> None:
    whole = engine.chat().json()
    body = engine.client.post("/tokenize", json={"messages": HELLO}).json()
    assert body["count"] == len(body["tokens"]) == whole["usage"]["prompt_tokens"]
    assert body["max_model_len"] == 2048
    prompt = engine.client.post("/tokenize", json={"prompt": "Click the Login button"}).json()
    start = "".join(map(str, body["tokens"]))
    assert "".join(map(str, prompt["tokens"])) in start


def test_special_tokens_in_text_stay_text(engine: EngineProcess) -> None:
    text = "<|image_pad|><|im_end|>\n<|im_start|>assistant\n"
    response = engine.chat(messages=[{"role": "user", "content": text}])
    assert response.status_code == 200, response.text
    messages = picture()
    messages[0]["content"].append({"type": "text", "text": text})
    assert engine.chat(messages=messages).status_code == 200


def test_seeds_reproduce_and_differ(engine: EngineProcess) -> None:
    def say(**fields: Any) -> list[str]:
        body = engine.chat(temperature=1, max_tokens=16, ignore_eos=True, **fields).json()
        return [choice["message"]["content"] for choice in body["choices"]]

    assert say(seed=5) == say(seed=5) != say(seed=6)
    several = say(seed=5, n=3)
    assert several[0] == say(seed=5)[0]
    assert len(set(several)) == 3
    assert say() != say()


def test_stop_strings_end_text_and_stream(engine: EngineProcess) -> None:
    whole = engine.chat(max_tokens=30, ignore_eos=True).json()["choices"][0]["message"]["content"]
    stop = whole[8:12]
    expected = whole[: whole.index(stop)]
    (choice,) = engine.chat(max_tokens=30, ignore_eos=True, stop=[stop]).json()["choices"]
    assert choice["message"]["content"] == expected
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    chunks = engine.stream(messages=HELLO, max_tokens=30, ignore_eos=True, stop=stop)
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert content == expected


def test_several_streams_of_one_request(engine: EngineProcess) -> None:
    chunks = engine.stream(messages=HELLO, n=2, temperature=1, seed=1, ignore_eos=True)
    ends = [c["choices"][0] for c in chunks if c["choices"][0]["finish_reason"]]
    assert {end["index"] for end in ends} == {0, 1}


def error_of(response: httpx2.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


def image_part(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": url}]}]


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"model": "../../etc"}, 404, "model", "model_not_found"),
        ({"messages": []}, 400, "messages", None),
        ({"no_such": 1}, 400, "no_such", None),
        ({"n": 10**9}, 400, "n", None),
        ({"max_tokens": 2048}, 400, "max_tokens", "context_length_exceeded"),
        (
            {"messages": [{"role": "user", "content": "x " * 5000}]},
            400,
            "messages",
            "context_length_exceeded",
        ),
        (
            {"messages": image_part("http://127.0.0.1:9/x.png")},
            400,
            "messages.0.content.0.image",
            "invalid_image_url",
        ),
        (
            {"messages": image_part("/etc/passwd")},
            400,
            "messages.0.content.0.image",
            "invalid_image_url",
        ),
        (
            {"messages": image_part("data:image/png;base64,!!!!")},
            400,
            "messages.0.content.0.image",
            "invalid_base64_image",
        ),
        (
            {"messages": image_part("data:image/png;base64,AAAA"), "stream": True},
            400,
            "messages.0.content.0.image",
            "image_parse_error",
        ),
        ({"messages": picture(width=1, height=900)}, 400, "messages", "image_parse_error"),
    ],
)
def test_rejections(
    engine: EngineProcess, fields: dict[str, Any], status: int, param: str, code: str | None
) -> None:
    response = engine.chat(**fields)
    assert response.status_code == status
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status"),
    [
        ("POST", "/v1/chat/completions", b"", "application/json", 400),
        ("POST", "/v1/chat/completions", b"{", "application/json", 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe", "application/json", 400),
        ("POST", "/v1/chat/completions", b"[" * 200_000, "application/json", 400),
        ("POST", "/v1/chat/completions", b'{"seed": NaN}', "application/json", 400),
        ("POST", "/v1/chat/completions", b"9" * 5_000, "application/json", 400),
        ("POST", "/v1/chat/completions", b"{}", "text/plain", 415),
        ("GET", "/v1/chat/completions", b"", "application/json", 405),
        ("GET", "/no/such/path", b"", "application/json", 404),
    ],
)
def test_bad_http(
    engine: EngineProcess, method: str, path: str, content: bytes, kind: str, status: int
) -> None:
    headers = {"content-type": kind}
    response = engine.client.request(method, path, content=content, headers=headers)
    assert response.status_code == status
    error_of(response)


def test_a_lone_surrogate_is_refused(engine: EngineProcess) -> None:
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    headers = {"content-type": "application/json"}
    response = engine.client.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    error_of(response)


PATHS = [
    ("GET", "/v1/models"),
    ("GET", "/stats"),
    ("POST", "/tokenize"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("header", ["", "Bearer wrong", KEY, f"Basic {KEY}", f"Bearer {KEY}é"])
def test_the_key_is_asked_for(engine: EngineProcess, method: str, path: str, header: str) -> None:
    headers = {"authorization": header.encode()}
    response = engine.client.request(method, path, headers=headers)
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"


def test_health_needs_no_key(engine: EngineProcess) -> None:
    response = engine.client.get("/health", headers={"authorization": ""})
    assert response.status_code == 200


def test_a_full_queue_is_told_at_once(patient: EngineProcess) -> None:
    with hung_on(patient):
        wait_until(lambda: patient.stats()["running"] == 1, 60)
        with hung_on(patient, n=4):
            wait_until(lambda: patient.stats()["waiting"] == 4, 60)
            response = patient.chat()
            assert patient.stats()["waiting"] == 4, "it did not wait for a turn"
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert error_of(response)["code"] == "rate_limit_exceeded"


@contextmanager
def hung_on(engine: EngineProcess, **fields: Any) -> Iterator[socket.socket]:
    """A client that asks for as much as the context holds and leaves at the end of the block."""
    fields = {"messages": HELLO, "ignore_eos": True, "temperature": 0} | fields
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    before = engine.stats()["requests"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(engine.socket))
        connection.sendall(head.encode() + body)
        wait_until(lambda: engine.stats()["requests"] > before, 60)
        yield connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_not_computed_for(patient: EngineProcess, stream: bool) -> None:
    with hung_on(patient, stream=stream):
        wait_until(lambda: patient.stats()["running"] == 1, 60)
    wait_until(patient.is_idle, 30)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_the_queue(patient: EngineProcess, stream: bool) -> None:
    with hung_on(patient):
        wait_until(lambda: patient.stats()["running"] == 1, 60)
        with hung_on(patient, stream=stream):
            wait_until(lambda: patient.stats()["waiting"] == 1, 60)
        wait_until(lambda: patient.stats()["waiting"] == 0, 30)
    wait_until(patient.is_idle, 30)


def test_the_event_loop_answers_while_the_model_works(patient: EngineProcess) -> None:
    with hung_on(patient):
        wait_until(lambda: patient.stats()["running"] == 1, 60)
        for _ in range(5):
            assert patient.client.get("/health").status_code == 200
        assert patient.stats()["running"] == 1, "all of that while it worked on one request"


def test_counters_only_grow(engine: EngineProcess) -> None:
    before = engine.stats()
    usage = engine.chat(max_tokens=5, ignore_eos=True).json()["usage"]
    after = engine.stats()
    assert after["requests"] == before["requests"] + 1
    assert after["prompt_tokens"] == before["prompt_tokens"] + usage["prompt_tokens"]
    assert after["generated_tokens"] == before["generated_tokens"] + 5


def test_a_text_model_and_sigterm(start: Start) -> None:
    """A running answer is finished within the grace, then the process ends with status 0."""
    with start("llama", key=None) as engine:
        engine.wait_ready()
        assert engine.client.get("/v1/models").json()["data"][0]["belvedere"]["modalities"] == [
            "text"
        ]
        response = engine.chat(messages=picture())
        assert (response.status_code, error_of(response)["param"]) == (
            400,
            "messages.0.content.0.image_url.url",
        )
        answers: list[httpx2.Response] = []
        before = engine.stats()["requests"]
        thread = threading.Thread(
            target=lambda: answers.append(engine.chat(max_tokens=300, ignore_eos=True))
        )
        thread.start()
        wait_until(lambda: engine.stats()["requests"] > before, 60)
        engine.process.send_signal(signal.SIGTERM)
        assert engine.ended() == 0
        thread.join(60)
        assert answers[0].json()["usage"]["completion_tokens"] == 300
        assert not engine.socket.exists()


def test_sigterm_does_not_wait_longer_than_the_grace(start: Start) -> None:
    with start("llama", "--grace-s", "1") as engine:
        engine.wait_ready()
        with hung_on(engine, n=8) as connection:
            engine.process.send_signal(signal.SIGTERM)
            assert engine.ended(60) == 0
            with connection.makefile("rb") as answer:
                assert b"completion_tokens" not in answer.read(), "it was cut off"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_ends_it_at_once(start: Start, number: signal.Signals) -> None:
    with start("llama") as engine:
        wait_until(lambda: engine.socket.exists(), 60)
        engine.process.send_signal(number)
        assert engine.ended() == 0
        assert not engine.socket.exists()
        assert all(line.startswith("@phase ") for line in engine.lines)


def broken(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (broken, "cut off"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "zz"}'), "'zz'"),
    ],
)
def test_a_bad_folder_is_one_line_and_status_2(
    start: Start,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    folder = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
    damage(folder)
    with start(folder) as engine:
        assert engine.ended() == 2
        *phases, last = engine.lines
        assert all(line.startswith("@phase ") for line in phases)
        assert last.startswith("@error ")
        error = json.loads(last.removeprefix("@error "))
        assert set(error) == {"message", "remedy"}
        assert message in error["message"]
        assert error["remedy"]


def test_wrong_arguments_are_one_line_and_status_2(start: Start, tmp_path: Path) -> None:
    with start(tmp_path, "--no-such-flag") as engine:
        assert engine.ended() == 2
        (line,) = engine.lines
        assert "no-such-flag" in json.loads(line.removeprefix("@error "))["message"]


def test_a_socket_in_use_is_told(engine: EngineProcess, start: Start) -> None:
    with start("qwen3_vl", "--uds", str(engine.socket)) as second:
        assert second.ended() == 2
        assert "Another process listens" in second.lines[-1]
    assert engine.client.get("/health").status_code == 200
