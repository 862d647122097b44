"""``belvedere ground``: what the options ask of the model, and what is said of its answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.answering import Answer, AnsweringServer
from tests.integration.serving import BELVEDERE, clean_environment
from tests.unit.agent.screens import painted

MIDDLE = '<answer>{"coordinate": [500, 500]}</answer>'


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    path = tmp_path / "screen.png"
    path.write_bytes(painted(size=(999, 999)).png)
    return path


def ground(screen: Path, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BELVEDERE, "ground", str(screen), "Click Save", "--url", url, *more],
        capture_output=True,
        text=True,
        timeout=150,
        env=clean_environment(),
        check=False,
    )


def test_the_confidence_is_reported(screen: Path) -> None:
    with AnsweringServer(Answer(MIDDLE, chance=0.8)) as server:
        shown = ground(screen, server.url)
        row = json.loads(ground(screen, server.url, "--json").stdout)
    assert shown.returncode == 0, shown.stderr
    assert "confidence" in shown.stdout
    assert (row["x"], row["y"]) == (500, 500)
    assert 0 < row["confidence"] < 1


def test_a_server_without_probabilities_is_no_error(screen: Path) -> None:
    with AnsweringServer(MIDDLE, logprobs=False) as server:
        row = json.loads(ground(screen, server.url, "--json").stdout)
    assert row["confidence"] is None


def test_too_unsure_is_no_click(screen: Path) -> None:
    with AnsweringServer(Answer(MIDDLE, chance=0.3)) as server:
        done = ground(screen, server.url, "--min-confidence", "0.9")
    assert done.returncode == 6
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_second_look_asks_twice_and_maps_back(screen: Path) -> None:
    """The second answer, (250, 250) of the part around the middle, is a quarter into it."""
    second = '<answer>{"coordinate": [250, 250]}</answer>'
    with AnsweringServer(MIDDLE, second) as server:
        row = json.loads(ground(screen, server.url, "--json", "--zoom").stdout)
        assert len(server.bodies) == 2
    assert row["attempts"] == 2
    assert row["x"] == row["y"] == pytest.approx(375, abs=2)
