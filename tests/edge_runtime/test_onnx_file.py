"""Graphs whose work has no end are refused by a scan whose own work has one."""

import onnx
import pytest
from onnx import TensorProto, helper

from edge_runtime import BundleError, onnx_file
from edge_runtime.onnx_file import read_onnx_file, require_beside, scan_onnx

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]


def model_of(nodes, functions=()):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph(nodes, "main", [x], [y])
    return helper.make_model(graph, opset_imports=OPSETS, functions=list(functions))


def scan(model, **options):
    return scan_onnx(model.SerializeToString(), onnx_file.Path("m.onnx"), **options)


def branch(nodes):
    return helper.make_graph(nodes, "b", [], [helper.make_empty_tensor_value_info("y")])


def function(name, nodes, domain="local"):
    return helper.make_function(domain, name, ["x"], ["y"], nodes, OPSETS)


def call(name, times=1, domain="local"):
    return [helper.make_node(name, ["x"], ["y"], domain=domain) for _ in range(times)]


def endless_loop():
    true = helper.make_tensor("t", TensorProto.BOOL, [], [True])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
    )
    return [
        helper.make_node("Constant", [], ["true"], value=true),
        helper.make_node("Loop", ["", "true", "x"], ["y"], body=body),
    ]


def nested(levels):
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    for _ in range(levels):
        nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch(nodes))]
    return nodes


def doubling(levels):
    """Return functions of which each calls the one before it twice."""
    first = function("f0", [helper.make_node("Identity", ["x"], ["y"])])
    return [first, *(function(f"f{n}", call(f"f{n - 1}", 2)) for n in range(1, levels + 1))]


def renamed_branches():
    """Return a function named If that runs its branch in a loop."""
    loop = helper.make_node("Loop", ["", "x", "x"], ["y"])
    loop.attribute.add(name="body", ref_attr_name="then_branch", type=onnx.AttributeProto.GRAPH)
    return [function("If", [loop], domain="")]


HOSTILE = {
    "an endless loop": (model_of(endless_loop()), "without loops .* got Loop"),
    "a scan": (model_of([helper.make_node("Scan", ["x"], ["y"], body=branch([]))]), "got Scan"),
    "an unknown operator with a subgraph": (
        model_of([helper.make_node("If", ["x"], ["y"], domain="other", g=branch([]))]),
        r"got other\.If",
    ),
    "a loop in a branch": (
        model_of([helper.make_node("If", ["c"], ["y"], else_branch=branch(endless_loop()))]),
        "got Loop",
    ),
    "a loop in a function": (model_of(call("f"), [function("f", endless_loop())]), "got Loop"),
    "a function named If": (model_of(nested(1), renamed_branches()), "defines If anew"),
    "branches in branches": (model_of(nested(17)), "deeper than 16 levels"),
    "functions that double": (model_of(call("f15", 64), doubling(15)), "it has .* nodes"),
    "many functions": (model_of(call("f40"), doubling(40)), "over 16 levels"),
    "a function that calls itself": (
        model_of(call("f"), [function("f", call("f"))]),
        "over 16 levels",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_graph_whose_work_may_have_no_end_is_refused(name):
    model, words = HOSTILE[name]
    with pytest.raises(BundleError, match=words):
        scan(model)


def test_branches_functions_and_loops_that_were_asked_for_pass():
    scan(model_of(nested(16)))
    scan(model_of(call("f12"), doubling(12)))
    scan(model_of(endless_loop()), allow_loops=True)


def test_a_file_of_countless_parts_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_file, "_MOST_FIELDS", 1000)
    monkeypatch.setattr(onnx_file, "_MOST_NODES", 500)
    scan(model_of(call("Identity", 100, domain="")))
    with pytest.raises(BundleError, match="more than 1000 fields"):
        scan(model_of(call("Identity", 400, domain="")))
    with pytest.raises(BundleError, match="more than 500 parts"):
        scan(model_of(call("Identity", 600, domain="")))


def test_a_huge_text_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_file, "SMALL", 100)
    model = model_of(call("Identity", domain=""))
    model.metadata_props.add(key="k", value="v" * 101)
    with pytest.raises(BundleError, match="a text of 101 bytes"):
        scan(model)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    onnx_file.Path.mkdir(tmp_path / "folder")
    for place in (tmp_path / "none", tmp_path / "folder", onnx_file.Path("/dev/zero")):
        with pytest.raises(BundleError, match="expected an ONNX file at"):
            read_onnx_file(place)


def test_weights_elsewhere_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w").write_bytes(b"x")
    (tmp_path / "w").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "w")
    require_beside(folder / "model.onnx", ["w"])
    for name in ("../w", "link", str(tmp_path / "w"), "a\0b", "/dev/zero"):
        with pytest.raises(BundleError, match="next to it"):
            require_beside(folder / "model.onnx", [name])
    with pytest.raises(BundleError, match="found none"):
        require_beside(folder / "model.onnx", ["none"])
