"""From a folder to a conversation: finds the supervisor that lives there, or starts one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from belvedere.engines.protocol import (
    MESSAGE_LIMIT_BYTES,
    PROTOCOL_VERSION,
    SOCKET_NAME,
    decode,
)
from belvedere.engines.remains import FLEET_MARK, kill_marked
from belvedere.engines.rundir import claimed, clear, has_owner
from belvedere.engines.safe_path import SAFE_PATH
from belvedere.errors import EngineStartFailed

__all__ = ["Line", "SupervisorOptions", "attach_or_launch", "launch"]

_START_TIMEOUT_S = 60.0
_HELLO_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 60.0
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """How a supervisor is started; see `belvedere.engines.supervisor`."""

    linger_s: float = 0.0
    log_level: str = "warning"
    log_directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """An open connection to a supervisor that speaks our protocol.

    Attributes:
        pid: of the supervisor, as the kernel knows it.
        process: the supervisor, if it was started for this connection.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pid: int
    process: subprocess.Popen[bytes] | None = None


async def attach_or_launch(directory: Path, options: SupervisorOptions) -> Line:
    """The supervisor of a named folder: the one that is alive there, or a new one.

    What a dead supervisor left is cleared away first; one that is just stopping is waited for.

    Raises:
        SettingsError: the folder is not private, or its path is too long.
        EngineStartFailed: the supervisor is of another version, does not answer, or cannot start.
    """
    async with claimed(directory, _END_TIMEOUT_S):
        deadline_s = asyncio.get_running_loop().time() + _END_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline_s:
            if (line := await _attached(directory)) is not None:
                return line
            if not has_owner(directory):
                await asyncio.to_thread(kill_marked, FLEET_MARK, str(directory))
                clear(directory)
                return await launch(directory, options)
            await asyncio.sleep(_PAUSE_S)
    raise EngineStartFailed(
        f"The supervisor in {str(directory)!r} is stopping and does not come to an end.",
        remedy="End the processes that `fuser` shows for its supervisor.lock.",
    )


async def launch(directory: Path, options: SupervisorOptions) -> Line:
    """A new supervisor in an empty private folder.

    Raises:
        EngineStartFailed: it did not come up.
    """
    with _spawned(directory, options) as process:
        deadline_s = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline_s and process.poll() is None:
            if (line := await _attached(directory)) is not None:
                return Line(line.reader, line.writer, line.pid, process)
            await asyncio.sleep(_PAUSE_S)
        raise EngineStartFailed(
            "The supervisor process did not start.",
            remedy="Run again with --log-level debug; is the temporary folder writable?",
        )


@contextmanager
def _spawned(directory: Path, options: SupervisorOptions) -> Iterator[subprocess.Popen[bytes]]:
    """The supervisor process; killed if the block fails."""
    argv = [sys.executable, "-m", "belvedere.engines.supervisor"]
    argv += ["--directory", str(directory), "--linger", str(options.linger_s)]
    argv += ["--log-level", options.log_level]
    if options.log_directory is not None:
        argv += ["--log-directory", str(options.log_directory.absolute())]
    null = subprocess.DEVNULL
    env = {**os.environ, **SAFE_PATH}
    process = subprocess.Popen(argv, stdin=null, stdout=null, start_new_session=True, env=env)
    try:
        yield process
    except BaseException:
        process.kill()
        process.wait()
        raise


async def _attached(directory: Path) -> Line | None:
    """A connection, or ``None`` if nobody listens, or only to say that it is stopping."""
    path = str(directory / SOCKET_NAME)
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=MESSAGE_LIMIT_BYTES)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    pid = _peer_pid(writer)
    try:
        hello = await _hello(reader, pid)
        if hello is not None:
            return Line(reader, writer, pid)
    except BaseException:
        writer.close()
        raise
    writer.close()
    return None


async def _hello(reader: asyncio.StreamReader, pid: int) -> dict[str, Any] | None:
    hello: Any = None
    try:
        async with asyncio.timeout(_HELLO_TIMEOUT_S):
            line = await reader.readline()
        if not line:
            return None
        with contextlib.suppress(ValueError):
            hello = decode(line).get("hello")
    except ConnectionError:
        return None
    except TimeoutError as exc:
        raise EngineStartFailed(
            f"The supervisor (process {pid}) does not answer.", remedy=f"End it: kill -9 {pid}"
        ) from exc
    if not isinstance(hello, dict) or hello.get("version") != PROTOCOL_VERSION:
        version = hello.get("version") if isinstance(hello, dict) else None
        raise EngineStartFailed(
            f"The supervisor that runs there (process {pid}) is of another version "
            f"(protocol {version!r}, this is {PROTOCOL_VERSION}).",
            remedy=f"Stop the server that uses it, or choose another name; to end it: kill {pid}",
        )
    return None if hello.get("stopping") else hello


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    """Process at the other end (``SO_PEERCRED``, unix(7))."""
    credentials = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    return int(struct.unpack("3i", credentials)[0])
