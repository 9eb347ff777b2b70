"""A damaged bundle, or one that leads outside its folder, is refused before it is loaded."""

import importlib.util
import json
import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tools.processes import refused

from edge_runtime import BundleError, Cascade, ContractVersionError, EdgeModel
from edge_runtime.bundle import file_sha256, read_bundle
from edge_runtime.cli import main
from edge_runtime.commands.doctor import DoctorSettings
from edge_runtime.commands.run import RunSettings
from edge_runtime.onnx_file import read_onnx_file
from export.__main__ import COMMANDS
from export.commands.retune import RetuneSettings

WEIGHTS = "weights.bin"


def edit(path, change):
    record = json.loads((path / "bundle.json").read_text())
    change(record)
    (path / "bundle.json").write_text(json.dumps(record))


def set_metadata(**fields):
    return lambda path: edit(path, lambda record: record["metadata"].update(fields))


def drop(*keys):
    def change(path):
        def pop(record):
            for key in keys[:-1]:
                record = record[key]
            record.pop(keys[-1])

        edit(path, pop)

    return change


def write(name, content):
    return lambda path: (path / name).write_bytes(content)


def seal(path):
    """Give every file a right hash, as a sender of hostile bundles would."""
    names = [f.name for f in path.iterdir() if f.name != "bundle.json"]
    edit(path, lambda r: r.update(files={n: file_sha256(path / n) for n in names}))


def change_graph(change):
    """Change the graph and seal the bundle; its larger weights stay where they are."""

    def apply(path):
        model = onnx.load(path / "model.onnx", load_external_data=False)
        change(model)
        (path / "model.onnx").write_bytes(model.SerializeToString())
        seal(path)

    return apply


def external_tensors(graph):
    return [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]


def point_to(location):
    def change(model):
        for tensor in external_tensors(model.graph):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return change_graph(change)


