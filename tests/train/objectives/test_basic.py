"""What each objective asks of a row, derived by hand, and what it leaves behind in a model."""

import math

import pytest
import torch

from train import data, gatekeeper_loss
from train.errors import CheckpointError
from train.models import build, open_checkpoint
from train.objectives import Auxiliary, CascadeAware, CrossEntropy, Gatekeeper, Step
from train.objectives.basic import LARGE_RIGHT, RIGHT

LN3 = math.log(3)
# p = (3/4, 1/4) in both rows; row 0 is right, row 1 wrong.
LOGITS = torch.tensor([[LN3, 0.0], [LN3, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


def step(items=2, **columns):
    return Step(LOGITS, LABELS, columns, items)


def test_label_smoothing_by_hand():
    # 0.8 of a label stays with it and 0.1 goes to each class: 0.9 and 0.1.
    right = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    wrong = -(0.1 * math.log(3 / 4) + 0.9 * math.log(1 / 4))
    assert CrossEntropy(0.2).loss(step()).item() == pytest.approx((right + wrong) / 2)
    with pytest.raises(ValueError, match="smoothing"):
        CrossEntropy(1.0)


@pytest.mark.parametrize(
    ("large", "wanted"),
    [
        ([True, True], math.log(4 / 3) + math.log(4)),
        ([False, True], math.log(4 / 3) + math.log(4)),  # row 0 is kept: M_S has it right
        ([True, False], math.log(4 / 3)),  # nobody has row 1 right: nothing is asked of it
    ],
)
def test_cascade_aware_training_leaves_out_what_nobody_can_answer(large, wanted):
    loss = CascadeAware().loss(step(**{LARGE_RIGHT: torch.tensor(large)}))
    assert loss.item() == pytest.approx(wanted / 2)


def test_gatekeeper_takes_who_is_right_from_a_column():
    # As if row 0 were wrong and row 1 right: KL of row 0 and cross-entropy of row 1.
    kl = 0.75 * math.log(0.75) + 0.25 * math.log(0.25) + math.log(2)
    swapped = step(**{RIGHT: torch.tensor([False, True])})
    loss = Gatekeeper(0.2, by_column=True).loss(swapped)
    assert loss.item() == pytest.approx((0.8 * kl + 0.2 * math.log(4)) / 2)
    assert Gatekeeper(0.2).loss(step()).item() != pytest.approx(loss.item())


def test_flags_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="correct of shape"):
        gatekeeper_loss(LOGITS, LABELS, 0.5, correct=torch.tensor([True]))


@pytest.mark.parametrize("architecture", ["small-cnn", "resnet-20", "mobilenetv3-small"])
def test_an_auxiliary_head_teaches_the_trunk_and_goes(architecture):
    torch.manual_seed(0)
    model = build(architecture, labels=list("abcd"), image_size=(32, 32)).model.train()
    before = {name: value.shape for name, value in model.state_dict().items()}
    objective = Auxiliary(Gatekeeper(0.5))
    objective.attach(model)
    pixels, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    own = model(pixel_values=pixels).logits
    # It starts as a copy, so the second head's loss is that of the first one's logits; dropout
    # between the heads would not leave it so.
    wanted = CrossEntropy().loss(Step(own, labels, {}, 8))
    wanted = wanted + Gatekeeper(0.5).loss(Step(own, labels, {}, 8))
    loss = objective.loss(Step(own, labels, {}, 8))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    assert model.auxiliary_head.weight.grad.abs().sum() > 0
    objective.detach(model)
    assert {name: value.shape for name, value in model.state_dict().items()} == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_a_linear_head_takes_no_second_one():
    model = build("small-cnn", labels=list("abc"), image_size=(8, 8)).model
    model.config.num_labels = 7
    with pytest.raises(CheckpointError, match="second head"):
        Auxiliary(CrossEntropy()).attach(model)


@pytest.mark.slow
def test_accumulation_gives_the_update_of_the_whole_batch(small_checkpoint):
    whole = gradients_after(small_checkpoint, batch_size=8, accumulation=1)
    split = gradients_after(small_checkpoint, batch_size=4, accumulation=2)
    for ours, wanted in zip(split, whole, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-4)


def gradients_after(path, *, batch_size, accumulation):
    """Return the summed gradients of one update of 8 rows, in eval mode."""
    from train.objectives import Gatekeeper, Step

    checkpoint = open_checkpoint(path)
    train = data.load("digits", limit=8).train
    pixels = checkpoint.pixel_values([train.inputs[i] for i in range(8)])
    labels = torch.from_numpy(train.labels)
    loss = Gatekeeper(0.5).loss
    for step in range(accumulation):
        rows = slice(step * batch_size, (step + 1) * batch_size)
        logits = checkpoint.model(pixel_values=pixels[rows]).logits
        loss(Step(logits, labels[rows], {}, 8)).backward()
    return [p.grad for p in checkpoint.model.parameters()]
