"""Keeps one engine alive over many launches: start, prove, watch, start again, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from belvedere.engines.base import EngineSpec, EngineStatus, HangPolicy, ReadyProbe, RestartPolicy
from belvedere.engines.contact import Broken, Contact, NotYet, Refused
from belvedere.engines.logs import EngineLog
from belvedere.engines.process import EngineProcess
from belvedere.engines.progress import AttendedClock, HangDetector
from belvedere.engines.reading import LogReader, remaining_s
from belvedere.engines.remains import FLEET_MARK, LAUNCH_MARK, kill_marked
from belvedere.engines.sleeper import Sleeper, SleepFailed

__all__ = ["Keeper", "restart_delay_s"]

_log = logging.getLogger(__name__)
_LOG_TAIL_LINES = 15
_PHASE_CHARS = 40
_MAX_PHASES = 32
_PROBE_PAUSE_S = 0.25
_DRAIN_POLL_S = 0.1
_POLL_TIMEOUT_S = 5.0
_LATE_S = 5.0
_EXIT_TIMEOUT_S = 2.0
_LOOK_AT_LOG = "The last lines of its log say why."


def restart_delay_s(policy: RestartPolicy, crashes: int, chance: float) -> float:
    """Seconds before the restart that follows crash number `crashes` (from 1) in a row.

    Args:
        chance: evenly distributed in [0, 1); the wait is in the upper half of the exponential
            bound ("equal jitter" in the AWS Architecture Blog's "Exponential Backoff and Jitter").
    """
    bound_s = min(policy.cap_s, policy.base_s * 2.0 ** min(crashes - 1, 64))
    return bound_s * (1.0 + chance) / 2.0


async def _wait_at_most(event: asyncio.Event, timeout_s: float) -> None:
    """Python 3.11's `asyncio.wait_for` would lose a cancellation that comes with the event."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a launch ended; `final` when another one would end the same way, `broken` when all that
    was seen is a broken connection."""

    error: str
    remedy: str | None
    final: bool = False
    broken: bool = False


class Keeper:
    """Runs one `EngineSpec` until it is stopped or has failed. Use it in one event loop.

    Args:
        spec: what to keep alive.
        on_change: called with the new status after each change.
        directory: the supervisor's private folder, with which all processes are marked.
        log_directory: where the engine's log file goes, if anywhere.
        chance: random numbers in [0, 1) for the waits before restarts.

    Attributes:
        status: now.
    """

    def __init__(
        self,
        spec: EngineSpec,
        on_change: Callable[[EngineStatus], None],
        *,
        directory: Path,
        log_directory: Path | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self.status = EngineStatus(name=spec.name, state="starting", phase="spawning")
        self._on_change = on_change
        self._directory = directory
        self._log = EngineLog(spec.name, _secrets(spec), log_directory)
        self._reader = LogReader(spec.log)
        self._sleeper = Sleeper(spec, lambda: self.status, self._change)
        self._chance = chance
        self._launched_at_s = self._phase_since_s = time.monotonic()
        self._announced = asyncio.Event()
        self._suspected = asyncio.Event()
        self._stop_wanted = asyncio.Event()
        self._kill_wanted = asyncio.Event()
        self._drains = False
        self._was_ever_ready = False

    @property
    def is_live(self) -> bool:
        """Whether it has, or will have, a process."""
        return self.status.state not in ("stopped", "failed")

    def stop(self, *, drain: bool) -> None:
        """Begins the end; `run` returns when the process is gone.

        Args:
            drain: let a ready engine finish its requests, for up to the spec's ``drain_s``.
        """
        self._drains = drain
        self._stop_wanted.set()

    def kill(self) -> None:
        """Ends it without any grace."""
        self._kill_wanted.set()
        self.stop(drain=False)

    def suspect(self) -> None:
        """A request ran into its timeout: look closely at the engine's progress."""
        self._suspected.set()

    def sleep(self, level: int, *, abort: bool) -> None:
        """See `Sleeper.sleep`."""
        self._sleeper.sleep(level, abort=abort)

    def wake(self) -> None:
        """See `Sleeper.wake`."""
        self._sleeper.wake()

    async def run(self) -> None:
        """Returns when the engine is ``stopped`` or ``failed``, with nothing of it left."""
        try:
            await self._run()
        except Exception:
            _log.exception("engine %r", self.spec.name)
            self._change(
                state="failed",
                pid=None,
                error="The supervisor failed on this engine.",
                remedy="Its log has the details.",
            )
        finally:
            await asyncio.to_thread(self._log.close)

    async def _run(self) -> None:
        while not self._stop_wanted.is_set():
            fault = await self._launch()
            if self._stop_wanted.is_set():
                break
            crashes = self.status.crashes + 1
            told = {"error": fault.error, "remedy": fault.remedy, "crashes": crashes, "pid": None}
            if fault.final or crashes >= self.spec.restart.max_crashes:
                self._change(state="failed", log_tail=self._log.tail(_LOG_TAIL_LINES), **told)
                return
            delay_s = restart_delay_s(self.spec.restart, crashes, self._chance())
            self._change(state="backoff", phase="backoff", retry_in_s=round(delay_s, 3), **told)
            await _wait_at_most(self._stop_wanted, delay_s)
        self._change(state="stopped", phase="stopped", pid=None, retry_in_s=None)

    async def _launch(self) -> _Fault:
        """One life of the process, from its spawn until it and its children are gone."""
        number = self.status.launch + 1
        self._log.launch(number)
        self._reader.begin()
        self._announced.clear()
        _remove_socket(self.spec)
        self._launched_at_s = self._phase_since_s = time.monotonic()
        self._sleeper.launched()
        fresh: dict[str, Any] = {"phase_s": {}, "retry_in_s": None, "exit_code": None, "notes": ()}
        fresh["sleep_level"] = None
        self.status = replace(self.status, state="starting", phase="spawning", **fresh)
        self._change(launch=number)
        mark = f"{self.spec.name}/{number}/{secrets.token_hex(8)}"
        process = EngineProcess(
            self.spec,
            env={FLEET_MARK: str(self._directory), LAUNCH_MARK: mark},
            on_phase=self._on_phase,
            on_line=self._on_line,
        )
        try:
            pid = await process.spawn()
        except OSError as exc:
            error = f"The program {self.spec.argv[0]!r} cannot be started ({exc.strerror})."
            return _Fault(error, "Check that its environment is installed.", final=True)
        self._change(pid=pid)
        try:
            return await self._live(process)
        finally:
            process.kill()
            await asyncio.to_thread(kill_marked, LAUNCH_MARK, mark)

    async def _live(self, process: EngineProcess) -> _Fault:
        exited = asyncio.create_task(process.wait())
        serving = asyncio.create_task(self._serve())
        stopping = asyncio.create_task(self._stop_wanted.wait())
        jobs: list[asyncio.Task[Any]] = [exited, serving, stopping]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            # An end that the process chose itself is the first cause of anything seen from outside,
            # and its connections break a moment before it is gone.
            if serving.done() and not exited.done() and serving.result().broken:
                await asyncio.wait({exited}, timeout=_EXIT_TIMEOUT_S)
            fault = serving.result() if serving.done() and not exited.done() else None
            serving.cancel()
            if fault is not None:
                process.kill()
            elif not exited.done():
                await self._end(process, exited)
            return self._ended(process, await exited, fault)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _serve(self) -> _Fault:
        """Start-up, then the watch over a ready engine; returns what it has to be killed for."""
        async with Contact(self.spec.endpoint) as contact:
            fault = await self._become_ready(contact)
            if fault is not None:
                return fault
            self._was_ever_ready = True
            self._change(state="ready", phase="ready", error=None, remedy=None)
            forgiving = asyncio.create_task(self._forgive())
            try:
                return await self._attend(contact)
            finally:
                forgiving.cancel()

    async def _become_ready(self, contact: Contact) -> _Fault | None:
        probe = self.spec.probe
        try:
            async with asyncio.timeout(self.spec.ready_timeout_s):
                if probe is None or probe.announced:
                    await self._announced.wait()
                if probe is not None:
                    if probe.announced or self.spec.log is None:
                        self._change(phase="probe")
                    await self._prove(contact, probe)
        except TimeoutError:
            return _Fault(
                f"The engine was not ready after {self.spec.ready_timeout_s:g} s "
                f"(phase {self.status.phase!r}).",
                "Raise start_timeout_s, or look at the engine's log for what it waits for.",
                final=not self._was_ever_ready,
            )
        except (NotYet, Refused) as exc:
            return _Fault(
                f"The engine announced that it is ready, but the probe of {probe and probe.path} "
                f"met {exc}.",
                _LOOK_AT_LOG,
                final=isinstance(exc, Refused) and not self._was_ever_ready,
                broken=isinstance(exc, Broken),
            )
        return None

    async def _prove(self, contact: Contact, probe: ReadyProbe) -> None:
        while True:
            try:
                return await contact.prove(probe)
            except NotYet:
                if probe.announced:
                    raise
                await asyncio.sleep(_PROBE_PAUSE_S)

    async def _forgive(self) -> None:
        await asyncio.sleep(self.spec.restart.stable_s)
        self._change(crashes=0)

    async def _attend(self, contact: Contact) -> _Fault:
        """Watches the engine, and lets it sleep in between."""
        while True:
            watching = asyncio.create_task(self._watch(contact, self.spec.hang))
            wanted = asyncio.create_task(self._sleeper.wanted())
            try:
                await asyncio.wait({watching, wanted}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    return watching.result()
            finally:
                watching.cancel()
                wanted.cancel()
                await asyncio.gather(watching, wanted, return_exceptions=True)
            try:
                await self._sleeper.run()
            except SleepFailed as exc:
                broken = isinstance(exc.__cause__, Broken)
                return _Fault(f"The engine {exc}.", _LOOK_AT_LOG, broken=broken)

    async def _watch(self, contact: Contact, policy: HangPolicy | None) -> _Fault:
        """Returns when the engine is hung; for ever is fine."""
        if policy is None:
            return await asyncio.Future()
        self._suspected.clear()
        patience_s = min(_POLL_TIMEOUT_S, policy.timeout_s, policy.suspect_timeout_s)
        clock = AttendedClock()
        detector = HangDetector(policy, 0.0)
        while True:
            await self._pause(policy, detector, clock)
            sample = await contact.sample(policy.counters, patience_s)
            gap_s = min(policy.poll_s + patience_s + _LATE_S, detector.longest_gap_s)
            idle_s = detector.judge(sample, clock.look(gap_s))
            if idle_s is not None:
                error = f"The engine made no progress for {idle_s:.0f} s and was replaced."
                return _Fault(error, "Its log may say what it was doing.")

    async def _pause(
        self, policy: HangPolicy, detector: HangDetector, clock: AttendedClock
    ) -> None:
        """Until the next look is due; a report of a timeout cuts it short."""
        closer_s = policy.suspect_timeout_s / 5 if detector.is_suspect else policy.poll_s
        await _wait_at_most(self._suspected, min(policy.poll_s, closer_s))
        if self._suspected.is_set():
            self._suspected.clear()
            detector.suspect(clock.look(detector.longest_gap_s))

    async def _end(self, process: EngineProcess, exited: asyncio.Task[int]) -> None:
        """Drain, terminate, kill."""
        if self._drains and self.status.state == "ready":
            self._change(state="draining", phase="draining")
            await self._until(exited, self.spec.drain_s, self._drained())
        if not exited.done():
            self._change(state="stopping", phase="stopping")
            process.terminate()
            await self._until(exited, self.spec.stop_grace_s)
        process.kill()

    async def _until(self, exited: asyncio.Task[int], timeout_s: float, *others: Any) -> None:
        """Until the process is gone, is to be killed, one of `others` is done, or it is time."""
        tasks = [asyncio.ensure_future(other) for other in (self._kill_wanted.wait(), *others)]
        try:
            await asyncio.wait(
                [exited, *tasks], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _drained(self) -> None:
        """Returns when no request is left, or when the engine does not tell."""
        if self.spec.hang is None:
            return
        async with Contact(self.spec.endpoint) as contact:
            while counters := await contact.counters(self.spec.hang, _POLL_TIMEOUT_S):
                if counters.running + counters.waiting == 0:
                    return
                await asyncio.sleep(_DRAIN_POLL_S)

    def _ended(self, process: EngineProcess, exit_code: int, fault: _Fault | None) -> _Fault:
        phase = self.status.phase
        self._change(exit_code=exit_code)
        if fault is not None:
            return fault
        if process.report is not None:
            report = process.report
            return _Fault(report.message, report.remedy, final=not self._was_ever_ready)
        # A process that was killed did not choose its end, whatever it had complained about.
        chose_it = exit_code >= 0 and not self._was_ever_ready
        reason = self._reader.reason() if chose_it else None
        if reason is not None:
            return _Fault(f"The engine gave up: {reason}", _LOOK_AT_LOG, final=True)
        if exit_code == 0 and not self._was_ever_ready:
            error = f"The program ended at once (exit code 0, phase {phase!r}): it serves nothing."
            return _Fault(error, "Check the command: is it an engine?", final=True)
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        return _Fault(f"The engine ended by itself ({how}) in phase {phase!r}.", _LOOK_AT_LOG)

    def _on_phase(self, phase: str) -> None:
        if self.status.state != "starting":
            return
        if phase == "ready":
            self._announced.set()
        elif phase.isprintable() and len(self.status.phase_s) < _MAX_PHASES:
            self._change(phase=phase[:_PHASE_CHARS])

    def _on_line(self, line: str) -> None:
        line = self._log.line(line)
        if self.status.state != "starting" or self.spec.log is None:
            return
        phase = self._reader.phase(line)
        if phase is not None:
            self._on_phase(phase)
        if self._reader.takes(line):
            self._change(notes=self._reader.notes)

    def _change(self, **fields: Any) -> None:
        now_s = time.monotonic()
        if self.status.state == "starting":
            fields.setdefault("elapsed_s", round(now_s - self._launched_at_s, 3))
            if fields.get("phase", self.status.phase) != self.status.phase:
                spent_s = round(now_s - self._phase_since_s, 3)
                fields["phase_s"] = {**self.status.phase_s, self.status.phase: spent_s}
                self._phase_since_s = now_s
            if self.spec.expected_s:
                phase, since_s = fields.get("phase", self.status.phase), self._phase_since_s
                fields["remaining_s"] = remaining_s(self.spec.expected_s, phase, now_s - since_s)
        self.status = replace(self.status, **fields)
        self._on_change(self.status)


def _remove_socket(spec: EngineSpec) -> None:
    """A process that was killed leaves its socket, and vLLM cannot bind to one that is there."""
    if spec.endpoint.uds is not None:
        with contextlib.suppress(OSError):
            Path(spec.endpoint.uds).unlink()


def _secrets(spec: EngineSpec) -> list[str]:
    """What must not be logged: the bearer key, and variables that are named like keys."""
    named = [
        value
        for name, value in spec.env.items()
        if len(value) >= 8 and any(word in name.upper() for word in ("KEY", "TOKEN", "SECRET"))
    ]
    return [*named, spec.endpoint.api_key or ""]
