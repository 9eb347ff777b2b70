"""The output of `deploy` follows the engines' own descriptions, and a cascade can ask the model."""

import ast
import contextlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tools.inference_service_schema import SCHEMA, complaints

from cloud_stub.deploy import triton
from cloud_stub.deploy.settings import DeploySettings
from edge_runtime import Cascade, CloudModel
from edge_runtime.cli import main
from edge_runtime.errors import CloudRejectedError

# The messages of tritonclient are the engine's published description of its files.
theirs = pytest.importorskip("tritonclient.grpc.model_config_pb2")
pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[3]
ENGINE = ROOT / "tests" / "tools" / "repository_engine.py"
PICTURES = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (0, 255, 128)])
# By hand from the logits (3 (1 - m/255), 1.5, 3 m/255) of brightness m:
# (3, 1.5, 0), (0, 1.5, 3) and (1.494, 1.5, 1.506).
BEST = [0, 2, 2]
LABELS = ("dark", "middling", "bright")


def deploy(*words):
    """Run the command in this process; return its exit status."""
    commands = {"deploy": DeploySettings}
    return main("python -m cloud_stub", commands, argv=["deploy", *map(str, words)])


def read_config(folder):
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, theirs.ModelConfig())


def tensors(described):
    name = theirs.DataType.Name
    return {
        t.name: (
            name(t.data_type),
            list(t.dims),
            list(t.reshape.shape) if t.HasField("reshape") else None,
        )
        for t in described
    }


