"""A mistake in a task's data gives one line that names the place and the remedy."""

import json

import datasets
import pytest

from train.data.tasks import load_task
from train.errors import DataError

pytestmark = pytest.mark.once
GOOD = {"prompt": "p", "completion": "c"}
ARC = {
    "question": "q",
    "choices": {"text": ["x", "y"], "label": ["A", "B"]},
    "answerKey": "A",
}
SVAMP = {"ID": "1", "Body": "b", "Question": "q", "Answer": 1}
MASKED = {"Question": "q number1 ?", "Numbers": "3.0", "Answer": "1"}
MMLU = {"question": "q", "choices": ["w", "x", "y", "z"], "answer": 0, "subject": "art"}


def refused(*says, name, **settings):
    with pytest.raises(DataError) as caught:
        load_task(name, **settings)
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def jsonl(*rows):
    return "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ["expected rows in", "test.jsonl"]),
        (b"\n \n", ["expected rows in"]),
        (jsonl(GOOD, GOOD).encode() + b'{"prompt": "\xff"}', ["UTF-8 in line 3 of", "0xff"]),
        (jsonl(GOOD, '{"prompt": \n'), ["json in line 2 of"]),
        (jsonl("[" * 100_000), ["json in line 1 of"]),
        (jsonl(GOOD, "[1]\n"), ["a json object in line 2 of", "[1]"]),
        (jsonl(GOOD, {"prompt": "p"}), ["completion in line 2 of", "['prompt']"]),
        (jsonl({"text": "p"}), ["prompt in line 1 of", "rename the columns"]),
        (jsonl({**GOOD, "prompt": ""}), ["a text as prompt in line 1 of", "empty"]),
        (jsonl({**GOOD, "prompt": " \n"}), ["a text as prompt in line 1 of"]),
        (jsonl({**GOOD, "completion": " "}), ["a text as completion in line 1 of"]),
        (jsonl({**GOOD, "prompt": 3}), ["a text as prompt in line 1 of", "got 3"]),
        (jsonl({**GOOD, "completion": None}), ["completion in line 1 of"]),
        (jsonl({**GOOD, "prompt": "\ud800"}), ["'test-0'", "'\\ud800'", "surrogate"]),
    ],
)
def test_a_damaged_file_of_completions_is_named_with_its_line(content, says, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(*says, name=str(path))


def test_a_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + jsonl(GOOD).replace("\n", "\r\n").encode())
    assert len(load_task(str(path)).test) == 1


def test_an_unknown_task_is_refused_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("arc-easy, arc-challenge, mmlu", "did you mean 'gsm8k'?", name="gsm8")
    refused("jsonl file or folder", "nothing is there", name="none/train.jsonl")


