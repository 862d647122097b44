"""One engine as a child process: spawned in its own group, listened to, gone without remains."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from belvedere.engines.base import EngineSpec
from belvedere.engines.cpu_instructions import instruction_limits
from belvedere.engines.safe_path import SAFE_PATH

__all__ = ["EngineProcess", "Report", "parent_death_signal"]

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 65536
_LINE_BYTES = 16_384
_LAST_WORDS_TIMEOUT_S = 1.0
_REPORT_CHARS = 2000


def parent_death_signal(signum: int = signal.SIGKILL) -> Callable[[], None]:
    """A function for the child, between fork and exec: it dies with the thread that forked it.

    Linux only (``prctl(PR_SET_PDEATHSIG)``); call this in the parent, so that nothing is loaded
    after the fork. The parent must fork from a thread that lives as long as it does.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent_pid = os.getpid()

    def apply() -> None:
        prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent_pid:
            os._exit(1)

    return apply


@dataclass(frozen=True, slots=True)
class Report:
    """Why the engine gave up, in its own words (an ``@error`` line)."""

    message: str
    remedy: str | None


class EngineProcess:
    """Runs one `EngineSpec` once. Create and use it in the supervisor's event loop.

    Args:
        spec: what to start.
        env: added to the spec's own variables.
        on_phase: hears of each ``@phase`` line.
        on_line: hears of every other line the process writes.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        env: Mapping[str, str],
        on_phase: Callable[[str], None],
        on_line: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._env = {**os.environ, **SAFE_PATH, **instruction_limits(), **spec.env, **env}
        self._on_phase = on_phase
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.report: Report | None = None

    async def spawn(self) -> int:
        """Starts it; returns its process id.

        Raises:
            OSError: the program cannot be started.
        """
        # asyncio's own pipe would make `wait` wait for whoever inherited the other end, too.
        output, input_ = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._spec.argv,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=input_,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=parent_death_signal(),
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(input_)
        self._reader = asyncio.create_task(self._read(os.fdopen(output, "rb", buffering=0)))
        return self._process.pid

    async def wait(self) -> int:
        """Until it is gone, its group with it and its last words read; returns the exit code."""
        assert self._process is not None
        assert self._reader is not None
        exit_code = await self._process.wait()
        self.kill()
        # A stranger to the group may hold the pipe open for ever.
        await asyncio.wait({self._reader}, timeout=_LAST_WORDS_TIMEOUT_S)
        self._reader.cancel()
        return exit_code

    def terminate(self) -> None:
        """SIGTERM to the process, which is to end its children itself."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to the whole group; stopped processes die of it as well."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _read(self, output: BinaryIO) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), output
        )
        lines = _Lines()
        try:
            while chunk := await stream.read(_READ_BYTES):
                for line in lines.feed(chunk):
                    self._take(line)
            for line in lines.feed(b"\n"):
                self._take(line)
        finally:
            transport.close()

    def _take(self, line: str) -> None:
        if line.startswith("@phase "):
            self._on_phase(line.removeprefix("@phase ").strip())
        elif line.startswith("@error ") and (report := _report(line.removeprefix("@error "))):
            self.report = report
        else:
            self._on_line(line)


class _Lines:
    """Splits a stream at newlines and carriage returns; of a long line only the start is kept."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[str]:
        *complete, rest = (self._rest + chunk.replace(b"\r", b"\n")).split(b"\n")
        self._rest = rest[:_LINE_BYTES]
        for line in complete:
            yield line[:_LINE_BYTES].decode("utf-8", "replace").rstrip()


def _report(text: str) -> Report | None:
    try:
        fields = json.loads(text)
        message, remedy = fields["message"], fields.get("remedy")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(message, str) or not isinstance(remedy, str | None):
        return None
    return Report(message[:_REPORT_CHARS], remedy and remedy[:_REPORT_CHARS])
