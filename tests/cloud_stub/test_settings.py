"""Mistakes in the file of models are told in one line, before a model is opened."""

from __future__ import annotations

import pytest

from cloud_stub.settings import ServeSettings, read_models
from edge_runtime.errors import SettingError

ONE = '[[model]]\nonnx = "a.onnx"\n'
KEYS = "expected keys of checkpoint, bundle, onnx, model, "


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "expected a TOML file of models in {path}: 'utf-8' codec"),
        ("[[model]\n", "expected a TOML file of models in {path}: Expected"),
        (ONE + 'onnx = "b.onnx"', "Cannot overwrite a value"),
        ("", "expected [[model]] tables and nothing else in {path}, got none"),
        ("# nothing yet\n", "got none"),
        ("model = []", "expected [[model]] tables"),
        ('model = "large"', "expected [[model]] tables"),
        ('[model]\nonnx = "a.onnx"', "expected [[model]] tables"),
        ('model = ["a.onnx"]', "expected [[model]] tables"),
        ("port = 8001\n" + ONE, "nothing else in {path}, got 'port', 'model'"),
        ("[[models]]\nonnx = 'a.onnx'", "nothing else in {path}, got 'models'"),
        (
            "[[model]]",
            "{path}, model 1: expected one of --checkpoint, --bundle, ",
        ),
        (ONE + "[[model]]\nmodel = 'b'", "{path}, model 2: expected one of"),
        (ONE + "bundle = 'b'", "{path}, model 1: expected one of"),
        (ONE + "prot = 1", KEYS),
        (ONE + "max-batch = 1", KEYS),
        (ONE + "port = 8002", KEYS),
        (ONE + "models = 'other.toml'", KEYS),
        (ONE + f"{'k' * 9999} = 1", KEYS),
        ("[[model]]\nonnx = 1", "expected onnx in {path}, model 1 as a path, got 1"),
        ("[[model]]\nonnx = ''", "expected onnx in {path}, model 1 as a path, got ''"),
        ("[[model]]\nonnx = 'a\\u0000'".replace("'", '"'), "as a path, got 'a\\x00'"),
        ("[[model]]\nonnx = ['a.onnx']", "as a path, got ['a.onnx']"),
        (ONE + "max_batch = '8'", "expected max_batch in {path}, model 1 as int, got '8'"),
        (ONE + "max_batch = 8.0", "as int, got 8.0"),
        (ONE + "max_batch = true", "as int, got True"),
        (ONE + f"max_batch = '{'8' * 9999}'", "as int, got '888"),
        (ONE + "stall = '60'", "expected stall in {path}, model 1 as float, got '60'"),
        (ONE + "stall = false", "as float, got False"),
        (ONE + "model = 7", "as str, got 7"),
        (ONE + "model = ''", "expected --model to be non-empty"),
        (ONE + 'model = "a\\nb"', "expected --model without control characters, got 'a\\nb'"),
        (ONE + "threads = -1", "expected --threads from 0 to 4096, got -1"),
        (ONE + "threads = 1000000000000", "expected --threads from 0 to 4096, got 1000000000000"),
        (ONE + "max_batch = 0", "expected a batch and a queue from 1 to 2147483647, got 0 and 128"),
        (ONE + "max_queue = 0", "expected a batch and a queue"),
        (ONE + "max_batch = 2147483648", "got 2147483648 and 128"),
        (ONE + "max_delay_ms = -1", "expected a delay of 0 s or more"),
        (ONE + "max_delay_ms = nan", "expected a delay of 0 s or more"),
        (ONE + "max_delay_ms = 60000", "under the stall limit, got 60 and 60"),
        (ONE + "stall = nan", "under the stall limit, got 0 and nan"),
        (ONE + "cloud = '127.0.0.1:1'", "expected a --bundle with --cloud"),
        ("[[model]]\nbundle='b'\ncloud_deadline = 0", "expected --cloud-deadline as seconds over"),
        ("[[model]]\nbundle='b'\ncloud_deadline = inf", "expected --cloud-deadline as seconds"),
        (ONE + ONE, "expected models of different names in {path}, got 'large' again"),
    ],
)
def test_mistake_in_the_file_of_models_is_one_line(tmp_path, content, why):
    path = tmp_path / "models.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingError) as caught:
        read_models(path)
    message = str(caught.value)
    assert why.replace("{path}", str(path)) in message
    assert message.isprintable()  # so it has no line break
    assert str(path) in message
    assert len(message) < 700 + len(str(path))


def test_keys_are_the_flags_and_paths_start_at_the_file(tmp_path):
    path = tmp_path / "models.toml"
    path.write_text(
        '[[model]]\nbundle = "small"\ncloud = "127.0.0.1:1"\ncloud_deadline = 2\n'
        '[[model]]\nmodel = "other"\nonnx = "/there/a.onnx"\nmax_batch = 8\nmax_delay_ms = 2.5\n'
    )
    first, second = ServeSettings(models=path).each_model()
    assert (first.model, first.bundle) == ("large", tmp_path / "small")
    assert (first.cloud, first.cloud_deadline) == ("127.0.0.1:1", 2)
    assert (second.model, str(second.onnx)) == ("other", "/there/a.onnx")
    assert (second.limits().max_batch, second.limits().max_delay_s) == (8, 0.0025)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"onnx": "a.onnx"}, "got --onnx"),
        ({"model": "other"}, "got --model"),
        ({"threads": 2, "max_batch": 8}, "got --threads, --max-batch"),
        ({"cloud": "127.0.0.1:1"}, "got --cloud"),
    ],
)
def test_one_models_flags_beside_the_file_are_not_ignored_in_silence(tmp_path, flags, why):
    with pytest.raises(SettingError, match=f"expected --models or one model's own flags.*{why}"):
        ServeSettings(models=tmp_path / "models.toml", **flags)
