"""Each task from miniature files in the layouts it is published in; prompts are written by hand."""

import csv
import json

import datasets
import pytest

from train.data.tasks import load_task
from train.data.tasks.sources import Source


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, rows, features=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


pytestmark = pytest.mark.once
STEMS = ("What is ice?", "What is rain?", "What is fog?")
CHOICES = ("frozen water", "salt", "sand")
ICE = "Question: What is ice?\nA. frozen water\nB. salt\nC. sand\nAnswer:"


def original_arc(folder, labels="123"):
    for split in ("Train", "Dev", "Test"):
        rows = [
            {
                "id": f"{split}_{i}",
                "question": {
                    "stem": stem,
                    "choices": [
                        {"text": text, "label": label}
                        for text, label in zip(CHOICES, labels, strict=True)
                    ],
                },
                "answerKey": labels[i],
            }
            for i, stem in enumerate(STEMS)
        ]
        write_lines(folder / "ARC-Easy" / f"ARC-Easy-{split}.jsonl", rows)
        (folder / "ARC-Easy" / f"ARC-Easy-{split}.csv").write_text("questionID,question\n")
    return folder


def hub_arc(folder):
    for split in ("train", "validation", "test"):
        rows = [
            {
                "id": f"{split.replace('validation', 'dev').title()}_{i}",
                "question": stem,
                "choices": {"text": list(CHOICES), "label": ["A", "B", "C"]},
                "answerKey": "ABC"[i],
            }
            for i, stem in enumerate(STEMS)
        ]
        write_parquet(folder / "ARC-Easy" / f"{split}-00000-of-00001.parquet", rows)
    return folder


@pytest.mark.parametrize("write", [original_arc, hub_arc])
def test_arc_reads_both_layouts_alike(write, tmp_path):
    task = load_task("arc-easy", data=str(write(tmp_path)))
    assert [len(part) for part in task.splits().values()] == [3, 3, 3]
    first = task.train[0]
    assert (first.id, first.prompt, first.completion, first.gold) == ("Train_0", ICE, " A", "A")
    assert [example.gold for example in task.validation] == ["A", "B", "C"]
    assert task.answers == ("A", "B", "C", "D", "E")
    assert task.is_right(" A.", first)
    assert not task.is_right(" B", first)


def test_arc_keeps_easy_and_challenge_of_one_folder_apart(tmp_path):
    for name, stem in (("ARC-Easy", "easy?"), ("ARC-Challenge", "hard?")):
        row = {"question": stem, "choices": {"text": ["x", "y"], "label": ["A", "B"]}}
        write_lines(tmp_path / f"{name}-test.jsonl", [{**row, "answerKey": "B"}])
    for name, stem in (("arc-easy", "easy?"), ("arc-challenge", "hard?")):
        (only,) = load_task(name, data=str(tmp_path)).test
        assert (only.prompt, only.gold) == (f"Question: {stem}\nA. x\nB. y\nAnswer:", "B")


QUESTIONS = [
    ("How many sides has a square?", ["3", "4", "5", "6"], 1),
    ("What is 2, doubled?", ["1", "2", "3", "4"], 3),
    ("Which is odd?", ["2", "4", "7", "8"], 2),
    ("Which is prime?", ["2", "4", "6", "8"], 0),
]


def original_mmlu(folder):
    for split, questions in (("dev", QUESTIONS[:2]), ("test", QUESTIONS[2:])):
        path = folder / "data" / split / f"school_maths_{split}.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([q, *choices, "ABCD"[i]] for q, choices, i in questions)
    return folder


def hub_mmlu(folder, kind=None):
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "subject": datasets.Value("string"),
            "choices": datasets.Sequence(datasets.Value("string")),
            "answer": kind or datasets.ClassLabel(names=["A", "B", "C", "D"]),
        }
    )
    for split, questions in (("dev", QUESTIONS[:2]), ("test", QUESTIONS[2:])):
        rows = [
            {"question": q, "subject": "school_maths", "choices": choices, "answer": answer}
            for q, choices, answer in questions
        ]
        write_parquet(folder / "all" / f"{split}-00000-of-00001.parquet", rows, features)
    write_parquet(folder / "all" / "auxiliary_train-00000-of-00001.parquet", rows, features)
    return folder


