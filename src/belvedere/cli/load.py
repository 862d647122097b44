"""``belvedere load``: a model into a running server."""

from __future__ import annotations

from typing import Any

import click

from belvedere.cli.admin import absolute, ask, running_server_options

__all__ = ["command"]


@click.command("load")
@click.argument("model")
@click.option("--served-model-name", metavar="NAME", help="Name that clients use.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Further name; repeatable.")
@click.option(
    "--replace", is_flag=True, help="Take the place of the model of that name, without a gap."
)
@click.option("--no-wait", is_flag=True, help="Do not wait until the model answers.")
@click.option("--replicas", type=int, metavar="N", help="Engines that share the load.")
@click.option("--gpu-count", type=int, metavar="N", help="GPUs to use, from index 0.")
@click.option("--gpu-ids", metavar="I,J", help="GPUs to use, by index.")
@click.option("--engine", help="auto, local (embedded) or vllm.")
@click.option(
    "--ladder/--no-ladder", default=None, help="Start vLLM again with less where it does not fit."
)
@click.option("--load-format", help="auto, or dummy: random weights, to try a plan (vLLM).")
@click.option("--tool-call-parser", metavar="NAME", help="vLLM's, for tool calls; none.")
@click.option("--reasoning-parser", metavar="NAME", help="vLLM's, for thoughts; none.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--dtype", help="auto, float32, bfloat16 or float16.")
@click.option("--max-model-len", "--max-model-length", type=int, help="Context in tokens.")
@click.option("--tensor-parallel-size", type=int, help="GPUs that share the model.")
@click.option("--gpu-memory-utilization", type=float, help="Share of a GPU's memory (0-1).")
@click.option("--quantization", help="awq, gptq, fp8 or bitsandbytes, as the folder was saved.")
@click.option("--trust-remote-code", is_flag=True, default=None, help="Where the server allows it.")
@click.option("--idle-unload-s", type=float, metavar="S", help="Unload it when idle for so long.")
@click.option("--sleep-mode/--no-sleep-mode", default=None, help="Let it sleep (vLLM on a GPU).")
@click.option("--idle-sleep-s", type=float, metavar="S", help="To sleep when idle for so long.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")
@running_server_options
def command(
    model: str,
    *,
    aliases: tuple[str, ...],
    gpu_ids: str | None,
    no_wait: bool,
    as_json: bool,
    url: str,
    api_key: str | None,
    **wishes: Any,
) -> None:
    """Load MODEL, a folder on the server's machine, into a running server.

    The models that are there stay. What is not given is as the server was started.

    \b
    belvedere load ./models/new --served-model-name prod --replace
    """
    from belvedere.cli.output import print_json

    body: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
    body |= {"model_path": absolute(model), "aliases": list(aliases), "wait": not no_wait}
    if gpu_ids is not None:
        body["gpu_ids"] = _indices(gpu_ids)
    answer = ask(url, api_key, "POST", "/api/v1/inference/load", body, timeout_s=None)
    if as_json:
        print_json(answer)
    else:
        click.echo(answer["message"])


def _indices(text: str) -> list[int]:
    try:
        return [int(index) for index in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not like 0,2.", param_hint="--gpu-ids") from None
