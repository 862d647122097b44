"""A real window on a real X server without a screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from Xlib.display import Display

from belvedere import MAIUIClient
from belvedere.agent.actions import Action, Click, Drag, Key, LongPress, Move, Open, Point, Type
from belvedere.agent.deciders import InstructionList
from belvedere.agent.environments import Screenshot
from belvedere.agent.environments.desktop import DesktopEnvironment
from belvedere.agent.environments.x11 import authority
from belvedere.agent.policy import Policy
from belvedere.agent.runner import Decision, Runner
from belvedere.agent.stopping import Stop, StopSwitch
from belvedere.errors import EnvironmentFailed, NotSupported
from tests.integration.serving import RunningServer, wait_until
from tests.integration.window import BUTTONS
from tests.unit.agent.screens import ListedActions

MUCH_S = 60.0
WINDOW = Path(__file__).with_name("window.py")
SIZE = (640, 400)


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """An X server of this module's own, on a number that it chooses itself."""
    program = shutil.which("Xvfb")
    assert program, "Xvfb is missing; 'make system-packages' installs it"
    reader, writer = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writer), "-screen", "0", "640x400x24", "-nolisten", "tcp"],
        pass_fds=(writer,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    with os.fdopen(reader) as stream:
        number = stream.readline().strip()
    before = os.environ.get("DISPLAY")
    os.environ["DISPLAY"] = f":{number}"
    try:
        yield f":{number}"
    finally:
        if before is None:
            os.environ.pop("DISPLAY")
        else:
            os.environ["DISPLAY"] = before
        server.terminate()
        server.wait(MUCH_S)


@dataclass
class Window:
    """What the window wrote down."""

    log: Path
    process: psutil.Process

    @property
    def events(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    @property
    def clicks(self) -> list[str]:
        return [line.removeprefix("click ") for line in self.events if line.startswith("click ")]

    @property
    def texts(self) -> list[str]:
        path = Path(f"{self.log}.text")
        return path.read_text(encoding="utf-8").split("\0") if path.exists() else ["", ""]


@pytest.fixture
def window(display: str, tmp_path: Path) -> Iterator[Window]:
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, str(WINDOW), str(log)])
    try:
        window = Window(log, psutil.Process(process.pid))
        assert wait_until(lambda: "ready" in window.events, MUCH_S)
        subprocess.run(["xdotool", "mousemove", "600", "200"], check=True, timeout=MUCH_S)
        yield window
    finally:
        process.kill()  # it may be stopped, and then would not hear anything else
        process.wait(MUCH_S)


@pytest.fixture
def switch() -> StopSwitch:
    return StopSwitch()


@pytest.fixture
def desktop(window: Window, switch: StopSwitch) -> Iterator[DesktopEnvironment]:
    with DesktopEnvironment(switch=switch) as desktop:
        yield desktop


def middle(name: str) -> tuple[int, int]:
    left, top = BUTTONS[name]
    return left + 25, top + 12


def test_it_sees_and_clicks(desktop: DesktopEnvironment, window: Window) -> None:
    shot = desktop.screenshot()
    assert shot.screen.pixels == shot.screen.points == SIZE
    for name in BUTTONS:
        desktop.perform(Click(*middle(name)))
    assert wait_until(lambda: window.clicks == list(BUTTONS))


HOSTILE = 'héllo ☃ 中文 $(reboot) `x` {Enter} %s \\n +ctrl "quoted" --delay 5 ~|<>'


def test_what_is_typed_is_literal(desktop: DesktopEnvironment, window: Window) -> None:
    desktop.perform(Click(100, 40))
    desktop.perform(Type(HOSTILE))
    assert wait_until(lambda: window.texts[0] == HOSTILE), window.texts
    desktop.perform(Click(100, 200))
    desktop.perform(Type("--file\none\ttwo"))
    assert wait_until(lambda: window.texts[1] == "--file\none\ttwo"), window.texts


