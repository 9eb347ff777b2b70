"""onnxruntime-genai as a peer: where its environment is, and how its graphs are built.

It has an environment of its own. Its builder reads checkpoints with transformers 5 and so runs in
the environment of that, from the file that onnxruntime-genai brings.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError

_ROOT: Final = Path(__file__).parents[3]
PYTHON: Final = _ROOT / ".venv-genai" / "bin" / "python"
_BUILDING_PYTHON: Final = _ROOT / ".venv-transformers5" / "bin" / "python"
_BUILDER: Final = "lib/python*/site-packages/onnxruntime_genai/models/builder.py"
MISSING: Final = "onnxruntime-genai is not installed: make .venv-genai/.installed"


def is_installed() -> bool:
    """Tell whether both environments are there."""
    return PYTHON.exists() and _BUILDING_PYTHON.exists()


def build(checkpoint: Path, folder: Path) -> None:
    """Write a model of onnxruntime-genai in float32 for the CPU.

    Args:
        checkpoint: Folder of a language model that the builder knows.
        folder: Where to.

    Raises:
        BenchmarkError: The builder is missing, or failed.
    """
    builder = next((PYTHON.parents[1]).glob(_BUILDER), None)
    if builder is None:
        raise BenchmarkError(f"expected {_BUILDER} in {PYTHON.parents[1]}, got none: {MISSING}")
    line = [_BUILDING_PYTHON, builder, "-i", checkpoint, "-o", folder, "-p", "fp32", "-e", "cpu"]
    # Without it the output layer works on every position of the prompt.
    options = ["-c", folder / "cache", "--extra_options", "prune_lm_head=true"]
    done = subprocess.run(
        list(map(str, [*line, *options])),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise BenchmarkError(f"expected a graph of onnxruntime-genai's builder, it failed: {last}")
