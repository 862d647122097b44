"""The mean of two exported models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.mini.average import WEIGHTS, average

from belvedere.engines.local_spec import mini_folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The shipped model with every weight twice as large."""
    folder = tmp_path / "other"
    shutil.copytree(mini_folder(), folder)
    weights = load_file(folder / WEIGHTS)
    save_file({name: one * 2 for name, one in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    return folder


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_weight_lies_between_those_of_the_two(
    tmp_path: Path, other: Path, share: float
) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    average(mini_folder(), other, share, tmp_path / "mean")
    first, mean = (load_file(folder / WEIGHTS) for folder in (mini_folder(), tmp_path / "mean"))
    assert mean.keys() == first.keys()
    for name, one in mean.items():
        assert one.dtype == first[name].dtype
        assert torch.allclose(one.float(), first[name].float() * (1 + share), rtol=0.01), name
    assert Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "mean").num_parameters() > 0


def test_folders_of_different_models_are_refused(tmp_path: Path, other: Path) -> None:
    weights = load_file(other / WEIGHTS)
    weights.popitem()
    save_file(weights, other / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match="different tensors"):
        average(mini_folder(), other, 0.5, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
