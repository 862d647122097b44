"""Threads and torchvision: what depends on the machine the engine runs on."""

from __future__ import annotations

import os
import subprocess
import sys

from belvedere.engines.local.cores import physical_cores
from belvedere.engines.local.torchvision_ops import define_missing_operators

IMPORT = """
from belvedere.engines.local.torchvision_ops import define_missing_operators
kept = define_missing_operators()
import torchvision.transforms
from transformers import AutoProcessor
"""


def test_cores_are_at_most_what_the_process_may_use() -> None:
    assert 1 <= physical_cores() <= len(os.sched_getaffinity(0))


def test_torchvision_imports_after_the_repair() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_sound_torchvision_is_left_alone() -> None:
    """Operators that exist, the real ones or those defined before, are never defined again."""
    define_missing_operators()
    assert define_missing_operators() is None
