"""Programs of `torch.export`: which ones are accepted, their outputs, and attacks by code."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tools.decisions import pixels_of
from tools.foreign_models import Logits, write_program

from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from train.models import open_checkpoint


class Named(torch.nn.Module):
    """A module with a dict of outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return {"coarse": logits[:, :3], "embedding": x.mean((2, 3)), "scores": logits}


class Squashed(Named):
    def forward(self, x):
        return self.model(x).softmax(-1)


class Two(Named):
    def forward(self, x, y):
        return self.model(x) + self.model(y)


@pytest.mark.slow
def test_several_candidates_are_named(module, export, refused, small_checkpoint, digits, tmp_path):
    path = write_program(Named(module), tmp_path / "named.pt2")
    refused(path, r"got several \(coarse, embedding, scores\): name it with --logits")
    refused(path, "got 'score': name one of its outputs coarse, embedding, scores", logits="score")
    gated = EdgeModel.open(export(path, logits="scores"))(digits)
    expected = open_checkpoint(small_checkpoint).predict(digits).argmax(-1)
    np.testing.assert_array_equal(gated.prediction, expected)


@pytest.mark.slow
def test_half_precision(export, large_checkpoint, digits, tmp_path):
    # Its layers are many enough for a decision or two to hang on the rounding.
    half = Logits(open_checkpoint(large_checkpoint)).half()
    path = write_program(half, tmp_path / "half.pt2", dtype=torch.float16)
    bundle = export(path, processor=large_checkpoint)
    graph = read_bundle(bundle).verification["graph"]
    assert 1e-5 < graph["confidence_difference_max"] < 2**-8
    pixels = torch.from_numpy(pixels_of(large_checkpoint, digits)).half()
    with torch.inference_mode():
        confidence = half(pixels).double().softmax(-1).amax(-1)
    np.testing.assert_allclose(EdgeModel.open(bundle)(digits).confidence, confidence, atol=2**-8)


class Inside(Named):
    """bfloat16 between inputs and outputs of float32."""

    def forward(self, x):
        return self.model(x.bfloat16()).float()


@pytest.mark.slow
def test_bfloat16_is_refused(small_checkpoint, refused, tmp_path):
    bf16 = Logits(open_checkpoint(small_checkpoint)).bfloat16()
    path = write_program(bf16, tmp_path / "bf16.pt2", dtype=torch.bfloat16)
    refused(path, "x is BFLOAT16: convert the model to float32")
    path = write_program(Inside(bf16), tmp_path / "inside.pt2")
    refused(path, r"ONNX Runtime .* takes .*bfloat16.*: export it with .* types")


