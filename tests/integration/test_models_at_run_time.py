"""Several models on one server: load, replace, alias, unload, and what must not disturb whom."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from belvedere.engines.local_spec import mini_folder
from tests.integration.callers import CHAT, asking
from tests.integration.serving import (
    BELVEDERE,
    RunningServer,
    clean_environment,
    running_server,
    wait_until,
)

pytestmark = pytest.mark.engine

LOAD, UNLOAD, STATUS = (f"/api/v1/inference/{name}" for name in ("load", "unload", "status"))
ENGINE = "belvedere.engines.local"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``small`` and ``other`` with the shipped model, and some that cannot be loaded."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("small", "other"):
        (folder / name).symlink_to(mini_folder(), target_is_directory=True)
    make_huge(folder / "huge")
    shutil.copytree(mini_folder(), folder / "cut")
    weights = next((folder / "cut").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    return folder


def make_huge(folder: Path) -> None:
    """Looks like Qwen3-VL-32B, but its weight file holds a single number."""
    shutil.copytree(mini_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    text = {
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "dtype": "bfloat16",
        "model_type": "qwen3_vl_text",
    }
    vision = {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": 5120,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
        "model_type": "qwen3_vl",
    }
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    (folder / "model.safetensors").write_bytes(content)


@pytest.fixture(scope="module")
def server(own_folders: None) -> Iterator[RunningServer]:
    with running_server("--no-model", env={"BELVEDERE_MAX_MODEL_LEN": "4096"}) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def loaded(server: RunningServer, models: Path) -> str:
    """``prod``, loaded once for the whole module."""
    body = {"model_path": str(models / "small"), "served_model_name": "prod", "aliases": ["best"]}
    response = httpx2.post(server.url + LOAD, json=body, timeout=300)
    assert response.status_code == 200, response.text
    return "prod"


def ask(client: httpx2.Client, model: str | None) -> httpx2.Response:
    body = asking(model or "", max_tokens=2, temperature=0)
    if model is None:
        del body["model"]
    return client.post(CHAT, json=body)


def belvedere(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    command = [*BELVEDERE, *arguments, "--url", url]
    return subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(), timeout=300, check=False
    )


def names(client: httpx2.Client) -> set[str]:
    return {entry["id"] for entry in client.get("/v1/models").json()["data"]}


def test_an_empty_server_says_so(client: httpx2.Client) -> None:
    status = client.get(STATUS).json()
    assert (status["is_loaded"], status["model_path"], status["models"]) == (False, None, [])
    assert datetime.fromisoformat(status["timestamp"]).tzinfo is not None
    assert client.get("/health").json()["status"] == "empty"
    assert client.get("/health/ready").status_code == 200
    assert ask(client, None).status_code == 404
    nothing = client.post(UNLOAD)
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_loaded_model_answers_to_its_names(
    client: httpx2.Client, models: Path, loaded: str
) -> None:
    status = client.get(STATUS).json()
    assert (status["is_loaded"], status["model_path"]) == (True, str(models / "small"))
    (model,) = status["models"]
    assert (model["model"], model["aliases"], model["is_loaded"]) == ("prod", ["best"], True)
    assert [one["state"] for one in model["replicas"]] == ["ready"]
    for name in ("prod", "best", None):
        assert ask(client, name).status_code == 200
    unknown = ask(client, "small")
    assert unknown.status_code == 404
    assert "'prod'" in unknown.json()["error"]["message"]


def test_a_second_model_comes_and_goes_beside_the_first(
    server: RunningServer, client: httpx2.Client, models: Path, loaded: str
) -> None:
    loading = belvedere("load", str(models / "other"), "--no-wait", "--alias", "x", url=server.url)
    assert (loading.returncode, loading.stderr) == (0, "")
    assert ask(client, "prod").status_code == 200, "while the other is being loaded"
    assert wait_until(lambda: names(client) >= {"prod", "other"})
    assert wait_until(lambda: ask(client, "x").status_code == 200, 180)
    shown = belvedere("status", url=server.url)
    assert shown.returncode == 0
    assert "other (also x)" in shown.stdout
    assert "ready" in shown.stdout
    as_json = json.loads(belvedere("status", "--json", url=server.url).stdout)
    assert [model["model"] for model in as_json["models"]] == ["prod", "other"]
    body = {"model_path": str(models / "small"), "served_model_name": "y", "aliases": ["x"]}
    taken = client.post(LOAD, json=body)
    assert (taken.status_code, taken.json()["error"]["code"]) == (400, "model_name_taken")
    unnamed = belvedere("unload", url=server.url)
    assert unnamed.returncode == 2
    assert "'other', 'prod'" in unnamed.stderr
    gone = belvedere("unload", "x", url=server.url)
    assert (gone.returncode, gone.stdout) == (0, "other is unloaded.\n")
    assert ask(client, "other").status_code == 404
    assert ask(client, "prod").status_code == 200
    assert client.get("/health").json()["aliases"] == {"best": "prod"}
    assert len(server.running(ENGINE)) == 1


def test_replacing_under_load_fails_no_request(
    server: RunningServer, client: httpx2.Client, models: Path, loaded: str
) -> None:
    (before,) = server.running(ENGINE)
    stop, failures, count = threading.Event(), [], [0]

    def keep_asking() -> None:
        with httpx2.Client(base_url=server.url, timeout=60) as mine:
            while not stop.is_set():
                response = ask(mine, "best")
                count[0] += 1
                if response.status_code != 200:
                    failures.append(response.text)

    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        path = str(models / "other")
        replaced = belvedere(
            "load", path, "--served-model-name", "prod", "--replace", url=server.url
        )
        at_switch = count[0]
        assert wait_until(lambda: count[0] > at_switch + 5)
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert (replaced.returncode, replaced.stdout) == (0, "prod is loaded.\n")
    assert failures == []
    assert at_switch > 5, "there was load during the replacement"
    assert client.get(STATUS).json()["model_path"] == path
    (after,) = server.running(ENGINE)
    assert after.pid != before.pid


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("huge", {}, "does_not_fit"),
    ("nowhere", {}, "does not exist"),
    ("cut", {}, "model.safetensors"),
    ("other", {"gpu_ids": [97]}, "GPU"),
    ("other", {"device": "cuda:97"}, "GPU 97"),
    ("other", {"replicas": 0}, "replicas"),
    ("other", {"trust_remote_code": True}, "--trust-remote-code"),
    ("other", {"served_model_name": "prod"}, "model_name_taken"),
    ("other", {"served_model_name": "best"}, "model_name_taken"),
    ("other", {"aliases": ["prod"]}, "model_name_taken"),
]


@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
@pytest.mark.parametrize(("folder", "wishes", "text"), REFUSED)
def test_what_cannot_be_loaded_is_refused_at_once_and_disturbs_nobody(
    client: httpx2.Client,
    models: Path,
    loaded: str,
    folder: str,
    wishes: dict[str, Any],
    text: str,
    wait: bool,
) -> None:
    body = {"model_path": str(models / folder), "wait": wait, **wishes}
    refused = client.post(LOAD, json=body)
    assert refused.status_code in (400, 403)
    assert text in refused.text
    assert "retry-after" not in refused.headers
    assert ask(client, "prod").status_code == 200
    assert [model["model"] for model in client.get(STATUS).json()["models"]] == ["prod"]


@pytest.mark.parametrize(
    ("folder", "options", "text", "exit_code"),
    [
        ("huge", [], "GiB", 3),
        ("nowhere", [], "does not exist", 2),
        ("other", ["--gpu-ids", "97"], "GPU", 2),
        ("other", ["--gpu-ids", "x"], "--gpu-ids", 2),
        ("other", ["--trust-remote-code"], "--trust-remote-code", 5),
    ],
)
def test_the_command_says_why_on_one_line(
    server: RunningServer,
    models: Path,
    loaded: str,
    folder: str,
    options: list[str],
    text: str,
    exit_code: int,
) -> None:
    result = belvedere("load", str(models / folder), *options, url=server.url)
    assert result.returncode == exit_code
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_load_that_does_not_fit_gives_the_planners_reasons(
    client: httpx2.Client, models: Path, loaded: str
) -> None:
    body = {"model_path": str(models / "huge"), "served_model_name": "prod", "replace": True}
    error = client.post(LOAD, json=body).json()["error"]
    assert error["code"] == "does_not_fit"
    assert "GiB are free" in error["message"]
    assert "weights" in error["message"]
    assert ask(client, "best").status_code == 200, "the old one keeps serving"


def test_a_free_alias_may_be_a_name_and_an_idle_model_is_unloaded_after_its_time(
    client: httpx2.Client, models: Path, loaded: str
) -> None:
    body = {"model_path": str(models / "other"), "served_model_name": "x", "idle_unload_s": 15}
    assert client.post(LOAD, json=body).status_code == 200
    assert ask(client, "x").status_code == 200
    assert wait_until(lambda: names(client) == {"prod"}, 120)
    assert ask(client, "x").status_code == 404
    assert ask(client, "prod").status_code == 200


def test_the_only_model_needs_no_name_to_be_unloaded(client: httpx2.Client, loaded: str) -> None:
    answer = client.post(UNLOAD)
    assert answer.json() == {"success": True, "message": "prod is unloaded."}
    assert names(client) == set()
    assert client.get(STATUS).json()["is_loaded"] is False


def test_commands_without_a_server_say_so() -> None:
    for command in (["status"], ["unload"], ["load", "x"]):
        result = belvedere(*command, url="http://127.0.0.1:9")
        assert result.returncode == 5
        assert "No server answers" in result.stderr


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://127.0.0.1:b"])
def test_commands_without_a_url_say_so(url: str) -> None:
    result = belvedere("status", url=url)
    assert result.returncode == 2
    assert "is not a URL" in result.stderr


def test_commands_tell_another_server_from_ours(tmp_path: Path) -> None:
    folder = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            result = belvedere("status", url=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    assert result.returncode == 5
    assert "is no Belvedere server (HTTP status 404)" in result.stderr
