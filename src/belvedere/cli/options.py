"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from belvedere.errors import ImageError, InputFileError, SettingsError

if TYPE_CHECKING:
    from belvedere.images.decode import Inspected

__all__ = [
    "Server",
    "check_writable",
    "engine_options",
    "load_picture",
    "model_source",
    "sampling",
    "sampling_options",
    "server",
    "server_options",
]

F = TypeVar("F", bound=Callable[..., Any])
_URL_VARIABLE = "BELVEDERE_URL"


@dataclass(frozen=True, slots=True)
class Server:
    """A server to talk to."""

    url: str
    api_key: str | None


def engine_options(command: F) -> F:
    """Which model to load, and how; field names are those of `Settings`."""
    options = [
        click.option("--model-path", metavar="PATH", help="Model folder (default: shipped model)."),
        click.option("--max-model-len", "--max-model-length", type=int, help="Context in tokens."),
        click.option("--tensor-parallel-size", type=int, help="GPUs that share the model."),
        click.option(
            "--gpu-memory-utilization",
            type=float,
            help="Share of a GPU's memory the engine may take (0-1; no effect on the CPU).",
        ),
        click.option(
            "--quantization", help="awq, gptq, fp8 or bitsandbytes, as the folder was saved."
        ),
        click.option("--engine", help="auto, local (embedded) or vllm."),
        click.option(
            "--engine-python", metavar="PATH", help="Python of an environment that has vLLM."
        ),
        click.option(
            "--ladder/--no-ladder",
            default=None,
            help="Start vLLM again with less where it does not fit (on).",
        ),
        click.option("--load-format", help="auto, or dummy: random weights, to try a plan (vLLM)."),
        click.option(
            "--tool-call-parser", metavar="NAME", help="vLLM's, for tool calls (by model); none."
        ),
        click.option(
            "--reasoning-parser", metavar="NAME", help="vLLM's, for thoughts (by model); none."
        ),
        click.option("--device", help="auto, cpu, cuda or cuda:N."),
        click.option("--dtype", help="auto, float32, bfloat16 or float16."),
        click.option(
            "--trust-remote-code",
            is_flag=True,
            default=None,
            help="Run code that comes with the model folder.",
        ),
        click.option(
            "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML."
        ),
        click.option("--log-level", help="debug, info, warning or error; the log goes to stderr."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def server_options(command: F) -> F:
    """Use a running server, or load a model for this one command."""
    options = [
        click.option(
            "--url",
            envvar=_URL_VARIABLE,
            metavar="URL",
            help=f"Running server (or {_URL_VARIABLE}); without it a model is loaded here.",
        ),
        click.option("--api-key", envvar="BELVEDERE_API_KEY", help="Key of the server at --url."),
        click.option("--model", metavar="NAME", help="Model name on the server at --url."),
    ]
    for option in reversed(options):
        command = option(command)
    return engine_options(command)


def sampling_options(*, max_tokens: int) -> Callable[[F], F]:
    """The sampling options of ``generate`` and ``chat``, with their documented defaults."""

    def add(command: F) -> F:
        options = [
            click.option(
                "--max-tokens",
                type=click.IntRange(min=1),
                default=max_tokens,
                show_default=True,
                help="Longest answer in tokens.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0, 2),
                default=0.7,
                show_default=True,
                help="0 always takes the likeliest token.",
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(0, 1, min_open=True),
                default=0.9,
                show_default=True,
                help="Sample from the likeliest tokens that sum up to this.",
            ),
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


def sampling(max_tokens: int, temperature: float, top_p: float) -> dict[str, Any]:
    """The same three as request parameters."""
    return {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}


def model_source(positional: str | None, model_path: str | None) -> str | None:
    """``MODEL`` and ``--model-path`` mean the same; giving both is an error."""
    if positional is not None and model_path is not None:
        raise SettingsError(
            f"The model is given twice: {positional!r} and --model-path {model_path!r}.",
            remedy="Give one of them.",
        )
    return positional or model_path


@contextmanager
def server(url: str | None, api_key: str | None, **settings: Any) -> Iterator[Server]:
    """The server at `url`, or an embedded one that ends with the block.

    Args:
        settings: engine options of the command line, ``None`` where not given.
    """
    if url is not None:
        given = [name for name, value in settings.items() if value is not None]
        if given:
            flag = "--" + given[0].replace("_", "-")
            raise SettingsError(
                f"{flag} has no effect on the running server at {url!r}.",
                remedy=f"Leave out {flag}, or --url.",
            )
        yield Server(url, api_key)
        return
    from belvedere.cli.progress import StartupProgress
    from belvedere.gateway.embedded import EmbeddedServer
    from belvedere.settings import load_settings

    config: Path | None = settings.pop("config", None)
    environ = {name: value for name, value in os.environ.items() if name != "BELVEDERE_API_KEY"}
    loaded = load_settings(settings, environ=environ, config_path=config)
    with EmbeddedServer(loaded, observer=StartupProgress()) as embedded:
        yield Server(embedded.url, embedded.api_key)


def load_picture(path: str) -> Inspected:
    """The image file at `path`, checked against the limits but not decoded.

    Raises:
        InputFileError: it cannot be read, or it is not an image that is accepted.
    """
    from belvedere.images.decode import inspect
    from belvedere.images.limits import ImageLimits
    from belvedere.images.source import read_image_file

    limits = ImageLimits()
    try:
        return inspect(read_image_file(path, limits), limits)
    except ImageError as exc:
        raise InputFileError(
            f"{path!r} cannot be used as an image: {exc.message}", remedy=exc.remedy
        ) from exc


def check_writable(path: Path) -> None:
    """Refuses an output path before any work is done for it.

    Raises:
        InputFileError: its folder does not exist or the path is a folder.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise InputFileError(f"The output path {str(path)!r} {what}.", remedy="Choose another.")
