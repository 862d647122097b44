"""What can be done to a screen, in pixels of the screenshot.

Every action checks itself when it is made, so whatever holds one holds a usable one. It prints as
pyautogui code where pyautogui can do it, and as a comment where it cannot; text of the model stands
in that code as a literal only. `to_dict` and `from_dict` are a strict JSON round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

from belvedere.agent.checks import (
    MAX_KEYS,
    check_choice,
    check_duration,
    check_text,
    is_control,
    shown,
)
from belvedere.agent.keys import MODIFIERS, key_name
from belvedere.agent.pointing import (
    WHEEL_CLICK_PX,
    Button,
    Click,
    Direction,
    DoubleClick,
    Drag,
    LongPress,
    Move,
    Point,
    Scroll,
    Swipe,
    TripleClick,
    digits,
)
from belvedere.errors import ActionError

__all__ = [
    "ACTIONS",
    "WHEEL_CLICK_PX",
    "Action",
    "Answer",
    "AskUser",
    "Button",
    "Click",
    "Direction",
    "DoubleClick",
    "Drag",
    "Key",
    "LongPress",
    "Move",
    "Open",
    "Point",
    "Scroll",
    "Status",
    "Swipe",
    "SystemButton",
    "SystemKey",
    "Terminate",
    "ToolCall",
    "TripleClick",
    "Type",
    "Wait",
    "from_dict",
    "map_points",
    "points",
    "to_dict",
]

SystemKey = Literal["back", "home", "menu", "enter"]
Status = Literal["success", "fail"]


@dataclass(frozen=True, slots=True)
class Type:
    """Literal keystrokes; a newline is Enter and a tab is Tab, no other control character occurs.

    Nothing in `text` is a name of a key, an escape or a command.
    """

    kind: ClassVar[str] = "type"
    text: str

    def __post_init__(self) -> None:
        check_text("text", self.text)
        bad = next((one for one in self.text if is_control(one)), None)
        if bad is not None:
            raise ActionError(f"The text to type holds the control character {bad!r}.")

    def __str__(self) -> str:
        return f"pyautogui.write({self.text!r})"


@dataclass(frozen=True, slots=True)
class Key:
    """One press of a key, or of several held together, in canonical names (`key_name`)."""

    kind: ClassVar[str] = "key"
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.keys, tuple) or not 1 <= len(self.keys) <= MAX_KEYS:
            raise ActionError(f"A key press has 1 to {MAX_KEYS} keys, not {shown(self.keys)}.")
        for key in self.keys:
            if not isinstance(key, str):
                raise ActionError(f"{shown(key)} is not the name of a key.")
        object.__setattr__(self, "keys", tuple(map(key_name, self.keys)))

    @property
    def modifiers(self) -> tuple[str, ...]:
        """Those of `keys` that are held while the others are pressed."""
        return tuple(key for key in self.keys if key in MODIFIERS)

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.keys))
        return f"pyautogui.{'press' if len(self.keys) == 1 else 'hotkey'}({names})"


@dataclass(frozen=True, slots=True)
class Open:
    """Opens the app or program with this name; never a command line."""

    kind: ClassVar[str] = "open"
    app: str

    def __post_init__(self) -> None:
        check_text("app", self.app)
        if not self.app.strip() or not self.app.isprintable():
            raise ActionError(f"{self.app[:60]!r} is not the name of an app.")

    def __str__(self) -> str:
        return f"# open {self.app!r}"


@dataclass(frozen=True, slots=True)
class SystemButton:
    """A button of the device: ``back``, ``home``, ``menu`` or ``enter``."""

    kind: ClassVar[str] = "system_button"
    button: SystemKey

    def __post_init__(self) -> None:
        check_choice("button", self.button, get_args(SystemKey))

    def __str__(self) -> str:
        if self.button == "enter":
            return "pyautogui.press('enter')"
        return f"# system button {self.button!r}"


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing happens for `duration_s`."""

    kind: ClassVar[str] = "wait"
    duration_s: float = 1.0

    def __post_init__(self) -> None:
        check_duration(self.duration_s)

    def __str__(self) -> str:
        return f"pyautogui.sleep({digits(self.duration_s)})"


@dataclass(frozen=True, slots=True)
class _Words:
    text: str

    def __post_init__(self) -> None:
        check_text("text", self.text)


