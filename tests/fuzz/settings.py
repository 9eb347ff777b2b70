"""Fuzzes the readers of settings and results: TOML of models, figures, records, configurations.

An input is edits of a valid file. `CONTRIBUTING.md` says how to run it.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable

import atheris
from edits import SCRATCH, edit_bytes, edit_json, edit_text, fuzz

_MODULES = [
    "benchmarks.cascade.samples",
    "benchmarks.documents",
    "benchmarks.figures",
    "cloud_stub.settings",
    "edge_runtime.names",
    "edge_runtime.reading",
    "edge_runtime.recording.records",
    "train.data.records",
    "train.data.tasks.texts",
    "train.models.checkpoint",
    "train.models.files",
]

with atheris.instrument_imports(include=_MODULES):
    from benchmarks import figures
    from benchmarks.cascade import samples
    from cloud_stub.settings import read_models
    from edge_runtime.recording import records
    from export.sources import foreign
    from train.data.tasks.texts import load_completions
    from train.models import checkpoint, files

_FOLDER = SCRATCH / "fuzzed-settings"
_TOML = """[[model]]
model = "a"
checkpoint = "c"
max_rows = 8
# b
[[model]]
model = 'b'
bundle = "x"
"""
_TOML_WORDS = [
    "[",
    "]]",
    '"""',
    "'''",
    "a.b.",
    "= {a=[",
    "[[model]]\n",
    "\\u0000",
    "1e999",
    "true\n",
]
_TOML_WORDS += [
    "a." * 70,
    "[" * 70,
    '"\\',
    "max_wait_ms = -1\n",
    "2020-01-01",
    "0x",
    "\ufeff",
    "\r",
]
_FIGURE = {"name": "n", "value": 2.0, "limit": 3.0, "unit": "s", "detail": "d", "at_least": False}
_FIGURES = json.dumps(
    {"figures": [{**_FIGURE, "samples": [1.0, 2.0, 3.0], "statistic": "median", "met": True}]}
)
_CONFIG = json.dumps(
    {"model_type": "vit", "num_hidden_layers": 2, "hidden_size": 8, "architectures": ["A"]}
    | {"id2label": {"0": "cat", "1": "dog"}, "sizes": [1, 2], "vision": {"layers": 3}}
)
_TRAINING = json.dumps({"settings": {"data": "cifar10", "stage2_data": "holdout", "task": "arc"}})
_RECORD = json.dumps(
    dict.fromkeys(["id", "model", "label", "small_label", "file", "time"], "a")
    | dict.fromkeys(["confidence", "small_confidence", "threshold"], 0.5)
)


def _samples() -> str:
    names = samples._COLUMNS
    row = ["v", "0", "id-1", *("1" for _ in names[3:])]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, row, ["v", "1", *row[2:]]])
    return file.getvalue()


_SAMPLES = _samples()


def _written(name: str, text: str, given: atheris.FuzzedDataProvider) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    if given.ConsumeIntInRange(0, 7) == 7:
        content = edit_bytes(content, given)
    (_FOLDER / name).write_bytes(content)
    return content


def _json(seed: str, given: atheris.FuzzedDataProvider) -> str:
    text = json.dumps(edit_json(seed, given))
    return edit_text(text, given) if given.ConsumeIntInRange(0, 7) == 7 else text


def _models(given: atheris.FuzzedDataProvider) -> str:
    text = _TOML
    for _ in range(given.ConsumeIntInRange(1, 3)):
        text = edit_text(text, given, given.PickValueInList([None, *_TOML_WORDS]))
    _written("models.toml", text, given)
    read_models(_FOLDER / "models.toml")
    return "models"


def _figures(given: atheris.FuzzedDataProvider) -> str:
    _written("figures.json", _json(_FIGURES, given), given)
    figures.table(_FOLDER / "figures.json")
    figures.check(_FOLDER / "figures.json")
    return "figures"


def _per_sample(given: atheris.FuzzedDataProvider) -> str:
    text = edit_text(_SAMPLES, given, given.PickValueInList([None, ",", "\n", '"', "1e999", "nan"]))
    content = gzip.compress(text.encode("utf-8", "surrogatepass"), 1, mtime=0)
    content = edit_bytes(content, given) if given.ConsumeIntInRange(0, 3) == 3 else content
    (_FOLDER / "samples.csv.gz").write_bytes(content)
    samples.read_samples(_FOLDER / "samples.csv.gz")
    return "samples"


def _configuration(given: atheris.FuzzedDataProvider) -> str:
    _written("config.json", _json(_CONFIG, given), given)
    files.check_config(_FOLDER)
    foreign.read_labels(_FOLDER)
    return "configuration"


def _training(given: atheris.FuzzedDataProvider) -> str:
    _written(checkpoint.FILE, _json(_TRAINING, given), given)
    return f"training of a {type(checkpoint.training_of(_FOLDER)).__name__}"


def _records(given: atheris.FuzzedDataProvider) -> str:
    lines = [_json(_RECORD, given), _RECORD, "", _RECORD[:-9]]
    kept = lines[: given.ConsumeIntInRange(1, 4)]
    _written(records.RECORDS_FILE, "\n".join(kept) + "\n", given)
    records.read_records(_FOLDER)
    return "records"


def _completions(given: atheris.FuzzedDataProvider) -> str:
    seed = json.dumps([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}] * 3)
    rows = edit_json(seed, given, ["prompt", "completion", "split", "messages"])
    text = "\n".join(map(json.dumps, rows if isinstance(rows, list) else [rows]))
    _written("texts.jsonl", text, given)
    load_completions(_FOLDER / "texts.jsonl", 0)
    return "completions"


_READERS: list[Callable[[atheris.FuzzedDataProvider], str]] = [
    _models, _models, _figures, _per_sample, _configuration, _training, _records, _completions,
]  # fmt: skip


def read(given: atheris.FuzzedDataProvider) -> str:
    """Read one file of one kind."""
    return given.PickValueInList(_READERS)(given)


_FOLDER.mkdir(exist_ok=True)

if __name__ == "__main__":
    fuzz(read, max_len=128, len_control=0)
