"""A bundle that was made to harm opens nothing that was not hashed, and costs no endless work."""

import json
import os
import shutil

import numpy as np
import onnx
import pytest

from edge_runtime import BundleError, Cascade, EdgeModel
from edge_runtime.bundle import file_sha256, read_bundle, role_of

WEIGHTS = "weights.bin"


def seal(path, *names, graph="model.onnx"):
    """List files with right hashes, as a sender of hostile bundles would."""
    record = json.loads((path / "bundle.json").read_text())
    record["files"] = {name: file_sha256(path / name) for name in (graph, *names)}
    record["graphs"] = {"classifier": graph}
    (path / "bundle.json").write_text(json.dumps(record))


@pytest.fixture
def heavy(bundle, tmp_path):
    """A bundle with its larger weights in a file of their own."""
    path = shutil.copytree(bundle, tmp_path / "heavy")
    model = onnx.load(path / "model.onnx")
    onnx.save(
        model,
        path / "model.onnx",
        save_as_external_data=True,
        location=WEIGHTS,
        size_threshold=100,
    )
    seal(path, WEIGHTS)
    return path


@pytest.mark.parametrize("hidden", [".cache", "inner"])
@pytest.mark.parametrize("is_link", [False, True])
def test_weights_beside_the_graph_that_nothing_hashes_are_refused(hidden, is_link, heavy):
    (heavy / hidden).mkdir()
    shutil.move(heavy / "model.onnx", heavy / hidden / "model.onnx")
    place = heavy / hidden / WEIGHTS
    if is_link:
        shutil.copy(heavy / WEIGHTS, heavy.parent / WEIGHTS)
        place.symlink_to(heavy.parent / WEIGHTS)
    else:
        shutil.copy(heavy / WEIGHTS, place)
    # `bundle.json` lists a file of the name that the graph gives, from another folder.
    seal(heavy, WEIGHTS, graph=f"{hidden}/model.onnx")
    with pytest.raises(BundleError, match=r"takes weights from|also holds"):
        EdgeModel.open(heavy)


def test_weights_beside_a_graph_in_a_folder_are_taken(heavy, bundle, pictures):
    (heavy / "inner").mkdir()
    for name in ("model.onnx", WEIGHTS):
        shutil.move(heavy / name, heavy / "inner" / name)
    seal(heavy, f"inner/{WEIGHTS}", graph="inner/model.onnx")
    np.testing.assert_array_equal(
        EdgeModel.open(heavy)(pictures).confidence, EdgeModel.open(bundle)(pictures).confidence
    )


def test_a_graph_that_replaces_the_one_that_was_checked_is_not_loaded(bundle, tmp_path, pictures):
    path = shutil.copytree(bundle, tmp_path / "copy")
    checked = read_bundle(path)
    (path / "model.onnx").write_bytes(b"another graph")
    opened = EdgeModel(checked)
    expected = EdgeModel.open(bundle)(pictures).confidence
    np.testing.assert_array_equal(opened(pictures).confidence, expected)
    assert opened.bundle.content == b""  # the model does not keep its graph a second time


@pytest.mark.parametrize("is_replaced", [True, False])
@pytest.mark.parametrize("name", [WEIGHTS, "model.onnx"])
def test_a_file_that_replaces_the_one_that_was_hashed_is_refused(name, is_replaced, heavy):
    checked, place = read_bundle(heavy), heavy / name
    before, content = place.stat(), place.read_bytes()
    if is_replaced:
        (heavy / ".new").write_bytes(content)
        (heavy / ".new").replace(place)
    else:
        place.write_bytes(content)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match="replaced or altered while it was opened"):
        EdgeModel(checked)


def test_a_record_that_is_a_pipe_or_too_large_is_refused_at_once(heavy):
    (heavy / "bundle.json").unlink()
    os.mkfifo(heavy / "bundle.json")
    assert role_of(heavy) == "classifier"  # the next to open it raises the error
    with pytest.raises(BundleError, match="is a folder with an ONNX file"):
        Cascade.open(heavy)
    (heavy / "bundle.json").unlink()
    (heavy / "bundle.json").write_bytes(b" " * (17 << 20) + b"{}")
    with pytest.raises(BundleError, match="at most 16777216 bytes"):
        Cascade.open(heavy)


def test_weights_that_are_a_pipe_are_refused_at_once(heavy):
    (heavy / WEIGHTS).unlink()
    os.mkfifo(heavy / WEIGHTS)
    with pytest.raises(BundleError, match="is missing"):
        EdgeModel.open(heavy)
