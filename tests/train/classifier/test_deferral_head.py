"""The deferral head: fitted on validation, bound to its weights, refused in words."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tools import processes

from edge_runtime import contract, metrics
from train import data
from train.__main__ import COMMANDS
from train.classifier.checkpoints import LargeAnswers
from train.classifier.settings import DeferralHeadSettings
from train.comparison.post_hoc import HeadInputs, fit_head, predict_out_of_fold
from train.comparison.scores import load_scores, save_scores, score
from train.errors import CheckpointError, DataError
from train.models import (
    HEAD_FILE,
    Checkpoint,
    DeferralHead,
    build,
    open_checkpoint,
    read_head,
    save,
)
from train.models.deferral_head import classification_head, features_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted(small_checkpoint, large_checkpoint, tmp_path_factory):
    """Return the folder of a checkpoint with a head; M_S and M_L guess, each in its own way."""
    path = shutil.copytree(small_checkpoint, tmp_path_factory.mktemp("heads") / "small")
    DeferralHeadSettings(checkpoint=path, large=large_checkpoint).run()
    return path


def test_the_confidence_by_hand():
    head = DeferralHead(np.array([1.0, -2.0, 4.0], np.float32), 0.5, {})
    features, logits = [[3.0, 1.0], [np.nan, 0.0]], [[0.0, 0.0], [0.0, 0.0]]
    confidence = head.confidence(features, logits)
    # 3 - 2 + 4 * 1/2 + 1/2
    assert confidence[0] == pytest.approx(1 / (1 + np.exp(3.5)))
    assert np.isnan(confidence[1])
    assert np.isnan(head.confidence([[3.0, 1.0]], [[0.0, np.nan]])[0])


def test_a_head_without_finite_weights_or_of_other_features_is_refused():
    with pytest.raises(CheckpointError, match="finite weights"):
        DeferralHead(np.array([1.0, np.inf], np.float32), 0.0, {})
    with pytest.raises(CheckpointError, match=r"features \+ 1"):
        DeferralHead(np.ones((2, 2), np.float32), 0.0, {})
    with pytest.raises(CheckpointError, match=r"expected 1 features .* the model has 2"):
        DeferralHead(np.ones(2, np.float32), 0.0, {}).confidence([[1.0, 1.0]], [[0.0, 0.0]])


def test_features_are_what_the_last_layer_reads(small_checkpoint, pictures):
    checkpoint = open_checkpoint(small_checkpoint)
    features, logits = features_of(checkpoint, pictures, batch_size=16)
    layer = classification_head(checkpoint.model)
    again = torch.from_numpy(features) @ layer.weight.T + layer.bias
    np.testing.assert_allclose(again.detach().numpy(), logits, atol=1e-5)
    np.testing.assert_allclose(logits, checkpoint.predict(pictures), atol=1e-6)


def test_the_stored_head_is_the_one_of_validation(fitted, large_checkpoint):
    checkpoint = open_checkpoint(fitted)
    validation = data.load("digits").validation
    small = checkpoint.predict(validation.inputs).argmax(axis=-1) == validation.labels
    large = open_checkpoint(large_checkpoint).predict(validation.inputs).argmax(axis=-1)
    target = (large == validation.labels) & ~small
    head = read_head(checkpoint)
    assert (head.record["n"], head.record["gained"]) == (359, target.sum())
    _, confidence = head.confidence_of(checkpoint, validation.inputs)
    assert metrics.auroc(-confidence, target) > 0.6
    # At the optimum the free bias makes the mean estimate the share that is to be estimated.
    assert (1 - confidence).mean() == pytest.approx(target.mean(), abs=1e-4)


def test_a_head_whose_model_has_changed_is_refused(fitted, tmp_path):
    copy = shutil.copytree(fitted, tmp_path / "copy")
    read_head(open_checkpoint(copy))
    weights = load_file(copy / "model.safetensors")
    weights["classifier.3.bias"] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"changed since it was fitted: .*--overwrite"):
        read_head(open_checkpoint(copy))


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_missing_or_damaged_head_is_refused(content, fitted, tmp_path):
    copy = shutil.copytree(fitted, tmp_path / "copy")
    if content is None:
        (copy / HEAD_FILE).unlink()
    else:
        (copy / HEAD_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="python -m train deferral-head"):
        read_head(open_checkpoint(copy))


def test_a_head_alone_is_no_checkpoint(fitted, tmp_path):
    copy = shutil.copytree(fitted, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expected safetensors weights"):
        open_checkpoint(copy)


@pytest.fixture
def refused(capfd):
    """Expect `train deferral-head` with these words to fail in one line."""

    def expect(*line, says):
        processes.refused_here("train", COMMANDS, ["deferral-head", *line], capfd, says=says)

    return expect


def test_an_older_head_is_replaced_only_when_asked(fitted, large_checkpoint, refused, tmp_path):
    copy = shutil.copytree(fitted, tmp_path / "copy")
    before = (copy / HEAD_FILE).read_bytes()
    refused("--checkpoint", copy, "--large", large_checkpoint, says="--overwrite replaces it")
    assert (copy / HEAD_FILE).read_bytes() == before
    DeferralHeadSettings(checkpoint=copy, large=large_checkpoint, overwrite=True).run()
    assert (copy / HEAD_FILE).read_bytes() == before  # the same seed gives the same head
    assert not list(copy.glob(".*"))


def test_an_m_l_that_never_helps_is_refused(small_checkpoint, refused, tmp_path):
    copy = shutil.copytree(small_checkpoint, tmp_path / "copy")
    says = "5 inputs that M_L has right and M_S wrong, and 5 others, got 0 and 359"
    refused("--checkpoint", copy, "--large", copy, says=says)
    assert not (copy / HEAD_FILE).exists()


def test_an_m_l_that_always_helps_is_refused():
    seen = HeadInputs(np.zeros((20, 3)), np.zeros(20, bool))
    for fit in (fit_head, predict_out_of_fold):
        with pytest.raises(DataError, match="got 20 and 0"):
            fit(seen, np.ones(20, bool), 0)


def test_an_m_l_of_other_labels_is_refused(small_checkpoint, refused, tmp_path):
    save(build("small-cnn", labels=["cat", "dog"], image_size=(8, 8)), tmp_path / "other")
    line = ["--checkpoint", small_checkpoint, "--large", tmp_path / "other"]
    refused(*line, says="expected the 2 labels of")


def test_features_that_are_no_numbers_are_refused(small_checkpoint):
    checkpoint = open_checkpoint(small_checkpoint)
    with torch.no_grad():
        checkpoint.model.features[0][0].bias[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"finite features .* 40 of 40"):
        HeadInputs.of(checkpoint, data.load("digits", limit=40).validation)


class Convolved(torch.nn.Module):
    """A classifier whose logits are a convolution's."""

    class config:  # noqa: N801 - as transformers call it
        num_labels = 10

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 10, 8)

    def forward(self, pixel_values):
        return self.layer(pixel_values)


