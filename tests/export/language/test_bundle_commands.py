"""inspect, verify and retune of a language model's bundle."""

import json
import os
from functools import partial

import numpy as np
import pytest
from tools import processes
from tools.adding_decoder import seal

from edge_runtime.bundle import read_bundle
from edge_runtime.cli import main
from edge_runtime.contract import ROLE_DECODER
from edge_runtime.language import Decoder
from export.__main__ import COMMANDS
from train.data.tasks import load_task

pytestmark = pytest.mark.slow

refused = partial(processes.refused_here, "export", COMMANDS)


def output(capsys, *line):
    """Run a command and return its lines."""
    assert main("python -m export", COMMANDS, argv=[str(word) for word in line]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def metadata(folder):
    return read_bundle(folder, ROLE_DECODER).metadata


def deferred(folder, task, split="validation"):
    prompts = [example.prompt for example in load_task(task).splits()[split]]
    return sum(answer.defer for answer in Decoder.open(folder, threads=1).generate(prompts))


def test_inspect_describes_a_language_model(lm_bundle, capsys):
    lines = output(capsys, "inspect", "--bundle", lm_bundle)
    gate = metadata(lm_bundle)
    assert lines[0].startswith("text-generation, gate contract version 1")
    size = sum(file.stat().st_size for file in lm_bundle.iterdir() if file.name != "bundle.json")
    assert {
        "input: text str ['batch']",
        f"threshold: {gate.threshold:.9g}; an answer below it (or NaN) is deferred",
        f"size: {size / 1e6:.2f} MB in 2 files",
        "tokenizer: tokenizer.json, 300 tokens",
        "answers: at most 2 tokens, 48 together with the prompt; ended by '<eos>' (2)",
        # Two tensors of one head of eight numbers of four bytes.
        "cache: 1 layers, 1 heads of 8 numbers: 64 bytes per token",
        "it was chosen to defer at most 25.0% of the inputs",
    } <= set(lines)
    assert any(line.startswith("verified: the float graph gave PyTorch's tokens") for line in lines)
    whole = json.loads("".join(output(capsys, "inspect", "--bundle", lm_bundle, "--json")))
    assert whole["task"] == "text-generation"


def test_inspect_names_the_quantization(exported, capsys):
    lines = output(capsys, "inspect", "--bundle", exported("int8-dynamic"))
    assert "quantized: int8-dynamic; the gate is float32" in lines
    assert any(line.startswith("int8-dynamic: ") and "accuracy" in line for line in lines)


@pytest.mark.parametrize("quantize", ["none", "int8-dynamic"])
def test_retune_defers_another_share_without_a_new_export(quantize, copy, things, capsys):
    folder = copy(quantize)
    before = metadata(folder)
    goal = ("--calibrate", things, "--target-deferral", 0.5)
    assert any("threshold" in line for line in output(capsys, "retune", "--bundle", folder, *goal))
    after = metadata(folder)
    assert after.calibration["target"] == 0.5
    assert after.threshold > before.threshold
    assert deferred(folder, things) / 24 == pytest.approx(after.calibration["achieved"])
    assert (after.extra, after.source_sha256) == (before.extra, before.source_sha256)


def test_retune_gives_a_guarantee_on_prompts_that_taught_nothing(copy, things, capsys):
    folder = copy()
    goal = ("--calibrate", things, "--split", "test", "--max-risk", 0.75, "--delta", 0.2)
    output(capsys, "retune", "--bundle", folder, *goal)
    record = metadata(folder).calibration
    assert (record["goal"], record["delta"], record["split"]) == ("max_risk", 0.2, "test")
    # What it answers of the prompts, and gets wrong, by the answers themselves.
    task = load_task(things)
    answers = Decoder.open(folder, threads=1).generate([e.prompt for e in task.test])
    pairs = [(a, e) for a, e in zip(answers, task.test, strict=True) if not a.defer]
    assert record["answered"] <= len(pairs) <= record["answered"] + record["ordered_by"]
    wrong = sum(not task.is_right(a.text, e) for a, e in pairs)
    assert record["wrong"] <= wrong <= record["wrong"] + record["ordered_by"]
    assert any("guarantee: " in line for line in output(capsys, "inspect", "--bundle", folder))


def test_retune_by_hand_forgets_the_calibration(copy, capsys):
    folder = copy()
    output(capsys, "retune", "--bundle", folder, "--threshold", -0.25)
    gate = metadata(folder)
    assert (gate.threshold, gate.calibration) == (-0.25, None)
    (answer,) = Decoder.open(folder, threads=1).generate(["the sky:"])
    assert answer.defer == (not answer.confidence >= np.float32(-0.25))


def test_a_refused_retune_leaves_the_bundle(copy, things, capfd):
    folder = copy()
    before = processes.contents(folder)
    line = ["retune", "--bundle", folder, "--calibrate"]
    refused(
        [*line, things, "--max-risk", "0.01"], capfd, says="of at most 0.01 with probability 0.95"
    )
    refused([*line, things, "--target-accuracy", "1.0", "--limit", "0"], capfd, status=2, says="1")
    refused([*line, "digits", "--target-deferral", "0.5"], capfd, says="expected a task")
    training = [*line, things, "--split", "train", "--max-risk", "0.5"]
    refused(training, capfd, status=2, says="validation or test with a guarantee")
    assert processes.contents(folder) == before


def test_verify_finds_the_answers_of_the_checkpoint(lm_bundle, half_taught, things, capsys):
    line = ("verify", "--bundle", lm_bundle, "--against", half_taught)
    lines = output(capsys, *line, "--task", things, "--split", "validation")
    figures = {line[:27].strip(): line[27:] for line in lines}
    assert figures["prompts"] == "24, 0 of them refused"
    assert figures["deferral ratio"] == f"{metadata(lm_bundle).calibration['achieved']:.4f}"
    assert (figures["answers of other tokens"], figures["decision flips"]) == ("0.0000", "0.0000")
    # And without a task, on prompts that were made up.
    assert any("decision flips             0.0000" in line for line in output(capsys, *line))


def test_verify_distinguishes_other_weights_from_a_damaged_bundle(
    lm_bundle, half_taught, things, copy, capfd
):
    other = half_taught.parent / "half"
    line = ["verify", "--task", things, "--bundle"]
    says = "the bundle was made from other weights"
    refused([*line, lm_bundle, "--against", other], capfd, says=says)
    folder = copy()
    os.truncate(folder / "tokenizer.json", 100)
    refused([*line, folder], capfd, says="was altered or truncated")
    for command in ("inspect", "verify --against x"):
        seal(folder, metadata_of(folder))
        first, *rest = command.split()
        says = "expected a tokenizer in"
        refused([first, "--bundle", folder, *rest], capfd, says=says)


def metadata_of(folder):
    """Return the metadata of a bundle whose hashes do not fit."""
    from edge_runtime.contract import GateMetadata

    record = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    return GateMetadata.from_json(json.dumps(record["metadata"]))


def test_a_quantized_bundle_is_compared_by_decision(exported, half_taught, things, capsys):
    line = ("verify", "--bundle", exported("int8-dynamic"), "--against", half_taught)
    lines = output(capsys, *line, "--task", things, "--max-flips", 1)
    assert any(line.startswith("decision flips") for line in lines)


def test_flags_of_the_other_kind_of_bundle_are_refused(lm_bundle, bundle, things, capfd):
    line = ["verify", "--bundle"]
    refused([*line, lm_bundle, "--data", "digits"], capfd, says="--task TASK for the lang")
    refused([*line, bundle, "--task", things], capfd, says="--data DATA without --task")
    refused([*line, bundle, "--against", "x"], capfd, says="--data DATA without --task")
    refused([*line, bundle], capfd, status=2, says="--task TASK or --against CHECKPOINT")
    retune = ["retune", "--calibrate", "digits", "--target-deferral", "0.1", "--data", "x"]
    refused([*retune, "--bundle", bundle], capfd, says="no --data and no --limit")
