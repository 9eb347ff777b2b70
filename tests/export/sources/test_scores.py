"""ONNX files whose output is no row of logits: one logit, probabilities, percentages, scores."""

import json
import unicodedata

import numpy as np
import pytest
import torch
from tools.decisions import run_alone
from tools.foreign_models import Logits, write_onnx, write_program

from edge_runtime import metrics
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from export.commands.inspect import describe
from export.sources import scores
from train.models import open_checkpoint


class Made(Logits):
    """A classifier that makes something else of its logits [n, 10]."""

    def __init__(self, checkpoint, make):
        super().__init__(checkpoint)
        self.make = make

    def forward(self, x):
        return self.make(super().forward(x), x)


@pytest.fixture
def write(small_checkpoint, tmp_path):
    """Return a function that writes an ONNX file of the small checkpoint with another output."""

    def written(make):
        return write_onnx(Made(open_checkpoint(small_checkpoint), make), tmp_path / "made.onnx")

    return written


def single(z, x):
    """Return one logit a row, of either sign."""
    return 30 * (z[:, 3:4] - z[:, 5:6] - 0.18)


def shares(z, x):
    """Return probabilities without a Softmax that names them."""
    e = torch.exp(4 * z)
    return e / e.sum(-1, keepdim=True)


@pytest.fixture
def two_names(tmp_path):
    """Settings with the names of two classes and a threshold by hand."""
    file = tmp_path / "two.txt"
    file.write_text("low\nhigh\n")
    goal = dict.fromkeys(("calibrate", "target_deferral"))
    return {**goal, "labels": file, "threshold": 0.6}


@pytest.mark.parametrize("shape", ["[n, 1]", "[n]"])
def test_a_single_logit_is_confident_as_its_logistic_function(
    shape, write, export, two_names, pixels, digits
):
    path = write(single if shape == "[n, 1]" else lambda z, x: single(z, x)[:, 0])
    bundle = export(path, **two_names)
    model = EdgeModel.open(bundle)
    gated = model(digits)
    probability = 1 / (1 + np.exp(-run_alone(path, pixels, "scores")[:, 0]))
    confidence = np.maximum(probability, 1 - probability)
    assert model.labels == ("low", "high")
    np.testing.assert_array_equal(gated.prediction, probability > 0.5)
    np.testing.assert_allclose(gated.confidence, confidence, atol=1e-5)
    np.testing.assert_array_equal(gated.defer, gated.confidence < np.float32(0.6))
    assert 0 < gated.defer.mean() < 1
    assert "confidence: max_softmax, from 0.5 to 1" in describe(read_bundle(bundle))


@pytest.mark.slow
@pytest.mark.parametrize("scores", [None, "percentages"])
def test_a_program_may_hold_them_too(
    scores, small_checkpoint, export, two_names, pixels, digits, tmp_path
):
    module = Made(open_checkpoint(small_checkpoint), single if scores is None else percentages)
    path = write_program(module, tmp_path / "single.pt2")
    gated = EdgeModel.open(export(path, scores=scores, **two_names))(digits)
    with torch.inference_mode():
        probability = torch.sigmoid(single(Logits.forward(module, torch.from_numpy(pixels)), None))
    confidence = probability.maximum(1 - probability)[:, 0]
    np.testing.assert_allclose(gated.confidence, confidence, atol=1e-5)


def percentages(z, x):
    return 100 * torch.sigmoid(single(z, x))


def test_a_single_logit_has_two_labels(write, refused, two_names):
    two_names["labels"].write_text("one\n")
    refused(write(single), "expected 2 labels, one for each class", **two_names)


def test_a_single_probability_is_one_of_the_second_class(
    write, export, refused, two_names, pixels, digits
):
    path = write(lambda z, x: 1 / (1 + torch.exp(-single(z, x))))
    says = "its output holds probabilities, it seems: give --scores probabilities or logits"
    refused(path, says, **two_names)
    gated = EdgeModel.open(export(path, scores="probabilities", **two_names))(digits)
    probability = run_alone(path, pixels, "scores")[:, 0]
    np.testing.assert_array_equal(gated.prediction, probability > 0.5)
    np.testing.assert_allclose(
        gated.confidence, np.maximum(probability, 1 - probability), atol=1e-5
    )