def hide_in_a_subgraph(model):
    """A constant in the branch of an `If` that no run takes names a file elsewhere."""
    tensor = numpy_helper.from_array(np.zeros(1000, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    constant = helper.make_node("Constant", [], ["hidden"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [])
    node = helper.make_node("If", ["gatekeeper/sure"], ["unused"], then_branch=branch)
    model.graph.node.append(node)


def flip_a_bit(path):
    content = bytearray((path / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "model.onnx").write_bytes(content)


def truncate(name):
    return lambda path: os.truncate(path / name, (path / name).stat().st_size // 2)


def link_outside(name):
    def apply(path):
        shutil.move(path / name, path.parent / name)
        (path / name).symlink_to(path.parent / name)

    return apply


def other_threshold_in_the_graph(model):
    (entry,) = [p for p in model.metadata_props if p.key == "gatekeeper"]
    entry.value = json.dumps({**json.loads(entry.value), "threshold": 0.125})


def no_metadata(model):
    del model.metadata_props[:]


# Damage -> (function that does it, text of the message).
DAMAGES = {
    "a byte of the graph edited": (flip_a_bit, "altered or truncated"),
    "graph truncated": (truncate("model.onnx"), "altered or truncated"),
    "graph missing": (lambda p: (p / "model.onnx").unlink(), "is missing"),
    "graph empty, hash right": (lambda p: (write("model.onnx", b"")(p), seal(p)), "ONNX graph"),
    "graph truncated, hash right": (lambda p: (truncate("model.onnx")(p), seal(p)), "ONNX graph"),
    "graph is a text": (lambda p: (write("model.onnx", b"hello " * 9)(p), seal(p)), "ONNX graph"),
    "weights edited": (write(WEIGHTS, b"0" * 100), "altered or truncated"),
    "weights missing": (lambda p: (p / WEIGHTS).unlink(), "is missing"),
    "hash wrong": (lambda p: edit(p, lambda r: r["files"].update({WEIGHTS: "0" * 64})), "sha256"),
    "hash is no text": (lambda p: edit(p, lambda r: r["files"].update({WEIGHTS: 7})), "sha256"),
    "file more than is listed": (write("more.bin", b"x"), "also holds more.bin"),
    "bundle.json missing": (lambda p: (p / "bundle.json").unlink(), "expected a bundle folder"),
    "bundle.json truncated": (truncate("bundle.json"), "not JSON"),
    "bundle.json is no JSON": (write("bundle.json", b"\xff\xfe"), "not JSON"),
    "bundle.json nests too deep": (write("bundle.json", b"[" * 200_000), "not JSON"),
    "bundle.json is a list": (write("bundle.json", b"[]"), "got list"),
    "no files": (drop("files"), "section 'files'"),
    "files is a list": (lambda p: edit(p, lambda r: r.update(files=[])), "section 'files'"),
    "no graphs": (drop("graphs"), "section 'graphs'"),
    "no classifier": (drop("graphs", "classifier"), "role 'classifier'"),
    "verification is a number": (lambda p: edit(p, lambda r: r.update(verification=3)), "'verif"),
    "no metadata": (drop("metadata"), "got NoneType"),
    "no labels": (drop("metadata", "labels"), "labels is missing"),
    "labels are a text": (set_metadata(labels="abc"), "labels is 'abc'"),
    "a label is a number": (set_metadata(labels=["a", 1]), "labels as texts"),
    "no threshold": (drop("metadata", "threshold"), "threshold is missing"),
    "threshold is a text": (set_metadata(threshold="0.5"), "threshold is '0.5'"),
    "threshold is a truth": (set_metadata(threshold=True), "threshold is 'True'"),
    "threshold is NaN": (set_metadata(threshold=float("nan")), "expected a number, got nan"),
    "threshold is too large": (set_metadata(threshold=10**400), "too large"),
    "range of one": (set_metadata(confidence_range=[0.1]), "malformed"),
    "range without width": (set_metadata(confidence_range=[1.0, 1.0]), "no input can defer"),
    "input is a text": (set_metadata(input="image"), "input is 'image'"),
    "shape is a text": (
        set_metadata(input={"name": "image", "dtype": "uint8", "shape": "nhwc"}),
        "shape is 'nhwc'",
    ),
    "version unknown": (set_metadata(contract_version=2), "version 1, the bundle says 2"),
    "version is a truth": (set_metadata(contract_version=True), "the bundle says True"),
    "version missing": (drop("metadata", "contract_version"), "the bundle says None"),
    "bundle.json says another threshold": (set_metadata(threshold=0.1), "differ"),
    "graph says another threshold": (change_graph(other_threshold_in_the_graph), "differ"),
    "graph says nothing": (change_graph(no_metadata), "no gate metadata"),
    "listed file above": (
        lambda p: edit(p, lambda r: r["files"].update({"../x": "0"})),
        "outside its folder",
    ),
    "listed file absolute": (
        lambda p: edit(p, lambda r: r["files"].update({"/etc/hostname": "0"})),
        "outside its folder",
    ),
    "listed name with a NUL": (
        lambda p: edit(p, lambda r: r["files"].update({"a\0b": "0"})),
        "outside its folder",
    ),
    "graph above": (
        lambda p: edit(p, lambda r: r["graphs"].update(classifier="../model.onnx")),
        "role 'classifier'",
    ),
    "weights are a link outside": (link_outside(WEIGHTS), "outside its folder"),
    "graph is a link outside": (link_outside("model.onnx"), "outside its folder"),
    "graph takes weights above": (point_to("../weights.bin"), "takes weights from '../weights"),
    "graph takes weights absolute": (point_to("/etc/hostname"), "takes weights from '/etc"),
    "graph takes weights of memory": (point_to("*/_ORT_MEM_ADDR_/*"), "takes weights from"),
    "graph takes weights not listed": (point_to("bundle.json"), "takes weights from 'bundle"),
    "a subgraph takes weights elsewhere": (change_graph(hide_in_a_subgraph), "takes weights from"),
}


@pytest.fixture(scope="module")
def with_weights(bundle, tmp_path_factory):
    """The bundle with its larger weights in a file of their own."""
    path = tmp_path_factory.mktemp("external") / "bundle"
    shutil.copytree(bundle, path)
    model = onnx.load(path / "model.onnx")
    onnx.save(
        model,
        path / "model.onnx",
        save_as_external_data=True,
        location=WEIGHTS,
        size_threshold=100,
    )
    seal(path)
    return path


@pytest.fixture
def copy(with_weights, tmp_path):
    return shutil.copytree(with_weights, tmp_path / "copy")


def test_weights_in_a_file_of_their_own_are_taken(bundle, copy, pictures):
    assert read_onnx_file(copy / "model.onnx").external == (WEIGHTS,)
    alone, together = EdgeModel.open(copy)(pictures), EdgeModel.open(bundle)(pictures)
    np.testing.assert_array_equal(alone.confidence, together.confidence)
    RetuneSettings(bundle=copy, threshold=2.0).run()
    assert EdgeModel.open(copy)(pictures).defer.all()


def test_retune_leaves_weights_where_they_are(copy):
    before, hashes = (copy / WEIGHTS).stat(), read_bundle(copy).hashes
    RetuneSettings(bundle=copy, threshold=2.0).run()
    after = (copy / WEIGHTS).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert read_bundle(copy).hashes[WEIGHTS] == hashes[WEIGHTS]


def test_an_entry_written_the_other_way_round_is_seen(tmp_path):
    entry = b"\x12\x02/x" + b"\x0a\x08location"  # field 2, the value, before field 1, the key
    tensor = b"\x6a" + bytes([len(entry)]) + entry  # field 13 of a tensor
    graph = b"\x2a" + bytes([len(tensor)]) + tensor  # field 5 of a graph
    file = tmp_path / "model.onnx"
    # Field 1 is a number; field 7, the graph, gives its size in three bytes where one would do.
    file.write_bytes(b"\x08\x0a" + b"\x3a" + bytes([len(graph) | 0x80, 0x80, 0]) + graph)
    assert read_onnx_file(file).external == ("/x",)


@pytest.mark.parametrize("content", [b"\x3a\x05abc", b"\xff" * 12, b"\x0b", b"\x00\x00", b"\x3a"])
def test_what_is_no_protobuf_is_refused(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="expected an ONNX graph"):
        read_onnx_file(tmp_path / "model.onnx")


def test_hidden_files_of_a_desktop_do_no_harm(copy):
    (copy / ".DS_Store").write_bytes(b"x")
    assert read_bundle(copy).others == (copy / WEIGHTS,)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_in_one_line(damage, copy):
    change, words = DAMAGES[damage]
    change(copy)
    for open_it in (read_bundle, EdgeModel.open, Cascade.open):  # the first knows no ONNX Runtime
        with pytest.raises(BundleError) as refused:
            open_it(copy)
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
        assert ("version" in damage) == isinstance(refused.value, ContractVersionError)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_refuses_a_damaged_bundle(damage, copy, capsys):
    change, words = DAMAGES[damage]
    change(copy)
    lines = {
        "run": ["x.png"],
        "doctor": [],
        "inspect": [],
    }
    if importlib.util.find_spec("torch"):
        lines |= {"verify": ["--data", "digits"], "retune": ["--threshold", "0.5"]}
    for name, more in lines.items():
        known = {"run": RunSettings, "doctor": DoctorSettings, **COMMANDS}
        assert main("program", known, argv=[name, "--bundle", str(copy), *more]) == 1
        out, error = capsys.readouterr()
        assert error.count("\n") == 1
        assert words in (out if name == "doctor" else error)


@pytest.mark.slow
def test_a_process_refuses_a_damaged_bundle_with_status_1(copy):
    flip_a_bit(copy)
    refused("edge_runtime", ["run", "--bundle", copy, "x.png"], says="altered or truncated")


def test_an_unreadable_folder_is_refused_with_a_message(tmp_path):
    (tmp_path / "bundle").symlink_to(tmp_path / "bundle")
    for place in (tmp_path / "bundle", tmp_path / ("x" * 300), tmp_path / "nothing"):
        with pytest.raises(BundleError, match="expected a"):
            Cascade.open(place)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "words"),
    [
        ("picture", TensorProto.UINT8, ["n", "h", "w", 3], "the one input 'image' uint8"),
        ("image", TensorProto.FLOAT, ["n", "h", "w", 3], "the one input 'image' uint8"),
        ("image", TensorProto.UINT8, ["n", "h", "w", 4], r"\['n', 'h', 'w', 4\]"),
        ("image", TensorProto.UINT8, ["n", "w", 3], r"\['n', 'w', 3\]"),
    ],
)
def test_a_graph_with_another_input_than_described_is_refused(
    name, kind, shape, words, bundle, tmp_path
):
    path = shutil.copytree(bundle, tmp_path / "copy")
    model = onnx.load(path / "model.onnx")
    answers = {
        "prediction": np.zeros(1, np.int64),
        "confidence": np.zeros(1, np.float32),
        "defer": np.zeros(1, bool),
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in answers.items()]
    graph = helper.make_graph(
        [helper.make_node("Constant", [], [t.name], value=t) for t in tensors],
        "constant",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info(t.name, t.data_type, [1]) for t in tensors],
    )
    model.graph.CopyFrom(graph)
    (path / "model.onnx").write_bytes(model.SerializeToString())
    seal(path)
    with pytest.raises(BundleError, match=words):
        EdgeModel.open(path)
