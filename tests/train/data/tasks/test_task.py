"""Properties of every task: splits, ids, limits, the fingerprint, and plain completions."""

import json
import pickle
from collections import Counter

import pytest

from edge_runtime.errors import SettingError
from train.data.tasks import TASKS, Example, Task, load_task
from train.data.tasks.parsers import parse_text
from train.tasks import TasksSettings

pytestmark = pytest.mark.once


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def questions(count):
    return [{"prompt": f"What is {i}?", "completion": f"number {i}"} for i in range(count)]


def task_of(*examples):
    return Task("t", examples, (), (), parse_text, 9)


ONE, OTHER = Example("1", "p", " c", "c"), Example("2", "q", " d", "d")


def test_a_single_file_is_split_81_to_9_to_10(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", questions(100))
    task = load_task(path)
    assert [len(part) for part in task.splits().values()] == [81, 9, 10]
    ids = [example.id for part in task.splits().values() for example in part]
    assert sorted(ids) == sorted(f"train-{i}" for i in range(100))
    assert load_task(path).fingerprint() == task.fingerprint()
    assert load_task(path, seed=1).test != task.test


def test_a_folder_keeps_its_splits(tmp_path):
    for i, split in enumerate(("train", "validation", "test"), 1):
        write_lines(tmp_path / f"{split}.jsonl", questions(i))
    task = load_task(str(tmp_path))
    assert [len(part) for part in task.splits().values()] == [1, 2, 3]
    assert task.answers == ()


def test_a_file_named_after_test_is_only_a_test_split(tmp_path):
    task = load_task(write_lines(tmp_path / "test.jsonl", questions(3)))
    assert [len(part) for part in task.splits().values()] == [0, 0, 3]


@pytest.mark.parametrize(
    ("prompt", "completion", "gives"),
    [
        ("Say it:", "yes", ("Say it:", " yes", "yes")),
        ("Say it: \t", " yes", ("Say it:", " yes", "yes")),
        ("Say it:\n", "yes  now\n", ("Say it:\n", "yes  now", "yes now")),
        ("Say it:", "\nyes", ("Say it:", "\nyes", "yes")),
        ("  Say it:", "Grüße", ("  Say it:", " Grüße", "Grüße")),
    ],
)
def test_the_space_before_the_answer_belongs_to_the_completion(prompt, completion, gives, tmp_path):
    path = write_lines(tmp_path / "test.jsonl", [{"prompt": prompt, "completion": completion}])
    (only,) = load_task(path).test
    assert (only.prompt, only.completion, only.gold) == gives


def test_ids_of_the_data_are_kept_and_made_unique(tmp_path):
    rows = [{"id": "a", **row} for row in questions(3)] + [{"id": "a#2", **questions(1)[0]}]
    task = load_task(write_lines(tmp_path / "test.jsonl", rows))
    assert [example.id for example in task.test] == ["a", "a#2", "a#3", "a#2#2"]


def test_the_same_prompt_is_never_trained_and_tested_on(tmp_path):
    rows = questions(30) * 3
    task = load_task(write_lines(tmp_path / "mine.jsonl", rows))
    prompts = [{example.prompt for example in part} for part in task.splits().values()]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 30
    assert [len(part) for part in task.splits().values()] == [72, 9, 9]


def test_a_task_survives_the_way_to_another_process(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,category\nhi,a\nho,a\n")
    task = load_task("banking77", data=str(tmp_path))
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - our own bytes


def test_a_tenth_of_each_answer_is_carved_out_of_a_closed_set(tmp_path):
    lines = [f"text {i},{'ab'[i % 2]}" for i in range(40)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,category", *lines]))
    task = load_task("banking77", data=str(tmp_path))
    assert Counter(example.gold for example in task.validation) == {"a": 2, "b": 2}


def test_the_longest_completion_fits_into_the_new_tokens_byte_by_byte(tmp_path):
    rows = [{"prompt": "p", "completion": "ü" * 50}, {"prompt": "q", "completion": "x"}]
    task = load_task(write_lines(tmp_path / "test.jsonl", rows), limit=1)
    assert task.max_new_tokens > 1 + 100


def test_open_answers_do_not_influence_the_carved_splits(tmp_path):
    rows = [{"prompt": f"{i}?", "completion": f"{i // 2}"} for i in range(20)]
    task = load_task(write_lines(tmp_path / "mine.jsonl", rows))
    assert [len(part) for part in task.splits().values()] == [16, 2, 2]


def test_a_limit_keeps_evenly_spaced_examples_of_each_split(tmp_path):
    path = write_lines(tmp_path / "test.jsonl", questions(10))
    task = load_task(path, limit=4)
    assert [example.id for example in task.test] == ["test-0", "test-2", "test-5", "test-7"]
    assert load_task(path, limit=11).test == load_task(path).test


def test_no_limit_keeps_the_task():
    task = task_of(ONE)
    assert task.limited(None) is task


@pytest.mark.parametrize(
    "other",
    [
        task_of(ONE),
        task_of(OTHER, ONE),
        task_of(ONE, Example("2", "q ", "d", "d")),
        task_of(ONE, Example("3", "q", " d", "d")),
        Task("t", (ONE,), (OTHER,), (), parse_text, 9),
    ],
)
def test_other_examples_have_another_fingerprint(other):
    assert other.fingerprint() != task_of(ONE, OTHER).fingerprint()


def test_an_unreadable_answer_is_left_out_with_a_note(tmp_path, capsys):
    answers = ["#### 1", "no mark, 12", "#### some", "#### 4"]
    rows = [{"question": "How many?", "answer": answer} for answer in answers]
    write_lines(tmp_path / "test.jsonl", rows)
    task = load_task("gsm8k", data=str(tmp_path))
    assert [example.gold for example in task.test] == ["1", "4"]
    assert task.left_out == ("test-1", "test-2")
    assert capsys.readouterr().err == (
        "note: 2 rows of gsm8k are left out: their answers cannot be read (test-1, test-2)\n"
    )


def test_the_command_shows_the_prompt_and_the_sizes(tmp_path, capsys):
    path = write_lines(tmp_path / "test.jsonl", questions(2))
    TasksSettings(show=path).run()
    assert capsys.readouterr().out == (
        f"{path}: 0 train, 0 validation, 2 test; open answers, up to 17 new tokens\n"
        "\n"
        "prompt of test-0 (test):\n"
        "What is 0?\n"
        "\n"
        "completion, with its leading space:\n"
        " number 0\n"
        "\n"
        "right answer as it is compared: number 0\n"
    )


def test_the_command_lists_the_source_of_each_task(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GATEKEEPER_DATA", str(tmp_path))
    (tmp_path / "arc").mkdir()
    TasksSettings().run()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert tuple(lines) == TASKS
    assert lines["arc-easy"] == str(tmp_path / "arc")
    assert lines["gsm8k"] == "openai/gsm8k (Hugging Face)"


def test_a_flag_without_its_task_is_refused():
    with pytest.raises(SettingError, match="expected --show with the task"):
        TasksSettings(shots=3)
