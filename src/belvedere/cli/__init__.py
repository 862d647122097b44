"""The ``belvedere`` command: one module per subcommand, imported only when it runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from belvedere._version import __version__
from belvedere.errors import EXIT_CODES, BelvedereError

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("belvedere.cli.serve", "Serve a model over the OpenAI API."),
    "load": ("belvedere.cli.load", "Load a model into a running server."),
    "sleep": ("belvedere.cli.sleep", "Free the GPU memory of a model, for a while."),
    "wake": ("belvedere.cli.wake", "Wake a model that sleeps."),
    "unload": ("belvedere.cli.unload", "Take a model out of a running server."),
    "key": ("belvedere.cli.key", "Make an API key with a role and limits."),
    "status": ("belvedere.cli.status", "What a running server has loaded."),
    "settings": ("belvedere.cli.settings", "Every setting, its value and where it comes from."),
    "ground": ("belvedere.cli.ground", "Screenshot + instruction -> the pixel to click."),
    "act": ("belvedere.cli.act", "Carry out a task in a browser, on a desktop or a device."),
    "batch": ("belvedere.cli.batch", "Many screenshots and instructions, resumable."),
    "eval": ("belvedere.cli.eval", "Measure clicks on a grounding benchmark."),
    "replay": ("belvedere.cli.replay", "Look at a recorded run, or repeat it."),
    "generate": ("belvedere.cli.generate", "One prompt, one answer."),
    "chat": ("belvedere.cli.chat", "Talk to a model in the terminal."),
    "plan": ("belvedere.cli.plan", "Which settings make this model fit these GPUs?"),
    "gpus": ("belvedere.cli.gpus", "List the known GPUs and those of this machine."),
    "engine": ("belvedere.cli.engine", "Install, list and remove vLLM."),
    "models": ("belvedere.cli.models", "List the known models."),
}
"""Name -> (module that defines ``command``, one-line help shown without importing it)."""


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are invoked, not when help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


_EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code:>3}  {text}" for code, text in EXIT_CODES.items()
)


@click.group(cls=LazyGroup, epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="belvedere")
def cli() -> None:
    """Serve vision-language models on whatever hardware is there, and click the right pixel."""


def main(argv: list[str] | None = None) -> Any:
    """Run the command line; ends the process with one of `EXIT_CODES`.

    A deliberate error is one line on stderr; anything else is a bug and prints its traceback only
    when ``BELVEDERE_TRACEBACK=1`` is set.
    """
    try:
        result = cli.main(args=argv, prog_name="belvedere", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except BelvedereError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(exc.exit_code)
    except Exception as exc:
        if os.environ.get("BELVEDERE_TRACEBACK") == "1":
            raise
        click.echo(
            f"error: unexpected {type(exc).__name__} (a bug in Belvedere). "
            "Run again with BELVEDERE_TRACEBACK=1 for the details.",
            err=True,
        )
        sys.exit(1)
