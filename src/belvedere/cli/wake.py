"""``belvedere wake``: a model that sleeps answers again."""

from __future__ import annotations

import click

from belvedere.cli.admin import ask, running_server_options

__all__ = ["command"]


@click.command("wake")
@click.argument("name", required=False)
@running_server_options
def command(name: str | None, *, url: str, api_key: str | None) -> None:
    """Wake the model NAME, or the only one, before a request does."""
    body = {} if name is None else {"model": name}
    answer = ask(url, api_key, "POST", "/api/v1/inference/wake", body, timeout_s=None)
    click.echo(answer["message"])
