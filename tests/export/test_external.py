"""ONNX files with their weights in further files, and graphs too large to hold their own."""

import numpy as np
import onnx
import pytest
from PIL import Image
from tools.decisions import assert_decides_like
from tools.foreign_models import GOAL, write_onnx
from tools.processes import contents
from transformers import ViTImageProcessor

from benchmarks.processes import running_server
from edge_runtime import Cascade
from edge_runtime import __main__ as runtime
from edge_runtime.bundle import read_bundle
from edge_runtime.cli import main
from edge_runtime.edge_model import EdgeModel
from export import __main__ as exporting
from export.classifier import pipeline
from export.commands.build import BuildSettings
from export.commands.retune import RetuneSettings
from export.errors import GraphError
from export.external import inline_weights, load_onnx
from export.graphs import serialize
from export.sources.onnx_file import open_onnx

LIMIT = 1 << 14


def split_up(path, folder, *, threshold=0):
    folder.mkdir()
    onnx.save(
        onnx.load(path),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=threshold,
    )
    return folder / "model.onnx"


def test_small_external_weights_move_into_the_graph(model, export, pixels, digits, tmp_path):
    path = split_up(model, tmp_path / "split")
    bundle = export(path)
    assert {file.name for file in bundle.iterdir()} == {"model.onnx", "bundle.json"}
    assert_decides_like(bundle, path, pixels, digits)


@pytest.fixture
def export_outside(small_checkpoint, tmp_path):
    """Export as if the graph could hold next to nothing."""

    def run(path, folder="outside", **settings):
        out = tmp_path / folder / "bundle"
        given = {"processor": small_checkpoint, **GOAL, **settings}
        settings = BuildSettings(onnx=path, out=out, **given)
        scratch = tmp_path / folder / "scratch"
        scratch.mkdir(parents=True)
        pipeline.build_from(open_onnx(path, settings, scratch, inside_bytes=LIMIT), settings)
        return out

    return run


@pytest.mark.parametrize("is_split", [True, False])
def test_large_weights_become_files(is_split, model, export_outside, pixels, digits, tmp_path):
    path = split_up(model, tmp_path / "split") if is_split else model
    bundle = export_outside(path)
    graph, weights = bundle / "model.onnx", bundle / "model.onnx.data"
    assert weights.stat().st_size > 5 * graph.stat().st_size
    assert_decides_like(bundle, path, pixels, digits)
    assert contents(export_outside(path, "again")) == contents(bundle)


def test_large_weights_stay_files_when_the_opset_is_raised(
    module, export_outside, digits, tmp_path
):
    path = split_up(write_onnx(module, tmp_path / "old.onnx", opset=13), tmp_path / "split")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "processor")
    bundle = export_outside(path, processor=tmp_path / "processor")
    assert (bundle / "model.onnx.data").stat().st_size > LIMIT
    whole = tmp_path / "whole"
    BuildSettings(onnx=path, processor=tmp_path / "processor", out=whole, **GOAL).run()
    assert not (whole / "model.onnx.data").exists()
    one, other = (EdgeModel.open(b)(digits) for b in (bundle, whole))
    np.testing.assert_array_equal(one.confidence, other.confidence)


@pytest.mark.parametrize("more", [{"second_look": "mirror"}, {"quantize": "int8", "max_flips": 1}])
def test_large_weights_take_the_rest(more, model, export_outside, digits):
    bundle = export_outside(model, **more)
    weights = (bundle / "model.onnx.data").read_bytes() if "quantize" not in more else None
    RetuneSettings(bundle=bundle, calibrate="digits", target_deferral=0.1).run()
    assert read_bundle(bundle).metadata.calibration["achieved"] <= 0.1
    assert EdgeModel.open(bundle)(digits).defer.mean() < 0.2
    if weights is not None:
        assert (bundle / "model.onnx.data").read_bytes() == weights


