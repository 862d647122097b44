"""An Android device over a real adb socket."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belvedere.agent.actions import (
    Action,
    Click,
    DoubleClick,
    Drag,
    Key,
    LongPress,
    Open,
    Point,
    Scroll,
    Swipe,
    SystemButton,
    Type,
)
from belvedere.agent.environments.android import AndroidEnvironment
from belvedere.agent.policy import Policy
from belvedere.agent.runner import Runner
from belvedere.agent.stopping import Stop, StopSwitch
from belvedere.errors import EnvironmentFailed, NotSupported
from tests.integration.adb_server import AdbServer
from tests.integration.serving import wait_until
from tests.unit.agent.screens import ListedActions, painted

SHOT = painted(size=(400, 800))
MUCH_S = 60.0
LAUNCHER = "android.intent.category.LAUNCHER"
LEAKY = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # adbutils forgets the socket of a failure
)


@pytest.fixture
def server() -> Iterator[AdbServer]:
    with AdbServer(lambda: SHOT.png) as server:
        yield server


@pytest.fixture
def device(server: AdbServer) -> Iterator[AndroidEnvironment]:
    with AndroidEnvironment(switch=StopSwitch(), port=server.port) as device:
        yield device


def test_it_sees(device: AndroidEnvironment) -> None:
    shot = device.screenshot()
    assert shot.png == SHOT.png
    assert shot.screen.pixels == shot.screen.points == (400, 800)
    assert device.scene(None).app == "org.example.mail"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (Click(0, 0), [["input", "tap", "0", "0"]]),
        (DoubleClick(7, 9.6), [["input", "tap", "7", "9"]] * 2),
        (LongPress(5, 6, 1.5), [["input", "swipe", "5", "6", "5", "6", "1500"]]),
        (Drag(Point(1, 2), Point(3, 4)), [["input", "swipe", "1", "2", "3", "4", "600"]]),
        (Swipe("up"), [["input", "swipe", "200", "560", "200", "240", "300"]]),
        (Swipe("left", Point(300, 50)), [["input", "swipe", "300", "50", "140", "50", "300"]]),
        (Scroll(0, 100), [["input", "swipe", "200", "450", "200", "350", "300"]]),
        (Key(("enter",)), [["input", "keyevent", "KEYCODE_ENTER"]]),
        (Key(("ctrl", "a")), [["input", "keycombination", "KEYCODE_CTRL_LEFT", "KEYCODE_A"]]),
        (SystemButton("back"), [["input", "keyevent", "KEYCODE_BACK"]]),
        (SystemButton("home"), [["input", "keyevent", "KEYCODE_HOME"]]),
        (Type("a b"), [["input", "text", "a%sb"]]),
        (
            Type("to:\nme\t"),
            [
                ["input", "text", "to:"],
                ["input", "keyevent", "KEYCODE_ENTER"],
                ["input", "text", "me"],
                ["input", "keyevent", "KEYCODE_TAB"],
            ],
        ),
        (
            Open("org.mozilla.firefox"),
            [
                [
                    "monkey",
                    "-p",
                    "org.mozilla.firefox",
                    "-c",
                    "android.intent.category.LAUNCHER",
                    "1",
                ]
            ],
        ),
    ],
    ids=str,
)
def test_actions_are_commands_of_the_device(
    action: Action, words: list[list[str]], device: AndroidEnvironment, server: AdbServer
) -> None:
    device.screenshot()
    server.commands.clear()
    device.perform(action)
    assert server.words() == words


HOSTILE = [
    "$(reboot)",
    "`reboot`",
    "a; reboot",
    "a && reboot | b > /sdcard/x",
    'it\'s "quoted" \\ and %s',
    "%%s %ss",
    "-d 1",
    "*?[a]~",
    "${IFS}x",
]


def typed(server: AdbServer) -> str:
    """What Android's ``input text`` makes of the commands: ``%s`` is a space."""
    return "".join(words[2].replace("%s", " ") for words in server.words())


@pytest.mark.parametrize("text", HOSTILE)
def test_typed_text_is_literal(text: str, device: AndroidEnvironment, server: AdbServer) -> None:
    device.perform(Type(text))
    assert all(words[:2] == ["input", "text"] and len(words) == 3 for words in server.words())
    assert typed(server) == text