FORMS = {
    "probabilities": shares,
    "percentages": lambda z, x: 100 * shares(z, x),
    "percentages of whole numbers": lambda z, x: torch.round(100 * shares(z, x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_shares_are_refused_until_they_are_named(form, write, export, refused, pixels, digits):
    path, name = write(FORMS[form]), form.split()[0]
    refused(
        path, f"its output holds {name}, it seems: give --scores {name} or logits, .*, or --logits"
    )
    gated = EdgeModel.open(export(path, scores=name))(digits)
    told = run_alone(path, pixels, "scores")
    told /= told.sum(-1, keepdims=True)
    np.testing.assert_array_equal(gated.prediction, told.argmax(-1))
    np.testing.assert_allclose(gated.confidence, told.max(-1), atol=1e-5)


def test_a_softmax_may_be_named_as_well(write, export, pixels, digits):
    path = write(lambda z, x: torch.softmax(4 * z, -1))
    gated = EdgeModel.open(export(path, scores="probabilities", confidence="neg_entropy"))(digits)
    told = run_alone(path, pixels, "scores")
    np.testing.assert_allclose(gated.confidence, metrics.neg_entropy(np.log(told)), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "said", "says"),
    [
        ("probabilities", "percentages", "expected percentages in .*, as --scores says"),
        ("percentages", "probabilities", "expected probabilities in .*, as --scores says"),
    ],
)
def test_what_is_named_is_checked(form, said, says, write, refused):
    refused(write(FORMS[form]), says, scores=said)


def test_logistic_scores_of_each_class_are_refused(write, export, refused, pixels, digits):
    path = write(lambda z, x: 1 / (1 + torch.exp(-4 * z)))
    refused(path, "scores from 0 to 1 of each class by itself, as models of several labels have")
    told = run_alone(path, pixels, "scores")
    gated = EdgeModel.open(export(path, scores="logits"))(digits)
    np.testing.assert_allclose(gated.confidence, metrics.max_softmax(told), atol=1e-5)


def test_probabilities_that_only_data_show_are_refused(write, refused):
    # Digits have a black corner, synthetic pictures have not.
    path = write(lambda z, x: shares(z, x) + 9 * z * (x[:, :1, 0, 0] > -0.99))
    refused(path, "its output holds probabilities")


def test_log_probabilities_and_logits_between_0_and_1_in_a_few_rows_are_logits():
    z = np.random.default_rng(0).normal(size=(64, 5))
    logs = z - np.log(np.exp(z).sum(1, keepdims=True))
    for values in (z, logs, np.full((8, 5), 0.5)):
        assert scores.require_scores(values, None, "a.onnx", "another") == "logits"


@pytest.mark.parametrize("kind", ["file", "config"])
def test_names_of_classes_have_no_byte_order_mark_and_composed_accents(
    kind, write, export, two_names, tmp_path
):
    names = ("Äpfel", "naïve")
    apart = [unicodedata.normalize("NFD", name) for name in names]
    place, file, text = two_names["labels"], two_names["labels"], "\r\n".join(apart)
    if kind == "config":
        place, file = tmp_path, tmp_path / "config.json"
        text = json.dumps({"id2label": dict(enumerate(apart))}, ensure_ascii=False)
    file.write_bytes(text.encode("utf-8-sig"))
    bundle = export(write(single), **two_names | {"labels": place})
    assert EdgeModel.open(bundle).labels == names


def test_a_single_column_of_percentages_is_not_taken_for_logits(write, refused, two_names):
    refused(write(percentages), "its output holds percentages, it seems", **two_names)


@pytest.mark.parametrize("form", ["probabilities", "percentages"])
def test_scores_are_quantized_no_further_than_logits(form, write, export, digits):
    bundle = export(write(FORMS[form]), scores=form, quantize="int8", max_flips=0.5)
    figures = read_bundle(bundle).verification["quantization"]
    assert figures["confidence_difference_max"] < 0.02
    assert len(np.unique(EdgeModel.open(bundle)(digits).confidence)) > 0.9 * len(digits)
