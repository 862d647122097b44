"""Imports point one way, and the gateway stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "belvedere"
BASE = {"errors", "settings", "catalog", "_version"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "images": {"errors", "settings", "_version"},
    "catalog": {"errors", "images"},
    "plan": BASE | {"images"},
    "router": BASE | {"images", "engines"},
    "engines": BASE | {"images", "plan"},
    "gateway": BASE | {"images", "plan", "router", "engines"},
    "inference": BASE | {"images", "router", "engines", "gateway"},
    "agent": BASE | {"images"},
    "forensics": BASE | {"images"},
    "bench": BASE | {"images"},
    "testing": BASE,
}
"""Wing -> the wings it may import; ``cli`` may import all of them."""
SHARED = {"gateway": "belvedere.agent.protocols."}
"""Wing -> modules of another one that it may import besides: how models word their actions."""


def modules(wing: str) -> list[Path]:
    folder = SOURCE / wing
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{wing}.py"]


def imported_wings(module: Path, shared: str | None = None) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "belvedere":
                names |= {f"belvedere.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = (name for name in names if not (shared and name.startswith(shared)))
    return {name.split(".")[1] for name in own if name.startswith("belvedere.")}


WINGS = [wing for wing in ALLOWED if modules(wing)[0].exists()]


@pytest.mark.parametrize("wing", WINGS)
def test_imports_point_one_way(wing: str) -> None:
    for module in modules(wing):
        strangers = imported_wings(module, SHARED.get(wing)) - ALLOWED[wing] - {wing}
        assert not strangers, f"{module.relative_to(SOURCE)} imports {sorted(strangers)}"


@pytest.mark.parametrize(
    "module",
    [
        "belvedere.gateway.server",
        "belvedere.inference",
        "belvedere.agent.client",
        "belvedere.cli.plan",
    ],
)
def test_no_torch_outside_the_engines(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "print({'torch', 'transformers', 'vllm', 'torchvision'} & set(sys.modules) or 'light')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True
    )
    assert done.stdout.strip() == "light"


def test_public_names() -> None:
    import belvedere

    assert sorted(belvedere.__all__) == [
        "AsyncMAIUIClient",
        "BelvedereError",
        "InferenceService",
        "MAIUIClient",
        "__version__",
    ]
    assert all(getattr(belvedere, name) is not None for name in belvedere.__all__)
    with pytest.raises(AttributeError):
        _ = belvedere.nonsense


def test_public_names_of_the_agents() -> None:
    import belvedere.agent

    assert belvedere.agent.__all__ == sorted(belvedere.agent.__all__)
    assert all(getattr(belvedere.agent, name) is not None for name in belvedere.agent.__all__)
    with pytest.raises(AttributeError):
        _ = belvedere.agent.nonsense