def write_graph(path, inputs, outputs, nodes, constants=None, **saving):
    """Write an ONNX file; inputs and outputs are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, **saving)
    return path


def write_scores(path, *, element=TensorProto.FLOAT, shape=("n", 3), names=("scores",), **saving):
    """Write a graph with outputs that all equal its input."""
    return write_graph(
        path,
        [("features", element, shape)],
        [(name, element, shape) for name in names],
        [helper.make_node("Identity", ["features"], [name]) for name in names],
        **saving,
    )


def test_a_bundle_becomes_a_model_of_a_triton_repository(bundle, tmp_path, capsys):
    assert (
        deploy("--target", "triton", "--bundle", bundle, "--out", tmp_path, "--max-batch", 8) == 0
    )
    assert sorted(
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()
    ) == [
        "large/1/model.onnx",
        "large/config.pbtxt",
        "large/labels.txt",
    ]
    config = read_config(tmp_path / "large")
    assert (config.name, config.backend, config.max_batch_size) == ("large", "onnxruntime", 8)
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    # The threshold has a value in the graph, so it need not be fed.
    assert tensors(config.input) == {"image": ("TYPE_UINT8", [-1, -1, 3], None)}
    assert tensors(config.output) == {
        "prediction": ("TYPE_INT64", [1], []),
        "confidence": ("TYPE_FP32", [1], []),
    }
    assert (tmp_path / "large" / "labels.txt").read_text() == "dark\nmiddling\nbright\n"
    original = (bundle / "model.onnx").read_bytes()
    assert (tmp_path / "large" / "1" / "model.onnx").read_bytes() == original
    assert "calls of more than 8 inputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("element", "name"),
    [
        (TensorProto.FLOAT, "TYPE_FP32"),
        (TensorProto.FLOAT16, "TYPE_FP16"),
        (TensorProto.DOUBLE, "TYPE_FP64"),
    ],
)
def test_scores_of_each_float_are_described_with_their_labels(tmp_path, element, name):
    write_scores(tmp_path / "m.onnx", element=element)
    (tmp_path / "labels").write_text("a\nb\nc\n")
    words = ["--onnx", tmp_path / "m.onnx", "--labels", tmp_path / "labels", "--model", "net"]
    assert deploy("--target", "triton", "--out", tmp_path / "out", *words) == 0
    config = read_config(tmp_path / "out" / "net")
    assert tensors(config.input) == {"features": (name, [3], None)}
    assert tensors(config.output) == {"scores": (name, [3], None)}
    assert config.output[0].label_filename == "labels.txt"


@pytest.mark.parametrize(
    "element",
    ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "STRING"],
)
def test_an_input_of_every_type_is_described(tmp_path, element):
    onnx_type = getattr(TensorProto, element)
    write_graph(
        tmp_path / "m.onnx",
        [("given", onnx_type, ["n", 2]), ("x", TensorProto.FLOAT, ["n", 3])],
        [("scores", TensorProto.FLOAT, ["n", 3]), ("same", onnx_type, ["n", 2])],
        [
            helper.make_node("Identity", ["x"], ["scores"]),
            helper.make_node("Identity", ["given"], ["same"]),
        ],
    )
    assert deploy("--target", "triton", "--onnx", tmp_path / "m.onnx", "--out", tmp_path / "o") == 0
    config = read_config(tmp_path / "o" / "large")
    assert tensors(config.input)["given"] == (f"TYPE_{element}", [2], None)
    assert list(tensors(config.output)) == ["scores"]


def test_names_of_any_characters_are_described(tmp_path):
    name = 'scores "天气"\\\n\x01'
    write_scores(tmp_path / "m.onnx", names=(name,))
    assert deploy("--target", "triton", "--onnx", tmp_path / "m.onnx", "--out", tmp_path / "o") == 0
    assert list(tensors(read_config(tmp_path / "o" / "large").output)) == [name]


def test_a_graph_with_a_fixed_first_axis_is_not_batched(tmp_path, capsys):
    write_scores(tmp_path / "m.onnx", shape=(1, 3))
    words = ["--target", "triton", "--onnx", tmp_path / "m.onnx", "--out", tmp_path / "out"]
    assert deploy(*words, "--max-batch", 4) == 1
    assert "expected a graph with a free first axis" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert deploy(*words) == 0
    config = read_config(tmp_path / "out" / "large")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert tensors(config.input) == {"features": ("TYPE_FP32", [1, 3], None)}
    assert "exactly the shape features FP32 [1, 3]" in capsys.readouterr().err


def test_axes_of_different_names_are_not_rows_of_one_batch(tmp_path):
    write_graph(
        tmp_path / "m.onnx",
        [("words", TensorProto.FLOAT, ["words", 3])],
        [("scores", TensorProto.FLOAT, ["sentences", 3])],
        [helper.make_node("Identity", ["words"], ["scores"])],
    )
    assert deploy("--target", "triton", "--onnx", tmp_path / "m.onnx", "--out", tmp_path / "o") == 0
    config = read_config(tmp_path / "o" / "large")
    assert config.max_batch_size == 0
    assert tensors(config.input) == {"words": ("TYPE_FP32", [-1, 3], None)}


def test_external_weights_go_with_the_graph(tmp_path):
    weights = np.arange(3000, dtype=np.float32).reshape(3, 1000)
    file = write_graph(
        tmp_path / "in" / "m.onnx",
        [("x", TensorProto.FLOAT, ["n", 3])],
        [("scores", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        {"w": weights},
        save_as_external_data=True,
        location="weights.bin",
    )
    (tmp_path / "in" / "notes.txt").write_text("not for the engine")
    assert deploy("--target", "triton", "--onnx", file, "--out", tmp_path / "out") == 0
    version = tmp_path / "out" / "large" / "1"
    assert sorted(p.name for p in version.iterdir()) == ["model.onnx", "weights.bin"]
    copied = onnx.load(version / "model.onnx").graph.initializer[0]
    assert np.array_equal(numpy_helper.to_array(copied), weights)


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("weights.bin", "found none: copy them"),
        ("../weights.bin", "refused"),
        ("model.onnx", "another name"),
    ],
)
def test_weights_that_cannot_be_copied_are_refused(tmp_path, capsys, location, why):
    file = write_graph(
        tmp_path / "in" / "m.onnx",
        [("x", TensorProto.FLOAT, ["n", 3])],
        [("scores", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        {"w": np.zeros((3, 1000), np.float32)},
        save_as_external_data=True,
        location="weights.bin",
    )
    (tmp_path / "in" / "weights.bin").rename(tmp_path / "in" / "elsewhere")
    model = onnx.load(file, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    file.write_bytes(model.SerializeToString())
    for place in ("in/model.onnx", "weights.bin"):
        (tmp_path / place).write_bytes(bytes(12000))
    refused(capsys, tmp_path, why, "--onnx", file)


def refused(capsys, tmp_path, why, *words, status=1):
    """Run a command line that must fail with one line and leave nothing behind."""
    out = tmp_path / "refused"
    target = () if "--target" in words else ("--target", "triton")
    assert deploy(*target, "--out", out, *words) == status
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert why in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "expected one of --bundle and --onnx"),
        (["--onnx", "m", "--bundle", "b"], "expected one of --bundle and --onnx"),
        (["--bundle", "b", "--labels", "l"], "--labels needs --onnx"),
        (["--onnx", "m", "--model", "../up"], "expected --model to begin with a letter"),
        (["--onnx", "m", "--namespace", "n"], "--namespace needs --target kserve"),
        (["--target", "kserve", "--onnx", "m"], "expected --storage-uri as SCHEME://PLACE"),
        (["--target", "kserve", "--onnx", "m", "--storage-uri", "models"], "got models"),
        (["--target", "vllm", "--onnx", "m"], "expects one of triton, kserve"),
        *(
            (["--target", "kserve", "--onnx", "m", "--storage-uri", "s3://b/m", *flags], why)
            for flags, why in (
                (["--model", "Large_1"], "a name that Kubernetes accepts"),
                (["--namespace", "a.b"], "expected --namespace"),
                (["--memory", "2 GB"], "expected --memory as a quantity"),
                (["--cpu", "many"], "expected --cpu as a quantity"),
            )
        ),
    ],
)
def test_a_contradictory_command_line_is_refused_before_anything_is_read(
    capsys, tmp_path, words, why
):
    refused(capsys, tmp_path, why, *words, status=2)


def test_a_model_that_cannot_be_served_is_refused_on_one_line(capsys, tmp_path):
    refused(capsys, tmp_path, "expected an ONNX file at", "--onnx", tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("a picture, honestly")
    refused(capsys, tmp_path, "got other bytes", "--onnx", tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(capsys, tmp_path, "got other bytes", "--onnx", tmp_path / "empty.onnx")
    refused(capsys, tmp_path, "bundle.json", "--bundle", tmp_path)
    two = write_scores(tmp_path / "two.onnx", names=("logits", "features_again"))
    refused(capsys, tmp_path, "name it with --answer", "--onnx", two)
    refused(capsys, tmp_path, "expected an output 'x'", "--onnx", two, "--answer", "x")
    half = write_graph(
        tmp_path / "bf16.onnx",
        [("x", TensorProto.BFLOAT16, ["n", 3])],
        [("scores", TensorProto.FLOAT, ["n", 3])],
        [helper.make_node("Cast", ["x"], ["scores"], to=TensorProto.FLOAT)],
    )
    refused(capsys, tmp_path, "cast it in the graph", "--onnx", half)
    one = write_scores(tmp_path / "one.onnx", shape=("n", 1))
    refused(capsys, tmp_path, "has 0 among", "--onnx", one)
    words = ["--onnx", one, "--answer", "scores"]
    refused(capsys, tmp_path, "scores of two classes, which a bundle of a model with", *words)
    (tmp_path / "labels").write_text("a\nb\n")
    words = ["--onnx", two, "--answer", "logits", "--labels", tmp_path / "labels"]
    refused(capsys, tmp_path, "scores of 2 classes, one per label", *words)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "got none"),
        (b"a\na\nb\n", "'a' occurs twice"),
        (b"a\n\nb\n", "one line"),
        (b"\xff\n", "UTF-8"),
    ],
)
def test_a_file_without_valid_labels_is_refused(capsys, tmp_path, text, why):
    file = write_scores(tmp_path / "m.onnx")
    (tmp_path / "labels").write_bytes(text)
    refused(capsys, tmp_path, why, "--onnx", file, "--labels", tmp_path / "labels")


def test_only_an_older_deployment_is_replaced_and_only_with_overwrite(bundle, tmp_path, capsys):
    words = ["--target", "triton", "--bundle", bundle, "--out", tmp_path]
    assert deploy(*words) == 0
    (tmp_path / "large" / "1" / "stale.bin").write_bytes(b"old")
    assert deploy(*words) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert deploy(*words, "--overwrite") == 0
    assert not (tmp_path / "large" / "1" / "stale.bin").exists()
    assert deploy(*words, "--model", "second") == 0  # a repository holds several models
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert deploy(*words, "--model", "mine", "--overwrite") == 1
    assert "got other things" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large", "mine", "second"]


def test_a_failed_deployment_leaves_the_old_one_as_it_was(bundle, tmp_path):
    words = ["--target", "triton", "--bundle", bundle, "--out", tmp_path]
    assert deploy(*words, "--max-batch", 7) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloud_stub.deploy.triton.describe", _no_space)
        assert deploy(*words, "--overwrite") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["large"]
    assert read_config(tmp_path / "large").max_batch_size == 7


def test_an_engine_never_sees_a_half_written_model(bundle, tmp_path):
    seen = []
    repository = tmp_path / "models"
    describe = triton.describe

    def look(*words):
        seen.extend(sorted(path.name for path in repository.iterdir()))
        return describe(*words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloud_stub.deploy.triton.describe", look)
        assert deploy("--target", "triton", "--bundle", bundle, "--out", repository) == 0
    assert seen == []
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def _no_space(*_):
    raise OSError(28, "No space left on device", "config.pbtxt")


@pytest.mark.parametrize(
    "flags",
    [[], ["--namespace", "vision", "--replicas", "2", "--cpu", "500m", "--memory", "1.5Gi"]],
)
def test_an_inference_service_has_the_fields_that_kserve_publishes(bundle, tmp_path, flags):
    yaml = pytest.importorskip("yaml")
    uri = "s3://bucket/models"
    out = tmp_path / "out"
    words = ["--target", "kserve", "--bundle", bundle, "--out", out, "--storage-uri", uri]
    assert deploy(*words, *flags) == 0
    text = (out / "inference-service.yaml").read_text()
    service = yaml.safe_load(text)
    schema = json.loads(SCHEMA.read_text())
    assert complaints(service, "V1beta1InferenceService", schema) == []
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    assert service["metadata"] == {"name": "large"} | ({"namespace": "vision"} if flags else {})
    predictor = service["spec"]["predictor"]
    assert predictor.get("minReplicas") == predictor.get("maxReplicas") == (2 if flags else None)
    model = predictor["model"]
    assert model["storageUri"] == uri
    assert (model["runtime"], model["protocolVersion"]) == ("kserve-tritonserver", "v2")
    # The port of that runtime's --grpc-port, under Knative's name of HTTP/2.
    assert model["ports"] == [{"name": "h2c", "containerPort": 9000, "protocol": "TCP"}]
    expected = {"cpu": "500m", "memory": "1.5Gi"} if flags else {"cpu": "1", "memory": "2Gi"}
    assert model["resources"] == {"requests": expected, "limits": expected}
    assert read_config(out / "models" / "large").name == "large"


def test_the_schema_check_finds_fields_that_kserve_would_refuse():
    schema = json.loads(SCHEMA.read_text())
    model = {"modelFormat": {"name": "onnx"}, "storageURI": "s3://b", "ports": [{"name": "h2c"}]}
    service = {"spec": {"predictor": {"minReplicas": "2", "model": model}}}
    assert sorted(complaints(service, "V1beta1InferenceService", schema)) == [
        ".spec.predictor.minReplicas: '2' is no int",
        ".spec.predictor.model.ports[0]: containerPort is missing",
        ".spec.predictor.model: storageURI is unknown",
    ]
    assert complaints({}, "V1beta1ModelSpec", schema) == [": modelFormat is missing"]


@contextlib.contextmanager
def serving(repository, model="large"):
    """Serve a repository's model as configured; yield the address."""
    command = [sys.executable, ENGINE, str(repository), model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def printed_arguments(output):
    """Return the arguments of the printed `Cascade.open(...)` except the engine's address."""
    call = ast.parse(output[output.index("Cascade.open(") :].strip(), mode="eval").body
    assert [argument.id for argument in call.args] == ["BUNDLE"]
    values = {k.arg: ast.unparse(k.value) for k in call.keywords}
    assert ast.literal_eval(values.pop("cloud")) == "HOST:PORT"
    return {name: eval(value) for name, value in values.items()}  # noqa: S307 - our own output


@contextlib.contextmanager
def engine_client(repository, output, labels=LABELS):
    """Open the deployed model as printed, for inputs that no bundle here accepts."""
    arguments = printed_arguments(output)
    arguments.pop("forward", None)
    with (
        serving(repository) as address,
        CloudModel.open(address, labels=labels, deadline_s=60, **arguments) as cloud,
    ):
        yield cloud


@pytest.mark.slow
def test_a_cascade_asks_a_deployed_bundle_as_printed(bundle, tmp_path, capsys):
    assert deploy("--target", "triton", "--bundle", bundle, "--out", tmp_path) == 0
    arguments = printed_arguments(capsys.readouterr().out)
    with (
        serving(tmp_path) as address,
        Cascade.open(bundle, cloud=address, threshold=2.0, deadline_s=60, **arguments) as cascade,
    ):
        answers = cascade.batch(PICTURES)
    assert [answer.source for answer in answers] == ["cloud"] * 3, answers
    assert [answer.label for answer in answers] == [LABELS[best] for best in BEST]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["triton", "kserve"])
