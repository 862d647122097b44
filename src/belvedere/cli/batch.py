"""``belvedere batch``: many screenshots and instructions at once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from belvedere.cli.options import check_writable, server_options
from belvedere.cli.output import print_json
from belvedere.cli.rows import (
    concurrency_option,
    exit_code,
    grounded_row,
    images_option,
    output_option,
    run_rows,
)

if TYPE_CHECKING:
    from belvedere.agent.batch import Done, Row, Task
    from belvedere.agent.client import MAIUIClient

__all__ = ["command"]


@click.command("batch")
@click.argument("tasks", metavar="TASKS", type=click.Path(path_type=Path))
@output_option(
    required=True, help="Results, one JSON object a line; what it holds already is not done again."
)
@images_option(beside="TASKS")
@concurrency_option(default=4, help="Rows at the same time.")
@click.option("--retry-failed", is_flag=True, help="Do rows that failed before again.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
@server_options
def command(
    tasks: Path,
    output: Path,
    images: Path | None,
    concurrency: int,
    retry_failed: bool,
    as_json: bool,
    **model: Any,
) -> int:
    """Find the click for every row of TASKS, a JSONL file.

    A row is {"image": "a.png", "instruction": "Click Save", "id": anything}. Run the same command
    again after an interruption, however it came about: it goes on where it was.

    \b
    belvedere batch tasks.jsonl -o results.jsonl --url http://localhost:8000
    """
    from belvedere.agent.batch import read_tasks

    check_writable(output)
    rows = read_tasks(tasks, required=("image", "instruction"))
    folder = images or tasks.parent
    done = run_rows(
        rows,
        lambda task, client: _row(task, folder, client),
        output,
        what="rows",
        concurrency=concurrency,
        retry_failed=retry_failed,
        **model,
    )
    _report(done, output, as_json=as_json)
    return exit_code(done, done.failed)


def _row(task: Task, folder: Path, client: MAIUIClient) -> Row:
    path = folder / task.values["image"]
    head = {name: task.values[name] for name in ("image", "instruction")}
    return {**head, **grounded_row(client, path, task.values["instruction"])}


def _report(done: Done, output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(done), "seconds": round(done.seconds, 2), "output": str(output)})
        return
    before = f", {done.resumed} of them before" if done.resumed else ""
    failed = f"; {done.failed} failed" if done.failed else ""
    click.echo(f"{done.finished} of {done.rows} rows{before}{failed} in {output}")
