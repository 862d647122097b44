"""A protocol's answers as one regular expression, for engines that can write nothing else.

The expressions are of the plain kind that engines of structured output compile (xgrammar,
guidance, outlines): no look-around, no references. What fits one of them is read without an error
by `belvedere.agent.protocols.reading`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import get_args, get_type_hints

from belvedere.agent.actions import ACTIONS
from belvedere.agent.checks import MAX_KEYS, MAX_WAIT_S
from belvedere.agent.keys import KEY_NAMES
from belvedere.agent.protocols.data import (
    Argument,
    Coordinates,
    GroundingRules,
    NavigationRules,
    Protocol,
    Verb,
)
from belvedere.errors import NotSupported

__all__ = ["grounding_pattern", "navigation_pattern"]

Size = tuple[int, int]

_CONTROL = r"\x00-\x1f\x7f-\x9f"
_ESCAPE = (
    r'\\(?:["\\/nt]|u(?:[1-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|0[1-9a-fA-F][0-9a-fA-F]{2}|00[a-fA-F][0-9a-fA-F]))"
)
"""JSON escapes of what is neither a control character (but line break and tab) nor half a one."""
_WORD = r"0-9A-Za-z\u00c0-\u024f\u0400-\u045f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
_APP = rf'"[{_WORD}](?:[{_WORD} ._+&-]{{0,62}}[{_WORD}+])?"'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,3})?"
_SPECIAL = re.compile(r"[][\\.^$|?*+(){}]")
_SPACE = " ?"
_PIXELS_AT_MOST = 99_999
_TOOL_DEPTH = 2
"""Levels of lists and objects below the arguments of a tool; each makes the pattern longer."""


def grounding_pattern(protocol: Protocol, *, seen_size: Size | None = None) -> str:
    """What a grounding may answer: perhaps its reasoning, then one point.

    Args:
        seen_size: (width, height) of the image as the model saw it, the bound of a point in
            pixels; relative points have their own.

    Raises:
        NotSupported: the protocol has no grounding.
    """
    rules = protocol.grounding
    if rules is None:
        raise NotSupported(f"The protocol {protocol.name!r} has no grounding.")
    point = _point(protocol.coordinates, seen_size)
    if rules.point is not None:
        return _turn(rules, rf'\{{"{_plain(rules.point)}":{_SPACE}{point}\}}')
    clicks = {name: verb for name, verb in protocol.actions.items() if verb.makes == "click"}
    return _turn(rules, _calls(protocol, clicks.items(), point, rules.tag))


def navigation_pattern(
    protocol: Protocol, *, tools: Collection[str] = (), seen_size: Size | None = None
) -> str:
    """What a step of a navigation may answer: perhaps its reasoning, then one action.

    Args:
        tools: names of the functions that the model was offered besides its own.
        seen_size: see `grounding_pattern`.

    Raises:
        NotSupported: the protocol has no navigation.
    """
    rules = protocol.navigation
    if rules is None:
        raise NotSupported(f"The protocol {protocol.name!r} has no navigation.")
    point = _point(protocol.coordinates, seen_size)
    call = _calls(protocol, protocol.actions.items(), point, rules.tag)
    if tools:
        call = _any_of((call, _tool_call(tools, rules.tag)))
    return _turn(rules, call)


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def _any_of(patterns: Iterable[str]) -> str:
    return f"(?:{'|'.join(patterns)})"


def _turn(rules: GroundingRules | NavigationRules, call: str) -> str:
    """Reasoning in its tags or, where the protocol has none around it, in words; then the call."""
    thoughts = (rf"<{tag}>(?:[^<]|<[^/<])*</{tag}>\n{{0,2}}" for tag in rules.thinking)
    before = f"{_any_of(thoughts)}?" if rules.thinking else ""
    if "@@THINKING@@" in rules.turn and ">@@THINKING@@" not in "".join(rules.turn.split()):
        before += "[^<]*"
    return rf"{before}<{rules.tag}>\n?{call}\n?</{rules.tag}>"


def _point(coordinates: Coordinates, seen_size: Size | None) -> str:
    most: tuple[int, ...] = (_PIXELS_AT_MOST, _PIXELS_AT_MOST)
    if coordinates.max is not None:
        most = (coordinates.max, coordinates.max)
    elif seen_size is not None:
        most = tuple(side - 1 for side in seen_size)
    x, y = map(_whole_number, most)
    return rf"\[{x},{_SPACE}{y}\]"


def _whole_number(most: int) -> str:
    """0 to `most` as JSON writes it."""
    digits = str(most)
    parts = [digits]
    for place, digit in enumerate(digits):
        least, rest = int(place == 0 and len(digits) > 1), len(digits) - place - 1
        if int(digit) > least:
            parts.append(f"{digits[:place]}[{least}-{int(digit) - 1}]" + "[0-9]" * rest)
    if len(digits) > 1:
        parts += ["[0-9]", *("[1-9]" + "[0-9]" * more for more in range(1, len(digits) - 1))]
    return _any_of(parts)


def _calls(protocol: Protocol, verbs: Iterable[tuple[str, Verb]], point: str, tag: str) -> str:
    own = protocol.navigation.function if protocol.navigation else ""
    each = (_arguments(name, verb, point, tag) for name, verb in verbs)
    return _call(_plain(own), _any_of(each))


def _call(name: str, arguments: str) -> str:
    return rf'\{{"name":{_SPACE}"{name}",{_SPACE}"arguments":{_SPACE}{arguments}\}}'


def _arguments(name: str, verb: Verb, point: str, tag: str) -> str:
    said = [rf'\{{"action":{_SPACE}"{_plain(name)}"']
    for theirs, argument in verb.arguments.items():
        value = _value(verb, argument, point, tag)
        one = rf',{_SPACE}"{_plain(theirs)}":{_SPACE}{value}'
        said.append(f"(?:{one})?" if argument.optional else one)
    return "".join(said) + r"\}"


def _value(verb: Verb, argument: Argument, point: str, tag: str) -> str:
    match argument.to:
        case "xy" | "at" | "start" | "end":
            return point
        case "keys":
            return _keys()
        case "duration_s":
            return _seconds()
        case "dx_px" | "dy_px":
            return _NUMBER
        case "app":
            return _APP
        case "direction" | "button" | "status":
            ours = get_args(get_type_hints(ACTIONS[verb.makes])[argument.to])
            return _any_of(f'"{_plain(word)}"' for word in sorted({*ours, *argument.words}))
    return _text(tag)


def _text(tag: str) -> str:
    """A JSON string in which neither the answer's tag nor any closing tag stands."""
    plain = rf'[^"\\<{_CONTROL}]|<[^"\\</{tag[0]}{_CONTROL}]|{_ESCAPE}'
    return f'"(?:{plain})*"'


def _seconds() -> str:
    whole = _whole_number(int(MAX_WAIT_S) - 1)
    return rf"(?:{MAX_WAIT_S:g}|{whole}(?:\.[0-9]{{1,3}})?)"


def _keys() -> str:
    names = (_plain(name) for name in KEY_NAMES)
    key = f'"(?:[!#-;=-Z^-~\\[\\]]|{"|".join(names)})"'
    return rf"\[{key}(?:,{_SPACE}{key}){{0,{MAX_KEYS - 1}}}\]"


def _tool_call(tools: Collection[str], tag: str) -> str:
    """A call of one of `tools`."""
    text = _text(tag)
    scalar = value = _any_of((text, _NUMBER, "true", "false", "null"))
    for _ in range(_TOOL_DEPTH):
        items = rf"\[(?:{value}(?:,{_SPACE}{value})*)?\]"
        value = _any_of((scalar, items, _members(text, value)))
    return _call(_any_of(map(_plain, sorted(tools))), _members(text, value))


def _members(text: str, value: str) -> str:
    """An object; no expression can say that no key stands twice, which the reader refuses."""
    member = rf"{text}:{_SPACE}{value}"
    return rf"\{{(?:{member}(?:,{_SPACE}{member})*)?\}}"