def test_the_printed_command_line_asks_the_engine_too(bundle, tmp_path, capsys, target):
    flags = ["--storage-uri", "s3://bucket/models"] if target == "kserve" else []
    out = tmp_path / "with a space"
    assert deploy("--target", target, "--bundle", bundle, "--out", out, *flags) == 0
    printed = capsys.readouterr().out.splitlines()
    (line,) = (line for line in printed if line.startswith("python -m edge_runtime run "))
    np.save(tmp_path / "picture.npy", PICTURES[0])
    with serving(out / "models" if target == "kserve" else out) as address:
        places = {
            "BUNDLE": str(bundle),
            "HOST:PORT": address,
            "INPUTS": str(tmp_path / "picture.npy"),
        }
        words = [places.get(word, word) for word in shlex.split(line)[1:]]
        words += ["--threshold", "2", "--deadline-s", "60", "--json"]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert (answer["source"], answer["label"]) == ("cloud", "dark")


@pytest.mark.slow
def test_the_confidence_of_the_engine_reaches_the_device(bundle, tmp_path, capsys):
    assert deploy("--target", "triton", "--bundle", bundle, "--out", tmp_path) == 0
    with engine_client(tmp_path, capsys.readouterr().out) as cloud:
        answers = cloud.infer(PICTURES)
    # Softmax of the logits (3, 1.5, 0): 1 / (1 + e^-1.5 + e^-3) = 1 / (1 + 0.22313 + 0.04979).
    assert answers.confidence[:2] == pytest.approx([1 / 1.27292] * 2, abs=1e-5)


