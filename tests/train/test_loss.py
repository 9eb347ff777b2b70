"""The Gatekeeper loss against golden values, by hand, and in its chunked form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train import GatekeeperLoss, gatekeeper_loss, linear_gatekeeper_loss


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


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.floats(0, 1),
    chunk=st.integers(1, 9),
    with_bias=st.booleans(),
    normalize=st.sampled_from(["batch", "token"]),
)
def test_the_chunked_loss_equals_the_dense_one(seed, alpha, chunk, with_bias, normalize):
    draws = torch.Generator().manual_seed(seed)

    def leaf(*shape):
        values = torch.randn(*shape, generator=draws, dtype=torch.float64)
        return values.requires_grad_()

    hidden, weight = leaf(3, 4, 5), leaf(7, 5)
    bias = leaf(7) if with_bias else None
    labels = torch.randint(0, 7, (3, 4), generator=draws)
    labels[0, 1] = -100
    leaves = [hidden, weight, *([bias] if with_bias else [])]
    dense = gatekeeper_loss(
        torch.nn.functional.linear(hidden, weight, bias), labels, alpha, normalize=normalize
    )
    chunked = linear_gatekeeper_loss(
        hidden, weight, labels, alpha, bias=bias, normalize=normalize, chunk_tokens=chunk
    )
    torch.testing.assert_close(chunked, dense, atol=1e-10, rtol=0)
    for ours, wanted in zip(
        torch.autograd.grad(chunked, leaves), torch.autograd.grad(dense, leaves), strict=True
    ):
        torch.testing.assert_close(ours, wanted, atol=1e-10, rtol=0)
