"""``belvedere batch`` and ``belvedere eval`` as a user runs and interrupts them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from tests.integration.answering import AnsweringServer
from tests.integration.serving import BELVEDERE, clean_environment, wait_until
from tests.unit.agent.screens import painted

MUCH_S = 150.0
ROWS = 500
SIZE = (320, 200)


def where(body: dict[str, Any]) -> str:
    """The instruction says where to click: the answer of a model that never errs."""
    said = next(
        part["text"]
        for message in body["messages"]
        if message["role"] == "user"
        for part in message["content"]
        if part["type"] == "text"
    )
    if (found := re.search(r"(\d+), (\d+)", said)) is None:
        return "I see no such thing."
    return f'<answer>{{"coordinate": [{found[1]}, {found[2]}]}}</answer>'


class HoldingServer(AnsweringServer):
    """Answers like `where`, but not about rows from `held_from` on while there is such a number."""

    held_from: int | None = None

    async def _chat(self, request: Request) -> Response:
        said = str(await request.json())
        found = re.search(r"(\d+), \d+", said.rpartition("'text': ")[2])
        while found and self.held_from is not None and int(found[1]) >= self.held_from:
            if await request.is_disconnected():
                return Response()
            await asyncio.sleep(0.02)
        return await super()._chat(request)


@pytest.fixture(scope="module")
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer(where) as server:
        yield server


def batch(folder: Path, url: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*BELVEDERE, "batch", "tasks.jsonl", "-o", "out.jsonl", "--url", url, *more],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_tasks(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "screen.png").write_bytes(painted(size=SIZE).png)
    lines = (json.dumps(row) for row in rows)
    (folder / "tasks.jsonl").write_text("\n".join(lines) + "\n")


def many(count: int) -> list[dict[str, Any]]:
    return [{"image": "screen.png", "instruction": f"at {n}, {n}"} for n in range(count)]


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture
def holding() -> Iterator[HoldingServer]:
    with HoldingServer(where) as server:
        yield server


def test_500_rows_killed_again_and_again_are_500_results(
    holding: HoldingServer, tmp_path: Path
) -> None:
    """SIGKILL after a random number of rows, three times; then to the end.

    The last rows are held until then, so that none of the killed ones can have ended before.
    """
    rows = [
        {"id": f"t{n}", "image": "screen.png", "instruction": f"Click {n}, {2 * n % 1000}"}
        for n in range(ROWS)
    ]
    write_tasks(tmp_path, rows)
    output = tmp_path / "out.jsonl"
    seed = int.from_bytes(os.urandom(4), "big")
    chance = random.Random(seed)
    reached, holding.held_from = 0, ROWS - 20
    for _ in range(3):
        stop_at = min(reached + chance.randint(1, 120), ROWS - 20)
        process = batch(tmp_path, holding.url)
        assert wait_until(lambda stop_at=stop_at: lines(output) >= stop_at, 150), f"seed {seed}"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert lines(output) >= reached
        reached = lines(output)
        assert reached < ROWS
    holding.held_from = None
    asked_before = len(holding.bodies)
    process = batch(tmp_path, holding.url, "--json")
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    more = len(holding.bodies) - asked_before - (ROWS - reached)
    assert 0 <= more <= 4, "rows were done twice"  # four of the killed one's may arrive late
    summary = json.loads(stdout)
    assert (summary["resumed"], summary["finished"]) == (reached, ROWS)
    found = results(tmp_path)
    assert sorted(row["row"] for row in found) == list(range(ROWS)), f"seed {seed}"
    for row in found:
        assert row["id"] == f"t{row['row']}"
        assert row["x"] == min(round(row["row"] * SIZE[0] / 999), SIZE[0] - 1)
    again = batch(tmp_path, holding.url)
    assert (
        again.communicate(timeout=MUCH_S)[0]
        == f"{ROWS} of {ROWS} rows, {ROWS} of them before in out.jsonl\n"
    )
    assert len(results(tmp_path)) == ROWS


def test_a_line_that_was_cut_is_done_again(server: AnsweringServer, tmp_path: Path) -> None:
    write_tasks(
        tmp_path, [{"image": "screen.png", "instruction": f"at {n}, {n}"} for n in range(5)]
    )
    batch(tmp_path, server.url).communicate(timeout=MUCH_S)
    output = tmp_path / "out.jsonl"
    output.write_bytes(output.read_bytes()[:-20])
    batch(tmp_path, server.url).communicate(timeout=MUCH_S)
    assert sorted(row["row"] for row in results(tmp_path)) == list(range(5))


def test_rows_that_fail_leave_the_others_alone(server: AnsweringServer, tmp_path: Path) -> None:
    rows = [
        {"image": "screen.png", "instruction": "at 1, 2"},
        {"image": "missing.png", "instruction": "at 1, 2"},
        {"image": "text.png", "instruction": "at 1, 2"},
        {"image": "screen.png", "instruction": "nowhere"},
    ]
    write_tasks(tmp_path, rows)
    (tmp_path / "text.png").write_text("no picture")
    process = batch(tmp_path, server.url)
    stdout, _ = process.communicate(timeout=MUCH_S)
    assert process.returncode == 8
    assert stdout == "4 of 4 rows; 3 failed in out.jsonl\n"
    types = {row["row"]: row.get("error", {}).get("type") for row in results(tmp_path)}
    assert types[0] is None
    assert types[1] == "InputFileError"
    assert types[2] in ("UnsupportedImage", "ImageError")
    assert types[3] == "ActionError"
    (tmp_path / "missing.png").write_bytes(painted(size=SIZE).png)
    process = batch(tmp_path, server.url, "--retry-failed")
    process.communicate(timeout=MUCH_S)
    types = {row["row"]: row.get("error", {}).get("type") for row in results(tmp_path)}
    assert types[1] is None
    assert len(types) == len(results(tmp_path)) == 4


def test_an_interrupt_ends_it_with_what_is_done(holding: HoldingServer, tmp_path: Path) -> None:
    """The questions that are being asked then are never answered."""
    holding.held_from = 3
    write_tasks(tmp_path, many(400))
    process = batch(tmp_path, holding.url)
    assert wait_until(lambda: lines(tmp_path / "out.jsonl") >= 3, MUCH_S)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=MUCH_S)
    assert process.returncode == 130
    assert sorted(row["row"] for row in results(tmp_path)) == [0, 1, 2]


def test_two_at_once_on_one_file_are_refused(holding: HoldingServer, tmp_path: Path) -> None:
    """The first one is still at it when the second one comes, however long that takes."""
    holding.held_from = 3
    write_tasks(tmp_path, many(400))
    first = batch(tmp_path, holding.url)
    try:
        assert wait_until(lambda: lines(tmp_path / "out.jsonl") >= 1, MUCH_S)
        second = batch(tmp_path, holding.url)
        _, stderr = second.communicate(timeout=MUCH_S)
        assert first.poll() is None
        assert second.returncode == 2
        assert "Another process" in stderr
    finally:
        first.kill()
        first.communicate()


def evaluate(folder: Path, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BELVEDERE, "eval", "rows.json", "--images", "images", "--url", url, *more],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def screenspot(folder: Path) -> None:
    """Ten samples: the model clicks where the instruction says, and every fifth target is away."""
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(painted(size=(999, 999)).png)
    rows = [
        {
            "img_filename": "a.png",
            "bbox": [n * 50 + (500 if n % 5 == 0 else 0), 100, 20, 20],
            "instruction": f"Click {n * 50 + 5}, 105",
            "data_type": "icon" if n % 2 else "text",
            "data_source": "web",
        }
        for n in range(1, 11)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))


def test_eval_counts_hits_by_group(server: AnsweringServer, tmp_path: Path) -> None:
    screenspot(tmp_path)
    done = evaluate(tmp_path, server.url, "--json", "--misses", "misses", "-o", "answers.jsonl")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    scores = {(one["group"], one["value"]): one for one in found["scores"]}
    assert (scores["all", ""]["hits"], scores["all", ""]["total"]) == (8, 10)
    assert scores["all", ""]["interval_95"] == pytest.approx([0.4902, 0.9433], abs=1e-3)
    assert (scores["data_type", "icon"]["hits"], scores["data_type", "icon"]["total"]) == (4, 5)
    assert found["latency_ms"]["p50"] > 0
    pictures = sorted((tmp_path / "misses").iterdir())
    assert [path.name for path in pictures] == ["00004.png", "00009.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (999, 999)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 10


def test_eval_shows_a_table_and_takes_a_part(server: AnsweringServer, tmp_path: Path) -> None:
    screenspot(tmp_path)
    done = evaluate(tmp_path, server.url, "--limit", "5", "--calibration", "fit.json")
    assert done.returncode == 0, done.stderr
    assert "4/5" in done.stdout
    assert "latency: mean" in done.stdout
    assert json.loads((tmp_path / "fit.json").read_text())["knots"]


def test_eval_without_its_images_says_so(server: AnsweringServer, tmp_path: Path) -> None:
    screenspot(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    done = evaluate(tmp_path, server.url)
    assert done.returncode == 8
    assert "10 samples failed" in done.stdout