@dataclass(frozen=True, slots=True)
class Answer(_Words):
    """The answer to a task that is a question."""

    kind: ClassVar[str] = "answer"

    def __str__(self) -> str:
        return f"# answer {self.text!r}"


@dataclass(frozen=True, slots=True)
class AskUser(_Words):
    """A question to the user, without whose reply the agent cannot go on."""

    kind: ClassVar[str] = "ask_user"

    def __str__(self) -> str:
        return f"# ask user {self.text!r}"


@dataclass(frozen=True, slots=True)
class Terminate:
    """The task is done, or the agent gives up."""

    kind: ClassVar[str] = "terminate"
    status: Status = "success"

    def __post_init__(self) -> None:
        check_choice("status", self.status, get_args(Status))

    def __str__(self) -> str:
        return f"# terminate {self.status!r}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the caller offered (MCP); `arguments` are JSON values."""

    kind: ClassVar[str] = "tool"
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_text("name", self.name)
        if not self.name.strip() or not self.name.isprintable():
            raise ActionError(f"{self.name[:60]!r} is not the name of a tool.")
        if not isinstance(self.arguments, Mapping):
            raise ActionError("The arguments of a tool are a JSON object.")

    def __str__(self) -> str:
        return f"# tool {self.name!r} {dict(self.arguments)!r}"


Action = (
    Click
    | DoubleClick
    | TripleClick
    | LongPress
    | Move
    | Type
    | Key
    | Swipe
    | Scroll
    | Drag
    | Open
    | SystemButton
    | Wait
    | Answer
    | AskUser
    | Terminate
    | ToolCall
)

ACTIONS: Mapping[str, type[Action]] = {kind.kind: kind for kind in get_args(Action)}
"""The name of an action, as `to_dict` writes it, to its class."""


def points(action: Action) -> tuple[Point, ...]:
    """Every place that the action touches, in the order in which it does."""
    match action:
        case Click() | DoubleClick() | TripleClick() | LongPress() | Move():
            return (Point(action.x, action.y),)
        case Swipe() | Scroll():
            return (action.at,) if action.at else ()
        case Drag():
            return (action.start, action.end) if action.start else (action.end,)
    return ()


def map_points(action: Action, mapping: Callable[[Point], Point]) -> Action:
    """The same action with every place sent through `mapping`."""
    match action:
        case Click() | DoubleClick() | TripleClick() | LongPress() | Move():
            place = mapping(Point(action.x, action.y))
            return replace(action, x=place.x, y=place.y)
        case Swipe() | Scroll():
            return replace(action, at=mapping(action.at)) if action.at else action
        case Drag():
            start = mapping(action.start) if action.start else None
            return replace(action, start=start, end=mapping(action.end))
    return action


def to_dict(action: Action) -> dict[str, Any]:
    """A JSON object with ``action`` (the kind) and every field; a `Point` is ``[x, y]``."""
    values = {one.name: _plain(getattr(action, one.name)) for one in fields(action)}
    return {"action": action.kind, **values}


def from_dict(data: object) -> Action:
    """The action that `to_dict` wrote; fields with a default may be missing.

    Raises:
        ActionError: an unknown action or field, a missing one, or a value of another type.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("action"), str):
        raise ActionError("A recorded action is an object with the name of an action.")
    kind = ACTIONS.get(data["action"])
    if kind is None:
        raise ActionError(f"{data['action'][:60]!r} is not an action.")
    known = {one.name: one for one in fields(kind)}
    if strange := [name for name in data if name != "action" and name not in known]:
        raise ActionError(f"{kind.kind} has no field {shown(strange[0])}.")
    for one in known.values():
        required = one.default is MISSING and one.default_factory is MISSING
        if required and one.name not in data:
            raise ActionError(f"{kind.kind} lacks its field {one.name!r}.")
    return kind(**{name: _read(name, data[name]) for name in known if name in data})


_POINTS = frozenset({"at", "start", "end"})


def _read(name: str, value: object) -> Any:
    if name in _POINTS and isinstance(value, list) and len(value) == 2:
        return Point(*value)
    if name == "keys" and isinstance(value, list):
        return tuple(value)
    return value


def _plain(value: object) -> Any:
    match value:
        case Point():
            return [value.x, value.y]
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
    return value
