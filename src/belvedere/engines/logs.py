"""Where an engine's words go: the last lines in memory, all of them in a rotating file.

Files and terminals can block (a full disk, a stopped terminal), an event loop must not: records
wait in a bounded queue for a thread, and are dropped when it is full.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Iterable
from logging.handlers import RotatingFileHandler
from pathlib import Path

__all__ = ["EngineLog", "PatientHandler"]

_log = logging.getLogger(__name__)
_KEPT_LINES = 200
_LINE_CHARS = 1000
_FILE_BYTES = 10_000_000
_FILES = 3
_KEPT_FILES = 60
_QUEUED_LINES = 10_000
_MASK = "***"
_CLOSE_TIMEOUT_S = 5.0


class PatientHandler(logging.Handler):
    """Passes records to `target` in a thread of its own."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_QUEUED_LINES)
        self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):  # whoever floods its log loses lines of it
            self._waiting.put_nowait(record)

    def close(self) -> None:
        """Waits a few seconds until everything is written; it may be called twice."""
        if self._writer.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=_CLOSE_TIMEOUT_S)
            self._writer.join(_CLOSE_TIMEOUT_S)
        super().close()

    def _write_all(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._target.handle(record)
        self._target.close()


class _PrivateFile(RotatingFileHandler):
    """Readable by its owner only, also after each rotation."""

    def _open(self) -> io.TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(self.baseFilename, flags, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="replace")


class EngineLog:
    """The output of one engine over all its launches.

    Args:
        name: of the engine and, with ``.log``, of its file.
        secrets: strings that are masked wherever they appear.
        directory: for the file (10 MB, two older ones beside it); ``None`` writes none.
    """

    def __init__(self, name: str, secrets: Iterable[str], directory: Path | None) -> None:
        self._name = name
        self._secrets = tuple(secret for secret in secrets if secret)
        self._kept: deque[str] = deque(maxlen=_KEPT_LINES)
        self._file: PatientHandler | None = None
        if directory is not None:
            self._file = _file_handler(directory / f"{name}.log")

    def launch(self, number: int) -> None:
        """Separates the lines that follow from those of the launch before."""
        self._kept.clear()
        self._write(f"--- launch {number} of {self._name} ---")

    def line(self, text: str) -> str:
        """Takes one line and returns what is kept of it: shortened, no controls, no secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        text = "".join(char if char.isprintable() else " " for char in text[:_LINE_CHARS]).rstrip()
        if text:
            self._kept.append(text)
            self._write(text)
        return text

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last `lines` of this launch, newest last."""
        return tuple(self._kept)[-lines:]

    def close(self) -> None:
        """Waits until the file has everything; call it in a thread."""
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        _log.info("[%s] %s", self._name, text)
        if self._file is not None:
            record = logging.LogRecord(self._name, logging.INFO, "", 0, text, None, None)
            self._file.handle(record)


def _prune(directory: Path) -> None:
    """Deletes the oldest log files beyond `_KEPT_FILES`: each load has engines of new names."""
    written: list[tuple[float, Path]] = []
    for file in directory.glob("*.log*"):
        with contextlib.suppress(FileNotFoundError):  # other supervisors prune and rotate as well
            written.append((file.stat().st_mtime, file))
    for _, file in sorted(written)[:-_KEPT_FILES]:
        file.unlink(missing_ok=True)


def _file_handler(path: Path) -> PatientHandler | None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _prune(path.parent)
        target = _PrivateFile(path, maxBytes=_FILE_BYTES, backupCount=_FILES - 1)
    except OSError as exc:
        _log.warning("no log file %s: %s", path, exc.strerror)
        return None
    target.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    return PatientHandler(target)