def test_a_program_that_is_slow_gets_every_character(
    desktop: DesktopEnvironment, window: Window
) -> None:
    """It reads the keys long after they were pressed."""
    desktop.perform(Click(100, 40))
    window.process.suspend()
    desktop.perform(Type(HOSTILE))
    window.process.resume()
    assert wait_until(lambda: window.texts[0] == HOSTILE), window.texts


MANY = "".join(chr(0x4E00 + index) for index in range(200))


def test_more_characters_than_there_are_keys(desktop: DesktopEnvironment, window: Window) -> None:
    desktop.perform(Click(100, 200))
    desktop.perform(Type(MANY))
    assert wait_until(lambda: window.texts[1] == MANY), window.texts


@contextmanager
def stopped_for(window: Window, duration_s: float) -> Iterator[None]:
    """The program does nothing when the block begins, and for so long; it runs again at the end."""
    window.process.suspend()
    timer = threading.Timer(duration_s, window.process.resume)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_slow_program_has_read_a_key_before_it_means_something_else(
    desktop: DesktopEnvironment, window: Window
) -> None:
    desktop.perform(Click(100, 200))
    with stopped_for(window, 3):
        desktop.perform(Type(MANY))
    assert wait_until(lambda: window.texts[1] == MANY), window.texts


def test_a_slow_program_has_read_all_keys_before_they_are_given_back(
    window: Window, switch: StopSwitch
) -> None:
    with DesktopEnvironment(switch=switch) as desktop:
        desktop.perform(Click(100, 40))
        with stopped_for(window, 3):
            desktop.perform(Type("日本語"))
            desktop.close()
    assert wait_until(lambda: window.texts[0] == "日本語"), window.texts


def test_caps_lock_changes_nothing(desktop: DesktopEnvironment, window: Window) -> None:
    desktop.perform(Click(100, 40))
    desktop.perform(Key(("capslock",)))
    try:
        desktop.perform(Type("Ab é Ж"))
        assert wait_until(lambda: window.texts[0] == "Ab é Ж"), window.texts
    finally:
        desktop.perform(Key(("capslock",)))


def test_the_keyboard_is_left_as_it_was(window: Window, switch: StopSwitch) -> None:
    def keys() -> list[list[int]]:
        with authority(), closing(Display()) as display:
            return [list(row) for row in display.get_keyboard_mapping(8, 248)]

    before = keys()
    with DesktopEnvironment(switch=switch) as desktop:
        desktop.perform(Type("日本語"))
        assert keys() != before
    assert keys() == before


def test_keys_and_drags(desktop: DesktopEnvironment, window: Window) -> None:
    desktop.perform(Click(100, 200))
    desktop.perform(Type("some words"))
    assert wait_until(lambda: window.texts[1] == "some words"), window.texts
    desktop.perform(Key(("home",)))
    desktop.perform(Key(("shift", "end")))
    desktop.perform(Key(("delete",)))
    assert wait_until(lambda: window.texts[1] == "")
    left, top = middle("Login")
    desktop.perform(Drag(Point(left, top), Point(left + 200, top + 150)))
    assert wait_until(lambda: "release Login" in window.events)
    desktop.perform(Click(*middle("Help")))
    assert wait_until(lambda: "Help" in window.clicks)
    assert window.clicks == ["Help"]  # the other one was released elsewhere


@pytest.mark.parametrize("action", [Key(("volumeup", "nexttrack")), Open("Mail")], ids=str)
def test_what_it_cannot_do_it_says(action: Action, desktop: DesktopEnvironment) -> None:
    if isinstance(action, Key) and all(map(desktop._gui.isValidKey, action.keys)):
        pytest.skip("this display has those keys")
    with pytest.raises(NotSupported):
        desktop.perform(action)


def test_the_app_under_the_point_decides(
    desktop: DesktopEnvironment, window: Window, switch: StopSwitch
) -> None:
    assert desktop.scene(Point(*middle("Login"))).app == "Ledger"
    assert desktop.scene(Point(635, 398)).app in ("Ledger", None)
    for apps, expected in ((["ledger"], "done"), (["browser"], "refused")):
        policy = Policy.model_validate({"allow": {"apps": apps}})
        agent = ListedActions([Click(*middle("Login"))])
        outcome = Runner(agent, desktop, policy=policy, switch=switch, live=True).run()
        assert outcome.reason == expected
    assert wait_until(lambda: window.clicks == ["Login"])


