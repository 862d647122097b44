"""What an engine is to the rest of the house: how to start it, where it answers, how it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = [
    "Endpoint",
    "EngineKind",
    "EngineSpec",
    "EngineState",
    "EngineStatus",
    "HangPolicy",
    "LogRules",
    "ReadyProbe",
    "RestartPolicy",
    "SleepPolicy",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
EngineKind = Literal["chat", "tools"]
EngineState = Literal[
    "starting", "ready", "asleep", "draining", "stopping", "stopped", "backoff", "failed"
]
"""``backoff``: it crashed and will be started again; ``failed`` and ``stopped`` are final.
``asleep`` is also an engine that is just falling asleep or waking; its phase says which."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine answers the OpenAI protocol.

    Attributes:
        base_url: scheme and authority, e.g. ``http://127.0.0.1:8100``; with `uds` only the
            ``Host`` header is made of it.
        uds: path of the Unix socket, or ``None`` for TCP.
        api_key: bearer key of this launch.
    """

    base_url: str
    uds: str | None = None
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What happens when the process ends by itself.

    The wait before the n-th restart in a row is drawn evenly from the upper half of
    ``min(cap_s, base_s * 2**(n-1))`` (equal jitter), so that engines that died together do not
    come back together. Some ends are final at once, because another start would end the same way:
    a program that cannot be started, exit code 0 or the engine's own ``@error`` before it was ever
    ready, a first start that takes longer than ``ready_timeout_s``, a ready probe refused with 4xx.

    Attributes:
        max_crashes: crashes in a row after which the engine is ``failed``; 0 never restarts.
        stable_s: an engine that was ready for so long starts counting anew.
    """

    max_crashes: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0
    stable_s: float = 120.0


@dataclass(frozen=True, slots=True)
class ReadyProbe:
    """A request that must be answered with HTTP 200 before the engine counts as ready.

    Attributes:
        path: on the engine's endpoint.
        body: JSON; a generation of one token proves more than an open port.
        announced: wait for the engine's own ``@phase ready`` line before asking; otherwise ask
            until there is an answer.
    """

    path: str
    body: Mapping[str, Any]
    announced: bool = True


@dataclass(frozen=True, slots=True)
class HangPolicy:
    """How to notice that an engine works on requests without getting anywhere.

    Attributes:
        counters: where the engine publishes its progress: JSON of the embedded engine
            (``/stats``) or Prometheus text of vLLM (``/metrics``).
        timeout_s: without progress, or without any answer, while requests run.
        suspect_timeout_s: the same once a gateway has reported a timeout of a request.
        poll_s: seconds between two looks.
    """

    counters: Literal["stats", "metrics"] = "stats"
    timeout_s: float = 120.0
    suspect_timeout_s: float = 5.0
    poll_s: float = 2.0


