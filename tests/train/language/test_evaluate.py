"""`python -m train evaluate-lm`: output and files for a tiny model on a hand-made task."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tools.processes import refused_here

from edge_runtime import metrics
from edge_runtime.cli import main
from train.__main__ import COMMANDS
from train.comparison.figures import FIGURES
from train.data.tasks import load_task
from train.language.answers import answer_split, load_answers
from train.language.evaluate import figures_by_kind, render
from train.models import save_language_model


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "tiny"
    save_language_model(tiny, path)
    return path


@pytest.fixture(scope="module")
def other_checkpoint(other, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "large"
    save_language_model(other, path)
    return path


@pytest.fixture(scope="module")
def knowing(tiny, tmp_path_factory):
    """Return the folder of a task that the model gets half right."""
    folder = tmp_path_factory.mktemp("knowing")
    prompts = [f"colour {i}:" for i in range(8)]
    # The longest completion sets the length of answers: here only the context ends them.
    texts = tiny.generate(prompts, tiny.context).texts
    rows = [
        {"prompt": p, "completion": text if i % 2 else "red"}
        for i, (p, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    rows.append({"prompt": "long " * 100, "completion": "red " * 200})
    for split in ("train", "validation", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    return folder


def evaluate(*words):
    return main("python -m train", COMMANDS, argv=["evaluate-lm", *map(str, words)])


def test_the_figures_follow_from_the_answers_written_next_to_them(
    checkpoint, knowing, tmp_path, capsys
):
    out = tmp_path / "new" / "figures.json"
    assert evaluate("--checkpoint", checkpoint, "--task", knowing, "--out", out) == 0
    content = json.loads(out.read_text())
    answers = load_answers(out.with_name("figures-answers.npz"))
    assert content["n"] == 9 == len(answers.ids)
    assert 0 < content["accuracy"] == answers.right.mean() < 1
    assert list(content["figures"]) == list(metrics.SEQUENCE_KINDS)
    for kind, row in content["figures"].items():
        assert list(row) == ["acc(M_S)", "s_o", "AUROC"]
        expected = metrics.auroc(answers.confidence[kind], answers.right)
        assert row["AUROC"] == pytest.approx(expected, nan_ok=True)
    printed = capsys.readouterr().out
    assert f"{'accuracy':24}{answers.right.mean():.4f}" in printed
    assert "1: the prompt has" in printed
    assert not list(out.parent.glob(".*"))


def test_with_a_large_model_every_confidence_has_every_figure(
    checkpoint, other_checkpoint, knowing, tmp_path, capsys
):
    out = tmp_path / "figures.json"
    words = ("--large", checkpoint, "--split", "validation", "--limit", 6, "--out", out)
    assert evaluate("--checkpoint", other_checkpoint, "--task", knowing, *words) == 0
    content = json.loads(out.read_text())
    assert content["n"] == 6
    assert content["split"] == "validation"
    assert content["acc(M_L)"] > 0  # the task consists of this model's answers
    for row in content["figures"].values():
        assert list(row) == list(FIGURES)
    both = [load_answers(tmp_path / f"figures{s}-answers.npz") for s in ("", "-large")]
    assert both[0].texts != both[1].texts
    assert [content["accuracy"], content["acc(M_L)"]] == [a.right.mean() for a in both]
    printed = capsys.readouterr().out
    for name in (*FIGURES, *metrics.SEQUENCE_KINDS, "tokens/s", "unparsed"):
        assert name in printed


def test_the_best_confidence_is_marked(tiny, colour_folder):
    task = load_task(str(colour_folder))
    answers = answer_split(tiny, task, task.test)
    right = np.arange(6) % 2 == 0
    # Only the first token knows; all the other confidences are upside down.
    g = {kind: np.where(right, 0.2, 0.8) for kind in metrics.SEQUENCE_KINDS}
    g |= {kind: -v for kind, v in g.items() if kind.endswith(("logprob", "entropy"))}
    g["max_softmax"] = np.where(right, 0.9, 0.1)
    g["mean_logprob"] = g["sum_logprob"] = np.where(right, -0.9, -0.1)
    g["neg_entropy"] = np.where(right, -0.9, -0.1)
    answers = replace(answers, right=right, confidence=g)
    found = figures_by_kind(answers, None, tiny.vocabulary)
    assert (found["by"], found["best"]) == ("AUROC", "max_softmax")
    assert found["figures"]["max_softmax"]["AUROC"] == 1.0
    shown = {"n": 6, "tokens/s": 1.0, "refused": {}, "left_out": [], "split": "test", **found}
    marked = [line for line in render(shown) if "*" in line]
    assert [line.split()[0] for line in marked] == ["max_softmax", "*"]
    joint = figures_by_kind(answers, np.ones(6, bool), tiny.vocabulary)
    assert (joint["by"], joint["best"]) == ("joint accuracy at 30%", "max_softmax")


def test_no_confidence_is_best_if_every_answer_is_wrong(checkpoint, colour_folder, capsys):
    words = ("--checkpoint", checkpoint, "--task", colour_folder)
    assert evaluate(*words) == 0
    assert "No confidence is best" in capsys.readouterr().out
    assert evaluate(*words, "--large", checkpoint) == 0  # all joint accuracies are 0
    assert "No confidence is best" in capsys.readouterr().out


def test_unreadable_right_answers_and_refusals_are_listed():
    content = {
        "n": 1,
        "tokens/s": 1.0,
        "refused": {f"reason {i}": 5 - i for i in range(5)},
        "left_out": ["a", "b", "c", "d"],
        "split": "test",
        "by": "AUROC",
        "best": None,
        "figures": {"min_prob": {"AUROC": float("nan")}},
    }
    printed = "\n".join(render(content))
    assert "4, right answer not readable: a, b, c" in printed
    assert "5: reason 0" in printed
    assert "3 for 2 more reasons" in printed


def test_a_wrong_name_for_the_figures_is_refused(checkpoint, colour_folder, capfd):
    words = ["--checkpoint", checkpoint, "--task", colour_folder, "--out", "figures.txt"]
    says = "expected a file *.json as --out"
    refused_here("train", COMMANDS, ["evaluate-lm", *words], capfd, says=says, status=2)
