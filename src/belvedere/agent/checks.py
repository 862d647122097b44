"""What the fields of an action may hold; everything else is an `ActionError`."""

from __future__ import annotations

import math

from belvedere.errors import ActionError

__all__ = [
    "MAX_KEYS",
    "MAX_WAIT_S",
    "check_choice",
    "check_duration",
    "check_number",
    "check_text",
    "is_control",
    "shown",
]

MAX_WAIT_S = 600.0
MAX_TEXT_CHARS = 100_000
MAX_KEYS = 5


def check_number(name: str, value: object) -> None:
    """A finite number; ``True`` is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise ActionError(f"{name} is {shown(value)}, not a finite number.")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_duration(value: object) -> None:
    """Seconds that somebody would wait."""
    check_number("duration_s", value)
    assert isinstance(value, (int, float))
    if not 0 <= value <= MAX_WAIT_S:
        raise ActionError(f"A duration of {value!r} s is not between 0 and {MAX_WAIT_S:g} s.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ActionError(f"{name} is {shown(value)}, not one of {', '.join(choices)}.")


def check_text(name: str, value: object) -> None:
    """Text of a sensible length that can be encoded."""
    if not isinstance(value, str):
        raise ActionError(f"{name} is not text.")
    if len(value) > MAX_TEXT_CHARS:
        raise ActionError(f"{name} has {len(value)} characters; {MAX_TEXT_CHARS} are allowed.")
    if any("\ud800" <= one <= "\udfff" for one in value):
        raise ActionError(f"{name} holds half a character (a lone surrogate).")


def is_control(character: str) -> bool:
    """Whether it is a control character other than a line break or tab, which are keystrokes."""
    return (character < " " and character not in "\n\t") or "\x7f" <= character <= "\x9f"


def shown(value: object) -> str:
    """The beginning of a value; huge numbers and nestings cannot be written out."""
    try:
        return repr(value)[:60]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
