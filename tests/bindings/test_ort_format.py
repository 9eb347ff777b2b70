"""In ORT format, for mobile builds, a graph decides as before and accepts a threshold."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.tools import convert_onnx_models_to_ort as converter

from edge_runtime import contract
from edge_runtime.edge_model import EdgeModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # of the converter
]
CONFIDENCE_TOLERANCE = 1e-5
LEVEL = "ORT_CONVERT_ONNX_MODELS_TO_ORT_OPTIMIZATION_LEVEL"


def open_session(file, options=None):
    options = options or ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(session, pictures, threshold=None):
    feeds = {contract.IMAGE: pictures}
    if threshold is not None:
        feeds[contract.THRESHOLD] = np.array(threshold, np.float32)
    return session.run(contract.GATE_OUTPUTS, feeds)


def assert_equal(found, expected):
    prediction, confidence, defer = found
    np.testing.assert_array_equal(prediction, expected.prediction)
    np.testing.assert_array_equal(defer, expected.defer)
    np.testing.assert_allclose(confidence, expected.confidence, rtol=0, atol=CONFIDENCE_TOLERANCE)


def convert(file, out, style=converter.OptimizationStyle.Fixed, target="arm"):
    converter.convert_onnx_models_to_ort(
        file, output_dir=out, optimization_styles=[style], target_platform=target
    )
    (converted,) = out.glob("*.ort")
    return converted


@pytest.fixture(params=["trained_bundle", "second_look_bundle"])
def some_bundle(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("target", ["amd64", "arm"])
@pytest.mark.parametrize("style", list(converter.OptimizationStyle), ids=lambda style: style.name)
@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
def test_a_fed_threshold_survives_every_conversion(
    some_bundle, samples, other_threshold, tmp_path, monkeypatch, level, style, target
):
    monkeypatch.setenv(LEVEL, level)
    session = open_session(convert(some_bundle / "model.onnx", tmp_path, style, target))
    for threshold in (None, other_threshold):
        expected = EdgeModel.open(some_bundle, threshold=threshold)(samples.pictures)
        assert_equal(run(session, samples.pictures, threshold), expected)
    told = session.get_modelmeta().custom_metadata_map[contract.METADATA_KEY]
    assert contract.GateMetadata.from_json(told).labels == tuple("0123456789")


def convert_by_command(file, out):
    """Convert as docs/mobile.md says."""
    line = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(file)]
    words = ["--output_dir", str(out), "--optimization_style", "Fixed", "--target_platform", "arm"]
    done = subprocess.run([*line, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "model.ort"


def test_another_threshold_may_be_set_once_per_session(
    trained_bundle, samples, python_answers, other_threshold, tmp_path
):
    # As Java's SessionOptions.addInitializer does, since Java's `run` refuses such a feed.
    value = ort.OrtValue.ortvalue_from_numpy(np.array(other_threshold, np.float32))
    graph = trained_bundle / "model.onnx"
    for file in (graph, convert_by_command(graph, tmp_path)):
        options = ort.SessionOptions()
        options.add_initializer(contract.THRESHOLD, value)
        session = open_session(file, options)
        assert_equal(run(session, samples.pictures), python_answers(other_threshold))


def test_without_its_default_the_threshold_is_an_ordinary_input(
    trained_bundle, samples, python_answers, other_threshold, tmp_path
):
    model = onnx.load(trained_bundle / "model.onnx")
    kept = [i for i in model.graph.initializer if i.name != contract.THRESHOLD]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, tmp_path / "model.onnx")
    session = open_session(convert(tmp_path / "model.onnx", tmp_path))
    assert [node.name for node in session.get_inputs()] == [contract.IMAGE, contract.THRESHOLD]
    assert_equal(run(session, samples.pictures, other_threshold), python_answers(other_threshold))
