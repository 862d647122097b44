"""``belvedere sleep``: a model gives its GPU memory back and keeps its engines."""

from __future__ import annotations

import click

from belvedere.cli.admin import ask, running_server_options

__all__ = ["command"]


@click.command("sleep")
@click.argument("name", required=False)
@click.option(
    "--level",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="1 keeps the weights in host memory, 2 reads them from the disk again.",
)
@running_server_options
def command(name: str | None, *, level: int, url: str, api_key: str | None) -> None:
    """Put the model NAME, or the only one, to sleep; its running requests finish first.

    It must have been loaded with --sleep-mode. The next request for it wakes it.
    """
    body = {"level": level} if name is None else {"model": name, "level": level}
    answer = ask(url, api_key, "POST", "/api/v1/inference/sleep", body, timeout_s=None)
    click.echo(answer["message"])
