"""Makes sure that a checkpoint picks one class of several; a single logit becomes two.

A binary model may have one logit z, with the probability sigmoid(z). The two logits -z/2 and z/2
have exactly these probabilities as their softmax, so that everything behind the head stays as it
is for any other number of classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.errors import CheckpointError

_UNNAMED = "LABEL_0"  # the name that transformers gives


def require_single_label(config: Any, folder: Path) -> None:
    """Raise `CheckpointError` for a model of several labels an input, or of a number."""
    problem = getattr(config, "problem_type", None)
    if problem == "regression":
        raise CheckpointError(
            f"expected a classifier in {folder}, it is a regression model: its output has no "
            "confidence, train one with classes"
        )
    # One label with the loss of several is a binary model.
    if problem == "multi_label_classification" and config.num_labels > 1:
        raise CheckpointError(
            f"expected a model of one label an input in {folder}, its problem_type is {problem}: "
            "train one with single_label_classification, or one binary model a label"
        )


def split_single_logit(model: Any, folder: Path) -> None:
    """Give a model with one logit two of the same probabilities, and two names, in place.

    Raises:
        CheckpointError: The model does not end in a linear layer.
    """
    if model.config.num_labels != 1:
        return
    heads = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    name = next((n for n in reversed(heads) if heads[n].out_features == 1), None)
    if name is None:
        raise CheckpointError(
            f"expected a model that ends in a linear layer in {folder}, {type(model).__name__} "
            "does not: train it with two classes instead of a single logit"
        )
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, _pair(heads[name]))
    names = _names(model.config)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.config.problem_type = "single_label_classification"
    for module in model.modules():  # heads and losses count the classes by themselves
        if getattr(module, "num_labels", None) == 1:
            module.num_labels = len(names)


def _pair(head: nn.Linear) -> nn.Linear:
    has_bias = head.bias is not None
    pair = nn.utils.skip_init(nn.Linear, head.in_features, 2, bias=has_bias)
    halves = torch.tensor([-0.5, 0.5])
    with torch.no_grad():
        pair.weight.copy_(halves[:, None] * head.weight)
        if has_bias:
            pair.bias.copy_(halves * head.bias)
    return pair


def _names(config: Any) -> tuple[str, str]:
    """Return the names of a low and a high logit: of label2id if it has both, else of the label."""
    numbered = {number: str(name) for name, number in (config.label2id or {}).items()}
    if sorted(numbered) == [0, 1]:
        return numbered[0], numbered[1]
    (label,) = config.id2label.values()
    return ("0", "1") if label == _UNNAMED else (f"not {label}", str(label))


def naming_hint(labels: tuple[str, ...]) -> str:
    """Return how to name both classes of a single logit where one was named, else nothing."""
    if len(labels) == 2 and labels[0] == f"not {labels[1]}":  # noqa: PLR2004 - low and high
        return ", or name both classes of its single logit in config.json (label2id)"
    return ""
