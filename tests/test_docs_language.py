"""The commands of docs/language-models.md run as they stand, on small Gemmas and a small task."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from tools.processes import ROOT
from tools.things import new_language_model, write_task

from edge_runtime.cli import main
from train.__main__ import COMMANDS

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
    return [small.get(word, word) for word in words]


def torchrun(words):
    line = [sys.executable, "-m", "torch.distributed.run", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_way_from_gemma_to_a_tuned_one_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = str(write_task(tmp_path / "things"))
    new_language_model(task, tmp_path / "gemma-2b", "gemma", seed=0)
    new_language_model(task, tmp_path / "gemma-7b", "gemma", seed=1)
    lines = [in_small(line, task) for line in commands()]
    assert {line[3] for line in lines} >= {"fit-lm", "tune-lm", "evaluate-lm", "new-lm", "tasks"}
    for program, *words in lines:
        if program == "torchrun":
            torchrun(words)
        else:
            assert words[:2] == ["-m", "train"]
            assert main("python -m train", COMMANDS, argv=words[2:]) == 0, capsys.readouterr().err
    for name in ("small", "small-by-two", "tuned", "control", "fitted"):
        assert (tmp_path / "runs" / name / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "tuned.json").is_file()
