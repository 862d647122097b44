"""An Android device or emulator, over the adb server.

Everything but the screenshot is a command line of the device's own shell, so every word of it is
quoted for that shell; text of a model is never more than one word.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    TripleClick,
    Type,
)
from belvedere.agent.closing import Closing
from belvedere.agent.coordinates import Screen
from belvedere.agent.environments.base import Scene, Screenshot, png_size
from belvedere.agent.stopping import StopSwitch
from belvedere.errors import EnvironmentFailed, ImageError, MissingExtra, NotSupported

__all__ = ["AndroidEnvironment"]

_COMMAND_TIMEOUT_S = 20.0
_SETTLE_S = 0.3
_TYPE_CHUNK = 60
_SWIPE_MS = 300
_DRAG_MS = 600
_SHARE = 0.4
"""Part of the screen that a swipe without a length goes over."""

_SYSTEM = {"back": "KEYCODE_BACK", "home": "KEYCODE_HOME", "menu": "KEYCODE_APP_SWITCH"}
_KEYS = {
    "enter": "KEYCODE_ENTER",
    "esc": "KEYCODE_ESCAPE",
    "tab": "KEYCODE_TAB",
    "space": "KEYCODE_SPACE",
    "backspace": "KEYCODE_DEL",
    "delete": "KEYCODE_FORWARD_DEL",
    "home": "KEYCODE_MOVE_HOME",
    "end": "KEYCODE_MOVE_END",
    "pageup": "KEYCODE_PAGE_UP",
    "pagedown": "KEYCODE_PAGE_DOWN",
    "up": "KEYCODE_DPAD_UP",
    "down": "KEYCODE_DPAD_DOWN",
    "left": "KEYCODE_DPAD_LEFT",
    "right": "KEYCODE_DPAD_RIGHT",
    "volumeup": "KEYCODE_VOLUME_UP",
    "volumedown": "KEYCODE_VOLUME_DOWN",
    "ctrl": "KEYCODE_CTRL_LEFT",
    "alt": "KEYCODE_ALT_LEFT",
    "shift": "KEYCODE_SHIFT_LEFT",
    "win": "KEYCODE_META_LEFT",
    **{letter: f"KEYCODE_{letter.upper()}" for letter in "abcdefghijklmnopqrstuvwxyz"},
    **{digit: f"KEYCODE_{digit}" for digit in "0123456789"},
}
_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")
_FOCUS = re.compile(r"mCurrentFocus=Window\{\S+ \S+ ([\w.]+)(?:/[\w.$]+)?\}")


class AndroidEnvironment(Closing):
    """The screen of one device. Places of the device are pixels of its screenshot.

    Args:
        serial: of the device; the only one when ``None``.
        host, port: of the adb server.

    Raises:
        MissingExtra: adbutils is not installed.
        EnvironmentFailed: no adb server, no such device, or several without a serial.
    """

    def __init__(
        self,
        *,
        switch: StopSwitch,
        serial: str | None = None,
        host: str = "127.0.0.1",
        port: int = 5037,
    ) -> None:
        try:
            import adbutils
        except ImportError as exc:
            raise MissingExtra(
                "Driving an Android device needs adbutils.", remedy="pip install 'belvedere[agent]'"
            ) from exc
        self._switch = switch
        self._size = (0, 0)
        with _adb_errors():
            client = adbutils.AdbClient(host=host, port=port, socket_timeout=_COMMAND_TIMEOUT_S)
            ready = [one.serial for one in client.list() if one.state == "device"]
            self._device: Any = client.device(_chosen(serial, ready))

    def close(self) -> None:
        self.release()

    def screenshot(self) -> Screenshot:
        self._switch.check()
        png = self._run("screencap", "-p", binary=True)
        try:
            self._size = png_size(png)
        except ImageError as exc:
            raise EnvironmentFailed(
                "The device sent no screenshot.", remedy="Is it on, and unlocked?"
            ) from exc
        return Screenshot(png, Screen(self._size, self._size))

    def scene(self, place: Point | None) -> Scene:
        found = _FOCUS.search(self._run("dumpsys", "window", "displays"))
        return Scene(kind="android", app=found[1] if found else None)

    def perform(self, action: Action) -> None:
        self._switch.check()
        self._perform(action)
        self._switch.sleep(_SETTLE_S)

    def release(self) -> None:
        """Nothing is ever held: each command of the device presses and lets go."""

    def _perform(self, action: Action) -> None:
        match action:
            case Click(button="left"):
                self._tap(action.x, action.y, 1)
            case DoubleClick():
                self._tap(action.x, action.y, 2)
            case TripleClick():
                self._tap(action.x, action.y, 3)
            case LongPress():
                place = Point(action.x, action.y)
                self._swipe(place, place, round(action.duration_s * 1000))
            case Type():
                self._type(action.text)
            case Key():
                self._keys(action.keys)
            case Swipe():
                across, down = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[
                    action.direction
                ]
                self._slide(action.at, across * self._size[0], down * self._size[1])
            case Scroll():
                self._slide(action.at, -action.dx_px / _SHARE, -action.dy_px / _SHARE)
            case Drag(start=Point() as start):
                self._swipe(start, action.end, _DRAG_MS)
            case Open():
                self._open(action.app)
            case SystemButton():
                self._keycode(_SYSTEM.get(action.button, "KEYCODE_ENTER"))
            case _:
                raise NotSupported(f"An Android device cannot perform {action.kind!r}.")

    def _tap(self, x: float, y: float, times: int) -> None:
        for _ in range(times):
            self._run("input", "tap", str(int(x)), str(int(y)))

    def _slide(self, at: Point | None, across: float, down: float) -> None:
        """A swipe over a share of a distance, from `at` or so that its middle is the screen's."""
        dx, dy = across * _SHARE, down * _SHARE
        start = at or Point(self._size[0] / 2 - dx / 2, self._size[1] / 2 - dy / 2)
        end = Point(
            *(
                min(max(value, 0), side - 1)
                for value, side in zip((start.x + dx, start.y + dy), self._size, strict=True)
            )
        )
        self._swipe(start, end, _SWIPE_MS)

    def _swipe(self, start: Point, end: Point, duration_ms: int) -> None:
        numbers = (start.x, start.y, end.x, end.y, duration_ms)
        self._run("input", "swipe", *(str(int(number)) for number in numbers))

    def _type(self, text: str) -> None:
        """Printable ASCII; ``input`` knows no other characters and would crash on them."""
        bad = next((one for one in text if not (" " <= one <= "~" or one in "\n\t")), None)
        if bad is not None:
            raise NotSupported(
                f"Android's input command cannot type {bad!r}.", remedy="Nothing was typed."
            )
        for part in re.findall(r"[^\n\t]+|\n|\t", text):
            if part in "\n\t":
                self._keycode("KEYCODE_ENTER" if part == "\n" else "KEYCODE_TAB")
                continue
            for piece in _pieces(part):
                self._switch.check()
                self._run("input", "text", piece)

    def _keys(self, keys: tuple[str, ...]) -> None:
        unknown = [key for key in keys if key not in _KEYS]
        if unknown:
            raise NotSupported(f"An Android device has no key {unknown[0]!r}.")
        codes = [_KEYS[key] for key in keys]
        if len(codes) == 1:
            self._keycode(codes[0])
        else:
            self._run("input", "keycombination", *codes)

    def _keycode(self, code: str) -> None:
        self._run("input", "keyevent", code)

    def _open(self, app: str) -> None:
        """Starts the launcher activity of a package; names of apps are not package names."""
        if not _PACKAGE.fullmatch(app):
            raise NotSupported(
                f"{app!r} is not the name of a package.", remedy="Name it like org.mozilla.firefox."
            )
        self._run("monkey", "-p", app, "-c", "android.intent.category.LAUNCHER", "1")

    def _run(self, *words: str, binary: bool = False) -> Any:
        """Output of a command; a device that does not answer does not keep a stop waiting."""
        command = " ".join(shlex.quote(word) for word in words)
        encoding = None if binary else "utf-8"
        with _adb_errors():
            return self._switch.call(
                lambda: self._device.shell(command, encoding=encoding, timeout=_COMMAND_TIMEOUT_S)
            )


def _pieces(text: str) -> Iterator[str]:
    """Parts that ``input text`` types as they stand; it reads ``%s`` as a space.

    A ``%`` before an ``s`` goes into a part of its own, and spaces are written as ``%s``.
    """
    for part in re.split(r"(?<=%)(?=s)", text):
        for start in range(0, len(part), _TYPE_CHUNK):
            yield part[start : start + _TYPE_CHUNK].replace(" ", "%s")


def _chosen(serial: str | None, ready: list[str]) -> str:
    names = ", ".join(ready) or "none"
    if serial is not None and serial not in ready:
        raise EnvironmentFailed(
            f"The device {serial!r} is not there.", remedy=f"Connected and allowed: {names}."
        )
    if serial is None and len(ready) != 1:
        raise EnvironmentFailed(
            f"{len(ready)} devices are connected.", remedy=f"Name one of them: {names}."
        )
    return serial or ready[0]


@contextmanager
def _adb_errors() -> Iterator[None]:
    from adbutils.errors import AdbError

    try:
        yield
    except (AdbError, OSError, EOFError) as exc:
        raise EnvironmentFailed(
            "The adb server or the device does not answer.", remedy="Check 'adb devices'."
        ) from exc
