"""``belvedere act`` and ``belvedere replay`` as a user runs, confirms and stops them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from belvedere.agent.trajectory import read_trajectory
from tests.browser.chromium import chromium_page
from tests.browser.pages import REPORT, Pages
from tests.integration.answering import AnsweringServer
from tests.integration.serving import BELVEDERE, clean_environment, wait_until

MUCH_S = 150.0
SIZE = (999, 600)
BUTTON = 'style="position: absolute; width: 120px; height: 40px; left: {}px; top: {}px"'
PAGE = f"""<!doctype html><meta charset="utf-8">{REPORT}
<button id="open" {BUTTON.format(20, 20)}>Open</button>
<button id="bin" {BUTTON.format(200, 20)}>Delete</button>
<input id="pw" type="password" {BUTTON.format(20, 100)}>"""
PLACES = {"open": (80, 40), "bin": (260, 40), "pw": (80, 120)}


def find(body: dict[str, Any]) -> str:
    """Where the thing is whose id stands in the instruction, 0..999 of the viewport."""
    said = json.dumps(body["messages"][-1])
    if (name := re.search(r"#(\w+)", said)) is None:
        return "I see no such thing."
    x, y = PLACES[name[1]]
    return f'<answer>{{"coordinate": [{x}, {round(y * 999 / SIZE[1])}]}}</answer>'


@pytest.fixture(scope="module")
def model() -> Iterator[AnsweringServer]:
    with AnsweringServer(find) as model:
        yield model


@pytest.fixture
def pages() -> Iterator[Pages]:
    with Pages(page=PAGE) as pages:
        yield pages


def arguments(pages: Pages, url: str, *more: str) -> list[str]:
    where = ["--browser", f"{pages.url}/page", "--size", f"{SIZE[0]}x{SIZE[1]}"]
    return [*BELVEDERE, *more, *where, "--url", url, "--agent", "grounding"]


def act(pages: Pages, url: str, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(pages, url, "act", *more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MUCH_S,
        env=clean_environment(env),
        check=False,
    )


def clicks(pages: Pages) -> list[str]:
    return [event for event in pages.events if event.startswith("click")]


def test_nothing_is_performed_unless_it_is_live(model: AnsweringServer, pages: Pages) -> None:
    done = act(pages, model.url, "Click #open")
    assert done.returncode == 0, done.stderr
    assert "Click #open: pyautogui.click(80, 40)  [not performed]" in done.stdout
    assert clicks(pages) == []
    done = act(pages, model.url, "Click #open", "--live")
    assert done.returncode == 0, done.stderr
    assert "[performed]" in done.stdout
    assert clicks(pages) == ["click open"]


def test_consequences_need_a_person_or_a_flag(model: AnsweringServer, pages: Pages) -> None:
    done = act(pages, model.url, "Click #bin", "--live")
    assert done.returncode == 7
    assert "declined: Not confirmed: it says 'Delete'" in done.stderr
    assert clicks(pages) == []
    done = act(pages, model.url, "Click #bin", "--live", "--yes", "delete")
    assert done.returncode == 0, done.stderr
    assert clicks(pages) == ["click bin"]


def test_a_policy_file_is_obeyed(model: AnsweringServer, pages: Pages, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[allow]\nregions = [[0, 80, 999, 520]]\n")
    done = act(pages, model.url, "Click #open", "--live", "--policy", str(policy))
    assert done.returncode == 7
    assert "outside the regions" in done.stderr
    policy.write_text('[allow]\ndomains = ["example.com"]\n')
    done = act(pages, model.url, "Click #open", "--live", "--policy", str(policy))
    assert done.returncode == 4
    assert "does not allow this page" in done.stderr
    assert clicks(pages) == []


def test_the_trajectory_and_its_report(
    model: AnsweringServer, pages: Pages, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = act(
        pages, model.url, "Click #open", "Click #pw", "--live", "--json", "--save", str(folder)
    )
    assert done.returncode == 0, done.stderr
    *steps, outcome = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["step"]["action"]["x"] for step in steps] == [80, 80]
    assert outcome["outcome"]["reason"] == "done"
    recorded = read_trajectory(folder)
    assert [step.performed for step in recorded.steps] == [True, True]
    asked: list[str] = []
    with chromium_page(width=1200, height=800) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "report.html").as_uri())
        assert page.get_by_role("heading", level=2).all_inner_texts() == [
            "1Click #open",
            "2Click #pw",
        ]
        assert ratio_of_mark(page) == pytest.approx((80 / SIZE[0], 40 / SIZE[1]), abs=0.003)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def ratio_of_mark(page: Page) -> tuple[float, float]:
    """Where the middle of the first ring is on its picture, as shares of it."""
    left, top = page.evaluate("""() => {
      const ring = document.querySelector('circle').getBoundingClientRect();
      const image = document.querySelector('img').getBoundingClientRect();
      return [(ring.left + ring.width / 2 - image.left) / image.width,
              (ring.top + ring.height / 2 - image.top) / image.height]; }""")
    return left, top


def test_a_run_is_replayed(model: AnsweringServer, pages: Pages, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    act(pages, model.url, "Click #open", "Click #pw", "--live", "--save", folder)
    pages.events.clear()
    asked = len(model.bodies)

    def replay(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*BELVEDERE, "replay", folder, *more],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MUCH_S,
            env=clean_environment(),
            check=False,
        )

    page = tmp_path / "page.html"
    done = replay("--html", str(page))
    assert done.returncode == 0, done.stderr
    assert "1. Click #open: pyautogui.click(80, 40)" in done.stdout
    assert page.stat().st_size > 1000
    assert clicks(pages) == []
    size = ("--size", f"{SIZE[0]}x{SIZE[1]}")
    live = replay("--live", "--browser", f"{pages.url}/page", *size)
    assert live.returncode == 0, live.stderr
    assert clicks(pages) == ["click open", "click pw"]
    pages.events.clear()
    wrong = replay("--live", "--browser", f"{pages.url}/page", "--size", "800x600")
    assert wrong.returncode == 7
    assert "stale" in wrong.stderr
    assert clicks(pages) == []
    assert len(model.bodies) == asked


def test_an_answer_without_a_point_clicks_nothing(model: AnsweringServer, pages: Pages) -> None:
    done = act(pages, model.url, "Click something", "--live")
    assert done.returncode == 6
    assert "unusable" in done.stderr
    assert clicks(pages) == []


def stopped(folder: Path) -> dict[str, Any]:
    end = read_trajectory(folder).end
    assert end is not None
    return dict(end)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_while_the_model_thinks(
    number: signal.Signals, pages: Pages, tmp_path: Path
) -> None:
    with AnsweringServer(find, delay_s=300) as thinking:
        process = subprocess.Popen(
            arguments(
                pages, thinking.url, "act", "Click #open", "--live", "--save", str(tmp_path / "run")
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        assert wait_until(lambda: thinking.bodies, MUCH_S)
        process.send_signal(number)
        process.communicate(timeout=MUCH_S)
    assert process.returncode == 130
    end = stopped(tmp_path / "run")
    assert end["reason"] == "killed"
    assert number.name in end["message"]
    assert end["stop_ms"] < 30_000
    assert clicks(pages) == []


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self._leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=subprocess.DEVNULL,
            stderr=follower,
            env=clean_environment(),
            start_new_session=True,
        )
        os.close(follower)
        os.set_blocking(self._leader, False)
        self.shown = ""

    def shows(self, words: str) -> bool:
        return wait_until(lambda: words in self._read(), MUCH_S)

    def press(self, keys: bytes) -> None:
        os.write(self._leader, keys)

    def wait(self) -> int:
        def ended() -> bool:
            self._read()
            return self.process.poll() is not None

        assert wait_until(ended, MUCH_S), self.shown
        os.close(self._leader)
        return self.process.wait()

    def _read(self) -> str:
        with suppress(OSError):  # nothing is there now, or the other side is gone
            self.shown += os.read(self._leader, 4096).decode(errors="replace")
        return self.shown


@pytest.mark.parametrize(("key", "code", "expected"), [(b"y", 0, ["click bin"]), (b"n", 7, [])])
def test_a_person_at_the_terminal_decides(
    key: bytes, code: int, expected: list[str], model: AnsweringServer, pages: Pages
) -> None:
    terminal = Terminal(arguments(pages, model.url, "act", "Click #bin", "--live"))
    assert terminal.shows("Do it? [y/N]")
    assert "it says 'Delete'" in terminal.shown
    terminal.press(key)
    assert terminal.wait() == code
    assert clicks(pages) == expected


def test_escape_at_the_terminal_stops_it_and_an_arrow_does_not(
    pages: Pages, tmp_path: Path
) -> None:
    with AnsweringServer(find, delay_s=300) as thinking:
        command = arguments(pages, thinking.url, "act", "Click #open", "--live")
        terminal = Terminal([*command, "--save", str(tmp_path / "run")])
        assert wait_until(lambda: thinking.bodies, MUCH_S)
        terminal.press(b"\x1b[A")
        assert not wait_until(lambda: terminal.process.poll() is not None, 1)
        terminal.press(b"\x1b")
        assert terminal.wait() == 130
    assert stopped(tmp_path / "run")["message"] == "Stopped by the Esc key."


BAD = [
    (["act", "Click x"], "--browser"),
    (["act", "Click x", "--browser", "missing.html"], "does not exist"),
    (["act", "Click x", "--browser", "http://x", "--desktop"], "Say on which screen"),
    (["act", " ", "--browser", "data:text/html,x", "--url", "http://127.0.0.1:1"], "empty"),
    (["act", "a", "--browser", "data:,x", "--size", "big"], "not a size"),
    (["act", "a", "--browser", "data:,x", "--yes", "fun"], "no category"),
    (["act", "a", "--browser", "data:,x", "--secret", "x"], "NAME=VARIABLE"),
    (["act", "a", "--browser", "data:,x", "--secret", "x=NOT_SET"], "not set"),
    (["act", "a", "--browser", "data:,x", "--policy", "missing.toml"], "cannot be read"),
    (["replay", "missing"], "cannot be read"),
    (["batch", "missing.jsonl", "-o", "out.jsonl"], "cannot be read"),
    (["eval", "missing.json"], "cannot be read"),
]


@pytest.mark.parametrize(("command", "words"), BAD, ids=[" ".join(one[0]) for one in BAD])
def test_bad_input_is_one_line_before_anything_starts(
    command: list[str], words: str, tmp_path: Path
) -> None:
    if command[0] == "act" and "--url" not in command:
        command = [*command, "--url", "http://127.0.0.1:1", "--agent", "grounding"]
    done = subprocess.run(
        [*BELVEDERE, *command],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MUCH_S,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def moves(*calls: dict[str, Any]) -> AnsweringServer:
    """A navigation model in MAI-UI's own words."""
    answers = [
        "<thinking>\nNext.\n</thinking>\n<tool_call>\n"
        + json.dumps({"name": "mobile_use", "arguments": call})
        + "\n</tool_call>"
        for call in calls
    ]
    return AnsweringServer(*answers)


