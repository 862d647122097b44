"""The gateway's side of the supervisor: launch or find it, start engines, follow their state."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from belvedere.engines.base import EngineSpec, EngineStatus
from belvedere.engines.launcher import Line, SupervisorOptions, attach_or_launch, launch
from belvedere.engines.protocol import decode, encode
from belvedere.engines.remains import FLEET_MARK, kill_marked
from belvedere.engines.rundir import abandoned, check_socket_path, clear, named_directory
from belvedere.errors import EngineFailed, EngineStartFailed

__all__ = ["Fleet"]

_log = logging.getLogger(__name__)
_REPLY_TIMEOUT_S = 20.0
_PROCESS_EXIT_TIMEOUT_S = 5.0
_TURNING = ("falling asleep", "waking")


class Fleet:
    """A supervisor process and the connection to it. Make one with `Fleet.open`.

    Attributes:
        directory: private folder shared with the supervisor; engines put their sockets there.
        attached: whether the supervisor was alive before.
        lost: set when the supervisor is gone although nobody here asked for it.
        specs: what each engine was started with, by name.
        statuses: the last known status of each engine, by name.
    """

    def __init__(self, directory: Path, line: Line, stop_timeout_s: float) -> None:
        self.directory = directory
        self.attached = line.process is None
        self.lost = asyncio.Event()
        self._line = line
        self._specs: dict[str, EngineSpec] = {}
        self._statuses: dict[str, EngineStatus] = {}
        self._changed = asyncio.Condition()
        self._complete = asyncio.Event()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._stop_timeout_s = stop_timeout_s
        self._is_closing = False
        self._follower = asyncio.create_task(self._follow(line.reader))

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        name: str | None = None,
        linger_s: float = 0.0,
        log_level: str = "warning",
        log_directory: Path | None = None,
        stop_timeout_s: float = 60.0,
    ) -> AsyncIterator[Fleet]:
        """A fleet of its own, or the one called `name`, which other processes may share.

        At the end of the block the engines are stopped, unless other gateways are attached.

        Args:
            name: finds the fleet again: after this process was killed its engines serve on for
                `linger_s`, and the next one that opens the name is attached to them.
            linger_s: how long engines outlive the last gateway that dies without saying goodbye.
            log_level: of the supervisor, on this process's stderr; ``info`` has the engines' lines.
            log_directory: for a rotating log file per engine; without effect on a supervisor that
                is alive already.
            stop_timeout_s: how long the end may take before the supervisor is killed.

        Raises:
            SettingsError: the name, or the folder that belongs to it, cannot be used.
            EngineStartFailed: the supervisor did not come up, or is of another version.
        """
        options = SupervisorOptions(linger_s, log_level, log_directory)
        if name is not None:
            directory = named_directory(name)
            line = await attach_or_launch(directory, options)
        else:
            directory = Path(tempfile.mkdtemp(prefix="belvedere-"))
            try:
                line = await launch(directory, options)
            except BaseException:
                _remove(directory)
                raise
        fleet = cls(directory, line, stop_timeout_s)
        try:
            await fleet._introduce(linger_s)
            yield fleet
        finally:
            await fleet._close()

    @property
    def specs(self) -> dict[str, EngineSpec]:
        return dict(self._specs)

    @property
    def statuses(self) -> dict[str, EngineStatus]:
        return dict(self._statuses)

    def status(self, name: str) -> EngineStatus | None:
        """The last known status of one engine, without a copy of the table."""
        return self._statuses.get(name)

    async def start(self, spec: EngineSpec) -> None:
        """Asks for an engine; follow it with `wait_ready`.

        Raises:
            EngineFailed: an engine of that name is alive, or the supervisor is gone.
            SettingsError: the path of its socket is too long.
        """
        if spec.endpoint.uds is not None:
            check_socket_path(spec.endpoint.uds)
        await self._ask("start", spec=spec.to_wire())

    async def stop(self, name: str, *, drain: bool = True) -> None:
        """Asks for an engine to be stopped; its status becomes ``stopped`` (`wait_stopped`).

        Args:
            drain: let its running requests finish, for up to the spec's ``drain_s``.
        """
        await self._ask("stop", name=name, drain=drain)

    async def forget(self, name: str) -> None:
        """Removes a stopped or failed engine from `specs` and `statuses`."""
        await self._ask("forget", name=name)

    async def check(self, name: str) -> None:
        """Tells that a request ran into its timeout, so that a hang is noticed sooner."""
        await self._ask("check", name=name)

    async def sleep(self, name: str, level: int, *, abort: bool = False) -> None:
        """Lets an engine sleep; returns when it does.

        Args:
            level: 1 keeps its weights in host memory, 2 drops them.
            abort: cut its running requests off instead of letting them finish.

        Raises:
            EngineFailed: it cannot sleep now, or did not and is being started again.
        """
        await self._settled(name, await self._ask("sleep", name=name, level=level, abort=abort))

    async def wake(self, name: str) -> None:
        """Wakes an engine; returns when it has generated something.

        Raises:
            EngineFailed: it did not wake up and is being started again.
        """
        await self._settled(name, await self._ask("wake", name=name))

    async def _settled(self, name: str, answer: dict[str, Any]) -> None:
        """Waits until an engine neither falls asleep nor wakes; the supervisor limits that.

        Args:
            answer: to the order. All may be over when it is looked at here.
        """
        async with self._changed:
            status = self._statuses.get(name)
            while status is not None and status.phase in _TURNING and not self.lost.is_set():
                await self._changed.wait()
                status = self._statuses.get(name)
        if self.lost.is_set():
            raise EngineFailed(f"The supervisor of the engine {name!r} is gone.")
        state = status.state if status is not None else "stopped"
        same = status is not None and status.launch == answer["launches"].get(name)
        if not same or state not in ("ready", "asleep"):
            error = status.error if status is not None else None
            what = "was started again" if state in ("ready", "asleep") else f"is {state}"
            raise EngineFailed(error or f"The engine {name!r} {what}.")

    async def wait_ready(
        self, name: str, on_status: Callable[[EngineStatus], None] | None = None
    ) -> EngineStatus:
        """Waits until the engine answers, over restarts too; `on_status` hears of each step.

        One that sleeps would answer when it is woken.

        Raises:
            EngineStartFailed: it failed or was stopped, with its own reason and the last lines of
                its log, or the supervisor died.
        """
        seen: EngineStatus | None = None
        async with self._changed:
            while True:
                status = self._statuses.get(name)
                if status is None:
                    raise EngineStartFailed(f"There is no engine {name!r}.")
                if on_status is not None and status != seen:
                    on_status(status)
                seen = status
                if status.state in ("ready", "asleep"):
                    return status
                if self.lost.is_set():
                    raise EngineStartFailed(
                        "The supervisor process ended.", remedy="Start the server again."
                    )
                if status.state in ("failed", "stopped"):
                    raise _start_failure(status)
                await self._changed.wait()

    async def wait_stopped(self, name: str, timeout_s: float) -> bool:
        """Whether the engine has no process any more within `timeout_s`: ``stopped``, ``failed``,
        forgotten, or gone with its supervisor."""

        def is_over() -> bool:
            status = self._statuses.get(name)
            over = status is None or status.state in ("stopped", "failed")
            return over or self.lost.is_set()

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(is_over)
        return is_over()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` in the event loop after each change; call the result to end that."""
        token = object()
        self._callbacks[token] = callback
        return lambda: self._callbacks.pop(token, None) and None

    async def _introduce(self, linger_s: float) -> None:
        try:
            async with asyncio.timeout(_REPLY_TIMEOUT_S):
                await self._complete.wait()
        except TimeoutError as exc:
            raise EngineStartFailed("The supervisor did not tell its engines.") from exc
        if self.lost.is_set():
            raise EngineStartFailed(
                "The supervisor process ended.", remedy="Start the server again."
            )
        if self.attached:
            await self._ask("linger", seconds=linger_s)

    async def _ask(
        self, op: str, *, timeout_s: float = _REPLY_TIMEOUT_S, **fields: object
    ) -> dict[str, Any]:
        """The reply to a request; `launches` are those of all engines when it was given.

        Raises:
            EngineFailed: the supervisor refuses, or is gone.
        """
        number = next(self._numbers)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        try:
            async with asyncio.timeout(timeout_s):
                if self._follower.done():
                    raise ConnectionResetError
                self._line.writer.write(encode({"id": number, "op": op, **fields}))
                await self._line.writer.drain()
                answer = await reply
        except (ConnectionError, TimeoutError) as exc:
            raise EngineFailed(
                "The supervisor process is gone or does not answer.",
                remedy="Start the server again.",
            ) from exc
        finally:
            del self._replies[number]
        if error := answer.get("error"):
            raise EngineFailed(error["message"], remedy=error.get("remedy"))
        return answer

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if self._take(decode(line)):
                    await self._tell()
        except (ConnectionError, ValueError, KeyError, TypeError) as exc:
            _log.warning("the supervisor's connection broke: %s", type(exc).__name__)
        finally:
            if not self._is_closing:
                self.lost.set()
            self._complete.set()
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_exception(ConnectionResetError())
            await self._tell()

    def _take(self, message: dict[str, Any]) -> bool:
        """Notes one message; returns whether the engines changed."""
        match message:
            case {"engine": dict(wire)}:
                status = EngineStatus.from_wire(wire)
                self._statuses[status.name] = status
                if "spec" in message:
                    self._specs[status.name] = EngineSpec.from_wire(message["spec"])
                return True
            case {"forgotten": str(name)}:
                self._statuses.pop(name, None)
                self._specs.pop(name, None)
                return True
            case {"complete": True}:
                self._complete.set()
            case {"reply": int(number)} if number in self._replies:
                if not self._replies[number].done():
                    launches = {name: one.launch for name, one in self._statuses.items()}
                    self._replies[number].set_result({**message, "launches": launches})
        return False

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
        for callback in list(self._callbacks.values()):
            try:
                callback()
            except Exception:  # the top of a subscriber's work
                _log.exception("a subscriber failed")

    async def _close(self) -> None:
        """Goodbye; waits for the end of everything if this was the last gateway."""
        self._is_closing = True
        is_end = True
        timeout_s = min(self._stop_timeout_s, _REPLY_TIMEOUT_S)
        with contextlib.suppress(EngineFailed):
            is_end = bool((await self._ask("bye", timeout_s=timeout_s)).get("stopping"))
        if is_end:
            await asyncio.wait({self._follower}, timeout=self._stop_timeout_s)
            await asyncio.to_thread(self._end_supervisor, not self._follower.done())
        elif self._line.process is not None:
            # It serves others now; somebody has to take its exit code when it ends.
            threading.Thread(target=self._line.process.wait, daemon=True).start()
        self._follower.cancel()
        self._line.writer.close()
        await asyncio.gather(self._follower, return_exceptions=True)

    def _end_supervisor(self, is_stuck: bool) -> None:
        """Its process is gone after this, and whatever a supervisor that was killed has left."""
        process = self._line.process
        if process is not None:
            with contextlib.suppress(Exception):
                process.wait(0 if is_stuck else _PROCESS_EXIT_TIMEOUT_S)
            process.kill()
            process.wait()
        elif is_stuck:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._line.pid, signal.SIGKILL)
        with abandoned(self.directory) as is_ours:
            if is_ours:
                kill_marked(FLEET_MARK, str(self.directory))
                _remove(self.directory)


def _remove(directory: Path) -> None:
    with contextlib.suppress(OSError):
        clear(directory)
        directory.rmdir()


def _start_failure(status: EngineStatus) -> EngineStartFailed:
    message = status.error or f"The engine {status.name!r} was stopped before it was ready."
    remedy = status.remedy
    if status.log_tail:
        remedy = f"{remedy or ''}\n" + "\n".join(f"  | {line}" for line in status.log_tail)
    return EngineStartFailed(message, remedy=remedy)
