"""The desktop of this machine under X11: pyautogui moves and presses, `Typist` types, mss looks.

pyautogui connects to the display when it is imported, so all of that happens when an environment is
made and not before. Its own fail-safe is off: a watcher of ours sees the corners and the Esc key
also while the model thinks.
"""

from __future__ import annotations

import os
from contextlib import (
    ExitStack,
    closing,
    suppress,
)

from belvedere.agent.actions import (
    WHEEL_CLICK_PX,
    Action,
    Click,
    DoubleClick,
    Drag,
    Key,
    LongPress,
    Move,
    Point,
    Scroll,
    Swipe,
    SystemButton,
    TripleClick,
    Type,
)
from belvedere.agent.closing import Closing
from belvedere.agent.coordinates import Screen
from belvedere.agent.environments.base import Held, Scene, Screenshot
from belvedere.agent.environments.desktop_typing import Typist
from belvedere.agent.environments.desktop_watch import Watcher
from belvedere.agent.environments.x11 import (
    app_of,
    authority,
    display_errors,
    libraries,
    window_at,
)
from belvedere.agent.stopping import StopSwitch
from belvedere.errors import EnvironmentFailed, NotSupported
from belvedere.images.pixels import Pixels
from belvedere.images.png import encode_png

__all__ = ["DesktopEnvironment"]

_DRAG_STEPS = 10
_STEP_S = 0.02
_SETTLE_S = 0.1


class DesktopEnvironment(Closing):
    """One monitor of the display that ``DISPLAY`` names.

    Places of the device are points of the whole desktop, so those of a second monitor begin where
    it does. The pointer in a corner of the desktop, or the Esc key, throws the switch.

    Args:
        monitor: from 1, as the display numbers them; 0 is all of them together.

    Raises:
        MissingExtra: pyautogui or mss is not installed.
        EnvironmentFailed: there is no such display or monitor.
    """

    def __init__(self, *, switch: StopSwitch, monitor: int = 1) -> None:
        self._switch = switch
        self._held = Held()
        if not os.environ.get("DISPLAY"):
            raise EnvironmentFailed(
                "There is no display.", remedy="Set DISPLAY; under Wayland start an X11 session."
            )
        self._gui, display, camera = libraries()
        with ExitStack() as opened:
            try:
                with authority():
                    self._display = opened.enter_context(closing(display()))
                    watched = opened.enter_context(closing(display()))
                self._camera = opened.enter_context(closing(camera()))
            except Exception as exc:
                raise EnvironmentFailed("The display cannot be opened.") from exc
            if monitor >= len(self._camera.monitors):
                raise EnvironmentFailed(
                    f"There is no monitor {monitor}.",
                    remedy=f"Choose one up to {len(self._camera.monitors) - 1}.",
                )
            self._monitor = self._camera.monitors[monitor]
            self._typist = Typist(self._display, switch.sleep)
            self._watcher = Watcher(watched, switch)
            self._watcher.start()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Stops watching; the desktop stays as it is."""
        self.release()
        self._watcher.stop()
        with suppress(EnvironmentFailed), display_errors():
            self._typist.close()
        self._opened.close()

    def screenshot(self) -> Screenshot:
        self._switch.check()
        place = self._monitor
        try:
            shot = self._camera.grab(place)
        except Exception as exc:
            raise EnvironmentFailed("The display cannot be seen any more.") from exc
        screen = Screen(
            (shot.width, shot.height),
            (place["width"], place["height"]),
            (place["left"], place["top"]),
        )
        return Screenshot(encode_png(Pixels(shot.width, shot.height, shot.rgb)), screen)

    def scene(self, place: Point | None) -> Scene:
        with display_errors():
            return Scene(kind="desktop", app=app_of(self._display, window_at(self._display, place)))

    def perform(self, action: Action) -> None:
        self._switch.check()
        with self._watcher.own(action), display_errors():
            self._perform(action)
        self._switch.sleep(_SETTLE_S)

    def release(self) -> None:
        with suppress(EnvironmentFailed), display_errors():
            self._held.release()

    def _perform(self, action: Action) -> None:
        gui = self._gui
        match action:
            case Click():
                self._clicks(Point(action.x, action.y), action.button, 1)
            case DoubleClick():
                self._clicks(Point(action.x, action.y), "left", 2)
            case TripleClick():
                self._clicks(Point(action.x, action.y), "left", 3)
            case LongPress():
                self._go(Point(action.x, action.y))
                self._button_down("left")
                self._switch.sleep(action.duration_s)
                self._held.lift("left button")
            case Move():
                self._go(Point(action.x, action.y))
            case Type():
                self._typist.type(action.text)
            case Key():
                self._keys(action.keys)
            case Scroll():
                self._scroll(action.at, action.dx_px, action.dy_px)
            case Swipe():
                side = gui.size()
                dx, dy = {"up": (0, 1), "down": (0, -1), "left": (1, 0), "right": (-1, 0)}[
                    action.direction
                ]
                self._scroll(action.at, dx * side.width / 2, dy * side.height / 2)
            case Drag():
                self._drag(action)
            case SystemButton(button="enter"):
                self._keys(("enter",))
            case SystemButton(button="back"):
                self._keys(("alt", "left"))
            case _:
                raise NotSupported(f"A desktop cannot perform {action.kind!r}.")

    def _go(self, place: Point) -> None:
        self._gui.moveTo(int(place.x), int(place.y), _pause=False)

    def _button_down(self, button: str) -> None:
        gui = self._gui
        self._held.press(
            f"{button} button",
            lambda: gui.mouseDown(button=button, _pause=False),
            lambda: gui.mouseUp(button=button, _pause=False),
        )

    def _clicks(self, place: Point, button: str, times: int) -> None:
        self._go(place)
        self._switch.sleep(_STEP_S)
        for _ in range(times):
            self._button_down(button)
            self._held.lift(f"{button} button")

    def _drag(self, action: Drag) -> None:
        start = action.start or Point(*self._gui.position())
        self._go(start)
        self._button_down("left")
        for step in range(1, _DRAG_STEPS + 1):
            self._switch.sleep(_STEP_S)
            share = step / _DRAG_STEPS
            self._go(
                Point(
                    start.x + (action.end.x - start.x) * share,
                    start.y + (action.end.y - start.y) * share,
                )
            )
        self._switch.sleep(_STEP_S)
        self._held.lift("left button")

    def _scroll(self, at: Point | None, dx_px: float, dy_px: float) -> None:
        if at is not None:
            self._go(at)
        if dy_px:
            self._gui.scroll(_clicks(-dy_px), _pause=False)
        if dx_px:
            self._gui.hscroll(_clicks(dx_px), _pause=False)

    def _keys(self, keys: tuple[str, ...]) -> None:
        """Every key down in order, then up in reverse; pyautogui ignores names it does not know."""
        for key in keys:
            if not self._gui.isValidKey(key):
                raise NotSupported(f"This display has no key {key!r}.")
        for key in keys:
            self._held.press(
                f"key {key}",
                lambda key=key: self._gui.keyDown(key, _pause=False),  # type: ignore[misc]
                lambda key=key: self._gui.keyUp(key, _pause=False),  # type: ignore[misc]
            )
        for key in reversed(keys):
            self._held.lift(f"key {key}")


def _clicks(pixels: float) -> int:
    sign = 1 if pixels > 0 else -1
    return sign * max(1, round(abs(pixels) / WHEEL_CLICK_PX))
