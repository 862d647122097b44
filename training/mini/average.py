"""The model between two exported ones of the same run: the mean of their weights.

Two ends of a run that learned different things often have most of both in their mean (Izmailov et
al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization").
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def average(first: Path, second: Path, share: float, target: Path) -> None:
    """Writes a copy of the folder `second` whose weights are `share` of it, the rest of `first`.

    Raises:
        ValueError: the folders hold different tensors, or `target` is there already.
    """
    if target.exists():
        raise ValueError(f"{target} is there already.")
    mine, theirs = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    if {name: one.shape for name, one in mine.items()} != {n: o.shape for n, o in theirs.items()}:
        raise ValueError(f"{first} and {second} hold different tensors.")
    with safe_open(second / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    mean = {name: torch.lerp(mine[name].float(), theirs[name].float(), share) for name in mine}
    shutil.copytree(second, target, ignore=shutil.ignore_patterns(WEIGHTS))
    kept = {name: one.to(theirs[name].dtype).contiguous() for name, one in mean.items()}
    save_file(kept, target / WEIGHTS, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    parser.add_argument("--export", type=Path, required=True)
    options = parser.parse_args()
    average(options.first, options.second, options.share, options.export)


if __name__ == "__main__":
    main()
