"""Heads of classifiers of numbers: scikit-learn's, trees, columns, and what is no classifier."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from tools.tables import NAMES, flowers, write_table

from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import GatekeeperError
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.errors import GraphError
from export.graphs import raise_opset

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

MODELS = {
    "logistic regression": LogisticRegression,
    "tree": lambda: DecisionTreeClassifier(max_depth=3, random_state=0),
    "forest": lambda: RandomForestClassifier(5, max_depth=4, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=3, random_state=0),
    "vectors": lambda: make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)),
    "net": lambda: MLPClassifier((6,), max_iter=40, random_state=0),
    "bayes": GaussianNB,
}


@pytest.fixture
def build(tmp_path):
    """Return a function that exports an ONNX file with a threshold."""

    def run(path, **settings):
        goal = {"threshold": 0.6, **settings}
        BuildSettings(onnx=path, out=tmp_path / "bundle", overwrite=True, **goal).run()
        return tmp_path / "bundle"

    return run


@pytest.fixture
def declined(build, tmp_path):
    """Return a function that expects an error of one line, and nothing written."""

    def run(path, says, **settings):
        with pytest.raises(GatekeeperError, match=says) as error:
            build(path, **settings)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "bundle").exists()
        return str(error.value)

    return run


def belief(path, x):
    """Return the probabilities [n, classes] that ONNX Runtime gives for the file as it is."""
    found = ort.InferenceSession(path).run(None, {"X": x})[1]
    rows = [list(one.values()) for one in found] if isinstance(found, list) else found
    return np.asarray(rows, np.float64)


@pytest.mark.parametrize("is_zipped", [True, False])
@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_scikit_learn_needs_no_settings(name, is_binary, is_zipped, build, tmp_path, capsys):
    x, y = flowers(classes=2 if is_binary else 3)
    path = write_table(MODELS[name](), tmp_path / "m.onnx", x=x, y=NAMES[y], zipmap=is_zipped)
    model = EdgeModel.open(build(path))
    gated, expected = model(x), belief(path, x)
    assert model.labels == tuple(NAMES[: y.max() + 1])
    np.testing.assert_array_equal(gated.prediction, expected.argmax(1))
    np.testing.assert_allclose(gated.confidence, expected.max(1), atol=1e-5)
    assert "the model " in capsys.readouterr().out
    assert {n.op_type for n in onnx.load(model.bundle.graph).graph.node}.isdisjoint({"ZipMap"})


def test_what_was_recognised_stands_in_the_bundle(build, tmp_path):
    bundle = build(write_table(LogisticRegression(), tmp_path / "m.onnx"))
    assert "head: probabilities; the model ends in ZipMap" in describe(read_bundle(bundle))


def test_labels_of_numbers_stay_numbers_and_others_may_be_named(build, tmp_path):
    x, y = flowers()
    path = write_table(LogisticRegression(), tmp_path / "m.onnx", x=x, y=3 + 2 * y)
    assert EdgeModel.open(build(path)).labels == ("3", "5", "7")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert EdgeModel.open(build(path, labels=tmp_path / "names.txt")).labels == ("a", "b", "c")


@pytest.mark.parametrize("kind", [DoubleTensorType, Int64TensorType])
def test_other_numbers_become_float32(kind, build, tmp_path):
    x, _ = flowers()
    whole = np.round(3 * x)
    path = write_table(MODELS["forest"](), tmp_path / "m.onnx", types=[("X", kind([None, 4]))])
    model = EdgeModel.open(build(path))
    assert model.metadata.input.dtype == "float32"
    own = whole.astype(np.float64 if kind is DoubleTensorType else np.int64)
    np.testing.assert_allclose(model(whole).confidence, belief(path, own).max(1), atol=1e-5)


def test_columns_become_one_input_in_their_order(build, tmp_path):
    x, _ = flowers()
    x[:, 3] = np.round(x[:, 3])
    path = write_table(LogisticRegression(), tmp_path / "m.onnx")
    whole = belief(path, x)
    split_columns(
        path, a=TensorProto.FLOAT, b=TensorProto.DOUBLE, c=TensorProto.FLOAT, d=TensorProto.INT64
    )
    opened = EdgeModel.open(build(path))
    assert opened.metadata.extra["columns"] == list("abcd")
    assert opened.metadata.input.shape == ("batch", 4)
    np.testing.assert_allclose(opened(x).confidence, whole.max(1), atol=1e-5)


def split_columns(path, **elements):
    """Give a model one input for each column, as skl2onnx does for a DataFrame."""
    model = onnx.load(path)
    del model.graph.input[:]
    parts = []
    for name, element in elements.items():
        model.graph.input.append(helper.make_tensor_value_info(name, element, ["N", 1]))
        parts.append(helper.make_node("Cast", [name], [name + "/f"], to=TensorProto.FLOAT))
    parts.append(helper.make_node("Concat", [n.output[0] for n in parts], ["X"], axis=1))
    nodes = [*parts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def test_columns_of_texts_are_refused(declined, tmp_path):
    path = write_table(LogisticRegression(), tmp_path / "m.onnx")
    split_columns(path, a=1, b=1, c=1, d=TensorProto.STRING)
    declined(path, "expected numbers in each column .* d takes STRING: turn it into numbers")


def test_a_text_model_of_whole_numbers_is_no_table(declined, tmp_path):
    names = ("input_ids", "attention_mask")
    takes = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", 6]) for n in names]
    nodes = [helper.make_node("Mul", names, ["m"])]
    nodes.append(helper.make_node("Cast", ["m"], ["scores"], to=TensorProto.FLOAT))
    gives = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 6])]
    graph = helper.make_graph(nodes, "texts", takes, gives)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")
    declined(tmp_path / "m.onnx", r"expected one input .* got 2 .input_ids, attention_mask.")


def test_scores_beside_their_dictionary_are_one_output(build, tmp_path):
    x, _ = flowers()
    path = write_table(LogisticRegression(), tmp_path / "m.onnx")
    whole, model = belief(path, x), onnx.load(path)
    model.graph.output.add().name = model.graph.node[-1].input[0]
    onnx.save(model, path)
    np.testing.assert_allclose(EdgeModel.open(build(path))(x).confidence, whole.max(1), atol=1e-5)


def test_what_onnx_runtime_overlooks_is_refused_in_one_line(declined, tmp_path):
    path = write_table(LogisticRegression(), tmp_path / "m.onnx")
    model = onnx.load(path)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 17)])
    onnx.save(model, path)
    declined(path, "keeps to the ONNX standard, .*No opset import for domain 'ai.onnx.ml'")


def test_names_of_other_bytes_are_refused(declined, tmp_path):
    path = write_table(LogisticRegression(), tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes().replace(b"probabilities", b"probabilit\xff\xfes"))
    declined(path, "expected names in UTF-8")


def ensemble(classes=3, transform=b"SOFTMAX"):
    """Return a graph as the converters of LightGBM and XGBoost write them: one tree a class."""
    trees = list(range(classes))
    stumps = [(tree, node) for tree in trees for node in range(3)]  # a root and its two leaves
    leaves = [(tree, node) for tree, node in stumps if node]
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["X"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        classlabels_int64s=trees,
        post_transform=transform,
        nodes_treeids=[tree for tree, _ in stumps],
        nodes_nodeids=[node for _, node in stumps],
        nodes_modes=[b"LEAF" if node else b"BRANCH_LEQ" for _, node in stumps],
        nodes_featureids=[0 if node else tree for tree, node in stumps],
        nodes_values=[0.1 * tree for tree, _ in stumps],
        nodes_truenodeids=[0 if node else 1 for _, node in stumps],
        nodes_falsenodeids=[0 if node else 2 for _, node in stumps],
        class_treeids=[tree for tree, _ in leaves],
        class_nodeids=[node for _, node in leaves],
        class_ids=[tree for tree, _ in leaves],
        class_weights=[0.7 * tree + 1.5 * node - 2 for tree, node in leaves],
    )
    take = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 4])
    gives = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes]),
    ]
    graph = helper.make_graph([node], "trees", [take], gives)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)])


def test_boosted_trees_are_recognised(build, tmp_path):
    x, _ = flowers()
    onnx.save(ensemble(), tmp_path / "m.onnx")
    gated, expected = EdgeModel.open(build(tmp_path / "m.onnx"))(x), belief(tmp_path / "m.onnx", x)
    np.testing.assert_array_equal(gated.prediction, expected.argmax(1))
    np.testing.assert_allclose(gated.confidence, expected.max(1), atol=1e-6)
    assert len(set(gated.confidence)) < len(x) / 2  # ties are no obstacle


def test_a_sigmoid_behind_a_regression_is_a_binary_classifier(build, tmp_path):
    x, _ = flowers()
    path = write_table(DecisionTreeRegressor(max_depth=3), tmp_path / "m.onnx", x=x, y=3 * x[:, 0])
    model = onnx.load(path)
    model.graph.node[0].output[0] = "margin"
    model.graph.node.append(helper.make_node("Sigmoid", ["margin"], ["variable"]))
    onnx.save(model, path)
    gated = EdgeModel.open(build(path, **names_of(tmp_path, 2)))(x)
    p = ort.InferenceSession(path).run(None, {"X": x})[0][:, 0]
    np.testing.assert_allclose(gated.confidence, np.maximum(p, 1 - p), atol=1e-6)
    np.testing.assert_array_equal(gated.prediction, p > 0.5)


def test_margins_of_trees_are_logits_where_that_is_said(build, declined, tmp_path):
    x, _ = flowers()
    onnx.save(ensemble(transform=b"NONE"), tmp_path / "m.onnx")
    declined(tmp_path / "m.onnx", "ends in TreeEnsembleClassifier, .* say --scores logits")
    onnx.save(ensemble(), tmp_path / "p.onnx")
    gated = EdgeModel.open(build(tmp_path / "m.onnx", scores="logits"))(x)
    np.testing.assert_allclose(gated.confidence, belief(tmp_path / "p.onnx", x).max(1), atol=1e-6)


@pytest.mark.parametrize("model", [SVC, LinearSVC])
def test_decision_scores_are_no_probabilities(model, declined, tmp_path):
    says = "expected probabilities in .* decision scores .SVC without probability=True"
    declined(write_table(model(), tmp_path / "m.onnx"), says)


def test_nearest_neighbours_are_told_how_to_do_without_a_loop(build, declined, tmp_path):
    x, _ = flowers()
    path = write_table(KNeighborsClassifier(), tmp_path / "m.onnx")
    declined(path, r"got Scan, .* options=\{'optim': 'cdist'\}")
    write_table(KNeighborsClassifier(), path, optim="cdist")
    np.testing.assert_allclose(EdgeModel.open(build(path))(x).confidence, belief(path, x).max(1))


TWO = {"x": flowers()[0], "y": np.stack([flowers()[1] > 0, flowers()[1] > 1], 1).astype(int)}
NUMBERS = {"x": flowers()[0], "y": flowers()[0].sum(1)}


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        (LinearRegression, NUMBERS, "it is a regression .LinearRegressor gives"),
        (DecisionTreeRegressor, NUMBERS, "it is a regression .TreeEnsembleRegressor gives"),
        (lambda: MLPRegressor(max_iter=5), NUMBERS, "it is a regression .it gives 'variable'"),
        (lambda: MultiOutputClassifier(LogisticRegression()), TWO, "one bundle for each label"),
        (lambda: MLPClassifier(max_iter=5), TWO, "one bundle for each label"),
        (lambda: RandomForestClassifier(2), TWO, "one bundle for each label"),
    ],
)
def test_what_is_no_classifier_is_refused_by_what_it_is(model, data, says, declined, tmp_path):
    message = declined(write_table(model(), tmp_path / "m.onnx", **data), says)
    assert "--scores" not in message
    assert "--logits" not in message


def net(outputs, operators=()):
    """Return a graph of pictures with outputs of the given names and shapes."""
    take = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])
    nodes, gives = [*operators], []
    for name, shape in outputs.items():
        size = helper.make_tensor(f"{name}/size", TensorProto.INT64, [len(shape)], [-1, *shape[1:]])
        nodes.append(helper.make_node("Constant", [], [f"{name}/shape"], value=size))
        nodes.append(helper.make_node("Reshape", ["image", f"{name}/shape"], [name]))
        gives.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(nodes, "net", [take], gives)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"boxes": ("M", 4), "scores": ("M", 2)}, "it detects objects .outputs boxes, scores"),
        ({"num_detections": ("N", 1), "y": ("N", 192)}, "it detects objects"),
        ({"output0": ("N", 12, 16)}, "is rows of answers .a detector or a model of tokens"),
        ({"out": ("N", 3, 8, 8)}, "is a map of each class .a segmentation"),
    ],
)
@pytest.mark.parametrize("is_named", [False, True])
def test_detectors_and_segmentations_are_refused(outputs, says, is_named, declined, tmp_path):
    onnx.save(net(outputs), tmp_path / "m.onnx")
    named = next(iter(outputs)) if is_named else None
    message = declined(tmp_path / "m.onnx", says, logits=named, **names_of(tmp_path, 4))
    assert "--scores" not in message
    assert "--logits boxes" not in message


def names_of(folder, count):
    (folder / "names.txt").write_text("".join(f"c{i}\n" for i in range(count)))
    return {"labels": folder / "names.txt"}


def test_a_model_without_names_asks_for_labels(declined, tmp_path):
    onnx.save(net({"scores": ("N", 192)}), tmp_path / "m.onnx")
    declined(tmp_path / "m.onnx", "expected --labels FILE .* it does not name its 192 classes")


@pytest.mark.parametrize("opset", [9, 11, 12, 15, 17])
def test_older_operators_are_converted(opset, build, tmp_path):
    x, _ = flowers()
    path = write_table(MODELS["net"](), tmp_path / "m.onnx", opset=opset)
    bundle = build(path, confidence="neg_entropy")
    versions = {o.domain: o.version for o in onnx.load(bundle / "model.onnx").opset_import}
    assert versions[""] == max(opset, 13)
    expected = belief(path, x)
    entropy = (expected * np.log(expected)).sum(1)
    np.testing.assert_allclose(EdgeModel.open(bundle)(x).confidence, entropy, atol=1e-4)


def test_weights_that_are_inputs_of_an_old_file_are_converted_too(build, tmp_path):
    x, _ = flowers()
    path = write_table(MODELS["net"](), tmp_path / "m.onnx", opset=9)
    model = onnx.load(path)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    onnx.save(model, path)
    np.testing.assert_allclose(
        EdgeModel.open(build(path))(x).confidence, belief(path, x).max(1), atol=1e-6
    )


def test_an_operator_without_a_converter_is_named():
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "ab"]
    truth = helper.make_tensor_value_info("c", TensorProto.BOOL, [1])
    graph = helper.make_graph([helper.make_node("Less", ["a", "b"], ["c"])], "g", values, [truth])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)])
    with pytest.raises(GraphError, match=r"from opset 6 to 13, .* for its operator Less: export"):
        raise_opset(model, 13, why="the gate", instead="")