@pytest.mark.slow
def test_a_cascade_reads_scores_of_any_onnx_file_in_the_order_of_its_labels(
    bundle, tmp_path, capsys
):
    graph = onnx.load(bundle / "model.onnx")
    graph.graph.output.append(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    )
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "m.onnx")
    (tmp_path / "labels").write_text("bright\ndark\nmiddling\n")
    words = ["--onnx", tmp_path / "m.onnx", "--labels", tmp_path / "labels"]
    assert deploy("--target", "triton", "--out", tmp_path / "o", *words) == 0
    arguments = printed_arguments(capsys.readouterr().out)
    assert (arguments["cloud_output"], arguments["cloud_reduce"]) == ("logits", "argmax")
    with (
        serving(tmp_path / "o") as address,
        Cascade.open(bundle, cloud=address, threshold=2.0, deadline_s=60, **arguments) as cascade,
    ):
        answers = cascade.batch(PICTURES)
    assert [answer.label for answer in answers] == ["bright", "middling", "middling"]
    assert [answer.source for answer in answers] == ["cloud"] * 3, answers


@pytest.mark.slow
def test_texts_and_class_names_pass_through_a_graph_of_strings(tmp_path, capsys):
    write_scores(tmp_path / "m.onnx", element=TensorProto.STRING, shape=("n",))
    assert deploy("--target", "triton", "--onnx", tmp_path / "m.onnx", "--out", tmp_path / "o") == 0
    written = capsys.readouterr()
    config = read_config(tmp_path / "o" / "large")
    # Triton has no string without an axis of its own, so the rows are that axis.
    assert config.max_batch_size == 0
    assert tensors(config.input) == {"features": ("TYPE_STRING", [-1], None)}
    assert "each call alone" in written.err
    assert "the labels are unknown" in written.err
    with engine_client(tmp_path / "o", written.out) as cloud:
        answers = cloud.infer(np.array(["bright", "dark"], object))
    assert answers.label == ["bright", "dark"]


