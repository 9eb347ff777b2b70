"""Models of one label an input: a single logit is two classes, several labels are refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from tools.texts import write_classifier
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from edge_runtime import metrics
from train.errors import CheckpointError
from train.models import build, open_checkpoint, save

TEXTS = ["card lost", "rain and snow in the forecast", "what is the interest on my loan"]
SPAM = ("spam",)


def write_pictures_classifier(path):
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
        num_labels=1,
    )
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(path)
    return path


def edit_config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def logistic_of(auto_model, folder, encoded):
    """Return sigmoid(logit) float64 [n] of transformers' own model."""
    with torch.inference_mode():
        logits = auto_model.from_pretrained(folder, dtype=torch.float32)(**encoded).logits
    assert logits.shape[1] == 1
    return torch.sigmoid(logits.double()).numpy()[:, 0]


def assert_two_classes(checkpoint, inputs, probability):
    logits = checkpoint.predict(inputs)
    assert logits.shape == (len(inputs), 2)
    np.testing.assert_array_equal(logits.argmax(-1), probability > 0.5)
    np.testing.assert_allclose(
        metrics.max_softmax(logits), np.maximum(probability, 1 - probability), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_a_single_logit_is_two_classes_with_its_probabilities(kind, tmp_path):
    folder = write_classifier(tmp_path / kind, kind, labels=SPAM)
    checkpoint = open_checkpoint(folder, kind="text")
    probability = logistic_of(AutoModelForSequenceClassification, folder, checkpoint.encode(TEXTS))
    assert np.ptp(probability) > 1e-3
    assert_two_classes(checkpoint, TEXTS, probability)


def test_so_is_that_of_a_model_of_pictures_also_when_it_is_saved_again(pictures, tmp_path):
    folder = write_pictures_classifier(tmp_path / "vit")
    checkpoint = open_checkpoint(folder)
    probability = logistic_of(
        AutoModelForImageClassification, folder, checkpoint.encode(list(pictures))
    )
    assert_two_classes(checkpoint, list(pictures), probability)
    save(checkpoint, tmp_path / "again")
    again = open_checkpoint(tmp_path / "again")
    assert again.labels == checkpoint.labels == ("0", "1")
    assert_two_classes(again, list(pictures), probability)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ("not spam", "spam")),
        ({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}, ("0", "1")),
        ({"label2id": {"spam": 1, "ham": 0}}, ("ham", "spam")),
    ],
)
def test_the_classes_of_a_single_logit_have_names(changes, names, tmp_path):
    folder = write_classifier(tmp_path / "bert", labels=SPAM)
    edit_config(folder, **changes)
    assert open_checkpoint(folder, kind="text").labels == names


def test_a_single_logit_fitted_with_the_loss_of_several_labels_is_binary(tmp_path):
    folder = write_classifier(tmp_path / "bert", labels=SPAM)
    edit_config(folder, problem_type="multi_label_classification")
    assert open_checkpoint(folder, kind="text").labels == ("not spam", "spam")


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        ("multi_label_classification", r"one label an input .* multi_label_classification: train"),
        ("regression", "it is a regression model"),
    ],
)
def test_other_problems_are_refused(problem, says, small_checkpoint, tmp_path):
    folder = shutil.copytree(small_checkpoint, tmp_path / "copy")
    edit_config(folder, problem_type=problem)
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(folder)


def test_a_model_of_several_labels_may_be_the_start_of_one_of_single_ones(tmp_path):
    folder = write_pictures_classifier(tmp_path / "vit")
    edit_config(folder, problem_type="multi_label_classification")
    save(build(str(folder), labels=["cat", "dog", "fox"]), tmp_path / "fitted")
    assert open_checkpoint(tmp_path / "fitted").labels == ("cat", "dog", "fox")