@pytest.mark.parametrize("data", ["./none", "/none/of/it", "a/b/c", "none.jsonl"])
def test_a_missing_path_sends_no_request_to_the_hub(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(f"at {data}, nothing is there: check the path", name="gsm8k", data=data)


def test_contradictory_arguments_are_refused(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(jsonl(GOOD))
    refused("shots only with mmlu, got 3 for gsm8k", name="gsm8k", shots=3)
    refused("shots of at least 0, got -1", name="mmlu", shots=-1)
    refused("limit of at least 1, got 0", name="gsm8k", limit=0)
    refused("no other data with the path", name=str(path), data="x")


def test_a_folder_without_tables_is_refused(tmp_path):
    refused("jsonl file of prompts", "or a folder with", name=str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    refused("tables named after splits", "found notes.txt", name="gsm8k", data=str(tmp_path))
    refused("a file .parquet", "notes.txt", name="gsm8k", data=str(tmp_path / "notes.txt"))
    (tmp_path / "train.csv").write_text("prompt,completion\np,c\n")
    refused("expected a .jsonl file", "train.csv", name=str(tmp_path))


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and nothing more")
    refused("a parquet table at", "test.parquet", name="gsm8k", data=str(tmp_path))


def test_too_few_prompts_to_carve_a_split_are_refused(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(jsonl(GOOD, GOOD))
    refused("at least two different prompts in train of", "got 1", name=str(path))
    (tmp_path / "validation.jsonl").write_text(jsonl(GOOD))
    refused("a split named train or test in", name=str(tmp_path / "validation.jsonl"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answerKey": "C"}, ["an answer among A, B in line 1 of", "got 'C'"]),
        ({"answerKey": 1}, ["a text as answerKey in line 1 of"]),
        ({"answerKey": None}, ["answerKey in line 1 of"]),
        ({"question": " "}, ["a text as question in line 1 of"]),
        ({"question": {"stem": "", "choices": []}}, ["choices in line 1 of"]),
        ({"choices": None}, ["choices in line 1 of"]),
        ({"choices": ["x", "y"]}, ["choices with text and label in line 1 of"]),
        ({"choices": {"text": ["x"], "label": ["A"]}}, ["2 to 5 choices in line 1 of"]),
        ({"choices": {"text": list("uvwxyz"), "label": list("ABCDEF")}}, ["2 to 5 choices"]),
        ({"choices": {"text": ["x", ""], "label": ["A", "B"]}}, ["a text in every choice"]),
        ({"choices": {"text": ["x", 2], "label": ["A", "B"]}}, ["a text in every choice"]),
        ({"choices": {"text": ["x", "y"], "label": ["A", "A"]}}, ["a label of its own"]),
        ({"choices": {"text": ["x", "y"], "label": ["A"]}}, ["a label of its own"]),
    ],
)
def test_a_damaged_choice_question_is_named(change, says, tmp_path):
    (tmp_path / "test.jsonl").write_text(jsonl({**ARC, **change}))
    refused(*says, name="arc-easy", data=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": 4}, ["an answer from 0 to 3 in line 1 of", "got 4"]),
        ({"answer": -1}, ["an answer from 0 to 3", "got -1"]),
        ({"answer": "E"}, ["an answer among A, B, C, D in line 1 of", "got 'E'"]),
        ({"choices": ["x"]}, ["2 to 4 choices in line 1 of"]),
        ({"choices": "wxyz"}, ["2 to 4 choices in line 1 of"]),
        ({"subject": "law"}, ["expected 1 questions of law in dev", "got 0", "fewer shots"]),
    ],
)
def test_a_damaged_mmlu_question_is_named(change, says, tmp_path):
    (tmp_path / "dev.jsonl").write_text(jsonl(MMLU))
    (tmp_path / "test.jsonl").write_text(jsonl({**MMLU, **change}))
    refused(*says, name="mmlu", data=str(tmp_path), shots=1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"q,w,x,y,z\n", ["four choices and a letter in line 1 of", "got 5 columns"]),
        (b'"q,w,x,y,z,A\n', ["csv in line 1 of"]),
        (b"q,w,x,y,z,A\nq,w,x,y,\xe9,A\n", ["UTF-8 in line 2 of", "0xe9"]),
        (b"q,w,x,y,z,F\n", ["an answer among A, B, C, D in line 1 of", "got 'F'"]),
    ],
)
def test_a_damaged_mmlu_csv_is_named(content, says, tmp_path):
    path = tmp_path / "test" / "art_test.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    refused(*says, "art_test.csv", name="mmlu", data=str(tmp_path), shots=0)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{**SVAMP, "Answer": None}], ["Answer in row 0 of"]),
        ([{**SVAMP, "Body": 3}], ["a text as Body in row 0 of"]),
        (
            [{**SVAMP, "Answer": "many"}],
            ["answers that can be read in svamp", "none of 1", "1 ..."],
        ),
        ([{**SVAMP, "Answer": float("nan")}], ["answers that can be read in svamp"]),
        ([{**SVAMP, "Answer": "1e999999"}], ["answers that can be read in svamp"]),
        ([MASKED], ["a number for number1 in row 0 of", "'3.0'"]),
        ([3], ["a json object in row 0 of"]),
        ([], ["expected rows in"]),
    ],
)
def test_a_damaged_word_problem_is_named(rows, says, tmp_path):
    (tmp_path / "SVAMP.json").write_text(json.dumps(rows))
    refused(*says, name="svamp", data=str(tmp_path))


@pytest.mark.parametrize(
    ("table", "categories", "says"),
    [
        ("text,category\nhi,a_b\nho,A b\n", None, ["labels that differ", "'a b'"]),
        ("text,category\nhi\n", None, ["2 columns as in the header in line 2"]),
        ("text,category\n,a\n", None, ["a text as text|query in line 2"]),
        ("text,category\nhi,a\n", '{"a": 1}', ["a list of names in"]),
        ("text,category\nhi,a\n", '["b"', ["expected json in"]),
        ("text,category\nhi,a\n", '["b"]', ["answers that can be read", "test-0"]),
        ("text,kind\nhi,a\n", None, ["label_text|category|intent|label in line 2"]),
    ],
)
def test_damaged_labels_are_named(table, categories, says, tmp_path):
    (tmp_path / "test.csv").write_text(table)
    if categories is not None:
        (tmp_path / "categories.json").write_text(categories)
    refused(*says, name="banking77", data=str(tmp_path))


def test_numbers_without_names_are_refused_as_labels(tmp_path):
    (tmp_path / "test.jsonl").write_text(jsonl({"text": "hi", "intent": 3}))
    refused("the name of a class in line 1", "got 3", name="clinc150", data=str(tmp_path))


def test_a_class_without_a_name_is_named_with_its_row(tmp_path):
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"text": datasets.Value("string"), "intent": names})
    rows = [{"text": "hi", "intent": 1}, {"text": "ho", "intent": -1}]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "test.parquet")
    refused("intent from 0 to 1 in row 1 of", "got -1", name="clinc150", data=str(tmp_path))


@pytest.mark.parametrize("content", ['{"train": []}', '{"train": [["a"]], "val": [], "test": []}'])
def test_a_damaged_clinc_file_is_named(content, tmp_path):
    (tmp_path / "data_full.json").write_text(content)
    refused("train, val and test with pairs", name="clinc150", data=str(tmp_path))
