"""``belvedere eval``: how often a model clicks right."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from belvedere.cli.options import check_writable, server_options
from belvedere.cli.output import print_json, print_table
from belvedere.cli.rows import (
    concurrency_option,
    exit_code,
    grounded_row,
    images_option,
    output_option,
    run_rows,
)
from belvedere.errors import InputFileError, UsageError

if TYPE_CHECKING:
    from belvedere.agent.batch import Row, Task
    from belvedere.agent.client import MAIUIClient
    from belvedere.agent.datasets import Sample
    from belvedere.agent.evaluation import Evaluation

__all__ = ["command"]

_FORMATS = ("screenspot", "screenspot-pro", "osworld-g", "belvedere")


@click.command("eval")
@click.argument("annotations", metavar="ANNOTATIONS", type=click.Path(path_type=Path))
@images_option(beside="ANNOTATIONS")
@click.option(
    "--format", "given", type=click.Choice(_FORMATS), help="Told from the rows when not given."
)
@click.option("--limit", type=click.IntRange(min=1), help="So many samples, evenly spread.")
@output_option(
    required=False,
    help="Keep every answer, one JSON object a line; an interrupted evaluation goes on from it.",
)
@click.option(
    "--misses",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a picture of every miss: the target in green, the model's point in red.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fit the confidence to the hits, and write that as JSON.",
)
@concurrency_option(
    default=1, help="Samples at the same time; more than one makes each latency longer."
)
@click.option("--json", "as_json", is_flag=True, help="The scores as JSON on stdout.")
@server_options
def command(
    annotations: Path,
    images: Path | None,
    given: Any,
    limit: int | None,
    output: Path | None,
    misses: Path | None,
    calibration: Path | None,
    concurrency: int,
    as_json: bool,
    **model: Any,
) -> int:
    """Measure clicks on a grounding benchmark: ScreenSpot, ScreenSpot-Pro or OSWorld-G.

    ANNOTATIONS is the benchmark's JSON file, or a folder of them. The rates are those of points
    inside the target, with Wilson's 95 % interval.

    \b
    belvedere eval ScreenSpot-Pro/annotations --images ScreenSpot-Pro/images --misses misses
    """
    from belvedere.agent.batch import finished_rows, task_of
    from belvedere.agent.datasets import read_samples
    from belvedere.agent.evaluation import summarise

    samples = _spread(read_samples(annotations, given), limit)
    folder = images or (annotations if annotations.is_dir() else annotations.parent)
    for path in (output, calibration):
        if path is not None:
            check_writable(path)
    tasks = [
        task_of(number, {"image": sample.image, "instruction": sample.instruction})
        for number, sample in enumerate(samples)
    ]
    with tempfile.TemporaryDirectory(prefix="belvedere-eval-") as scratch:
        results = output or Path(scratch, "results.jsonl")
        done = run_rows(
            tasks,
            lambda task, client: _answer(task, samples[task.number], folder, client),
            results,
            what="samples",
            concurrency=concurrency,
            **model,
        )
        rows = finished_rows(results, tasks)
    evaluation = summarise(samples, rows)
    if misses is not None:
        _draw_misses(samples, rows, folder, misses)
    if calibration is not None:
        _calibrate(rows, calibration)
    _print(evaluation, as_json=as_json)
    return exit_code(done, evaluation.failed)


def _spread(samples: list[Sample], limit: int | None) -> list[Sample]:
    if limit is None or limit >= len(samples):
        return samples
    return [samples[number * len(samples) // limit] for number in range(limit)]


def _answer(task: Task, sample: Sample, folder: Path, client: MAIUIClient) -> Row:
    from belvedere.agent.evaluation import judge

    row = grounded_row(client, folder / sample.image, sample.instruction)
    width, height = row["screen_size"]
    return {**row, "hit": judge(sample, (row["x"], row["y"]), (width, height))}


def _draw_misses(samples: list[Sample], rows: dict[int, Row], folder: Path, misses: Path) -> None:
    from belvedere.agent.evaluation import draw_miss
    from belvedere.images.source import read_image_file

    try:
        misses.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputFileError(f"{str(misses)!r} cannot be written ({exc.strerror}).") from exc
    for number, row in sorted(rows.items()):
        unusable = row.get("error", {}).get("type") == "ActionError"
        if row.get("hit") or ("error" in row and not unusable):
            continue
        point = None if unusable else (row["x"], row["y"])
        image = read_image_file(folder / samples[number].image)
        draw_miss(image, samples[number], point, misses / f"{number:05d}.png")


def _calibrate(rows: dict[int, Row], path: Path) -> None:
    from belvedere.agent.confidence import Calibration

    known = [row for row in rows.values() if "confidence" in row and "hit" in row]
    if not known:
        raise UsageError(
            "No answer came with a confidence.", remedy="The engine must give log-probabilities."
        )
    fitted = Calibration.fit([row["confidence"] for row in known], [row["hit"] for row in known])
    path.write_text(json.dumps({"knots": fitted.knots}) + "\n", encoding="utf-8")


def _print(evaluation: Evaluation, *, as_json: bool) -> None:
    if as_json:
        print_json(evaluation.as_dict())
        return
    print_table(
        ("group", "value", "hits", "rate", "95 % interval", "unusable"),
        (
            (
                score.group,
                score.value,
                f"{score.hits}/{score.total}",
                f"{score.rate:.1%}",
                f"[{score.low:.1%}, {score.high:.1%}]",
                score.unusable or "",
            )
            for score in evaluation.scores
        ),
        right=("hits", "rate", "unusable"),
    )
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in evaluation.latency_ms.items())
    if times:
        click.echo(f"latency: {times}")
    if evaluation.failed:
        click.echo(f"{evaluation.failed} samples failed and are in no rate.")