CLICK_FIELD = {"action": "click", "coordinate": [80, 200]}
TYPE = {"action": "type", "text": "{{pin}}"}
DONE = {"action": "terminate", "status": "success"}


def navigate(pages: Pages, url: str, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    options = [*arguments(pages, url, "act", "Log in"), *more]
    options[options.index("--agent") + 1] = "navigation"
    return subprocess.run(
        options,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MUCH_S,
        env=clean_environment(env),
        check=False,
    )


def test_a_navigation_model_acts_until_it_says_that_it_is_done(
    pages: Pages, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with moves(CLICK_FIELD, TYPE, DONE) as server:
        done = navigate(
            pages,
            server.url,
            *("--live", "--save", str(folder), "--secret", "pin=PIN_OF_TEST"),
            PIN_OF_TEST="4711-geheim",
        )
        bodies = json.dumps(server.bodies)
    assert done.returncode == 0, done.stderr
    assert clicks(pages) == ["click pw"]
    typed = [event.split()[1] for event in pages.events if event.startswith("keydown")]
    assert "".join(typed) == "4711-geheim"
    assert "4711-geheim" not in bodies
    assert "4711-geheim" not in (folder / "trajectory.jsonl").read_text()
    assert "4711-geheim" not in (folder / "report.html").read_text()
    assert "4711-geheim" not in done.stdout
    steps = read_trajectory(folder).steps
    assert [step.performed for step in steps] == [True, True, False]
    assert str(steps[1].action) == "pyautogui.write('{{pin}}')"


def test_a_dry_run_of_a_navigation_model_ends_after_its_first_decision(pages: Pages) -> None:
    with moves(CLICK_FIELD, TYPE, DONE) as server:
        done = navigate(pages, server.url)
        assert len(server.bodies) == 1
    assert done.returncode == 0, done.stderr
    assert "dry: Nothing was performed" in done.stdout
    assert clicks(pages) == []


def test_a_question_of_the_model_is_answered_at_the_terminal(pages: Pages) -> None:
    with moves({"action": "ask_user", "text": "Which account?"}, DONE) as server:
        command = arguments(pages, server.url, "act", "Log in", "--live")
        command[command.index("--agent") + 1] = "navigation"
        terminal = Terminal(command)
        assert terminal.shows("The model asks: Which account?")
        terminal.press(b"the blux\x7fe one\r")
        assert terminal.wait() == 0
        first, second = (json.dumps(body) for body in server.bodies)
    assert "the blue one" not in first
    assert "the blue one" in second
