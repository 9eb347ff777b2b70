"""The commands of docs/language-models.md run as they stand, on small Gemmas and a small task.

So does what the README shows of a cascade on prompts.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading

import pytest
import tools.completions_server
from tools.processes import ROOT
from tools.things import new_language_model, write_task

import benchmarks.__main__
import export.__main__
import train.__main__
from benchmarks.processes import running_server
from edge_runtime.bundle import read_bundle
from edge_runtime.cli import main
from edge_runtime.commands.generate import GenerateSettings
from edge_runtime.commands.run import RunSettings
from edge_runtime.contract import ROLE_DECODER

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "language-models.md"
README = ROOT / "README.md"
SHIPPED = "runs/clinc150/bundle-control-sum_logprob"
TEACHING = "## From a real Gemma checkpoint to a tuned one"
RUNNING = "## From a tuned checkpoint to a running cascade"
PROGRAMS = {
    "train": train.__main__.COMMANDS,
    "export": export.__main__.COMMANDS,
    "edge_runtime": {"generate": GenerateSettings, "run": RunSettings},
    "benchmarks": benchmarks.__main__.COMMANDS,
}
UPSTREAM = "http://localhost:8000"


def blocks(section, language):
    return fenced(PAGE.read_text(encoding="utf-8").split(section)[1].split("\n## ")[0], language)


def fenced(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def on_prompts():
    """Return the README's program that asks a cascade of language models."""
    (found,) = (p for p in fenced(README.read_text(encoding="utf-8"), "python") if SHIPPED in p)
    return found


def commands(section):
    return [
        shlex.split(line, comments=True)
        for block in blocks(section, "sh")
        for line in block.splitlines()
    ]


def in_small(words, task):
    """Return a command with the small task and few steps; folders stay as the page has them."""
    small = {"gsm8k": task, "clinc150": task, "200": "4", "16": "2", "100": "2", "0.05": "1"}
    return [small.get(word, word) for word in words]


def torchrun(words):
    line = [sys.executable, "-m", "torch.distributed.run", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def run(line):
    program, *words = line
    if program == "torchrun":
        torchrun(words)
        return
    assert words[0] == "-m"
    assert main(f"python -m {words[1]}", PROGRAMS[words[1]], argv=words[2:]) == 0, line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder in which a small Gemma was taught and tuned as the page says."""
    place = tmp_path_factory.mktemp("language")
    with contextlib.chdir(place):
        task = str(write_task(place / "things"))
        for seed, name in enumerate(("gemma-2b", "gemma-7b")):
            new_language_model(task, place / name, "gemma", seed=seed, context=96)
        for line in commands(TEACHING):
            run(in_small(line, task))
    return place


def test_the_way_from_gemma_to_a_tuned_one_runs(folder):
    taught = {line[3] for line in commands(TEACHING)}
    assert taught >= {"fit-lm", "tune-lm", "evaluate-lm", "new-lm", "tasks"}
    for name in ("small", "small-by-two", "tuned", "control", "fitted"):
        assert (folder / "runs" / name / "model.safetensors").is_file()
    assert (folder / "runs" / "tuned.json").is_file()


@contextlib.contextmanager
def upstream():
    """Yield the address of a small server of OpenAI's interface."""
    with tools.completions_server.Server(None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_way_from_a_tuned_one_to_a_running_cascade_runs(folder, monkeypatch, capsys):
    """Its servers take a free port, which then stands in the place of the page's."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    lines = [in_small(line, str(folder / "things")) for line in commands(RUNNING)]
    with contextlib.ExitStack() as servers:
        places = {UPSTREAM: servers.enter_context(upstream()), SHIPPED: "runs/bundle"}
        for line in lines:
            words = [replaced(word, places) for word in line]
            if words[-1] == "&":
                *_, port, _ = line
                flags = [*words[2:-2], "0"]
                address = servers.enter_context(running_server(flags))
                places[f"localhost:{port}"] = address
            else:
                run(words)
        for program in (*blocks(RUNNING, "python"), on_prompts()):
            exec(replaced(program, places), {})  # noqa: S102 - it is our own page
    told = capsys.readouterr().out
    assert re.search(r"^(edge|cloud) 1$", told, re.MULTILINE)
    assert "edge_fallback" not in told
    assert read_bundle("runs/bundle", ROLE_DECODER).metadata.confidence_kind == "sum_logprob"
    assert read_bundle("runs/bundle-int8", ROLE_DECODER).metadata.extra["quantization"]


def replaced(text, places):
    for old, new in places.items():
        text = text.replace(old, new)
    return text
