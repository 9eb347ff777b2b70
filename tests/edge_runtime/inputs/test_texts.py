"""Texts on the device and over the wire, with a tokenizer in the bundle."""

import json
import shutil
import subprocess
import sys

import grpc
import numpy as np
import pytest
from tools.processes import ROOT, finish
from tools.texts import make_tokenizer, write_classifier

from benchmarks.processes import running_server
from edge_runtime import BundleError, Cascade, CloudRejectedError, InputError, SettingError, Source
from edge_runtime.bundle import file_sha256
from edge_runtime.cloud.model import CloudModel
from edge_runtime.edge_model import EdgeModel
from edge_runtime.inputs.texts import TextEncoder
from edge_runtime.recording.recorder import Recorder
from edge_runtime.wire import messages as pb
from export.commands.build import BuildSettings
from train.data import load
from train.models import open_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the folders of (M_S, M_L): untrained, so that they often differ."""
    folder = tmp_path_factory.mktemp("models")
    return [write_classifier(folder / str(seed), seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def text_bundle(models, texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "texts"
    BuildSettings(checkpoint=models[0], out=out, calibrate=str(texts), target_deferral=0.3).run()
    return out


@pytest.fixture(scope="module")
def served(models):
    arguments = ["cloud_stub", "--checkpoint", str(models[1]), "--port", "0"]
    with running_server(arguments) as address:
        yield address


@pytest.fixture(scope="module")
def test_split(texts):
    return load(str(texts)).test


def test_deferred_texts_are_answered_by_the_large_model(text_bundle, served, test_split, models):
    small, large = (
        open_checkpoint(path, kind="text").predict(test_split.inputs).argmax(-1) for path in models
    )
    with Cascade.open(text_bundle, cloud=served, deadline_s=20) as cascade:
        answers = cascade.batch(test_split.inputs)
        alone = [cascade(text) for text in test_split.inputs[:20]]
    deferred = np.array([a.deferred for a in answers])
    assert 0.15 < deferred.mean() < 0.45
    wanted = np.where(deferred, large, small)
    assert (small != large)[deferred].any()
    assert [a.prediction for a in answers] == wanted.tolist()
    assert [a.label for a in answers] == [test_split.label_names[i] for i in wanted]
    sources = [Source.CLOUD if d else Source.EDGE for d in deferred]
    assert [a.source for a in answers] == sources
    assert [(a.label, a.source) for a in alone] == [(a.label, a.source) for a in answers[:20]]


def test_a_text_bundle_is_served_as_well(text_bundle, test_split):
    given = [*test_split.inputs[:5], "żółw 🙂", "card " * 100]
    model = EdgeModel.open(text_bundle)
    expected = model(model.reader.batch(given))
    with (
        running_server(["cloud_stub", "--bundle", str(text_bundle), "--port", "0"]) as address,
        CloudModel.open(address, labels=model.labels, cloud_input="text", deadline_s=20) as cloud,
    ):
        answers = cloud.infer(np.array(given, object))
    assert answers.prediction.tolist() == expected.prediction.tolist()
    np.testing.assert_allclose(answers.confidence, expected.confidence, atol=1e-6)


def test_the_server_describes_its_input_and_refuses_others(served):
    with grpc.insecure_channel(served) as channel:
        call = channel.unary_unary(pb.METHODS["ModelMetadata"], None, None)
        reply = call(pb.ModelMetadataRequest(name="large").SerializeToString(), timeout=20)
    (described,) = pb.ModelMetadataResponse.FromString(reply).inputs
    assert (described.name, described.datatype, list(described.shape)) == ("text", "BYTES", [-1])
    labels = ("card", "loan", "travel", "weather")
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    for name, says in (("text", r"expected text as BYTES \[n\]"), ("image", "one input 'text'")):
        with (
            CloudModel.open(served, labels=labels, cloud_input=name, deadline_s=20) as cloud,
            pytest.raises(CloudRejectedError, match=says),
        ):
            cloud.infer(pictures)


def test_a_text_other_than_utf8_is_refused(served):
    request = pb.ModelInferRequest(model_name="large")
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        b"caf\xe9"
    )
    with grpc.insecure_channel(served) as channel:
        call = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        with pytest.raises(grpc.RpcError) as refused:
            call(request.SerializeToString(), timeout=20)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "expected texts in UTF-8, row 0" in refused.value.details()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("one text", "a list of texts, got a str: put a single one into a list"),
        ([], "expected at least one text, got none"),
        ([b"card"], r"expected texts \(str\), got a bytes: decode bytes first"),
        (["card", None], "got None"),
        ([["card"], ["loan"]], "got a list"),
        (np.zeros((2, 8, 8, 3), np.uint8), "got a ndarray"),
        (5, "a list of texts, got a single int"),
        (["half a pair \ud83d"], "texts of Unicode characters"),
    ],
    ids=str,
)
def test_values_other_than_texts_are_an_input_error(given, says, text_bundle):
    with Cascade.open(text_bundle) as cascade, pytest.raises(InputError, match=says):
        cascade.batch(given)


def test_a_text_without_a_token_is_an_input_error(tmp_path):
    file = tmp_path / "tokenizer.json"
    alone = make_tokenizer().backend_tokenizer
    alone.post_processor = None  # as GPT-2's: nothing is put around a text
    alone.enable_padding()
    alone.save(str(file))
    encode = TextEncoder(file, ("input_ids", "attention_mask"))
    assert encode(["card"])["input_ids"].shape == (1, 1)
    with pytest.raises(InputError, match="at least one token in a text, got none in row 1"):
        encode(["card", " \n"])


def test_settings_that_do_not_fit_texts_are_refused(text_bundle, tmp_path):
    with pytest.raises(SettingError, match="a bundle of pictures with record"):
        Cascade.open(text_bundle, record=Recorder(tmp_path / "kept"))
    with pytest.raises(SettingError, match="forward='original' for a bundle of texts"):
        Cascade.open(text_bundle, cloud="localhost:1", forward="model_input")


def damage(bundle, content):
    file = bundle / "tokenizer.json"
    file.write_text(content)
    record = json.loads((bundle / "bundle.json").read_text())
    record["files"][file.name] = file_sha256(file)
    (bundle / "bundle.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: damage(b, "{}"), "expected a tokenizer in .*it does not open"),
        (lambda b: (b / "tokenizer.json").write_text("{}"), "was altered or truncated"),
        (lambda b: (b / "tokenizer.json").unlink(), "is missing"),
    ],
    ids=["no tokenizer", "altered", "missing"],
)
def test_a_damaged_tokenizer_is_refused(change, says, text_bundle, tmp_path):
    copy = shutil.copytree(text_bundle, tmp_path / "copy")
    change(copy)
    with pytest.raises(BundleError, match=says):
        EdgeModel.open(copy)


def test_run_answers_texts_and_doctor_tries_one(text_bundle, tmp_path):
    (tmp_path / "one.txt").write_text("my card was stolen\n", encoding="utf-8")
    (tmp_path / "two.txt").write_bytes(b"caf\xe9")
    line = ["run", "--bundle", text_bundle, "--json", tmp_path, "--text", "my card was stolen"]
    code, error, out = finish("edge_runtime", *line)
    assert out.count("\n") == 3, (code, error)
    itself, one, two = map(json.loads, out.splitlines())
    assert (code, itself["input"], one["input"]) == (1, "--text", str(tmp_path / "one.txt"))
    assert (itself["label"], itself["confidence"]) == (one["label"], one["confidence"])
    assert "expected a text in UTF-8" in two["error"]
    assert "1 of 3 inputs got no answer" in error
    code, _, out = finish("edge_runtime", "doctor", "--bundle", text_bundle)
    assert code == 0
    assert "ok    bundle: 4 labels" in out


def test_a_missing_library_is_named_and_pictures_do_without(text_bundle, bundle):
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from edge_runtime.edge_model import EdgeModel\n"
        f"EdgeModel.open({str(bundle)!r})\n"
        f"EdgeModel.open({str(text_bundle)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "reading texts needs tokenizers, which is not installed" in done.stderr
    assert "gatekeeper-edge[text]" in done.stderr
    assert f"EdgeModel.open({str(text_bundle)!r})" not in done.stdout
