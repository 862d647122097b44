"""One line a request: who asked which model, what it took, how it ended. Never what was said."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from typing import Any, Literal, TextIO

from belvedere.gateway.record import ImageTimes, RequestRecord

__all__ = ["AccessFormat", "AccessLine", "access_lines", "write_access_log"]

AccessFormat = Literal["json", "text", "off"]
_log = logging.getLogger(__name__)
_NAME = "belvedere.access"
_QUIET = frozenset({"/health/live", "/health/ready", "/health/startup", "/metrics"})
_WAITING_LINES = 10_000
_LAST_LINES_S = 2.0
_encode = json.JSONEncoder(separators=(",", ":")).encode
_OK = range(100, 400)
_HERE = "access_log.py"
_STAGES = tuple(one.name for one in fields(ImageTimes))


class AccessLine:
    """A request that is over, as a line of the log; written when a handler asks for it."""

    __slots__ = ("_format", "_record", "_time_s")

    def __init__(self, record: RequestRecord, style: AccessFormat, time_s: float) -> None:
        self._record = record
        self._format = style
        self._time_s = time_s

    def __str__(self) -> str:
        if self._format == "text":
            return _text(self._record)
        stamp = datetime.fromtimestamp(self._time_s, UTC).isoformat(timespec="milliseconds")
        return _encode({"time": stamp, **fields_of(self._record)})


def access_lines(record: RequestRecord, style: AccessFormat, time_s: float) -> None:
    """Writes the line of `record`, if anybody listens.

    Probes and scrapes that went well are of the level debug, everything else of info.

    Args:
        time_s: Unix time of the request's end.
    """
    if style == "off":
        return
    log = logging.getLogger(_NAME)
    quiet = record.route in _QUIET and record.status in _OK
    level = logging.DEBUG if quiet else logging.INFO
    if log.isEnabledFor(level):
        line = AccessLine(record, style, time_s)
        log.handle(log.makeRecord(_NAME, level, _HERE, 0, line, (), None))


def fields_of(record: RequestRecord) -> dict[str, Any]:
    """What a line has, in the order in which one reads it; what does not apply is left out."""
    line: dict[str, Any] = {"request_id": record.id, "route": record.route, "status": record.status}
    _put(line, "key", record.key or None)
    if record.model:
        _put_model(line, record)
    _put(line, "error", record.error)
    _put(line, "client_left", record.client_left or None)
    line["total_ms"] = _ms(record.total_s)
    return line


def _put_model(line: dict[str, Any], record: RequestRecord) -> None:
    line["model"] = record.model
    if record.replica:
        line["replica"], line["launch"] = record.replica, record.launch
    line["stream"] = record.stream
    _put(line, "prompt_tokens", record.prompt_tokens)
    _put(line, "completion_tokens", record.completion_tokens)
    _put(line, "finish_reason", record.finish_reason)
    line["images"] = record.images
    if record.stages is not None:
        line["vision_tokens"] = record.vision_tokens
        line["image_cache_hits"] = record.image_hits
        line["images_ms"] = _ms(record.images_s)
        for name in _STAGES:
            line[name] = round(getattr(record.stages, name), 2)
    line["prefix_hit_tokens"] = record.hit_tokens
    line["queue_position"], line["queue_ms"] = record.queue_position, _ms(record.queue_s)
    _put(line, "first_byte_ms", _ms(record.first_byte_s))
    _put(line, "ttft_ms", _ms(record.ttft_s))
    _put(line, "engine_ms", _ms(record.engine_s))
    line["retries"] = record.retries
    _put(line, "engine_deaths", record.engine_deaths or None)


def _put(line: dict[str, Any], name: str, value: object) -> None:
    if value is not None:
        line[name] = value


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)


def _text(record: RequestRecord) -> str:
    """``name=value`` pairs for a person's eyes; the route and the outcome stand first."""
    fields = fields_of(record)
    route, status = fields.pop("route") or "-", fields.pop("status")
    pairs = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{status} {route} {pairs}"


@contextmanager
def write_access_log(style: AccessFormat, stream: TextIO | None = None) -> Iterator[None]:
    """Writes the lines of this process to `stream`, for the time of the block.

    A thread writes them, so that a reader of the stream that stops does not stop the event loop,
    nor the end of the process; what does not fit into ten thousand waiting lines is dropped.

    Args:
        stream: standard error when ``None``.
    """
    target = stream or sys.stderr
    if style == "off" or target is None:  # a process may have no standard error
        yield
        return
    log = logging.getLogger(_NAME)
    writing = _Writing(target)
    handler = _Sender(writing.waiting)
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    writing.start()
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
        writing.end()


class _Sender(QueueHandler):
    """Leaves formatting to the thread that writes, and drops what it cannot take."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


class _Writing(threading.Thread):
    """Writes lines to where `stream` goes.

    Where that is a file it writes past the stream's buffer: a write that waits would hold the
    buffer's lock when the process ends, and to Python that is fatal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(name="belvedere-access", daemon=True)
        self.waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_WAITING_LINES)
        self._abandoned = False
        self._stream = stream
        self._file: int | None = None
        with suppress(OSError, ValueError):  # a stream in memory
            self._file = os.dup(stream.fileno())

    def run(self) -> None:
        try:
            while not self._abandoned and (record := self.waiting.get()) is not None:
                self._write(record)
        finally:
            if self._file is not None:
                os.close(self._file)

    def end(self) -> None:
        """Returns when the last lines are written, or when nobody reads them any more."""
        told, left, before = False, self.waiting.qsize(), -1
        while self.is_alive() and left != before:
            if not told:
                with suppress(queue.Full):
                    self.waiting.put(None, timeout=_LAST_LINES_S)
                    told = True
            self.join(_LAST_LINES_S)
            left, before = self.waiting.qsize(), left
        self._abandoned = True

    def _write(self, record: logging.LogRecord) -> None:
        try:
            line = f"{record.getMessage()}\n"
        except Exception:
            _log.exception("a line of the access log could not be written")
            return
        with suppress(OSError, ValueError):  # nobody reads it any more
            if self._file is None:
                self._stream.write(line)
                self._stream.flush()
            else:
                _write_all(self._file, line.encode(errors="backslashreplace"))


def _write_all(file: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(file, data) :]
        except BlockingIOError:  # whoever shares the terminal or pipe may have made it so
            select.select([], [file], [])
