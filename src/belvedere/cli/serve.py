"""``belvedere serve``: a model behind the OpenAI API."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import Any

import click

from belvedere.cli.options import engine_options, model_source

__all__ = ["command"]


@click.command("serve")
@click.argument("model", required=False)
@engine_options
@click.option("--host", help="Address to listen on (default: 127.0.0.1).")
@click.option("--port", type=int, help="TCP port (default: 8000; 0 takes a free one).")
@click.option("--served-model-name", metavar="NAME", help="Name that clients use.")
@click.option(
    "--alias", "aliases", multiple=True, metavar="ALIAS=NAME", help="Further name; repeatable."
)
@click.option("--no-model", is_flag=True, default=None, help="Start empty; see 'belvedere load'.")
@click.option("--replicas", type=int, metavar="N", help="Engines that share the load.")
@click.option("--gpu-count", type=int, metavar="N", help="GPUs to use, from index 0.")
@click.option("--gpu-ids", metavar="I,J", help="GPUs to use, by index.")
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="URL",
    help="Serve the models of this OpenAI-compatible server too; repeatable.",
)
@click.option("--upstream-api-key", help="Key of the upstreams (better: the environment).")
@click.option("--fleet", metavar="NAME", help="Name under which engines are found after a crash.")
@click.option(
    "--linger-s", type=float, metavar="S", help="Engines wait so long for a restarted server (30)."
)
@click.option("--idle-unload-s", type=float, metavar="S", help="Unload models idle for so long.")
@click.option(
    "--sleep-mode",
    is_flag=True,
    default=None,
    help="Models can sleep: belvedere sleep and wake (vLLM on a GPU).",
)
@click.option(
    "--idle-sleep-s", type=float, metavar="S", help="Put models to sleep that are idle for so long."
)
@click.option(
    "--strict-actions",
    is_flag=True,
    default=None,
    help="Agents' requests can only be answered by an action (vLLM).",
)
@click.option("--api-key", help="Key that clients must send (better: API_KEY).")
@click.option(
    "--insecure", is_flag=True, default=None, help="Listen beyond loopback without a key."
)
@click.option(
    "--allow-remote-images/--no-allow-remote-images",
    default=None,
    help="Fetch http(s) images of public hosts.",
)
@click.option("--max-image-size", type=int, help="Longest image side in pixels.")
@click.option("--max-images-per-request", type=int, help="Images in one request.")
def command(model: str | None, model_path: str | None, config: Path | None, **flags: Any) -> None:
    """Serve MODEL (a local Hugging Face folder) over the OpenAI API.

    Without MODEL the small grounding model that ships with Belvedere is served, or with --upstream
    only what the upstreams have.
    """
    from belvedere.gateway.access_log import write_access_log
    from belvedere.gateway.auth import check_bind
    from belvedere.gateway.event_loop import run
    from belvedere.gateway.server import bind, serve
    from belvedere.settings import load_settings

    flags["model_path"] = model_source(model, model_path)
    given = {name: None if value == () else value for name, value in flags.items()}
    settings = load_settings(given, environ=os.environ, config_path=config)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    check_bind(settings)
    with bind(settings.host, settings.port) as sock, write_access_log(settings.access_log):
        run(serve(settings, sock, observer=_observer(settings, sock.getsockname()[1])))


def _observer(settings: Any, port: int) -> Any:
    from belvedere.cli.progress import StartupProgress
    from belvedere.router.replica import Model

    class ServeProgress(StartupProgress):
        """Start-up phases, then how to use the server."""

        def on_ready(self, model: Model) -> None:
            click.echo(_welcome(settings, port, model.name))

        def on_serving(self) -> None:
            click.echo(_welcome(settings, port, None))

    return ServeProgress()


def _welcome(settings: Any, port: int, model: str | None) -> str:
    host, needs_key = settings.host, settings.api_key is not None
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - shown, not bound
    shown = everywhere.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}"
    body = '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}'
    key = " -H 'Authorization: Bearer '$API_KEY" if needs_key else ""
    if model is None and not settings.upstreams:
        lines = (
            f"Serving no model yet at {url}/v1",
            f"Load: belvedere load MODEL --url {url}",
            "Stop: Ctrl-C",
        )
        return "\n".join(lines)
    return "\n".join(
        (
            f"Serving {model or 'the models of the upstreams'} at {url}/v1",
            f"Docs: {url}/docs",
            f"Try:  curl {url}/v1/chat/completions{key} "
            f"-H 'Content-Type: application/json' -d {shlex.quote(body)}",
            f'      belvedere ground screenshot.png "Click Login" --url {url}',
            "Stop: Ctrl-C",
        )
    )
