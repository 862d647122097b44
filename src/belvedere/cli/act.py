"""``belvedere act``: carry out a task on a screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from belvedere.cli.options import Server, server, server_options
from belvedere.cli.runs import report_outcome, screen_run
from belvedere.cli.screens import safety_options, screen_options, viewport
from belvedere.errors import UsageError

if TYPE_CHECKING:
    from belvedere.agent.runner import Agent

__all__ = ["command"]


@click.command("act")
@click.argument("task", nargs=-1, required=True)
@click.option(
    "--agent",
    type=click.Choice(["grounding", "navigation"]),
    help="grounding: one click for each TASK. navigation: the model decides every step of the one "
    "TASK (default with --url or --model-path; the shipped model only grounds).",
)
@screen_options
@safety_options
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1024),
    help="Area to which screenshots are shrunk before they are sent (default: the server decides; "
    "for the shipped model the viewport's area in CSS pixels).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a step, then the outcome.")
@server_options
def command(
    task: tuple[str, ...],
    agent: str | None,
    max_pixels: int | None,
    as_json: bool,
    url: str | None,
    api_key: str | None,
    model: str | None,
    **options: Any,
) -> int:
    """Carry out TASK on a screen. Nothing is performed without --live.

    Esc, Ctrl-C, or on a desktop the pointer in a corner of the screen, stop it at once.

    \b
    belvedere act "Click Login" --browser examples/login.html
    belvedere act "Log in as ada" --url http://localhost:8000 --browser https://example.com --live
    """
    from belvedere.agent.client import check_instruction

    run, engine = screen_run(options, as_json=as_json)
    for one in task:
        check_instruction(one)
    shipped = url is None and engine["model_path"] is None
    kind = agent or ("grounding" if shipped else "navigation")
    if kind == "navigation" and len(task) != 1:
        raise UsageError("A navigation agent has one TASK.", remedy="Put it in quotes.")
    if shipped and run.screen["browser"] is not None and max_pixels is None:
        width, height = viewport(run.screen["size"])
        max_pixels = width * height
    start = {"task": " / ".join(task), "agent": kind, "live": run.live, "model": model}
    with server(url, api_key, **engine) as target:
        outcome = run.carry_out(
            lambda ask: _decider(kind, task, target, model, max_pixels, ask=ask), start
        )
    return report_outcome(outcome, as_json=as_json)


@contextmanager
def _decider(
    kind: str,
    task: tuple[str, ...],
    target: Server,
    model: str | None,
    max_pixels: int | None,
    *,
    ask: bool,
) -> Iterator[Agent]:
    if kind == "navigation":
        from belvedere.agent.deciders import Navigator
        from belvedere.agent.navigation import NavigationAgent, NavigationOptions

        options = NavigationOptions(ask_user=ask, max_pixels=max_pixels)
        with NavigationAgent(
            target.url, task[0], api_key=target.api_key, model=model, options=options
        ) as navigation:
            yield Navigator(navigation)
        return
    from belvedere.agent.client import MAIUIClient
    from belvedere.agent.deciders import InstructionList
    from belvedere.agent.grounding import GroundingOptions

    fitted = GroundingOptions(max_pixels=max_pixels)
    with MAIUIClient(target.url, api_key=target.api_key, model=model, options=fitted) as client:
        yield InstructionList(client, task)