class Bytes(Named):
    """Takes uint8 [batch, height, width, 3]."""

    def forward(self, x):
        return self.model((x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)


@pytest.mark.slow
def test_bytes_with_channels_last(module, export, without_data, digits, tmp_path):
    own = Bytes(module)
    path = write_program(own, tmp_path / "bytes.pt2", shape=(8, 8, 3), dtype=torch.uint8)
    gated = EdgeModel.open(export(path, **without_data))(digits)
    with torch.inference_mode():
        probabilities = own(torch.from_numpy(digits)).softmax(-1)
    np.testing.assert_array_equal(gated.prediction, probabilities.argmax(-1))
    np.testing.assert_allclose(gated.confidence, probabilities.amax(-1), atol=1e-5)


class Map(Named):
    def forward(self, x):
        return self.model(x)[:, :, None, None]


@pytest.mark.slow
def test_logits_of_one_pixel_are_taken(module, export, small_checkpoint, digits, tmp_path):
    path = write_program(Map(module), tmp_path / "map.pt2")
    gated = EdgeModel.open(export(path))(digits)
    expected = open_checkpoint(small_checkpoint).predict(digits).argmax(-1)
    np.testing.assert_array_equal(gated.prediction, expected)


class Classes(Named):
    def forward(self, x):
        return {"label": self.model(x).argmax(-1), "rows": self.model(x).sum(-1)}


@pytest.mark.slow
@pytest.mark.parametrize("logits", [None, "label", "rows"])
def test_a_program_without_logits_is_refused(logits, module, refused, tmp_path):
    path = write_program(Classes(module), tmp_path / "classes.pt2")
    refused(path, "logits", logits=logits)


@pytest.mark.slow
def test_a_program_is_verified_against_itself(module, export, tmp_path):
    bundle = export(write_program(module, tmp_path / "model.pt2"))
    graph = read_bundle(bundle).verification["graph"]
    assert graph["inputs"] == 256
    assert graph["confidence_difference_max"] < 1e-6


@pytest.mark.slow
def test_probabilities_are_refused(module, refused, tmp_path):
    path = write_program(Squashed(module), tmp_path / "squashed.pt2")
    refused(path, "Softmax makes of .* a program that returns its logits")


def test_a_fixed_batch_axis_is_refused(module, refused, tmp_path):
    path = write_program(module, tmp_path / "fixed.pt2", batch=4)
    refused(path, "free batch axis .* always takes 4: .*dynamic_shapes")


def test_a_program_of_two_inputs_is_refused(module, refused, tmp_path):
    example = (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    torch.export.save(torch.export.export(Two(module), example), tmp_path / "two.pt2")
    refused(tmp_path / "two.pt2", "it takes 2 inputs")


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


@pytest.fixture
def trap(tmp_path):
    """A file that stands where an attack succeeded."""
    place = tmp_path / "code was run"
    yield place
    assert not place.exists()


def test_the_trap_works(tmp_path):
    torch.save(Malicious(tmp_path / "trap"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("how", ["torch.save", "pickle", "torch.save, older"])
def test_a_pickle_is_refused_and_not_run(how, trap, refused, tmp_path):
    path = tmp_path / "model.pt2"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(trap)))
    else:
        zipped = how == "torch.save"
        torch.save(Malicious(trap), path, _use_new_zipfile_serialization=zipped)
    refused(path, "torch.export.save wrote .* pickles of torch.save")


def change_archive(path, change):
    """Rewrite the files of an archive, name -> bytes, its first folder left out."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(files)).split("/")[0]
    inner = {name.split("/", 1)[1]: content for name, content in files.items()}
    change(inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in inner.items():
            archive.writestr(f"{root}/{name}", content)


def saved(value, folder):
    torch.save(value, folder / "saved")
    return (folder / "saved").read_bytes()


def example_inputs(files, trap):
    files["data/sample_inputs/model.pt"] = saved(Malicious(trap), trap.parent)


def pickled_weight(files, trap):
    name = "data/weights/model_weights_config.json"
    config = json.loads(files[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    files[f"data/weights/{entry['path_name']}"] = saved(Malicious(trap), trap.parent)
    files[name] = json.dumps(config).encode()


def pickled_constant(files, trap):
    name = "data/constants/model_constants_config.json"
    files["data/constants/opaque_obj_0"] = pickle.dumps(Malicious(trap))
    entry = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": False,
        "tensor_meta": None,
    }
    files[name] = json.dumps({"config": {"c": entry}}).encode()


def evaluated_size(files, trap):
    text = files["models/model.json"].decode()
    assert "Symbol('s" in text
    attack = f"__import__('pathlib').Path('{trap}').touch()"
    files["models/model.json"] = text.replace(
        '"expr_str": "', f'"expr_str": "{attack} or '
    ).encode()


def other_operator(files, trap):
    text = files["models/model.json"].decode()
    files["models/model.json"] = text.replace(
        '"torch.ops.aten.relu.default"', '"torch.os.system"'
    ).encode()


def compiled_library(files, trap):
    files["data/aotinductor/model/model.so"] = b"\x7fELF"


ATTACKS = {
    example_inputs: "example inputs",
    pickled_weight: "the pickle weight_0",
    pickled_constant: "the file data/constants/opaque_obj_0",
    evaluated_size: "the size .*__import__",
    other_operator: "the operator 'torch.os.system'",
    compiled_library: "the file data/aotinductor",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_would_run_code_is_refused(attack, module, trap, refused, tmp_path):
    path = write_program(module, tmp_path / "model.pt2")
    change_archive(path, lambda files: attack(files, trap))
    refused(path, f"nothing that runs code, got {ATTACKS[attack]}")


@pytest.mark.slow
def test_an_archive_that_was_only_packed_anew_is_taken(module, export, tmp_path):
    path = write_program(module, tmp_path / "model.pt2")
    change_archive(path, lambda files: None)
    assert (export(path) / "bundle.json").is_file()


@pytest.mark.parametrize("content", [b"", b"no program", b"PK\x03\x04 cut off"])
def test_other_bytes_are_refused(content, refused, tmp_path):
    (tmp_path / "model.pt2").write_bytes(content)
    refused(tmp_path / "model.pt2", "expected a program that torch.export.save wrote")


def test_a_missing_file_is_refused(refused, tmp_path):
    refused(tmp_path / "none.pt2", "no file is there")