@pytest.mark.slow
def test_a_graph_of_floats_gets_the_input_of_the_edge_model(tmp_path, capsys):
    write_scores(tmp_path / "m.onnx", shape=("n", 24))
    labels = [f"class {n}" for n in range(24)]
    (tmp_path / "labels").write_text("\n".join(labels))
    words = ["--onnx", tmp_path / "m.onnx", "--labels", tmp_path / "labels", "--max-batch", 2]
    assert deploy("--target", "triton", "--out", tmp_path / "o", *words) == 0
    printed = capsys.readouterr().out
    assert printed_arguments(printed)["forward"] == "model_input"
    assert printed_arguments(printed)["cloud_labels"] == labels  # read from the file
    with engine_client(tmp_path / "o", printed, labels) as cloud:
        assert cloud.infer(np.eye(24, dtype=np.float32)[[5, 23]]).prediction.tolist() == [5, 23]
        with pytest.raises(CloudRejectedError, match="must be <= 2"):
            cloud.infer(np.eye(24, dtype=np.float32)[:3])


def test_a_model_that_no_cascade_can_ask_is_written_with_a_note(tmp_path, capsys):
    write_graph(
        tmp_path / "m.onnx",
        [("input_ids", TensorProto.FLOAT, ["n", 3]), ("mask", TensorProto.FLOAT, ["n", 3])],
        [("scores", TensorProto.FLOAT, ["n", 3])],
        [helper.make_node("Mul", ["input_ids", "mask"], ["scores"])],
    )
    assert deploy("--target", "triton", "--onnx", tmp_path / "m.onnx", "--out", tmp_path / "o") == 0
    printed = capsys.readouterr()
    assert "no cascade can ask it: the edge sends one input" in printed.err
    assert "Cascade.open" not in printed.out
    assert list(tensors(read_config(tmp_path / "o" / "large").input)) == ["input_ids", "mask"]


@pytest.mark.slow
def test_deploy_is_a_command_next_to_serving_by_default(bundle, tmp_path, run_command):
    words = ["--target", "triton", "--bundle", str(bundle), "--out", str(tmp_path / "o")]
    done = run_command("deploy", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / "large" / "config.pbtxt").is_file()
    help_text = run_command("--help").stdout
    assert "usage: python -m cloud_stub [COMMAND] FLAGS" in help_text
    assert "--checkpoint" in help_text
    assert "deploy" in help_text