def numbered_mmlu(folder):
    return hub_mmlu(folder, datasets.Value("int64"))


TWO_SHOTS = """\
Multiple-choice questions about school maths, each answered by one letter.

Question: How many sides has a square?
A. 3
B. 4
C. 5
D. 6
Answer: B

Question: What is 2, doubled?
A. 1
B. 2
C. 3
D. 4
Answer: D

Question: Which is odd?
A. 2
B. 4
C. 7
D. 8
Answer:"""


@pytest.mark.parametrize("write", [original_mmlu, hub_mmlu, numbered_mmlu])
def test_mmlu_opens_with_answered_questions_of_the_subject(write, tmp_path):
    task = load_task("mmlu", data=str(write(tmp_path)), shots=2)
    odd, prime = task.test
    assert (odd.prompt, odd.completion, odd.gold) == (TWO_SHOTS, " C", "C")
    assert (prime.completion, prime.gold) == (" A", "A")
    assert (odd.id, prime.id) == ("school_maths/test-0", "school_maths/test-1")
    assert task.train == task.validation == ()


def test_mmlu_without_shots_opens_with_the_question(tmp_path):
    odd = load_task("mmlu", data=str(original_mmlu(tmp_path)), shots=0).test[0]
    header, _, _, question = TWO_SHOTS.split("\n\n")
    assert odd.prompt == f"{header}\n\n{question}"


SOLUTION = "He has 3*4=<<3*4=12>>12.\nHe pays $<<12*100=1200>>1,200.\n#### 1,200"
TAUGHT = " He has 3*4=12.\nHe pays $1,200.\n#### 1,200"


def test_gsm8k_teaches_the_solution_without_the_calculator(tmp_path):
    row = {"question": " What does he pay? ", "answer": SOLUTION}
    write_lines(tmp_path / "lines" / "test.jsonl", [row])
    write_parquet(tmp_path / "hub" / "main" / "test-00000-of-00001.parquet", [row])
    for layout in ("lines", "hub"):
        task = load_task("gsm8k", data=str(tmp_path / layout))
        (only,) = task.test
        assert only.prompt == "Question: What does he pay?\nAnswer:"
        assert (only.completion, only.gold) == (TAUGHT, "1200")
        assert task.is_right("That makes $1200.00.", only)
        assert not task.is_right("1,200 and 1", only)
        assert task.max_new_tokens > len(TAUGHT)


SVAMP = {"ID": "chal-1", "Body": "Ann has 7 pens.", "Question": "How many of 9?", "Answer": 2.0}


def test_svamp_trains_on_the_masked_problems_with_their_numbers(tmp_path):
    (tmp_path / "SVAMP.json").write_text(json.dumps([SVAMP]))
    (tmp_path / "mawps-asdiv-a_dev.csv").write_text("Question,Numbers,Equation,Answer\n")
    masked = "Jo 's cat ate number1 of number0 mice , at number10 % . How many ?"
    numbers = " ".join(["56.0", "9.0", *["1"] * 8, "0.16666666666666666"])
    rows = [
        {"Question": masked, "Numbers": numbers, "Answer": "6.3500000000000005"},
        {"Question": "Is number0 less ?", "Numbers": "-2.0", "Answer": "-10.0"},
    ]
    write_parquet(tmp_path / "mawps-asdiv-a_train.parquet", rows)
    task = load_task("svamp", data=str(tmp_path))
    (tested,) = task.test
    assert tested.prompt == "Question: Ann has 7 pens. How many of 9?\nAnswer:"
    assert (tested.id, tested.completion, tested.gold) == ("chal-1", " 2", "2")
    taught = {e.prompt: e.completion for e in (*task.train, *task.validation)}
    cat = "Question: Jo's cat ate 9 of 56 mice, at 0.1667%. How many?\nAnswer:"
    assert taught == {cat: " 6.35", "Question: Is -2 less?\nAnswer:": " -10"}


def test_a_json_file_may_hold_lines(tmp_path):
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(2)]
    write_lines(tmp_path / "test.json", rows)
    assert [example.gold for example in load_task("gsm8k", data=str(tmp_path)).test] == ["0", "1"]


