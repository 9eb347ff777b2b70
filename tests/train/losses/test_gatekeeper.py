"""The Gatekeeper loss against golden values, and by hand."""

import math

import pytest
import torch
from tools.devices import DEVICES

from train import GatekeeperLoss, gatekeeper_loss, linear_gatekeeper_loss

pytestmark = pytest.mark.once


def unquote(value):
    if isinstance(value, list):
        return [unquote(v) for v in value]
    return float(value) if isinstance(value, str) else value


def inputs(case, dtype):
    given_ = case["input"]
    logits = torch.tensor(unquote(given_["logits"]), dtype=dtype, requires_grad=True)
    mask = None if given_["mask"] is None else torch.tensor(given_["mask"])
    return logits, torch.tensor(given_["labels"]), mask


@pytest.mark.parametrize("kind", ["classification", "tokens"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_values_and_gradients_are_golden(golden, kind, dtype, tolerance):
    compared = 0
    for case in golden[kind]:
        for alpha, expected in case["expected"]["loss"].items():
            for normalize, key in (("batch", "paper"), ("token", "token")):
                logits, labels, mask = inputs(case, dtype)
                loss = gatekeeper_loss(logits, labels, float(alpha), mask=mask, normalize=normalize)
                assert loss.item() == pytest.approx(expected[key]["loss"], abs=tolerance)
                if normalize == "batch":
                    (grad,) = torch.autograd.grad(loss, logits)
                    wanted = torch.tensor(unquote(expected["grad_paper"]), dtype=dtype)
                    torch.testing.assert_close(grad, wanted, atol=tolerance, rtol=0)
                compared += 1
    assert compared > 0


def test_one_right_and_one_wrong_row_by_hand():
    # Two classes, logits (ln 3, 0): p = (3/4, 1/4). Row 0 is right: CE = ln 4/3. Row 1 is wrong:
    # KL = 3/4 ln 3/4 + 1/4 ln 1/4 + ln 2. alpha = 0.2, N = 2.
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    kl = 0.75 * math.log(0.75) + 0.25 * math.log(0.25) + math.log(2)
    wanted = (0.2 * math.log(4 / 3) + 0.8 * kl) / 2
    assert GatekeeperLoss(0.2)(logits, torch.tensor([0, 1])).item() == pytest.approx(wanted)


def test_a_batch_of_masked_positions_is_zero_and_has_a_gradient():
    logits = torch.full((2, 3), float("nan"), requires_grad=True)
    loss = gatekeeper_loss(logits, torch.tensor([-100, -100]), 0.5)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha in"):
        gatekeeper_loss(torch.zeros(1, 2), torch.tensor([0]), alpha)


def test_an_integer_attention_mask_means_the_same_as_a_boolean_one():
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    labels, mask = torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    for loss in (
        lambda m: gatekeeper_loss(hidden @ weight.T, labels, 0.5, mask=m),
        lambda m: linear_gatekeeper_loss(hidden, weight, labels, 0.5, mask=m),
    ):
        assert loss(mask).item() == loss(mask.bool()).item()


def test_impossible_classes_get_no_gradient():
    impossible = float("-inf")
    logits = torch.tensor([[2.0, impossible, 0.0], [2.0, impossible, 0.0]], requires_grad=True)
    gatekeeper_loss(logits, torch.tensor([0, 1]), 0.3).backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad[:, 1], torch.zeros(2))


def test_the_loss_module_refuses_alpha_on_creation():
    with pytest.raises(ValueError, match="alpha in"):
        GatekeeperLoss(1.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_half_precision_logits_is_that_of_their_values_in_float64(device, dtype):
    torch.manual_seed(0)
    half = torch.randn(64, 1000, device=device).mul(4).to(dtype).requires_grad_()
    labels = torch.where(torch.arange(64) % 2 == 0, half.argmax(-1).cpu(), 7).to(device)
    exact = half.detach().double().requires_grad_()
    ours, wanted = (gatekeeper_loss(z, labels, 0.3) for z in (half, exact))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=0)
    (gradient,), (wanted_gradient,) = (
        torch.autograd.grad(loss, z) for loss, z in ((ours, half), (wanted, exact))
    )
    # The gradient has the type of the logits: half a unit in its last place is what rounding costs.
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=step, atol=1e-7)
