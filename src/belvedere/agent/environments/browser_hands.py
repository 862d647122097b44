"""Mouse and keyboard of a page in a browser."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from belvedere.agent.actions import Click, DoubleClick, Drag, LongPress, Point, TripleClick
from belvedere.errors import NotSupported

if TYPE_CHECKING:
    from playwright.async_api import Page

__all__ = ["Hands"]

_KEYS = {
    "ctrl": "Control",
    "alt": "Alt",
    "shift": "Shift",
    "win": "Meta",
    "enter": "Enter",
    "esc": "Escape",
    "tab": "Tab",
    "space": "Space",
    "backspace": "Backspace",
    "delete": "Delete",
    "insert": "Insert",
    "home": "Home",
    "end": "End",
    "pageup": "PageUp",
    "pagedown": "PageDown",
    "up": "ArrowUp",
    "down": "ArrowDown",
    "left": "ArrowLeft",
    "right": "ArrowRight",
    "capslock": "CapsLock",
    "numlock": "NumLock",
    "scrolllock": "ScrollLock",
    "printscreen": "PrintScreen",
    "pause": "Pause",
    "apps": "ContextMenu",
    **{f"f{number}": f"F{number}" for number in range(1, 25)},
}


_HEARD_S = 5.0
"""An Esc of ours is heard within this time after the page took it."""


class Hands:
    """Clicks and types, and knows what is down until it is let go.

    Args:
        front: gives the page that gets keys, and on which buttons are let go.
    """

    def __init__(self, front: Callable[[], Page]) -> None:
        self._front = front
        self._held: list[tuple[str, str]] = []
        self._own_escapes: deque[float] = deque()

    def escaped(self) -> bool:
        """Whether the Esc that was just heard was pressed here; each press counts once.

        A press that no page heard, because a list or a dialog took it, is soon forgotten.
        """
        while self._own_escapes and self._own_escapes[0] < time.monotonic():
            self._own_escapes.popleft()
        if not self._own_escapes:
            return False
        self._own_escapes.popleft()
        return True

    async def click(self, page: Page, action: Click | DoubleClick | TripleClick) -> None:
        await page.mouse.move(action.x, action.y)
        button = action.button if isinstance(action, Click) else "left"
        times = {Click: 1, DoubleClick: 2, TripleClick: 3}[type(action)]
        for count in range(1, times + 1):
            self._held.append(("mouse", button))
            await page.mouse.down(button=button, click_count=count)
            await page.mouse.up(button=button, click_count=count)
            if ("mouse", button) in self._held:
                self._held.remove(("mouse", button))

    async def long_press(self, page: Page, action: LongPress) -> None:
        await page.mouse.move(action.x, action.y)
        await self._press("mouse", "left")
        await asyncio.sleep(action.duration_s)
        await self._lift("mouse", "left")

    async def type(self, page: Page, text: str) -> None:
        """Every character as itself; only a newline and a tab are keys."""
        for character in text:
            if character in "\n\t":
                await self.keys(("enter",) if character == "\n" else ("tab",))
            else:
                await page.keyboard.type(character)

    async def keys(self, keys: tuple[str, ...]) -> None:
        """Every key down in order, then up in reverse."""
        names = [_key(name) for name in keys]
        if "Escape" in names:
            self._own_escapes.append(math.inf)
        try:
            for name in names:
                await self._press("key", name)
            for name in reversed(names):
                await self._lift("key", name)
        finally:
            latest_s = time.monotonic() + _HEARD_S
            self._own_escapes = deque(min(one, latest_s) for one in self._own_escapes)

    async def _press(self, kind: str, name: Any) -> None:
        self._held.append((kind, name))
        if kind == "mouse":
            await self._front().mouse.down(button=name)
        else:
            await self._front().keyboard.down(name)

    async def _lift(self, kind: str, name: Any) -> None:
        await self._up(kind, name)
        if (kind, name) in self._held:
            self._held.remove((kind, name))

    async def _up(self, kind: str, name: Any) -> None:
        if kind == "mouse":
            await self._front().mouse.up(button=name)
        else:
            await self._front().keyboard.up(name)

    async def release(self) -> None:
        """Lets go of all that is down; may be called again before it is done."""
        while self._held:
            await self._up(*self._held.pop())

    async def scroll(self, page: Page, at: Point | None, dx_px: float, dy_px: float) -> None:
        if at is not None:
            await page.mouse.move(at.x, at.y)
        await page.mouse.wheel(dx_px, dy_px)

    async def drag(self, page: Page, action: Drag) -> None:
        if action.start is not None:
            await page.mouse.move(action.start.x, action.start.y)
        await self._press("mouse", "left")
        await page.mouse.move(action.end.x, action.end.y, steps=10)
        await self._lift("mouse", "left")


def _key(name: str) -> str:
    if len(name) == 1:
        return name
    if name not in _KEYS:
        raise NotSupported(f"A browser has no key {name!r}.")
    return _KEYS[name]