def test_a_corner_stops_it_while_the_model_thinks(
    desktop: DesktopEnvironment, window: Window, switch: StopSwitch
) -> None:
    assert_stopped_by(["mousemove", "0", "0"], "corner", desktop, window, switch)


def test_escape_stops_it_while_the_model_thinks(
    desktop: DesktopEnvironment, window: Window, switch: StopSwitch
) -> None:
    try:
        assert_stopped_by(["keydown", "Escape"], "Esc", desktop, window, switch)
    finally:
        subprocess.run(["xdotool", "keyup", "Escape"], check=True, timeout=MUCH_S)


def assert_stopped_by(
    gesture: list[str],
    words: str,
    desktop: DesktopEnvironment,
    window: Window,
    switch: StopSwitch,
) -> None:
    leave = threading.Event()

    class Thinking(ListedActions):
        def decide(self, shot: Screenshot) -> Decision:
            subprocess.run(["xdotool", *gesture], check=True, timeout=MUCH_S)
            leave.wait(MUCH_S)
            return super().decide(shot)

    agent = Thinking([Click(*middle("Login"))])
    outcome = Runner(agent, desktop, switch=switch, live=True).run()
    leave.set()
    assert outcome.reason == "killed"
    assert words in outcome.message
    assert window.clicks == []


def test_the_agents_own_escape_and_corner_do_not_stop_it(
    desktop: DesktopEnvironment, switch: StopSwitch, window: Window
) -> None:
    """[0, 0] is a pixel like any other."""
    for action in (Key(("esc",)), Click(0, 0), Move(200, 200), Click(*middle("Help"))):
        desktop.perform(action)
    assert wait_until(lambda: window.clicks == ["Help"])
    assert switch.cause is None


def test_a_button_that_is_held_is_let_go(
    desktop: DesktopEnvironment, switch: StopSwitch, window: Window
) -> None:
    def person() -> None:
        wait_until(lambda: "press Login" in window.events)
        switch.throw("a test")

    threading.Thread(target=person, daemon=True).start()
    agent = ListedActions([LongPress(*middle("Login"), MUCH_S)])
    outcome = Runner(agent, desktop, switch=switch, live=True).run()
    assert outcome.reason == "killed"
    assert wait_until(lambda: "release Login" in window.events)


def test_typing_stops_at_once(
    desktop: DesktopEnvironment, switch: StopSwitch, window: Window
) -> None:
    desktop.perform(Click(100, 40))

    def person() -> None:
        wait_until(lambda: window.texts[0] != "")
        switch.throw("a test")

    threading.Thread(target=person, daemon=True).start()
    with pytest.raises(Stop):
        desktop.perform(Type("x" * 5000))
    assert len(window.texts[0]) < 5000
    assert not any(bytes(desktop._display.query_keymap()))


def test_no_display_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(EnvironmentFailed, match="no display"):
        DesktopEnvironment(switch=StopSwitch())


def test_no_such_monitor_is_one_error(display: str, switch: StopSwitch) -> None:
    with pytest.raises(EnvironmentFailed, match="no monitor 7"):
        DesktopEnvironment(switch=switch, monitor=7)


STEPS = ["Login", "Settings", "Help", "Save", "Cancel"]


@pytest.mark.engine
def test_the_shipped_model_hits_four_of_five(
    server: RunningServer, desktop: DesktopEnvironment, switch: StopSwitch, window: Window
) -> None:
    found = []
    with MAIUIClient(server.url) as model:
        for name in STEPS:
            agent = InstructionList(model, [f"Click {name}"])
            before = len(window.clicks)
            Runner(agent, desktop, switch=switch, live=True, approve=lambda *_: True).run()
            wait_until(lambda before=before: len(window.clicks) > before, MUCH_S)
            found.append((window.clicks[before:] or [""])[0])
    assert sum(one == name for one, name in zip(found, STEPS, strict=True)) >= 4, found