@settings(max_examples=40)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=150))
def test_any_text_is_literal(text: str) -> None:
    with AdbServer(lambda: SHOT.png) as server:
        environment = AndroidEnvironment(switch=StopSwitch(), port=server.port)
        environment._type(text)  # without the pause that follows an action
        assert typed(server) == text


@pytest.mark.parametrize("text", ["grün", "☃", "a\u00a0b"])
def test_text_that_the_device_cannot_type_is_refused_whole(
    text: str, device: AndroidEnvironment, server: AdbServer
) -> None:
    with pytest.raises(NotSupported):
        device.perform(Type(text))
    assert server.commands == []


@pytest.mark.parametrize(
    "action",
    [Open("rm -rf"), Open("Firefox"), Click(1, 1, button="right"), Key(("f5",))],
    ids=str,
)
def test_what_it_cannot_do_it_says(
    action: Action, device: AndroidEnvironment, server: AdbServer
) -> None:
    with pytest.raises(NotSupported):
        device.perform(action)
    assert server.commands == []


def test_the_app_in_front_decides(server: AdbServer) -> None:
    switch = StopSwitch()
    with AndroidEnvironment(switch=switch, port=server.port) as device:
        policy = Policy.model_validate({"allow": {"apps": ["org.example.*"]}})
        agent = ListedActions([Click(1, 1), Click(2, 2)])
        assert Runner(agent, device, policy=policy, switch=switch, live=True).run().reason == "done"
        server.focus = "com.bank"
        agent = ListedActions([Click(3, 3)])
        refused = Runner(agent, device, policy=policy, switch=switch, live=True).run()
    assert refused.reason == "refused"
    assert "com.bank" in refused.message
    assert [words for words in server.words() if words[1] == "tap"] == [
        ["input", "tap", "1", "1"],
        ["input", "tap", "2", "2"],
    ]


def test_the_switch_stops_typing(server: AdbServer) -> None:
    switch = StopSwitch()
    with AndroidEnvironment(switch=switch, port=server.port) as device:
        switch.throw("a test")
        with pytest.raises(Stop):
            device.perform(Type("x" * 1000))
    assert server.commands == []


def test_the_switch_does_not_wait_for_a_device_that_hangs(server: AdbServer) -> None:
    switch = StopSwitch()
    server.answers.clear()

    def person() -> None:
        wait_until(lambda: server.commands, MUCH_S)
        switch.throw("a test")

    with AndroidEnvironment(switch=switch, port=server.port) as device:
        threading.Thread(target=person, daemon=True).start()
        outcome = Runner(ListedActions([Click(1, 1)]), device, switch=switch, live=True).run()
    server.answers.set()
    assert outcome.reason == "killed"
    assert outcome.stop_ms is not None
    assert outcome.stop_ms < MUCH_S * 1000 / 2


@pytest.mark.parametrize(
    ("devices", "serial", "words"),
    [
        ({}, None, "0 devices"),
        ({"a": "device", "b": "device"}, None, "2 devices"),
        ({"a": "unauthorized"}, None, "0 devices"),
        ({"a": "device"}, "b", "'b' is not there"),
    ],
)
def test_which_device(devices: dict[str, str], serial: str | None, words: str) -> None:
    with (
        AdbServer(lambda: SHOT.png, devices=devices) as server,
        pytest.raises(EnvironmentFailed, match=words),
    ):
        AndroidEnvironment(switch=StopSwitch(), port=server.port, serial=serial)


@LEAKY
def test_a_device_that_is_gone_or_dark(server: AdbServer, device: AndroidEnvironment) -> None:
    server.devices.clear()
    with pytest.raises(EnvironmentFailed):
        device.screenshot()
    with AdbServer(lambda: b"") as dark:
        environment = AndroidEnvironment(switch=StopSwitch(), port=dark.port)
        with pytest.raises(EnvironmentFailed, match="no screenshot"):
            environment.screenshot()
    gc.collect()


@LEAKY
def test_no_adb_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """adbutils would start one; a program that cannot do so stands in for a machine without."""
    monkeypatch.setenv("ADBUTILS_ADB_PATH", "/bin/false")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens there
        with pytest.raises(EnvironmentFailed):
            AndroidEnvironment(switch=StopSwitch(), port=deaf.getsockname()[1])
    gc.collect()
