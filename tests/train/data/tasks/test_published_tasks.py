"""The published files: the published counts, every answer readable, a scorer right or at chance."""

import json

import pytest

from benchmarks.tasks import task_figures
from train.data.tasks import TASKS, load_task

pytestmark = pytest.mark.once


@pytest.fixture
def published(real_data, monkeypatch):
    """Load a task from the published files."""
    monkeypatch.setenv("GATEKEEPER_DATA", str(real_data))
    return load_task


@pytest.mark.parametrize("name", TASKS)
def test_a_published_task_keeps_all_its_figures(name, published):
    figures = task_figures(published(name, shots=0 if name == "mmlu" else None), seed=0)
    assert len(figures) == 4
    assert [figure.line() for figure in figures if figure.is_met is not True] == []


def test_the_answers_of_gsm8k_are_the_numbers_after_the_mark(published, real_data):
    lines = (real_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    behind = [json.loads(line)["answer"].split("#### ")[1].replace(",", "") for line in lines]
    assert [example.gold for example in published("gsm8k").test] == behind


def test_the_answers_of_svamp_are_the_numbers_of_its_file(published, real_data):
    rows = json.loads((real_data / "svamp" / "SVAMP.json").read_text(encoding="utf-8"))
    golds = [float(example.gold) for example in published("svamp").test]
    assert golds == [row["Answer"] for row in rows]


def test_both_layouts_of_mmlu_give_the_same_examples(published, real_data):
    whole = {example.id: example for example in published("mmlu").test}
    part = published("mmlu", data=str(real_data / "mmlu" / "csv")).test
    assert len(part) == 378 + 198 + 311
    assert [whole[example.id] for example in part] == list(part)
