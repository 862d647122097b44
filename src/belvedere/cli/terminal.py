"""The user's terminal while an agent runs: Esc stops it, and questions are answered there."""

from __future__ import annotations

import os
import queue
import re
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click

from belvedere.agent.actions import Action
from belvedere.agent.stopping import StopSwitch

__all__ = ["Terminal", "watched_terminal"]

_ESC = 0x1B
_ESC_WAIT_S = 0.05
"""Keys such as the arrows begin with Esc too; their other bytes follow at once."""

_SEQUENCE = re.compile(rb"\x1b(?:\[\[[A-E]|\[[0-?]*[ -/]*[@-~$]|O[0-9;]*[ -/]*[@-~])")
"""What such a key sends (ECMA-48, 5.4, xterm's SS3, the Linux console's and rxvt's own ones)."""

_BEGUN = re.compile(rb"\x1b(?:\[\[?|\[[0-?]*[ -/]*|O[0-9;]*)?\Z")


class Terminal:
    """Reads keys in a thread, one at a time, and hands them to whoever asked a question."""

    def __init__(self, switch: StopSwitch) -> None:
        self._switch = switch
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()

    def watch(self, end: int) -> None:
        """Until the file `end` can be read: Esc throws the switch, other keys are kept."""
        source = sys.stdin.fileno()
        while end not in select.select([source, end], [], [])[0]:
            data = os.read(source, 64)
            if not data:
                return
            while _is_begun(data) and self._more(source) and (more := os.read(source, 64)):
                data += more
            self.take(data)

    def take(self, data: bytes) -> None:
        """What was pressed since the last look, which may be several keys."""
        rest = _SEQUENCE.sub(b"", data)
        if _ESC in rest:
            self._switch.throw("the Esc key")
            return
        for key in rest.decode("utf-8", errors="ignore"):
            self._keys.put(key)

    def approve(self, action: Action, why: str) -> bool:
        """Asks for y or n; anything but y is a no."""
        self._drain()
        click.echo(f"{action}\n  {why}. Do it? [y/N] ", err=True, nl=False)
        said = self._keys.get().lower() == "y"
        click.echo("yes" if said else "no", err=True)
        return said

    def reply(self, question: str) -> str:
        """Asks for a line."""
        self._drain()
        click.echo(f"The model asks: {question}\n> ", err=True, nl=False)
        line = ""
        while (key := self._keys.get()) not in "\r\n":
            line = line[:-1] if key in "\b\x7f" else line + key
            click.echo(f"\r\x1b[K> {line}", err=True, nl=False)
        click.echo(err=True)
        return line

    def _drain(self) -> None:
        """What was typed before the question is no answer to it."""
        while not self._keys.empty():
            self._keys.get()

    @staticmethod
    def _more(source: int) -> bool:
        return bool(select.select([source], [], [], _ESC_WAIT_S)[0])


def _is_begun(data: bytes) -> bool:
    """Whether the Esc at the end, and no other one, may become a sequence."""
    before = _BEGUN.sub(b"", data)
    return before != data and _ESC not in _SEQUENCE.sub(b"", before)


@contextmanager
def watched_terminal(switch: StopSwitch) -> Iterator[Terminal | None]:
    """The terminal on stdin, without echo and line editing meanwhile; ``None`` without one."""
    if not sys.stdin.isatty():
        yield None
        return
    source = sys.stdin.fileno()
    before = termios.tcgetattr(source)
    end, ender = os.pipe()
    terminal = Terminal(switch)
    thread = threading.Thread(target=terminal.watch, args=(end,), daemon=True)
    try:
        tty.setcbreak(source)
        thread.start()
        yield terminal
    finally:
        os.write(ender, b"x")
        thread.join()
        os.close(end)
        os.close(ender)
        termios.tcsetattr(source, termios.TCSADRAIN, before)
