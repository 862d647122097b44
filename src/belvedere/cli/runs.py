"""What ``act`` and ``replay`` share: an agent on a real screen, watched and recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from belvedere.cli.screens import check_screen, limited_policy, open_screen, read_secrets

if TYPE_CHECKING:
    from belvedere.agent.policy import Policy
    from belvedere.agent.runner import Agent, Outcome
    from belvedere.agent.secrets import Secrets
    from belvedere.agent.trajectory import Recorder, Step

__all__ = ["ScreenRun", "StepPrinter", "report_outcome", "screen_run"]

_EXIT_OF = {"done": 0, "dry": 0, "unusable": 6, "killed": 130}
"""Exit code of an outcome; 7 of every other one."""

_SCREEN = ("browser", "desktop", "android", "serial", "monitor", "size", "pixel_ratio", "headed")
_SAFETY = ("live", "policy", "max_steps", "yes", "secrets", "save")


@dataclass(frozen=True, slots=True)
class ScreenRun:
    """Where an agent acts, and what it may do there.

    Attributes:
        screen: as `open_screen` takes it.
        save: folder of the trajectory; ``None`` for none.
    """

    screen: Mapping[str, Any]
    policy: Policy
    secrets: Secrets
    live: bool
    save: Path | None
    as_json: bool

    def carry_out(
        self,
        deciding: Callable[[bool], AbstractContextManager[Agent]],
        start: Mapping[str, Any],
        *,
        can_reply: bool = True,
    ) -> Outcome:
        """Runs an agent until it ends or is stopped.

        Args:
            deciding: makes the agent; is told whether there is a user to ask.
            start: what the trajectory says of the run.
            can_reply: the user answers the model's questions; otherwise one ends the run.
        """
        from belvedere.agent.runner import Runner, nobody
        from belvedere.agent.stopping import StopSwitch, stop_on_signals
        from belvedere.cli.terminal import watched_terminal

        switch = StopSwitch()
        with ExitStack() as stack:
            stack.enter_context(stop_on_signals(switch))
            terminal = stack.enter_context(watched_terminal(switch))
            decider = stack.enter_context(deciding(terminal is not None))
            shown = stack.enter_context(open_screen(self.policy, switch, **self.screen))
            recording = _recorder(self.save, start, self.screen, self.secrets)
            return Runner(
                decider,
                shown,
                policy=self.policy,
                recorder=stack.enter_context(recording),
                secrets=self.secrets,
                switch=switch,
                live=self.live,
                approve=terminal.approve if terminal else nobody,
                reply=terminal.reply if terminal and can_reply else None,
                watch=StepPrinter(self.secrets, as_json=self.as_json),
            ).run()


def screen_run(options: Mapping[str, Any], *, as_json: bool) -> tuple[ScreenRun, dict[str, Any]]:
    """What `screen_options` and `safety_options` say, and the options that are left.

    Raises:
        UsageError, SettingsError, InputFileError: they contradict each other, or name nothing.
    """
    from belvedere.agent.secrets import Secrets
    from belvedere.agent.trajectory import check_unused

    rest = dict(options)
    screen = {name: rest.pop(name) for name in _SCREEN}
    safety = {name: rest.pop(name) for name in _SAFETY}
    check_screen(**screen)
    if safety["save"] is not None:
        check_unused(safety["save"])
    policy = limited_policy(
        safety["policy"],
        browser=screen["browser"],
        max_steps=safety["max_steps"],
        yes=safety["yes"],
    )
    secrets = Secrets(read_secrets(safety["secrets"], os.environ))
    return ScreenRun(screen, policy, secrets, safety["live"], safety["save"], as_json), rest


@contextmanager
def _recorder(
    folder: Path | None, start: Mapping[str, Any], screen: Mapping[str, Any], secrets: Secrets
) -> Iterator[Recorder | None]:
    """Writes the trajectory into `folder`, and its report at the end; ``None`` without a folder."""
    if folder is None:
        yield None
        return
    from belvedere.agent.report import write_report
    from belvedere.agent.trajectory import Recorder, read_trajectory

    kind = next(name for name in ("browser", "desktop", "android") if screen[name])
    place = screen["browser"] or screen["serial"] or os.environ.get("DISPLAY")
    with Recorder(folder, {**start, "environment": kind, "place": place}, secrets) as writing:
        try:
            yield writing
        finally:
            write_report(read_trajectory(folder), folder / "report.html")


class StepPrinter:
    """Prints every step when it is over: a line, or a JSON object."""

    def __init__(self, secrets: Secrets, *, as_json: bool) -> None:
        self._secrets = secrets
        self._as_json = as_json

    def __call__(self, step: Step) -> None:
        from belvedere.agent.trajectory import recorded_fields

        row = self._secrets.clean(recorded_fields(step))
        if self._as_json:
            click.echo(json.dumps({"step": row}, ensure_ascii=False))
            return
        action = "type [redacted]" if step.secret else self._secrets.redact(str(step.action))
        state = "performed" if step.performed else "not performed"
        purpose = f"{row['instruction'][:100]}: " if row["instruction"] else ""
        click.echo(f"{step.number}. {purpose}{action}  [{state}]")


def report_outcome(outcome: Outcome, *, as_json: bool) -> int:
    """Prints how a run ended; returns its exit code."""
    code = _EXIT_OF.get(outcome.reason, 7)
    if as_json:
        row = {"reason": outcome.reason, "message": outcome.message, "steps": outcome.steps}
        click.echo(json.dumps({"outcome": row}, ensure_ascii=False))
    else:
        click.echo(f"{outcome.reason}: {outcome.message}", err=code != 0)
    return code
