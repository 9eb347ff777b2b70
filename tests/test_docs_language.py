"""The commands of docs/language-models.md run as they stand, on small Gemmas and a small task."""

import re
import shlex
import subprocess
import sys

import pytest
from tools.processes import ROOT
from tools.things import new_language_model, write_task

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "language-models.md"
WAY = "## From a real Gemma checkpoint to a tuned one"


def commands():
    way = PAGE.read_text(encoding="utf-8").split(WAY)[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", way, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def in_small(words, task):
    """Return a command with the small task and few steps; folders stay as the page has them."""
    small = {"gsm8k": task, "clinc150": task, "200": "4", "16": "2"}
    words = [small.get(word, word) for word in words]
    if words[0] == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return [sys.executable, *words[1:]]


def test_the_way_from_gemma_to_a_tuned_one_runs(tmp_path):
    task = str(write_task(tmp_path / "things"))
    new_language_model(task, tmp_path / "gemma-2b", "gemma", seed=0)
    new_language_model(task, tmp_path / "gemma-7b", "gemma", seed=1)
    lines = commands()
    assert {line[3] for line in lines} >= {"fit-lm", "tune-lm", "evaluate-lm", "new-lm", "tasks"}
    for line in lines:
        done = subprocess.run(
            in_small(line, task),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{shlex.join(line)}\n{done.stderr}"
    for name in ("small", "small-by-two", "tuned", "control", "fitted"):
        assert (tmp_path / "runs" / name / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "tuned.json").is_file()


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