@dataclass(frozen=True, slots=True)
class SleepPolicy:
    """That an engine can give its GPU memory back for a while (vLLM's sleep mode), and how fast.

    Attributes:
        timeout_s: to fall asleep, and to wake with the weights from host memory (level 1).
        reload_timeout_s: to wake with the weights from the disk (level 2).
    """

    timeout_s: float = 120.0
    reload_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class LogRules:
    """What an engine's own lines mean while it starts, where it writes no ``@phase`` or ``@error``.

    All are regular expressions that are searched for in a line.

    Attributes:
        phases: expression and the phase that begins with such a line, in the order of a start;
            a start only goes forward in this list.
        notes: lines that are kept in `EngineStatus.notes`.
        final: noted lines after which, if the engine was never ready, another start would end the
            same way; the match is the error. The first expression with a match counts.
    """

    phases: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    final: tuple[str, ...] = ()

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> LogRules:
        phases = tuple((str(expression), str(phase)) for expression, phase in data["phases"])
        rules = cls(phases, tuple(data["notes"]), tuple(data["final"]))
        for expression in (*(first for first, _ in phases), *rules.notes, *rules.final):
            re.compile(expression)
        return rules


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine process to start.

    Attributes:
        name: unique in the supervisor, e.g. ``mini-0``: up to 64 letters, digits, ``.``, ``_`` and
            ``-``, because files are named after it.
        argv: program and arguments; no shell is involved.
        env: variables added to the supervisor's own environment (the bearer key among them).
        endpoint: where the process will answer.
        kind: ``chat`` engines answer chat completions, ``tools`` are forensic workers.
        labels: what a gateway needs to know to serve it (model folder, served name, devices);
            the supervisor keeps them for the next gateway and does not read them.
        probe: asked once per start; without it the announcement alone counts.
        hang: without it the engine's progress is not watched.
        sleep: without it the engine cannot sleep.
        log: the meaning of its lines, for an engine that does not tell its phases itself.
        expected_s: seconds that each phase took in an earlier start, in their order.
        ready_timeout_s: from spawn to ready.
        stop_grace_s: from SIGTERM to SIGKILL.
        drain_s: how long running requests may go on after a stop was asked for.
    """

    name: str
    argv: tuple[str, ...]
    endpoint: Endpoint
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    kind: EngineKind = "chat"
    labels: Mapping[str, str] = field(default_factory=dict)
    probe: ReadyProbe | None = None
    hang: HangPolicy | None = None
    sleep: SleepPolicy | None = None
    log: LogRules | None = None
    expected_s: Mapping[str, float] = field(default_factory=dict)
    restart: RestartPolicy = RestartPolicy()
    ready_timeout_s: float = 600.0
    stop_grace_s: float = 8.0
    drain_s: float = 30.0

    def to_wire(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "argv": list(self.argv),
            "env": dict(self.env),
            "labels": dict(self.labels),
            "expected_s": dict(self.expected_s),
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> EngineSpec:
        """The spec that `to_wire` wrote.

        Raises:
            ValueError, TypeError, KeyError: it is not one; nothing of it is used then.
        """
        values = dict(data)
        values["argv"] = tuple(values["argv"])
        _check(values)
        values["endpoint"] = Endpoint(**values["endpoint"])
        values["restart"] = RestartPolicy(**values.get("restart", {}))
        values["probe"] = ReadyProbe(**values["probe"]) if values.get("probe") else None
        values["hang"] = HangPolicy(**values["hang"]) if values.get("hang") else None
        values["sleep"] = SleepPolicy(**values["sleep"]) if values.get("sleep") else None
        values["log"] = LogRules.from_wire(values["log"]) if values.get("log") else None
        return cls(**values)


def _check(values: Mapping[str, Any]) -> None:
    """Refuses what would otherwise fail later, out of reach of the client that sent it."""
    argv, times = values["argv"], ("ready_timeout_s", "stop_grace_s", "drain_s")
    if not isinstance(values["name"], str) or not _NAME.fullmatch(values["name"]):
        raise ValueError(f"the name {values['name']!r} is not usable")
    if not argv or not all(isinstance(part, str) and "\0" not in part for part in argv):
        raise ValueError("argv is not a list of strings")
    for mapping in (values.get("env", {}), values.get("labels", {})):
        if not all(isinstance(part, str) for pair in mapping.items() for part in pair):
            raise ValueError("env and labels map strings to strings")
    for name in times:
        if isinstance(values.get(name, 0.0), bool) or not isinstance(
            values.get(name, 0.0), int | float
        ):
            raise ValueError(f"{name} is not a number of seconds")


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot of one engine.

    Attributes:
        phase: the engine's own word for its start-up step (``importing``, ``weights``, ...), or
            ``spawning`` before it and ``probe`` while its first answer is awaited; of a sleep
            ``falling asleep``, ``asleep`` and ``waking``.
        launch: counts the starts of its process, from 1; 0 before the first.
        crashes: how often it ended by itself or was replaced, in a row.
        pid: of the running process, which leads a process group of its own; ``None`` without one.
        elapsed_s: seconds since this launch until now, or until it became ready.
        phase_s: seconds that each finished phase of this launch took.
        remaining_s: until it is ready, by an earlier start; ``None`` where there was none.
        notes: lines of this launch that its `LogRules` keep, oldest first.
        retry_in_s: in state ``backoff``, the wait before the next launch.
        error, remedy: why it failed last, and what to do; ``None`` once it is ready again.
        exit_code: of the last process, negative for a signal; ``None`` while it runs.
        log_tail: the last lines it wrote, newest last; only filled when it failed.
        sleep_level: of its present sleep: 1 keeps the weights in host memory, 2 drops them.
    """

    name: str
    state: EngineState
    phase: str
    launch: int = 0
    crashes: int = 0
    pid: int | None = None
    elapsed_s: float = 0.0
    phase_s: Mapping[str, float] = field(default_factory=dict)
    remaining_s: float | None = None
    notes: tuple[str, ...] = ()
    retry_in_s: float | None = None
    error: str | None = None
    remedy: str | None = None
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    sleep_level: int | None = None

    def to_wire(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "log_tail": list(self.log_tail),
            "notes": list(self.notes),
            "phase_s": dict(self.phase_s),
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> EngineStatus:
        lists = {name: tuple(data.get(name, ())) for name in ("log_tail", "notes")}
        return cls(**{**data, **lists})
