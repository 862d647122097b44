"""Names of keys: what models write, as the one name that pyautogui and everything here uses."""

from __future__ import annotations

from belvedere.errors import ActionError

__all__ = ["KEY_NAMES", "MODIFIERS", "key_name", "key_names"]

MODIFIERS = frozenset({"ctrl", "alt", "shift", "win"})
"""Held while the others are pressed; ``win`` is Windows, Command, Super and Meta."""

_NAMED = MODIFIERS | {
    *("enter", "esc", "tab", "space", "backspace", "delete", "insert", "home", "end"),
    *("pageup", "pagedown", "up", "down", "left", "right", "capslock", "numlock", "scrolllock"),
    *("printscreen", "pause", "apps", "volumeup", "volumedown", "volumemute", "playpause"),
    *("nexttrack", "prevtrack"),
    *(f"f{number}" for number in range(1, 25)),
}

_ALIASES = {
    "control": "ctrl",
    "controlleft": "ctrl",
    "controlright": "ctrl",
    "ctrlleft": "ctrl",
    "ctrlright": "ctrl",
    "option": "alt",
    "altleft": "alt",
    "altright": "alt",
    "shiftleft": "shift",
    "shiftright": "shift",
    "cmd": "win",
    "command": "win",
    "super": "win",
    "meta": "win",
    "windows": "win",
    "winleft": "win",
    "winright": "win",
    "return": "enter",
    "escape": "esc",
    "spacebar": "space",
    "del": "delete",
    "ins": "insert",
    "pgup": "pageup",
    "pgdn": "pagedown",
    "arrowup": "up",
    "arrowdown": "down",
    "arrowleft": "left",
    "arrowright": "right",
    "prtsc": "printscreen",
    "contextmenu": "apps",
}

KEY_NAMES = tuple(sorted(_NAMED | _ALIASES.keys()))
"""Every name of a key that is no single character."""


def key_name(text: str) -> str:
    """The one name of a key: lower case, aliases resolved; a printable character names itself.

    Raises:
        ActionError: no key has this name.
    """
    if len(text) == 1 and text.isprintable():
        lower = text.lower()
        return "space" if text == " " else (lower if len(lower) == 1 else text)
    plain = text.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
    plain = _ALIASES.get(plain, plain)
    if plain not in _NAMED:
        raise ActionError(f"{text[:40]!r} is not the name of a key.", remedy="Nothing was pressed.")
    return plain


def key_names(text: str) -> tuple[str, ...]:
    """The keys of a combination such as ``ctrl+shift+t``; ``ctrl++`` holds Ctrl and presses plus.

    Raises:
        ActionError: a part is not the name of a key.
    """
    if len(text) == 1:
        return (key_name(text),)
    head, plus = (text[:-2], ("+",)) if text.endswith("++") else (text, ())
    return (*(key_name(part) for part in head.split("+")), *plus)
