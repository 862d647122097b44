"""Files of one JSON object a line, to which lines are only ever appended.

A line is written in one call, so a process that dies leaves at most one line that is not whole:
the last one, which the next writer takes off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from belvedere.agent.closing import Closing
from belvedere.errors import InputFileError

__all__ = ["Journal", "read_journal"]

_CHUNK_BYTES = 1 << 16


class Journal(Closing):
    """Appends lines; the file is locked against a second writer.

    Raises:
        InputFileError: it cannot be written, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as exc:
            raise InputFileError(
                f"{str(path)!r} cannot be written ({exc.strerror}).", remedy="Choose another path."
            ) from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._file), path.stat()):
                raise FileNotFoundError("replaced since it was opened")
        except OSError as exc:
            os.close(self._file)
            raise InputFileError(
                f"Another process is writing {str(path)!r}.",
                remedy="Wait for it, or choose another path.",
            ) from exc
        self.repaired_bytes = self._repair()
        """Bytes of a line that was not whole, now gone."""

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one line; it survives the end of this process, not that of the machine."""
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as exc:
            raise InputFileError(
                f"{str(self.path)!r} cannot be written any more ({exc.strerror})."
            ) from exc

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Puts `rows` in place of everything written so far, as a whole or not at all."""
        partial = self.path.with_name(f".{self.path.name}.part")
        partial.unlink(missing_ok=True)
        with Journal(partial) as other:
            for row in rows:
                other.append(row)
        new = os.open(partial, os.O_RDWR | os.O_APPEND)
        fcntl.flock(new, fcntl.LOCK_EX)
        partial.replace(self.path)
        os.close(self._file)
        self._file = new

    def close(self) -> None:
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def _repair(self) -> int:
        """Cuts what follows the last newline."""
        size = end = os.fstat(self._file).st_size
        while end > 0:
            start = max(0, end - _CHUNK_BYTES)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._file, end)
        return size - end


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal; a last line that is not whole is left out.

    Raises:
        InputFileError: it cannot be read, or a whole line is not a JSON object.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.endswith(b"\n"):
                    yield _row(line, path, number)
    except OSError as exc:
        raise InputFileError(
            f"{str(path)!r} cannot be read ({exc.strerror}).", remedy="Check the path."
        ) from exc


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InputFileError(f"Line {number} of {str(path)!r} is not JSON.") from exc
    if not isinstance(row, dict):
        raise InputFileError(f"Line {number} of {str(path)!r} is not a JSON object.")
    return row
