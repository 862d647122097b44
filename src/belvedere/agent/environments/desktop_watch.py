"""Sees the corners of a desktop and its Esc key while an agent thinks and acts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from belvedere.agent.actions import Action, Key, points
from belvedere.agent.stopping import StopSwitch

__all__ = ["Watcher"]

_WATCH_S = 0.01
_CORNER_PX = 2


class Watcher(threading.Thread):
    """Throws the switch when the pointer is in a corner or Esc is down, unless the agent did it."""

    def __init__(self, display: Any, switch: StopSwitch) -> None:
        super().__init__(name="belvedere-desktop-watch", daemon=True)
        from Xlib import XK

        self._display = display
        self._switch = switch
        self._escape = display.keysym_to_keycode(XK.XK_Escape)
        self._acting = False
        self._own_escape = False
        self._own_corner = False
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @contextmanager
    def own(self, action: Action) -> Iterator[None]:
        """While the block runs, Esc and corners that `action` itself uses are the agent's.

        A corner stays the agent's until the pointer has left it.
        """
        screen = self._display.screen()
        size = screen.width_in_pixels, screen.height_in_pixels
        cornered = any(_in_corner(one.x, one.y, size) for one in points(action))
        with self._lock:
            self._acting = True
            self._own_corner = self._own_corner or cornered
            self._own_escape = isinstance(action, Key) and "esc" in action.keys
        try:
            yield
        finally:
            with self._lock:
                self._acting = self._own_escape = False

    def run(self) -> None:
        with suppress(Exception):  # a display that is gone has no corners; the agent finds out
            while not self._ended.wait(_WATCH_S):
                with self._lock:
                    self._look()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _look(self) -> None:
        screen = self._display.screen()
        pointer = screen.root.query_pointer()
        size = screen.width_in_pixels, screen.height_in_pixels
        cornered = _in_corner(pointer.root_x, pointer.root_y, size)
        if cornered and not self._own_corner:
            self._switch.throw("the pointer in a corner of the screen")
        keys = self._display.query_keymap()
        if not self._own_escape and keys[self._escape // 8] & (1 << self._escape % 8):
            self._switch.throw("the Esc key")
        if not cornered and not self._acting:
            self._own_corner = False


def _in_corner(x: float, y: float, size: tuple[int, int]) -> bool:
    beside = x < _CORNER_PX or x >= size[0] - _CORNER_PX
    return beside and (y < _CORNER_PX or y >= size[1] - _CORNER_PX)
