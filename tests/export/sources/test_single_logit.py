"""A text classifier with a single logit goes the whole way: evaluate, export, verify, serve."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tools.texts import write_classifier
from transformers import AutoModelForSequenceClassification

from cloud_stub.backends.backend import Batch
from cloud_stub.backends.classifiers import CheckpointBackend
from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.commands.verify import VerifySettings
from export.errors import LabelError
from train import data
from train.classifier.settings import EvaluateSettings
from train.models import open_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mail(texts, tmp_path_factory):
    """Texts of two classes."""
    folder = tmp_path_factory.mktemp("mail")
    for split in ("train", "validation", "test"):
        with (texts / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            names = {"label": "label", "card": "spam", "loan": "spam"}
            csv.writer(file).writerows([text, names.get(label, "ham")] for text, label in rows)
    return folder


def logits_of(folder, mail):
    """Return transformers' own logit of the test texts, float32 [n]."""
    encoded = open_checkpoint(folder, kind="text").encode(data.load(str(mail)).test.inputs)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model.eval()(**encoded).logits[:, 0]


@pytest.fixture(scope="module")
def spam(mail, tmp_path_factory):
    """A classifier with one logit of either sign, and names for both of its classes."""
    folder = write_classifier(tmp_path_factory.mktemp("spam") / "bert", labels=("spam",))
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 100
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    weights["classifier.bias"] -= logits_of(folder, mail).mean()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["label2id"] = {"ham": 0, "spam": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def probability(mail, spam):
    """Sigmoid of the logits, float64 [n], of which both classes have a part."""
    found = torch.sigmoid(logits_of(spam, mail).double()).numpy()
    assert found.min() < 0.45
    assert found.max() > 0.55
    return found


@pytest.mark.parametrize("exporter", ["auto", "torch"])
def test_its_bundle_defers_below_max_p_1_minus_p(exporter, mail, spam, probability, tmp_path):
    out = tmp_path / "bundle"
    goal = {"calibrate": str(mail), "target_deferral": 0.3}
    BuildSettings(checkpoint=spam, out=out, exporter=exporter, **goal).run()
    model = EdgeModel.open(out)
    gated = model(model.reader.batch(data.load(str(mail)).test.inputs))
    confidence = np.maximum(probability, 1 - probability)
    assert model.labels == ("ham", "spam")
    np.testing.assert_array_equal(gated.prediction, probability > 0.5)
    np.testing.assert_allclose(gated.confidence, confidence, atol=1e-5)
    assert 0.1 < gated.defer.mean() < 0.6
    assert "confidence: max_softmax, from 0.5 to 1" in describe(read_bundle(out))
    VerifySettings(bundle=out, data=str(mail), against=spam).run()


def test_it_is_quantized(mail, spam, tmp_path):
    out = tmp_path / "bundle"
    goal = {"calibrate": str(mail), "target_deferral": 0.3}
    BuildSettings(checkpoint=spam, out=out, quantize="fp16", max_flips=0.05, **goal).run()
    assert 0 < read_bundle(out).verification["quantization"]["confidence_difference_max"] < 1e-2


def test_it_is_served_and_evaluated(mail, spam, probability, tmp_path):
    test = data.load(str(mail)).test
    backend = CheckpointBackend(spam, 1)
    (outputs,) = backend.infer(Batch({contract.TEXT: test.inputs}, len(test), np.inf))
    np.testing.assert_array_equal(outputs[contract.PREDICTION], probability > 0.5)
    np.testing.assert_allclose(
        outputs[contract.CONFIDENCE], np.maximum(probability, 1 - probability), atol=1e-5
    )
    EvaluateSettings(
        checkpoint=spam, data=str(mail), large=spam, out=tmp_path / "figures.json"
    ).run()
    figures = json.loads((tmp_path / "figures.json").read_text())
    right = (probability > 0.5) == (test.labels == test.label_names.index("spam"))
    assert figures["figures"]["acc(M_S)"] == right.mean()


def test_data_with_a_name_that_the_model_does_not_know_are_refused(mail, tmp_path):
    folder = write_classifier(tmp_path / "bert", labels=("spam",))
    settings = BuildSettings(
        checkpoint=folder, out=tmp_path / "out", calibrate=str(mail), target_deferral=0.3
    )
    says = r"\(not spam, spam ...\).* or name both classes .* in config.json \(label2id\)"
    with pytest.raises(LabelError, match=says):
        settings.run()
