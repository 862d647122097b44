"""What ``batch`` and ``eval`` share: many screenshots, an answer a row, resumed where it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from belvedere.cli.options import server

if TYPE_CHECKING:
    from belvedere.agent.batch import Done, Row, Task
    from belvedere.agent.client import MAIUIClient

__all__ = [
    "concurrency_option",
    "exit_code",
    "grounded_row",
    "images_option",
    "output_option",
    "run_rows",
]

F = TypeVar("F", bound=Callable[..., Any])
_SOME_FAILED, _INTERRUPTED = 8, 130


def images_option(*, beside: str) -> Callable[[F], F]:
    """The folder of the images; by default that of the argument `beside`."""
    return click.option(
        "--images",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help=f"Where the images are (default: beside {beside}).",
    )


def output_option(*, required: bool, help: str) -> Callable[[F], F]:
    """The file of the rows."""
    return click.option(
        "-o",
        "--output",
        required=required,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=help,
    )


def concurrency_option(*, default: int, help: str) -> Callable[[F], F]:
    """How many rows are asked about at the same time."""
    return click.option(
        "--concurrency", type=click.IntRange(1, 256), default=default, show_default=True, help=help
    )


def run_rows(
    tasks: Sequence[Task],
    job: Callable[[Task, MAIUIClient], Row],
    output: Path,
    *,
    what: str,
    concurrency: int,
    retry_failed: bool = False,
    url: str | None,
    api_key: str | None,
    model: str | None,
    **engine: Any,
) -> Done:
    """Writes what `job` says of every task into `output`; goes on from what that holds already.

    Args:
        what: the rows' name beside the bar.
        url, api_key, model, engine: as `server_options` give them.

    Raises:
        InputFileError: `output` holds other rows; nothing was started.
    """
    from belvedere.agent.batch import finished_rows, run_batch
    from belvedere.agent.client import MAIUIClient
    from belvedere.agent.stopping import StopSwitch, stop_on_signals

    finished_rows(output, tasks)
    switch = StopSwitch()
    with (
        server(url, api_key, **engine) as target,
        MAIUIClient(target.url, api_key=target.api_key, model=model) as client,
        stop_on_signals(switch),
        _progress(len(tasks), what) as watch,
    ):
        return run_batch(
            tasks,
            lambda task: job(task, client),
            output,
            concurrency=concurrency,
            switch=switch,
            retry_failed=retry_failed,
            watch=watch,
            resumed=watch.resumed,
        )


def exit_code(done: Done, failed: int) -> int:
    """Of a run in which so many rows failed."""
    return _INTERRUPTED if done.stopped else _SOME_FAILED if failed else 0


def grounded_row(client: MAIUIClient, image: Path, instruction: str) -> Row:
    """What is known about the click for one instruction, as JSON values."""
    found = client.ground(image, instruction)
    row: dict[str, Any] = {
        "x": found.action.x,
        "y": found.action.y,
        "action": str(found.action),
        "screen_size": list(found.screen_size),
        "latency_ms": round(found.latency_ms, 1),
        "answer": found.answer,
    }
    if found.confidence is not None:
        row["confidence"] = round(found.confidence, 4)
    return row


class _Progress:
    """Counts rows on a bar."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        self._advance = advance

    def resumed(self, rows: int) -> None:
        """So many were done before."""
        self._advance(rows)

    def __call__(self, row: Mapping[str, Any]) -> None:
        self._advance(1)


@contextmanager
def _progress(total: int, what: str) -> Iterator[_Progress]:
    """A bar on stderr, where that is a terminal; otherwise nothing is shown."""
    if not sys.stderr.isatty():
        yield _Progress(lambda count: None)
        return
    with click.progressbar(
        length=total, label=what, file=sys.stderr, show_pos=True, show_eta=True
    ) as bar:
        yield _Progress(bar.update)
