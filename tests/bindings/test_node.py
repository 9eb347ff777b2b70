"""A real Node process gives Python's answers, and one line about a bad bundle."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from edge_runtime import contract
from edge_runtime.edge_model import EdgeModel
from edge_runtime.inputs.pictures import read_input

pytestmark = pytest.mark.slow
CONFIDENCE_TOLERANCE = 1e-5


@pytest.fixture
def classify(examples):
    def run(*words):
        line = ["node", "classify.mjs", *map(str, words)]
        return subprocess.run(
            line, cwd=examples / "node", capture_output=True, text=True, check=False, timeout=120
        )

    return run


def answers(done):
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_equal(found, expected):
    assert [answer["prediction"] for answer in found] == expected.prediction.tolist()
    assert [answer["defer"] for answer in found] == expected.defer.tolist()
    shift = np.abs(np.array([answer["confidence"] for answer in found]) - expected.confidence)
    assert shift.max() < CONFIDENCE_TOLERANCE


def test_the_samples_tell_answers_and_decisions_apart(python_answers, other_threshold):
    own, other = python_answers(), python_answers(other_threshold)
    assert len(np.unique(own.prediction)) >= 8
    assert 0.1 < own.defer.mean() < 0.5 < other.defer.mean() < 0.9


def test_the_contract_is_the_same_in_both_languages(javascript):
    names = """
        import { BUNDLE_FILE, CONTRACT_VERSION } from "../shared/bundle.mjs";
        import { OUTPUTS } from "../shared/classifier.mjs";
        import { THRESHOLD } from "../shared/threshold_input.mjs";
        console.log(JSON.stringify([BUNDLE_FILE, CONTRACT_VERSION, OUTPUTS, THRESHOLD]));
    """
    assert json.loads(javascript("node", names)) == [
        contract.BUNDLE_FILE,
        contract.CONTRACT_VERSION,
        list(contract.GATE_OUTPUTS),
        contract.THRESHOLD,
    ]


@pytest.mark.parametrize(
    ("name", "outcome"), [("node", "[0,0]"), ("web", "invalid input 'threshold'")]
)
def test_an_initializer_cannot_be_fed_from_javascript(javascript, trained_bundle, name, outcome):
    # Why examples/shared/threshold_input.mjs is there; where this fails, it may go.
    feed = f"""
        import * as ort from "onnxruntime-{name}";
        import {{ readFile }} from "node:fs/promises";
        const graph = new Uint8Array(await readFile({str(trained_bundle / "model.onnx")!r}));
        const session = await ort.InferenceSession.create(graph, {{ logSeverityLevel: 3 }});
        const image = new ort.Tensor("uint8", new Uint8Array(192), [1, 8, 8, 3]);
        const decide = async (threshold) => {{
          const feeds = {{ image, threshold: new ort.Tensor("float32", [threshold], []) }};
          return (await session.run(feeds)).defer.data[0];
        }};
        const own = (await session.run({{ image }})).defer.data[0];
        try {{
          console.log(JSON.stringify([await decide(-1) - own, await decide(2) - own]));
        }} catch (error) {{
          console.log(error.message);
        }}
    """
    assert javascript(name, feed).strip() == outcome


def test_node_answers_pictures_as_python_does(classify, trained_bundle, samples, python_answers):
    found = answers(classify(trained_bundle, *samples.files))
    assert_equal(found, python_answers())
    assert [answer["input"] for answer in found] == [str(file) for file in samples.files]
    assert all(answer["label"] == str(answer["prediction"]) for answer in found)


def test_node_feeds_another_threshold(
    classify, trained_bundle, samples, python_answers, other_threshold
):
    found = answers(classify(trained_bundle, "--threshold", other_threshold, *samples.files))
    assert_equal(found, python_answers(other_threshold))


def test_node_runs_a_graph_with_a_second_look(
    classify, second_look_bundle, samples, other_threshold
):
    expected = EdgeModel.open(second_look_bundle, threshold=other_threshold)(samples.pictures)
    found = classify(second_look_bundle, "--threshold", other_threshold, *samples.files)
    assert_equal(answers(found), expected)


def test_node_takes_raw_pictures_in_one_batch(
    classify, trained_bundle, samples, python_answers, tmp_path
):
    (tmp_path / "digits.rgb").write_bytes(samples.pictures.tobytes())
    found = answers(classify(trained_bundle, "--raw", "8x8", tmp_path / "digits.rgb"))
    assert_equal(found, python_answers())


def test_a_png_with_alpha_or_16_bits_is_read_as_python_reads_it(classify, trained_bundle, tmp_path):
    values = np.random.default_rng(5).integers(0, 256, (11, 9, 4), np.uint8)
    Image.fromarray(values).save(tmp_path / "alpha.png")
    wide = (values[..., 0].astype(np.uint16) << 8) + values[..., 1]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    model = EdgeModel.open(trained_bundle)
    for name in ("alpha.png", "wide.png"):
        found = answers(classify(trained_bundle, tmp_path / name))
        assert_equal(found, model(read_input(tmp_path / name)[None]))


def test_one_bad_picture_does_not_affect_the_others(classify, trained_bundle, samples, tmp_path):
    (tmp_path / "text.png").write_text("no picture, but long enough for a header")
    header = samples.files[0].read_bytes()
    (tmp_path / "huge.png").write_bytes(header[:16] + b"\x7f\xff\xff\xff" * 2 + header[24:])
    (tmp_path / "cut.png").write_bytes(header[:60])
    bad = [tmp_path / name for name in ("text.png", "huge.png", "cut.png", "absent.png")]
    done = classify(trained_bundle, *bad, samples.files[0])
    assert done.returncode == 1
    assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == [
        str(samples.files[0])
    ]
    said = done.stderr.splitlines()
    texts = ("expected a PNG", "expected at most 67108864 pixels", "cannot be decoded", "ENOENT")
    assert len(said) == len(texts)
    assert all(text in line for text, line in zip(texts, said, strict=True))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected BUNDLE and PICTURE"),
        (["bundle", "a.png", "--threshold", "high"], "expected a number as --threshold"),
        (["bundle", "a.png", "--raw", "8"], "expected --raw as WIDTHxHEIGHT"),
        (["bundle", "a.png", "--treshold", "1"], "--treshold"),
    ],
)
def test_a_misspelt_line_runs_nothing(classify, words, says):
    done = classify(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def damages():
    def version(record):
        record["metadata"]["contract_version"] = 2

    def outside(record):
        record["files"]["../model.onnx"] = "0" * 64

    def no_hash(record):
        del record["files"]["model.onnx"]

    def no_labels(record):
        record["metadata"]["labels"] = []

    def of_text(record):
        record["metadata"]["input"] = {"name": "text", "dtype": "int64", "shape": ["batch", 8]}

    def nothing(record):
        return None

    yield "version", version, None, "expected gate contract version 1, the bundle says 2"
    yield "outside", outside, None, "outside its folder"
    yield "no hash", no_hash, None, "expected a classifier graph and its hash"
    yield "no labels", no_labels, None, "expected labels"
    yield "text", of_text, None, "expected a graph that takes uint8"
    yield "altered", nothing, lambda graph: graph[:-1] + b"\0", "altered or truncated"
    yield "cut", nothing, lambda graph: graph[: len(graph) // 2], "altered or truncated"


@pytest.mark.parametrize(
    ("change", "graph", "says"), [pytest.param(*d[1:], id=d[0]) for d in damages()]
)
def test_a_damaged_bundle_is_refused_in_one_line(classify, damaged, samples, change, graph, says):
    done = classify(damaged(change, graph=graph), samples.files[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("graph", [b"", b"\x3a\xff", b"\x3a\x02\x08\x01", b"plain text"])
def test_bytes_other_than_a_graph_are_refused_though_the_hash_fits(
    classify, damaged, samples, graph
):
    def vouch(record):
        record["files"]["model.onnx"] = hashlib.sha256(graph).hexdigest()

    done = classify(damaged(vouch, graph=lambda _: graph), samples.files[0])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "expected an ONNX graph" in done.stderr


def test_a_file_that_leads_out_of_the_bundle_is_refused(classify, trained_bundle, damaged, samples):
    folder = damaged()
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(trained_bundle / "model.onnx")
    done = classify(folder, samples.files[0])
    assert done.returncode == 1
    assert "leads outside" in done.stderr


def test_without_a_bundle_the_message_says_how_to_make_one(classify, tmp_path):
    done = classify(tmp_path, "a.png")
    assert done.returncode == 1
    assert "python -m export" in done.stderr