@pytest.mark.parametrize("variable", [None, "", "elsewhere"])
def test_the_data_folder_is_next_to_the_working_directory_or_named(variable, tmp_path, monkeypatch):
    folder = tmp_path / ("work/elsewhere" if variable else "shared/data")
    write_lines(folder / "gsm8k" / "test.jsonl", [{"question": "q", "answer": "#### 1"}])
    (tmp_path / "work").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("GATEKEEPER_DATA", raising=False)
    if variable is not None:
        monkeypatch.setenv("GATEKEEPER_DATA", variable)
    assert len(load_task("gsm8k").test) == 1


def test_svamp_reads_the_columns_of_the_hub(tmp_path):
    row = {**SVAMP, "Answer": "2.0", "question_concat": "unused"}
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [row])
    (only,) = load_task("svamp", data=str(tmp_path)).test
    assert (only.id, only.gold) == ("chal-1", "2")


INTENTS = ["exchange_rate", "oos", "w2"]
TEXTS = [("how many\neuros", 0), ("mars", 1), ("my w2", 2), ("rate of yen", 0), ("w2 form", 2)]


def hub_clinc(folder):
    features = datasets.Features(
        {"text": datasets.Value("string"), "intent": datasets.ClassLabel(names=INTENTS)}
    )
    rows = [{"text": text, "intent": intent} for text, intent in TEXTS]
    for split in ("train", "validation", "test"):
        write_parquet(folder / "plus" / f"{split}-00000-of-00001.parquet", rows, features)
    return folder


def original_clinc(folder):
    pairs = [[text, INTENTS[i]] for text, i in TEXTS if i != 1]
    content = {"train": pairs, "val": pairs, "test": pairs, "oos_test": [["mars", "oos"]]}
    (folder / "data_full.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("write", [hub_clinc, original_clinc])
def test_clinc150_leaves_out_the_out_of_scope_class(write, tmp_path):
    task = load_task("clinc150", data=str(write(tmp_path)))
    assert task.answers == ("exchange rate", "w2")
    assert [len(part) for part in task.splits().values()] == [4, 4, 4]
    first = task.train[0]
    assert (first.prompt, first.completion) == ("Text: how many euros\nIntent:", " exchange rate")
    assert task.is_right("Exchange_Rate", first)
    assert not task.is_right("oos", first)
    assert task.left_out == ()


NAMES = ["Refund_late", "card_lost?"]


def original_banking(folder):
    lines = ["text,category", '"\nmy refund, please\n",Refund_late', "where is it?,card_lost?"]
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("\n".join(lines))
    (folder / "categories.json").write_text(json.dumps(NAMES))
    return folder


def hub_banking(folder):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )
    rows = [
        {"text": text, "label": i} for i, text in enumerate(["my refund, please", "where is it?"])
    ]
    for split in ("train", "test"):
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows, features)
    return folder


@pytest.mark.parametrize("write", [original_banking, hub_banking])
def test_banking77_asks_for_the_words_of_the_category(write, tmp_path):
    task = load_task("banking77", data=str(write(tmp_path)))
    assert set(task.answers) == {"refund late", "card lost?"}
    first, second = task.test[:2]
    assert (first.prompt, first.gold) == ("Text: my refund, please\nIntent:", "refund late")
    assert (second.completion, second.gold) == (" card lost?", "card lost?")
    assert (len(task.train), len(task.validation)) == (1, 1)


CARD = """---
configs:
- config_name: plus
  data_files:
  - split: train
    path: plus/train-*
  - split: validation
    path: plus/validation-*
  - split: test
    path: plus/test-*
  - split: auxiliary_train
    path: plus/test-*
- config_name: small
  data_files:
  - split: test
    path: small/test-*
---
"""


def test_a_repository_of_the_hub_is_opened_with_its_configuration(tmp_path):
    hub_clinc(tmp_path)
    write_parquet(tmp_path / "small" / "test-00000-of-00001.parquet", [{"other": 1}])
    (tmp_path / "README.md").write_text(CARD)
    published = Source("none", str(tmp_path), "plus")
    rows = published.rows(published.hub)
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 5,
        "validation": 5,
        "test": 5,
    }
    assert rows["test"][2].values == {"text": "my w2", "intent": "w2"}