@pytest.mark.slow
def test_every_command_takes_weights_outside(model, export_outside, digits, capsys, tmp_path):
    folder, one = export_outside(model), tmp_path / "one.png"
    Image.fromarray(digits[0]).save(one)
    lines = [
        ("export", exporting, "inspect", "--bundle", folder),
        ("export", exporting, "retune", "--bundle", folder, "--threshold", 0.2),
        ("export", exporting, "verify", "--bundle", folder, "--data", "digits"),
        ("edge_runtime", runtime, "run", "--bundle", folder, one),
    ]
    for name, package, *words in lines:
        argv = [str(word) for word in words]
        assert main(f"python -m {name}", package.COMMANDS, argv=argv) == 0, capsys.readouterr()
    edge = EdgeModel.open(folder)(digits[:4])
    with running_server(["cloud_stub", "--bundle", str(folder), "--port", "0"]) as address:
        cascade = Cascade.open(folder, cloud=address, threshold=np.inf)
        with cascade:
            answers = cascade.batch(list(digits[:4]))
    assert [answer.source for answer in answers] == ["cloud"] * 4
    assert [answer.prediction for answer in answers] == edge.prediction.tolist()


def test_weights_with_a_second_name_are_read(model, tmp_path):
    path = split_up(model, tmp_path / "split")
    (tmp_path / "again").hardlink_to(path.parent / "weights.bin")
    outside = load_onnx(path, tmp_path, inside_bytes=LIMIT)
    inside = load_onnx(path, tmp_path)
    whole = inline_weights(outside.model, outside.weights)
    assert [t.raw_data for t in whole.graph.initializer] == [
        t.raw_data for t in inside.model.graph.initializer
    ]


@pytest.mark.parametrize("entry", [("offset", -1), ("length", 2**62), ("offset", "x")])
def test_a_place_outside_of_the_file_of_weights_is_refused(entry, model, tmp_path):
    path = split_up(model, tmp_path / "split")
    proto = onnx.load(path, load_external_data=False)
    name, value = entry
    for each in proto.graph.initializer[0].external_data:
        if each.key == name:
            each.value = str(value)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(GraphError, match=r"beside it, .* does not load .*: copy all its files"):
        load_onnx(path, tmp_path)


def test_weights_behind_a_link_and_loops_are_refused_before_onnx_opens_them(model, tmp_path):
    path = split_up(model, tmp_path / "split")
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(GraphError, match=r"next to it, it names 'weights\.bin'"):
        load_onnx(path, tmp_path)
    body = onnx.helper.make_graph([], "body", [], [])
    changed = onnx.load(model)
    changed.graph.node.append(onnx.helper.make_node("Loop", ["", ""], ["never"], body=body))
    onnx.save(changed, tmp_path / "loop.onnx")
    with pytest.raises(GraphError, match=r"without loops in .*loop\.onnx, got Loop"):
        load_onnx(tmp_path / "loop.onnx", tmp_path)


def test_quantization_counts_the_weights_outside(model, export_outside):
    bundle = export_outside(model, quantize="int8", max_flips=1)
    found = read_bundle(bundle).verification["quantization"]
    assert found["bytes"] == pytest.approx((bundle / "model.onnx").stat().st_size, rel=0.1)
    assert found["bytes_float"] > 2 * found["bytes"]


def test_more_weights_than_a_message_takes_are_not_moved_into_one(model, tmp_path):
    (tmp_path / "outside").mkdir()
    loaded = load_onnx(model, tmp_path / "outside", inside_bytes=LIMIT)
    size = (tmp_path / "outside" / "model.onnx.data").stat().st_size
    whole = inline_weights(loaded.model, loaded.weights, limit=size + 1)
    assert len(serialize(whole, limit=2 * size)) > 0.9 * size
    with pytest.raises(GraphError, match=r"for --quantize, got weights of .* give the result"):
        inline_weights(loaded.model, loaded.weights, limit=size)
    with pytest.raises(GraphError, match=r"got .* save it as ONNX with external data and give"):
        serialize(whole, limit=size // 2)


def test_a_file_of_more_bytes_than_a_message_takes_is_refused(refused, tmp_path):
    with (tmp_path / "whole.onnx").open("wb") as file:
        file.truncate(2**31)  # takes no room
    refused(tmp_path / "whole.onnx", "under 2 GB .* got 2.1 GB .* save it with external data")


def test_external_weights_that_are_missing_or_elsewhere_are_refused(model, refused, tmp_path):
    path = split_up(model, tmp_path / "split")
    weights = path.parent / "weights.bin"
    weights.rename(tmp_path / "weights.bin")
    refused(path, "weights .* next to .* found none")

    def outside(proto):
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../weights.bin"

    proto = onnx.load(path, load_external_data=False)
    outside(proto)
    path.write_bytes(proto.SerializeToString())
    refused(path, "the weights of .* next to it")
