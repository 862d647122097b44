"""Actions at places of the screen: clicks, drags, swipes and the wheel (see `actions`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from belvedere.agent.checks import check_choice, check_duration, check_number, shown
from belvedere.errors import ActionError

__all__ = [
    "WHEEL_CLICK_PX",
    "Button",
    "Click",
    "Direction",
    "DoubleClick",
    "Drag",
    "LongPress",
    "Move",
    "Point",
    "Scroll",
    "Swipe",
    "TripleClick",
    "digits",
]

Button = Literal["left", "right", "middle"]
Direction = Literal["up", "down", "left", "right"]

WHEEL_CLICK_PX = 100
"""Pixels of one click of a mouse wheel, which is what pyautogui counts."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a screenshot: pixels from its left and top edge, finite."""

    x: float
    y: float

    def __post_init__(self) -> None:
        check_number("x", self.x)
        check_number("y", self.y)

    def __str__(self) -> str:
        return f"{digits(self.x)}, {digits(self.y)}"


@dataclass(frozen=True, slots=True)
class Click:
    """A click at a pixel: ``pyautogui.click(500, 300)``."""

    kind: ClassVar[str] = "click"
    x: float
    y: float
    button: Button = "left"

    def __post_init__(self) -> None:
        check_number("x", self.x)
        check_number("y", self.y)
        check_choice("button", self.button, get_args(Button))

    def __str__(self) -> str:
        button = "" if self.button == "left" else f", button={self.button!r}"
        return f"pyautogui.click({Point(self.x, self.y)}{button})"


@dataclass(frozen=True, slots=True)
class _AtPoint:
    x: float
    y: float

    def __post_init__(self) -> None:
        check_number("x", self.x)
        check_number("y", self.y)


@dataclass(frozen=True, slots=True)
class DoubleClick(_AtPoint):
    """Two clicks of the left button at a pixel."""

    kind: ClassVar[str] = "double_click"

    def __str__(self) -> str:
        return f"pyautogui.doubleClick({Point(self.x, self.y)})"


@dataclass(frozen=True, slots=True)
class TripleClick(_AtPoint):
    """Three clicks of the left button at a pixel: selects a line."""

    kind: ClassVar[str] = "triple_click"

    def __str__(self) -> str:
        return f"pyautogui.tripleClick({Point(self.x, self.y)})"


@dataclass(frozen=True, slots=True)
class Move(_AtPoint):
    """The pointer goes to a pixel; no button is pressed."""

    kind: ClassVar[str] = "move"

    def __str__(self) -> str:
        return f"pyautogui.moveTo({Point(self.x, self.y)})"


@dataclass(frozen=True, slots=True)
class LongPress:
    """The left button or a finger stays down at a pixel for `duration_s`."""

    kind: ClassVar[str] = "long_press"
    x: float
    y: float
    duration_s: float = 1.0

    def __post_init__(self) -> None:
        check_number("x", self.x)
        check_number("y", self.y)
        check_duration(self.duration_s)

    def __str__(self) -> str:
        pause = f"pyautogui.sleep({digits(self.duration_s)})"
        return f"pyautogui.mouseDown({Point(self.x, self.y)}); {pause}; pyautogui.mouseUp()"


@dataclass(frozen=True, slots=True)
class Swipe:
    """A finger moves in `direction`, from `at` or from the middle of the screen.

    Up means that the finger goes up: the content follows it, and what was below appears.
    """

    kind: ClassVar[str] = "swipe"
    direction: Direction
    at: Point | None = None

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, get_args(Direction))
        _check_point("at", self.at, optional=True)

    def __str__(self) -> str:
        x, y = {"up": (0, -300), "down": (0, 300), "left": (-300, 0), "right": (300, 0)}[
            self.direction
        ]
        start = f"pyautogui.moveTo({self.at}); " if self.at else ""
        return f"{start}pyautogui.drag({x}, {y}, duration=0.5)"


@dataclass(frozen=True, slots=True)
class Scroll:
    """The wheel turns: `dy_px` > 0 shows what is below, `dx_px` > 0 what is to the right.

    `at` is where the pointer is meanwhile; ``None`` leaves it where it is.
    """

    kind: ClassVar[str] = "scroll"
    dx_px: float
    dy_px: float
    at: Point | None = None

    def __post_init__(self) -> None:
        check_number("dx_px", self.dx_px)
        check_number("dy_px", self.dy_px)
        _check_point("at", self.at, optional=True)

    def __str__(self) -> str:
        where = f", {self.at}" if self.at else ""
        calls = [f"pyautogui.scroll({_clicks(-self.dy_px)}{where})"] if self.dy_px else []
        calls += [f"pyautogui.hscroll({_clicks(self.dx_px)}{where})"] if self.dx_px else []
        return "; ".join(calls) or "pyautogui.scroll(0)"


@dataclass(frozen=True, slots=True)
class Drag:
    """The left button or a finger goes down at `start`, moves to `end` and goes up.

    A `start` of ``None`` is where the pointer is.
    """

    kind: ClassVar[str] = "drag"
    start: Point | None
    end: Point

    def __post_init__(self) -> None:
        _check_point("start", self.start, optional=True)
        _check_point("end", self.end, optional=False)

    def __str__(self) -> str:
        start = f"pyautogui.moveTo({self.start}); " if self.start else ""
        return f"{start}pyautogui.dragTo({self.end}, duration=0.5)"


def _check_point(name: str, value: object, *, optional: bool) -> None:
    if not isinstance(value, Point) and not (optional and value is None):
        raise ActionError(f"{name} is {shown(value)}, not a point.")


def digits(value: float) -> str:
    """A number as pyautogui code has it: whole ones without a fraction."""
    return str(int(value)) if value == int(value) else repr(value)


def _clicks(pixels: float) -> int:
    """Wheel clicks nearest to `pixels`, at least one."""
    sign = 1 if pixels > 0 else -1
    return sign * max(1, round(abs(pixels) / WHEEL_CLICK_PX))