def test_a_model_without_a_linear_layer_is_refused(small_checkpoint, pictures):
    opened = open_checkpoint(small_checkpoint)
    checkpoint = Checkpoint(Convolved(), opened.processor, opened.labels, None)
    with pytest.raises(CheckpointError, match="ends in a linear layer of 10 logits"):
        features_of(checkpoint, pictures)


@pytest.fixture(scope="module")
def scored(small_checkpoint, large_checkpoint):
    """Return (splits, the scores of M_S with what M_L gets right)."""
    splits = data.load("digits")
    large = LargeAnswers.of(open_checkpoint(large_checkpoint), splits.validation, splits.test)
    return splits, score(open_checkpoint(small_checkpoint), splits, 0.3, large)


def test_as_a_gate_it_is_judged_by_heads_that_did_not_see_the_input(small_checkpoint, generator):
    splits = data.load("digits")
    ids = [*splits.validation.ids, *splits.test.ids]
    # An M_L that is right by chance: there is nothing to foresee, only something to learn by heart.
    large = LargeAnswers(dict(zip(ids, generator.random(len(ids)) < 0.5, strict=True)))
    checkpoint = open_checkpoint(small_checkpoint)
    scores = score(checkpoint, splits, 0.3, large)
    seen = HeadInputs.of(checkpoint, splits.validation)
    target = large.flags(splits.validation) & ~scores.right["validation"]
    doubt = scores.uncertainty["validation"][contract.DEFERRAL_HEAD]
    np.testing.assert_allclose(doubt, predict_out_of_fold(seen, target, 0), rtol=1e-6)
    in_sample = fit_head(seen, target, 0).logit(seen.inputs)
    assert metrics.auroc(in_sample, target) > 0.6
    assert metrics.auroc(doubt, target) < 0.56


def test_as_a_gate_it_meets_the_test_set_with_the_head_of_all_of_validation(scored, fitted):
    splits, scores = scored
    checkpoint = open_checkpoint(fitted)
    _, confidence = read_head(checkpoint).confidence_of(checkpoint, splits.test.inputs)
    doubt = scores.uncertainty["test"][contract.DEFERRAL_HEAD]
    np.testing.assert_allclose(doubt, 1 - confidence, atol=1e-5)


def test_a_gate_that_cannot_be_fitted_is_left_out_with_its_reason(small_checkpoint, tmp_path):
    splits = data.load("digits", limit=60)
    ids = [*splits.validation.ids, *splits.test.ids]
    checkpoint = open_checkpoint(small_checkpoint)
    scores = score(checkpoint, splits, 0.3, LargeAnswers(dict.fromkeys(ids, False)))
    save_scores(tmp_path / "a.npz", scores)
    again = load_scores(tmp_path / "a.npz")
    assert contract.DEFERRAL_HEAD not in again.passes
    assert "got 0 and 60" in again.left_out[contract.DEFERRAL_HEAD]


def test_the_record_goes_into_json(fitted):
    record = read_head(open_checkpoint(fitted)).record
    assert json.loads(json.dumps(record)) == record
    assert record["split"] == "validation"
