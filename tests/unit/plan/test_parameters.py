"""Parameter counts are exact, part by part."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from belvedere.catalog import load_catalog, resolve_model
from belvedere.errors import ModelFolderError
from belvedere.plan.architecture import read_architecture
from belvedere.plan.parameters import count_parameters

# total, vision, embeddings, head, experts, active
KNOWN = {
    "qwen3-vl-2b": (2127532032, 406957056, 311164928, 0, 0, 2127532032),
    "qwen3-vl-4b": (4437815808, 415347712, 388956160, 0, 0, 4437815808),
    "qwen3-vl-8b": (8767123696, 576388336, 622329856, 622329856, 0, 8767123696),
    "qwen3-vl-32b": (33357390064, 595266800, 777912320, 777912320, 0, 33357390064),
    "qwen3-vl-30b-a3b": (
        31070754032,
        538631408,
        311164928,
        311164928,
        28991029248,
        3891664112,
    ),
    "qwen3-vl-235b-a22b": (
        235670022896,
        576388336,
        622329856,
        622329856,
        227096395776,
        22767151856,
    ),
    "qwen2-vl-2b": (2208985600, 665271296, 233373696, 0, 0, 2208985600),
    "qwen2-vl-7b": (8291375616, 675759104, 544997376, 544997376, 0, 8291375616),
    "qwen2.5-vl-3b": (3754622976, 668684288, 311164928, 0, 0, 3754622976),
    "qwen2.5-vl-7b": (8292166656, 676550144, 544997376, 544997376, 0, 8292166656),
    "qwen2.5-vl-32b": (33452718336, 688841984, 778567680, 778567680, 0, 33452718336),
    "qwen2.5-vl-72b": (73410777344, 704573696, 1245708288, 1245708288, 0, 73410777344),
    "qwen2.5-32b": (32763876352, 0, 778567680, 778567680, 0, 32763876352),
    "tinyllama-1.1b": (1100048384, 0, 65536000, 65536000, 0, 1100048384),
    "mai-ui-2b": (2127532032, 406957056, 311164928, 0, 0, 2127532032),
    "mai-ui-8b": (8767123696, 576388336, 622329856, 622329856, 0, 8767123696),
    "mai-ui-32b": (33357390064, 595266800, 777912320, 777912320, 0, 33357390064),
    "mai-ui-235b-a22b": (
        235670022896,
        576388336,
        622329856,
        622329856,
        227096395776,
        22767151856,
    ),
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_counts_of_the_catalogue(name: str) -> None:
    architecture = read_architecture(resolve_model(name).config)
    parts = count_parameters(architecture)
    assert (
        parts.total,
        parts.vision,
        parts.embeddings,
        parts.head,
        parts.experts,
        parts.active(architecture.text),
    ) == KNOWN[name]


def test_every_catalogue_model_is_in_the_table() -> None:
    assert {model.name for model in load_catalog()} - set(KNOWN) <= {"mini"}


def test_the_shipped_model_matches_its_own_file() -> None:
    mini = resolve_model("mini")
    total = count_parameters(read_architecture(mini.config)).total
    assert mini.checkpoint_bytes == 2 * total


VARIANTS: list[dict[str, Any]] = [
    {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 500,
        "tie_word_embeddings": True,
    },
    {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": 64,
        "intermediate_size": 160,
        "moe_intermediate_size": 48,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 5,
        "mlp_only_layers": [1],
        "decoder_sparse_step": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 300,
        "tie_word_embeddings": False,
    },
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 100,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 320,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": 64,
        "intermediate_size": 100,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "vocab_size": 320,
        "tie_word_embeddings": False,
    },
]
BUILT = (
    "qwen2-vl-2b",
    "qwen2.5-vl-3b",
    "qwen3-vl-2b",
    "qwen3-vl-30b-a3b",
    "tinyllama-1.1b",
    "mini",
)


@pytest.fixture(scope="module")
def counted() -> list[dict[str, int]]:
    """Counts by transformers, in a process of its own."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed (pip install 'belvedere[local]')")
    configs = [dict(resolve_model(name).config) for name in BUILT] + VARIANTS
    script = Path(__file__).with_name("hf_parameters.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(configs),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: list[dict[str, int]] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("index", range(len(BUILT) + len(VARIANTS)))
def test_counts_match_transformers(counted: list[dict[str, int]], index: int) -> None:
    config = (
        resolve_model(BUILT[index]).config if index < len(BUILT) else VARIANTS[index - len(BUILT)]
    )
    parts = count_parameters(read_architecture(config))
    got = {"total": parts.total, "vision": parts.vision, "experts": parts.experts}
    assert got == counted[index]


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_missing_number_is_named(key: str) -> None:
    config = {k: v for k, v in VARIANTS[0].items() if k != key}
    with pytest.raises(ModelFolderError, match=f"has no {key}"):
        read_architecture(config)


@pytest.mark.parametrize("value", ["96", -3, 2.5, True])
def test_a_number_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ModelFolderError, match="hidden_size"):
        read_architecture({**VARIANTS[0], "hidden_size": value})
