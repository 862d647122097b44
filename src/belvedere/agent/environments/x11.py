"""An X11 display: what drives it, whose windows are on it, and how it fails."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from belvedere.agent.actions import Point
from belvedere.errors import EnvironmentFailed, MissingExtra

__all__ = ["app_of", "around", "authority", "display_errors", "libraries", "window_at"]

_MAX_WINDOWS = 32


def libraries() -> tuple[Any, Any, Any]:
    """pyautogui, Xlib's display and mss' camera."""
    try:
        with authority():
            import mss
            import pyautogui
            from Xlib.display import Display
    except (ImportError, SystemExit) as exc:  # one of its parts ends the process without tkinter
        raise MissingExtra(
            "Driving a desktop needs pyautogui, mss and Python's tkinter.",
            remedy="pip install 'belvedere[agent]' and apt-get install python3-tk",
        ) from exc
    except Exception as exc:
        raise EnvironmentFailed(
            f"The display {os.environ['DISPLAY']!r} cannot be opened.", remedy="Check DISPLAY."
        ) from exc
    pyautogui.PAUSE = 0
    pyautogui.FAILSAFE = False
    return pyautogui, Display, mss.MSS


@contextmanager
def authority() -> Iterator[None]:
    """python3-xlib wants a file of cookies even where the display asks for none."""
    missing = "XAUTHORITY" not in os.environ and not Path("~/.Xauthority").expanduser().exists()
    if missing:
        os.environ["XAUTHORITY"] = os.devnull
    try:
        silence = io.StringIO()  # it prints a warning, and forgets to close the file
        with redirect_stdout(silence), redirect_stderr(silence), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        if missing:
            os.environ.pop("XAUTHORITY", None)


@contextmanager
def display_errors() -> Iterator[None]:
    """Failures of the display as ours."""
    try:
        yield
    except Exception as exc:
        if not type(exc).__module__.startswith(("Xlib", "mss", "pyautogui")):
            raise
        raise EnvironmentFailed("The display does not answer any more.") from exc


def window_at(display: Any, place: Point | None) -> Any:
    """The top-level window at a place, or the one that gets the keys; ``None``: the desktop."""
    root = display.screen().root
    if place is None:
        focus = display.get_input_focus().focus
        if not isinstance(focus, int):
            return focus
        pointer = root.query_pointer()  # without a focus keys go where the pointer is
        place = Point(pointer.root_x, pointer.root_y)
    return root.translate_coords(root, int(place.x), int(place.y)).child or None


def app_of(display: Any, window: Any) -> str | None:
    """The class of the program that owns a window."""
    classes = (one.get_wm_class() for one in around(display, window))
    return next((str(found[1]) for found in classes if found), None)


def around(display: Any, window: Any) -> Iterator[Any]:
    """A window and those in it, then those it is in: window managers wrap one or are above it."""
    root, pending = display.screen().root, [window] if window else []
    for _ in range(_MAX_WINDOWS):
        if not pending or pending[0] == root:
            break
        one = pending.pop(0)
        yield one
        pending += one.query_tree().children
    while window and window != root:
        yield window
        window = window.query_tree().parent
