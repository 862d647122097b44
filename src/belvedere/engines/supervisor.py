"""The small process that owns the engines: ``python -m belvedere.engines.supervisor``.

It listens on a Unix socket in a private folder (`belvedere.engines.protocol`). A connection is an
attachment: while at least one is open the engines live. When the last gateway says goodbye
everything is stopped; when it disappears without a word, after the linger time. So a gateway that
dies, however it dies, leaves nothing behind, and with a longer linger its successor finds the
engines warm. Signals, goodbyes and timers only put a word into a queue on which one loop acts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from belvedere.engines.attachment import Attachment
from belvedere.engines.base import EngineSpec, EngineStatus
from belvedere.engines.keeper import Keeper
from belvedere.engines.logs import PatientHandler
from belvedere.engines.protocol import (
    MESSAGE_LIMIT_BYTES,
    PROTOCOL_VERSION,
    SOCKET_NAME,
    decode,
)
from belvedere.engines.remains import FLEET_MARK, kill_marked
from belvedere.engines.rundir import owned, remove_own
from belvedere.engines.sleeper import CannotSleep

__all__ = ["Supervisor", "main"]

_log = logging.getLogger(__name__)
_FIRST_ATTACH_TIMEOUT_S = 60.0
_FAREWELL_TIMEOUT_S = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_Cause = Literal["signal", "left alone", "goodbye", "gone"]


class _Refusal(Exception):
    """A request that is not fulfilled; the text is for the gateway."""


class Supervisor:
    """Owns engines and tells every attached gateway about their state.

    Args:
        directory: private folder (mode 0700) for sockets; removed at the end.
        linger_s: how long the engines stay up without any attached gateway.
        log_directory: for a rotating log file per engine; ``None`` writes none.
    """

    def __init__(
        self, directory: Path, *, linger_s: float, log_directory: Path | None = None
    ) -> None:
        self._directory = directory
        self._linger_s = linger_s
        self._log_directory = log_directory
        self._keepers: dict[str, Keeper] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._attachments: dict[Attachment, asyncio.Task[None]] = {}
        self._causes: asyncio.Queue[_Cause] = asyncio.Queue()
        self._lonely: asyncio.TimerHandle | None = None
        self._is_ending = False

    async def run(self) -> None:
        """Serves until the last goodbye, a signal, or the end of the linger time."""
        loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            loop.add_signal_handler(signum, self._causes.put_nowait, "signal")
        path = self._directory / SOCKET_NAME
        server = await asyncio.start_unix_server(
            self._attend, path=str(path), limit=MESSAGE_LIMIT_BYTES
        )
        path.chmod(0o600)
        self._await_company(_FIRST_ATTACH_TIMEOUT_S)
        try:
            await self._main_loop()
        finally:
            self._is_ending = True
            server.close()
            path.unlink(missing_ok=True)
            await self._end()

    async def _main_loop(self) -> None:
        while True:
            match await self._causes.get():
                case "signal" | "goodbye":
                    return
                case "left alone" if not self._attachments:
                    return
                case "gone" if not self._attachments:
                    self._await_company(self._linger_s)

    def _await_company(self, timeout_s: float) -> None:
        self._cancel_loneliness()
        loop = asyncio.get_running_loop()
        self._lonely = loop.call_later(timeout_s, self._causes.put_nowait, "left alone")

    def _cancel_loneliness(self) -> None:
        if self._lonely is not None:
            self._lonely.cancel()
            self._lonely = None

    async def _end(self) -> None:
        """Stops all engines; a second signal kills them."""
        for attachment in self._attachments:
            attachment.tell({"stopping": True})
        for keeper in self._keepers.values():
            keeper.stop(drain=False)
        impatient = asyncio.create_task(self._kill_on_second_signal())
        if self._running:
            await asyncio.wait(self._running)
        impatient.cancel()
        await asyncio.to_thread(kill_marked, FLEET_MARK, str(self._directory))
        remove_own(self._directory)
        await self._part()

    async def _kill_on_second_signal(self) -> None:
        while await self._causes.get() != "signal":
            pass
        for keeper in self._keepers.values():
            keeper.kill()

    async def _part(self) -> None:
        """Everything said, as far as it is listened to; then the connections are closed."""
        attending = dict(self._attachments)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_TIMEOUT_S):
                await asyncio.gather(*(one.finish() for one in attending), return_exceptions=True)
        for attachment in attending:
            attachment.close()
        if attending:
            await asyncio.wait(attending.values(), timeout=_FAREWELL_TIMEOUT_S)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        attachment = Attachment(writer, self._keepers)
        self._attachments[attachment] = task
        self._cancel_loneliness()
        try:
            hello = {"version": PROTOCOL_VERSION, "pid": os.getpid(), "stopping": self._is_ending}
            attachment.greet(hello)
            await self._converse(reader, attachment)
        except (ConnectionError, TimeoutError) as exc:
            _log.info("a gateway is gone: %s", type(exc).__name__)
        finally:
            self._attachments.pop(attachment, None)
            attachment.close()
            self._causes.put_nowait("gone")

    async def _converse(self, reader: asyncio.StreamReader, attachment: Attachment) -> None:
        """Answers until the end of the connection or a goodbye."""
        while True:
            try:
                line = await reader.readline()
                if not line:
                    return
                message = decode(line)
            except ValueError:
                await attachment.reply(None, error="This is not a message.")
                continue
            number = message.get("id")
            if message.get("op") == "bye":
                await self._part_with(reader, attachment, number)
                return
            try:
                self._obey(message)
            except (_Refusal, CannotSleep) as exc:
                await attachment.reply(number, error=str(exc))
            except (ValueError, TypeError, KeyError, AttributeError) as exc:
                reason = f"The message is not valid: {type(exc).__name__} {exc}."
                await attachment.reply(number, error=reason)
            else:
                await attachment.reply(number)

    async def _part_with(
        self, reader: asyncio.StreamReader, attachment: Attachment, number: object
    ) -> None:
        """A goodbye. The connection of the last gateway stays open until everything is gone."""
        if len(self._attachments) > 1 and not self._is_ending:
            del self._attachments[attachment]
            await attachment.reply(number, stopping=False)
            return
        self._is_ending = True
        self._causes.put_nowait("goodbye")
        await attachment.reply(number, stopping=True)
        await reader.read()

    def _obey(self, message: dict[str, Any]) -> None:
        match message:
            case {"op": "start", "spec": dict(spec)}:
                self._start(EngineSpec.from_wire(spec))
            case {"op": "stop", "name": str(name)}:
                self._keeper(name).stop(drain=bool(message.get("drain", True)))
            case {"op": "sleep", "name": str(name), "level": 1 | 2 as level}:
                self._keeper(name).sleep(level, abort=bool(message.get("abort")))
            case {"op": "wake", "name": str(name)}:
                self._keeper(name).wake()
            case {"op": "check", "name": str(name)}:
                self._keeper(name).suspect()
            case {"op": "forget", "name": str(name)}:
                self._forget(name)
            case {"op": "linger", "seconds": int() | float() as seconds}:
                self._linger_s = max(0.0, float(seconds))
            case _:
                raise _Refusal("The supervisor does not know this request.")

    def _keeper(self, name: str) -> Keeper:
        if name not in self._keepers:
            raise _Refusal(f"There is no engine {name!r}.")
        return self._keepers[name]

    def _start(self, spec: EngineSpec) -> None:
        if self._is_ending:
            raise _Refusal("The supervisor is stopping.")
        present = self._keepers.get(spec.name)
        if present is not None and present.is_live:
            raise _Refusal(f"The engine {spec.name!r} is already {present.status.state}.")
        keeper = Keeper(
            spec, self._announce, directory=self._directory, log_directory=self._log_directory
        )
        self._keepers[spec.name] = keeper
        task = asyncio.create_task(keeper.run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        self._announce(keeper.status)

    def _forget(self, name: str) -> None:
        if self._keeper(name).is_live:
            raise _Refusal(f"The engine {name!r} is still there; stop it first.")
        del self._keepers[name]
        for attachment in self._attachments:
            attachment.note(name)

    def _announce(self, status: EngineStatus) -> None:
        for attachment in self._attachments:
            attachment.note(status.name)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the supervisor process."""
    parser = argparse.ArgumentParser(prog="belvedere-supervisor")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--linger", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--log-directory", type=Path)
    options = parser.parse_args(argv)
    handler = PatientHandler(logging.StreamHandler(sys.stderr))
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(levelname)s supervisor: %(message)s",
        handlers=[handler],
    )
    with owned(options.directory) as is_free:
        if not is_free:
            sys.exit(f"another supervisor owns {options.directory}")
        supervisor = Supervisor(
            options.directory, linger_s=options.linger, log_directory=options.log_directory
        )
        asyncio.run(supervisor.run())
    handler.close()


if __name__ == "__main__":
    main()
