"""The commands as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from belvedere.errors import EXIT_CODES
from belvedere.testing import FakeEngine, Script
from tests.integration.serving import BELVEDERE, RunningServer, clean_environment

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ROWS = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))


def run(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BELVEDERE, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        env=clean_environment(env),
        check=False,
    )


@pytest.fixture
def screenshot() -> str:
    return str(EXAMPLES / ROWS[0]["image"])


@pytest.mark.engine
@pytest.mark.parametrize("row", ROWS, ids=[row["image"] for row in ROWS])
def test_a_fresh_process_grounds_the_examples(row: dict[str, object], tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.png"
    image = str(EXAMPLES / str(row["image"]))
    done = run("ground", image, str(row["instruction"]), "--json", "--overlay", str(overlay))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    left, top, right, bottom = row["box"]  # type: ignore[misc]  # a JSON row
    assert left <= found["x"] < right
    assert top <= found["y"] < bottom
    assert found["action"] == f"pyautogui.click({found['x']}, {found['y']})"
    with Image.open(image) as before, Image.open(overlay) as after:
        assert after.size == before.size
        assert after.convert("RGB").tobytes() != before.convert("RGB").tobytes()


@pytest.mark.engine
def test_ground_over_a_running_server(server: RunningServer, screenshot: str) -> None:
    done = run("ground", screenshot, ROWS[0]["instruction"], "--url", server.url)
    point, action = done.stdout.splitlines()
    assert point.startswith("point: ")
    assert action.startswith("pyautogui.click(")
    assert done.stderr == ""


@pytest.mark.engine
def test_generate_streams_what_it_prints_at_once(server: RunningServer, screenshot: str) -> None:
    common = ["generate", "--prompt", "Click Login", "--image", screenshot, "--url", server.url]
    whole, streamed = (
        run(*common, "--temperature", "0", "--max-tokens", "20", flag)
        for flag in ("--no-stream", "--stream")
    )
    assert whole.returncode == streamed.returncode == 0
    assert whole.stdout == streamed.stdout != "\n"


@pytest.mark.parametrize("goodbye", ["exit\n", "quit\n", ""])
def test_chat_keeps_its_history_until_goodbye(goodbye: str) -> None:
    with FakeEngine(Script(tokens=2)) as engine:
        common = ["chat", "--url", engine.url, "--system-prompt", "Be brief."]
        done = run(
            *common, stdin=f"Hello\n\nAnd now?\n{goodbye}never said\n" if goodbye else "Hello\n"
        )
        first, *more = [request["messages"] for request in engine.counters.requests]
    assert done.returncode == 0, done.stderr
    system = {"role": "system", "content": "Be brief."}
    hello = {"role": "user", "content": "Hello"}
    assert first == [system, hello]
    if goodbye:
        answer = {"role": "assistant", "content": "tok0 tok1 "}
        assert more == [[system, hello, answer, {"role": "user", "content": "And now?"}]]
    assert done.stdout == "tok0 tok1 \n" * (1 + len(more))


@pytest.mark.engine
def test_chat_with_the_shipped_model(server: RunningServer) -> None:
    done = run("chat", "--url", server.url, "--max-tokens", "8", stdin="Hello\nHello\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 2


BAD = [
    (("ground", "{missing}", "Click Login"), 2, "does not exist"),
    (("ground", "{text}", "Click Login"), 2, "cannot be used as an image"),
    (("ground", "{empty}", "Click Login"), 2, "no bytes"),
    (("generate", "--prompt", "x", "--image", "{text}"), 2, "cannot be used as an image"),
    (("ground", "{folder}", "Click Login"), 2, "folder"),
    (("ground", "{image}", "  "), 2, "instruction is empty"),
    (("ground", "{image}", "Click", "--overlay", "{missing}/x.png"), 2, "output path"),
    (("ground", "{image}", "Click", "--url", "http://127.0.0.1:9"), 5, "No server answers"),
    (("ground", "{image}", "Click", "--url", "nonsense"), 2, "is not a URL"),
    (("ground", "{image}", "Click", "--url", "http://x", "--device", "cpu"), 2, "no effect"),
    (("ground", "{image}", "Click", "--model-path", "{missing}"), 2, "does not exist"),
    (("serve", "{missing}"), 2, "does not exist"),
    (("serve", "{image}"), 2, "is no folder"),
    (("serve", "{folder}"), 2, "config.json"),
    (("serve", "{weightless}"), 2, "no weights"),
    (("serve", "{folder}", "--model-path", "{folder}"), 2, "given twice"),
    (("serve", "--host", "0.0.0.0"), 2, "--insecure"),
    (("serve", "--port", "99999"), 2, "port"),
    (("serve", "--dtype", "int7"), 2, "dtype"),
    (("serve", "--config", "{missing}"), 2, "cannot be read"),
    (("serve", "--tensor-parallel-size", "2"), 2, "2 GPUs"),
    (("serve", "--quantization", "squeezellm"), 2, "not supported"),
    (("generate", "--prompt", "x", "--quantization", "awq"), 2, "not quantised"),
    (("serve", "--gpu-memory-utilization", "1.5"), 2, "gpu_memory_utilization"),
    (("generate", "--prompt", " "), 2, "prompt is empty"),
    (("generate", "--prompt", "x", "--temperature", "9"), 2, "temperature"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_is_one_line_with_the_documented_code(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path, screenshot: str
) -> None:
    places = {
        "missing": tmp_path / "missing",
        "text": tmp_path / "text.png",
        "empty": tmp_path / "empty.png",
        "folder": tmp_path / "folder",
        "weightless": tmp_path / "weightless",
        "image": screenshot,
    }
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "weightless" / "tokenizer.json").write_text("{}")
    done = run(*(argument.format(**places) for argument in arguments))
    assert done.returncode == code
    assert code in EXIT_CODES
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
    assert len(errors) == 1


@pytest.mark.engine
def test_a_folder_the_engine_cannot_load_is_one_error(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 32, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    tensor = {"stranger": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(tensor).encode()
    (tmp_path / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(4)
    )
    done = run("serve", str(tmp_path), "--port", "0")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1


@pytest.mark.engine
def test_files_of_the_current_folder_are_not_imported(tmp_path: Path, screenshot: str) -> None:
    for name in ("random", "queue", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from here')")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("belvedere")), "ground", screenshot, "Click Login"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "imported from here" not in done.stderr


def test_an_unknown_setting_is_an_error_with_a_suggestion() -> None:
    done = run("serve", BELVEDERE_MAX_IMAGE_SIZ="5")
    assert done.returncode == 2
    assert "BELVEDERE_MAX_IMAGE_SIZE" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, belvedere.cli\n"
        "try: belvedere.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pydantic', 'fastapi', 'httpx2', 'PIL', 'rich'}"
        " & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [BELVEDERE[0], "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "serve" in done.stdout
