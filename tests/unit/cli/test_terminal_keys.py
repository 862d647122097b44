"""Which keys of a terminal stop an agent, also when several were pressed since the last look."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from belvedere.agent.stopping import StopSwitch
from belvedere.cli.terminal import Terminal

ARROW, F5, HOME = b"\x1b[A", b"\x1b[15~", b"\x1bOH"


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Whatever is written here was typed; no more comes after it is closed."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, os.fdopen(writer, "wb", buffering=0) as keys:
        monkeypatch.setattr("sys.stdin", stdin)
        yield keys.fileno()


def watched(keyboard: int, *pressed: bytes) -> tuple[str | None, str]:
    """(cause of the stop, other keys) of a terminal that looks when all was pressed."""
    switch, kept = StopSwitch(), ""
    terminal = Terminal(switch)
    end, ender = os.pipe()
    for keys in pressed:
        os.write(keyboard, keys)
    os.dup2(ender, keyboard)  # closes it: the terminal reads to its end
    terminal.watch(end)
    os.close(end)
    os.close(ender)
    while not terminal._keys.empty():
        kept += terminal._keys.get()
    return switch.cause, kept


@pytest.mark.parametrize("pressed", [(ARROW,), (F5, HOME), (ARROW, b"y"), (b"y", ARROW, ARROW)])
def test_keys_that_begin_with_esc_do_not_stop_it(keyboard: int, pressed: tuple[bytes, ...]) -> None:
    assert watched(keyboard, *pressed) == (None, "y" if b"y" in pressed else "")


ESC = b"\x1b"
STOPS = [
    (ESC,),
    (ESC, ESC),
    (ARROW, ESC),
    (b"y", ESC),
    (ESC, b"y"),
    (ESC, ARROW),
    (ARROW * 21, ESC),
]


@pytest.mark.parametrize("pressed", STOPS, ids=str)
def test_esc_among_other_keys_stops_it(keyboard: int, pressed: tuple[bytes, ...]) -> None:
    assert watched(keyboard, *pressed)[0] == "the Esc key"


def test_a_sequence_in_two_parts_is_one_key(keyboard: int) -> None:
    """The first look gets 64 bytes, which end within the arrow's three."""
    assert watched(keyboard, b"x" * 63, ARROW) == (None, "x" * 63)
