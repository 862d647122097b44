"""Asks the program that gets the keys whether it has read those that were sent to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from belvedere.agent.environments.x11 import around, window_at

__all__ = ["Ping"]

_POLL_S = 0.01
_TIMEOUT_S = 10.0
_UNANNOUNCED_TIMEOUT_S = 5.0


class Ping:
    """``_NET_WM_PING`` (EWMH 1.5): a message that a program reads after the keys, and answers.

    Some answer without having announced it, Tk's among them; one that never did is asked once.

    Args:
        display: a connection of python-xlib; its events are dropped while an answer is waited for.
    """

    def __init__(self, display: Any) -> None:
        self._display = display
        self._protocols, self._ping = (
            display.intern_atom(name) for name in ("WM_PROTOCOLS", "_NET_WM_PING")
        )
        self._answered: set[int] = set()
        self._silent: set[int] = set()

    def is_answered(self, sleep: Callable[[float], None]) -> bool:
        """Whether the program that gets the keys has answered within 10 s; 5 s if unannounced.

        Args:
            sleep: waits for seconds; what it raises ends the waiting.
        """
        from Xlib.error import XError

        try:
            window, announced = self._program()
        except XError:  # a window went while it was looked at
            return False
        if window is None or window.id in self._silent:
            return False
        answered = self._ask(window, sleep, _TIMEOUT_S if announced else _UNANNOUNCED_TIMEOUT_S)
        if answered:
            self._answered.add(window.id)
        elif not announced and window.id not in self._answered:
            self._silent.add(window.id)
        return answered

    def _program(self) -> tuple[Any, bool]:
        """The window that takes pings, else the one that is the program's; whether it said so."""
        from Xlib import Xatom

        program = None
        for window in around(self._display, window_at(self._display, None)):
            found = window.get_full_property(self._protocols, Xatom.ATOM)
            if found is not None and self._ping in found.value:
                return window, True
            if program is None and window.get_wm_class():
                program = window
        return program, False

    def _ask(self, window: Any, sleep: Callable[[float], None], timeout_s: float) -> bool:
        from Xlib import X
        from Xlib.error import CatchError
        from Xlib.protocol.event import ClientMessage

        root, said = self._display.screen().root, [self._ping, random.getrandbits(31), window.id]
        error, data = CatchError(), (32, [*said, 0, 0])
        root.change_attributes(event_mask=X.SubstructureNotifyMask)
        try:
            message = ClientMessage(window=window, client_type=self._protocols, data=data)
            window.send_event(message, onerror=error)
            self._display.sync()
            for _ in range(round(timeout_s / _POLL_S)):
                if error.get_error():  # the window is gone
                    return False
                for event in self._events():
                    if event.type == X.ClientMessage and list(event.data[1][:3]) == said:
                        return True
                sleep(_POLL_S)
            return False
        finally:
            root.change_attributes(event_mask=X.NoEventMask)
            self._display.sync()
            self._events()

    def _events(self) -> list[Any]:
        return [self._display.next_event() for _ in range(self._display.pending_events())]
