"""What ``load``, ``unload`` and ``status`` share: one JSON request to a running server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["absolute", "ask", "running_server_options"]

F = TypeVar("F", bound=Callable[..., Any])
_DEFAULT_URL = "http://127.0.0.1:8000"


def running_server_options(command: F) -> F:
    """Where the server is, and its key."""
    url = click.option(
        "--url",
        envvar="BELVEDERE_URL",
        default=_DEFAULT_URL,
        show_default=True,
        metavar="URL",
        help="Running server (or BELVEDERE_URL).",
    )
    key = click.option("--api-key", envvar="BELVEDERE_API_KEY", help="Key of the server.")
    return url(key(command))


def ask(
    url: str,
    api_key: str | None,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    timeout_s: float | None,
) -> dict[str, Any]:
    """The JSON answer of the server at `url`.

    Args:
        timeout_s: for the answer; ``None`` waits as long as it takes.

    Raises:
        UsageError: `url` is not a URL.
        ServerUnreachable: nobody answers, or not in our protocol.
        BelvedereError: the server's refusal, as the error that it was there where we know it.
    """
    from belvedere.agent.connection import Connection

    with Connection(url, api_key=api_key, model=None, timeout_s=timeout_s) as connection:
        return connection.request(method, path, body)


def absolute(model: str) -> str:
    """A folder of this directory as the server finds it; other names as they are."""
    return os.path.abspath(model) if Path(model).is_dir() else model  # noqa: PTH100 - keeps links
