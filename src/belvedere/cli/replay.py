"""``belvedere replay``: look at a recorded run, or repeat it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from belvedere.cli.options import check_writable
from belvedere.cli.runs import StepPrinter, report_outcome, screen_run
from belvedere.cli.screens import safety_options, screen_options
from belvedere.errors import UsageError

if TYPE_CHECKING:
    from belvedere.agent.trajectory import Trajectory

__all__ = ["command"]


@click.command("replay")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the run as one HTML page, with every point drawn.",
)
@screen_options
@safety_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a step, then the outcome.")
def command(folder: Path, html: Path | None, *, as_json: bool, **options: Any) -> int:
    """Go through the run recorded in DIR again, without a model.

    Against its own screenshots; with --live on a real screen, where each action waits until the
    screen around its point is the recorded one.

    \b
    belvedere replay run1 --html run1.html
    belvedere replay run1 --live --browser examples/login.html
    """
    from belvedere.agent.deciders import Recorded
    from belvedere.agent.trajectory import read_trajectory

    if html is not None:
        check_writable(html)
    trajectory = read_trajectory(folder)
    if html is not None:
        from belvedere.agent.report import write_report

        write_report(trajectory, html)
    if not options["live"]:
        if options["browser"] is not None or options["desktop"] or options["android"]:
            raise UsageError("A real screen is only acted on live.", remedy="Add --live.")
        return _again(trajectory, as_json=as_json)
    run, _ = screen_run(options, as_json=as_json)
    start = {"task": trajectory.task, "agent": "replay", "live": True, "model": None}
    outcome = run.carry_out(
        lambda _: nullcontext(Recorded(trajectory, live=True)), start, can_reply=False
    )
    return report_outcome(outcome, as_json=as_json)


def _again(trajectory: Trajectory, *, as_json: bool) -> int:
    """Every recorded action on its recorded screen, through the same loop."""
    from belvedere.agent.deciders import Recorded
    from belvedere.agent.environments.recording import RecordedEnvironment
    from belvedere.agent.policy import Limits, Policy
    from belvedere.agent.runner import Runner
    from belvedere.agent.secrets import Secrets
    from belvedere.agent.stopping import StopSwitch

    switch = StopSwitch()
    count = len(trajectory.steps)
    limits = Limits(max_steps=max(1, count), max_actions_per_minute=max(1, count))
    outcome = Runner(
        Recorded(trajectory, live=False),
        RecordedEnvironment(trajectory, switch=switch),
        policy=Policy(limits=limits),
        switch=switch,
        live=True,
        approve=lambda action, why: True,  # a recording cannot be harmed
        watch=StepPrinter(Secrets(), as_json=as_json),
    ).run()
    if trajectory.end is not None and not as_json:
        click.echo(f"The run had ended: {trajectory.end['reason']}: {trajectory.end['message']}")
    elif as_json:
        click.echo(json.dumps({"recorded_end": trajectory.end}, ensure_ascii=False))
    return report_outcome(outcome, as_json=as_json)
