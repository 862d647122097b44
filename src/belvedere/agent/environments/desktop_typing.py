"""Types text on an X11 display, also characters that no key of its keyboard has.

Such a character is put on a key without a meaning. A program reads what a key means when it gets
round to the event and not when the key went down, so a key keeps its character for as long as
another one is free, and is given a new one only when the program has read the one before.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from belvedere.agent.environments.desktop_ping import Ping
from belvedere.agent.stopping import Stop
from belvedere.errors import EnvironmentFailed

__all__ = ["Typist"]

_BETWEEN_S = 0.008
_PAUSE_S = 0.3
_LATIN_1_END = 0x100
_UNICODE = 0x01000000
_RETURN, _TAB = 0xFF0D, 0xFF09
_GROUP_SHIFT, _GROUPS = 13, 0b11
_SHIFT_ROW, _LOCK_ROW = 0, 1


@dataclass(frozen=True, slots=True)
class _Stroke:
    """A key, and the one that is held with it (0: none)."""

    keycode: int
    shift: int = 0


class Typist:
    """Key events of the display's own keyboard, one character after another.

    Args:
        display: a connection of python-xlib.
        sleep: waits for seconds; what it raises ends the typing with every key up.
    """

    def __init__(self, display: Any, sleep: Callable[[float], None]) -> None:
        self._display = display
        self._sleep = sleep
        self._ping = Ping(display)
        self._lent: OrderedDict[int, int] = OrderedDict()

    def type(self, text: str) -> None:
        """Every character as itself; a newline is Enter and a tab is Tab.

        Raises:
            EnvironmentFailed: a character is on no key, and no key is free for it.
        """
        with self._unlocked():
            waiting = [_keysym(char) for char in text.replace("\r\n", "\n")]
            while waiting:
                strokes = self._strokes(waiting)
                for stroke in strokes:
                    self._strike(stroke)
                del waiting[: len(strokes)]

    def close(self) -> None:
        """Takes the lent characters from their keys again, once the program has read them.

        A run that was stopped does not wait for that.
        """
        try:
            if self._lent:
                self._until_read(self._sleep)
        except Stop:
            time.sleep(_PAUSE_S)
        finally:
            for keycode in self._lent.values():
                self._assign(keycode, 0)
            self._lent.clear()
            self._display.sync()

    def _strokes(self, keysyms: list[int]) -> list[_Stroke]:
        """How to type the beginning of `keysyms`, as far as keys can be had for it."""
        table = self._table()
        known = self._known(table)
        lent = set(self._lent.values())
        free = [code for code, held in table.items() if _is_free(held) and code not in lent]
        strokes: list[_Stroke] = []
        asked: set[int] = set()
        rested = False
        for keysym in keysyms:
            stroke = known.get(keysym)
            if stroke is None:
                if keysym not in self._lent and not free:
                    oldest = next(iter(self._lent), keysym)
                    if oldest in asked or oldest == keysym:
                        break
                    if not rested:
                        self._until_read(self._sleep)
                    rested = True
                    free.append(self._lent.pop(oldest))
                stroke = _Stroke(self._lend(keysym, free))
                asked.add(keysym)
            strokes.append(stroke)
        if not strokes:
            raise EnvironmentFailed(
                f"This keyboard has no key for {_character(keysyms[0])!r}, and none is free."
            )
        self._display.sync()
        return strokes

    def _until_read(self, sleep: Callable[[float], None]) -> None:
        """A program that answers no ping is given a moment."""
        if not self._ping.is_answered(sleep):
            sleep(_PAUSE_S)

    def _lend(self, keysym: int, free: list[int]) -> int:
        """The key that has the character now; the longest unused ones come first in `_lent`."""
        if keysym not in self._lent:
            self._lent[keysym] = free.pop()
            self._assign(self._lent[keysym], keysym)
        self._lent.move_to_end(keysym)
        return self._lent[keysym]

    def _assign(self, keycode: int, keysym: int) -> None:
        self._display.change_keyboard_mapping(keycode, [(keysym, keysym)])

    def _table(self) -> dict[int, tuple[int, ...]]:
        info = self._display.display.info
        first, last = info.min_keycode, info.max_keycode
        rows = self._display.get_keyboard_mapping(first, last - first + 1)
        return {first + index: tuple(row) for index, row in enumerate(rows)}

    def _known(self, table: dict[int, tuple[int, ...]]) -> dict[int, _Stroke]:
        """The characters that the keyboard has in its present group, plain or with Shift."""
        state = self._display.screen().root.query_pointer().mask
        group = state >> _GROUP_SHIFT & _GROUPS
        shift = self._modifier(_SHIFT_ROW)
        lent = set(self._lent.values())
        known: dict[int, _Stroke] = {}
        if group > 1:
            return known
        for level in (1, 0):
            for keycode, symbols in table.items():
                place = 2 * group + level
                if keycode in lent or _is_free(symbols) or place >= len(symbols):
                    continue
                if symbols[place] and (level == 0 or shift):
                    known[symbols[place]] = _Stroke(keycode, shift if level else 0)
        return known

    def _modifier(self, row: int) -> int:
        """A key that is this modifier, 0 where none is."""
        return next((code for code in self._display.get_modifier_mapping()[row] if code), 0)

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        """Caps Lock is off while the block runs, and then as it was."""
        from Xlib import X

        lock = self._modifier(_LOCK_ROW)
        locked = lock and self._display.screen().root.query_pointer().mask & X.LockMask
        if locked:
            self._tap(lock)
        try:
            yield
        finally:
            if locked:
                self._tap(lock)

    def _strike(self, stroke: _Stroke) -> None:
        from Xlib import X
        from Xlib.ext.xtest import fake_input

        if stroke.shift:
            fake_input(self._display, X.KeyPress, stroke.shift)
        try:
            self._tap(stroke.keycode)
        finally:
            if stroke.shift:
                fake_input(self._display, X.KeyRelease, stroke.shift)
                self._display.sync()
        self._sleep(_BETWEEN_S)

    def _tap(self, keycode: int) -> None:
        from Xlib import X
        from Xlib.ext.xtest import fake_input

        fake_input(self._display, X.KeyPress, keycode)
        fake_input(self._display, X.KeyRelease, keycode)
        self._display.sync()


def _keysym(char: str) -> int:
    """X11's symbol of a character (X Window System Protocol, appendix A)."""
    if char in "\n\r":
        return _RETURN
    if char == "\t":
        return _TAB
    return ord(char) if ord(char) < _LATIN_1_END else _UNICODE + ord(char)


def _character(keysym: int) -> str:
    return chr(keysym - _UNICODE if keysym >= _UNICODE else keysym)


def _is_free(symbols: tuple[int, ...]) -> bool:
    """No symbol, or one character of all scripts only, as a typist that was killed leaves it."""
    held = set(symbols) - {0}
    return not held or (len(held) == 1 and held.pop() > _UNICODE)
