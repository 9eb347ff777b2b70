"""The loss from hidden states: against a formula of its own, in its modes, and what it spares."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.devices import DEVICES, cuda
from tools.processes import ROOT
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from train import gatekeeper_loss, linear_gatekeeper_loss
from train.losses import kernel as row_kernel

pytestmark = pytest.mark.once

EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}
PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_"}


def formula(
    hidden, weight, labels, alpha, *, bias=None, softcap=None, mask=None, correct=None, by=None
):
    """Eq. 4 and 5 as they are printed, a position at a time, for autograd to differentiate."""
    total = hidden.new_zeros(())
    for position in (labels != -100).nonzero().tolist():
        i = tuple(position)
        if mask is not None and not mask[i]:
            continue
        z = weight @ hidden[i]
        z = z if bias is None else z + bias
        z = z if softcap is None else softcap * torch.tanh(z / softcap)
        p = torch.exp(z - z.max()) / torch.exp(z - z.max()).sum()
        possible = p > 0
        is_right = z.argmax() == labels[i] if correct is None else correct[i]
        if is_right:
            total = total - alpha * torch.log(p[labels[i]])
        else:
            q = p[possible]
            total = total + (1 - alpha) * (q * torch.log(q * len(weight))).sum()
    return total / (len(labels) if by is None else by)


def leaves(seed, dtype, *, vocabulary=7, bias=True, impossible=False):
    """Return (hidden [3, 4, 5], weight [V, 5], bias [V]), and labels of which half are right."""
    draws = torch.Generator().manual_seed(seed)
    hidden, weight, offset = (
        torch.randn(*shape, generator=draws, dtype=torch.float64).to(dtype)
        for shape in ((3, 4, 5), (vocabulary, 5), (vocabulary,))
    )
    if impossible:
        offset[0] = -math.inf
    labels = torch.randint(int(impossible), vocabulary, (3, 4), generator=draws)
    likeliest = (hidden @ weight.T + (offset if bias else 0)).argmax(-1)
    labels = torch.where(torch.rand(3, 4, generator=draws) < 0.5, likeliest, labels)
    labels[0, 1] = -100
    found = [hidden, weight, offset] if bias else [hidden, weight]
    return [one.requires_grad_() for one in found], labels


def assert_same(ours, wanted, inputs, tolerance):
    torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=tolerance)
    pairs = zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(wanted, inputs), strict=True)
    for gradient, wanted_gradient in pairs:
        torch.testing.assert_close(gradient, wanted_gradient, atol=tolerance, rtol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(list(EXACT)),
    alpha=st.floats(0, 1),
    chunk=st.integers(1, 13) | st.none(),
    bias=st.sampled_from(["none", "finite", "impossible"]),
    softcap=st.none() | st.floats(0.5, 30),
    masked=st.booleans(),
    told=st.booleans(),
    denominator=st.none() | st.floats(0.5, 100),
)
def test_value_and_gradients_are_those_of_the_formula(
    seed, dtype, alpha, chunk, bias, softcap, masked, told, denominator
):
    impossible = bias == "impossible" and softcap is None  # soft-capping makes -inf a finite logit
    inputs, labels = leaves(seed, dtype, bias=bias != "none", impossible=impossible)
    draws = torch.Generator().manual_seed(seed + 1)
    options = {
        "bias": inputs[2] if bias != "none" else None,
        "softcap": softcap,
        "mask": torch.rand(3, 4, generator=draws) < 0.7 if masked else None,
        "correct": torch.rand(3, 4, generator=draws) < 0.5 if told else None,
    }
    ours = linear_gatekeeper_loss(
        *inputs[:2], labels, alpha, denominator=denominator, chunk_tokens=chunk, **options
    )
    wanted = formula(*inputs[:2], labels, alpha, by=denominator, **options)
    if not wanted.requires_grad:  # nothing counts
        assert ours.item() == 0.0
        return
    assert_same(ours, wanted, inputs, EXACT[dtype])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    alpha=st.floats(0, 1),
    chunk=st.integers(1, 9),
    bias=st.booleans(),
    normalize=st.sampled_from(["batch", "token"]),
)
def test_it_equals_the_dense_loss(seed, alpha, chunk, bias, normalize):
    inputs, labels = leaves(seed, torch.float64, bias=bias)
    dense = (
        gatekeeper_loss(F.linear(*inputs), labels, alpha, normalize=normalize)
        if not bias
        else (gatekeeper_loss(F.linear(*inputs[:2], inputs[2]), labels, alpha, normalize=normalize))
    )
    ours = linear_gatekeeper_loss(
        *inputs[:2],
        labels,
        alpha,
        bias=inputs[2] if bias else None,
        normalize=normalize,
        chunk_tokens=chunk,
    )
    assert_same(ours, dense, inputs, 1e-12)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradients_are_the_slopes_of_the_loss(softcap):
    inputs, labels = leaves(3, torch.float64)
    correct = torch.arange(12).reshape(3, 4) % 2 == 0

    def loss(hidden, weight, bias):
        options = {"softcap": softcap, "correct": correct, "chunk_tokens": 5}
        return linear_gatekeeper_loss(hidden, weight, labels, 0.3, bias=bias, **options)

    assert torch.autograd.gradcheck(loss, inputs)


def test_with_alpha_one_and_all_right_it_is_cross_entropy():
    (hidden, weight, bias), labels = leaves(5, torch.float64)
    ours = linear_gatekeeper_loss(
        hidden,
        weight,
        labels,
        1.0,
        bias=bias,
        normalize="token",
        correct=torch.ones(3, 4).bool(),
    )
    wanted = F.cross_entropy(F.linear(hidden, weight, bias).flatten(0, 1), labels.flatten())
    assert_same(ours, wanted, [hidden, weight, bias], 1e-12)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_tied_embedding_gets_the_gradients_of_both_ends(softcap):
    (_, embedding), labels = leaves(7, torch.float64, bias=False)
    tokens = labels.clamp(min=0).roll(1, dims=1)
    ours, wanted = (
        loss(torch.tanh(F.embedding(tokens, embedding)), embedding, labels, 0.4, softcap=softcap)
        for loss in (linear_gatekeeper_loss, formula)
    )
    assert_same(ours, wanted, [embedding], 1e-12)


@pytest.mark.parametrize("chunk", [None, 5])
def test_labels_that_are_all_masked_give_zero_and_zero_gradients(chunk):
    (hidden, weight, bias), labels = leaves(1, torch.float32)
    loss = linear_gatekeeper_loss(
        hidden, weight, torch.full_like(labels, -100), 0.5, bias=bias, chunk_tokens=chunk
    )
    loss.backward()
    assert loss.item() == 0.0
    for leaf in (hidden, weight, bias):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_a_vocabulary_of_one_has_nothing_to_learn():
    (hidden, weight), labels = leaves(2, torch.float32, vocabulary=1, bias=False)
    loss = linear_gatekeeper_loss(hidden, weight, labels, 0.5)
    loss.backward()
    assert (loss.item(), hidden.grad.abs().sum(), weight.grad.abs().sum()) == (0.0, 0.0, 0.0)


def test_logits_that_are_all_impossible_are_told_as_nan():
    (hidden, weight, _), labels = leaves(2, torch.float32)
    loss = linear_gatekeeper_loss(hidden, weight, labels, 0.5, bias=torch.full((7,), -math.inf))
    assert loss.isnan()


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"alpha": 1.5}, "alpha in"),
        ({"alpha": 0.5, "softcap": 0.0}, "softcap above 0"),
        ({"alpha": 0.5, "softcap": math.inf}, "softcap above 0"),
        ({"alpha": 0.5, "chunk_tokens": 0}, "chunk_tokens of at least 1"),
        ({"alpha": 0.5, "correct": torch.ones(3).bool()}, "correct of shape"),
    ],
)
def test_settings_out_of_range_are_refused(settings_, says):
    (hidden, weight), labels = leaves(0, torch.float32, bias=False)
    with pytest.raises(ValueError, match=says):
        linear_gatekeeper_loss(hidden, weight, labels, **settings_)


def test_shapes_and_labels_that_do_not_fit_are_refused():
    (hidden, weight), labels = leaves(0, torch.float32, bias=False)
    with pytest.raises(ValueError, match=r"hidden \[..., D\]"):
        linear_gatekeeper_loss(hidden, weight.T, labels, 0.5)
    with pytest.raises(ValueError, match="labels from 0 to 6"):
        linear_gatekeeper_loss(hidden, weight, labels + 7, 0.5, mask=labels != -100)


class Watch(TorchDispatchMode):
    """Collects what was called and how large the results were."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        size = result.numel() if isinstance(result, torch.Tensor) else 0
        self.calls.append((function._schema.name, size))
        return result

    @property
    def products(self):
        return sum(name in PRODUCTS for name, _ in self.calls)


def test_only_gradients_that_are_wanted_are_formed():
    (hidden, weight), labels = leaves(0, torch.float32, bias=False)
    counts = {}
    for name, h, w in (
        ("all", hidden, weight),
        ("frozen layer", hidden, weight.detach()),
        ("layer alone", hidden.detach(), weight),
        ("nothing", hidden.detach(), weight.detach()),
    ):
        with Watch() as watch:
            linear_gatekeeper_loss(h, w, labels, 0.5)
        counts[name] = watch.products
    with Watch() as watch, torch.no_grad():
        counts["no_grad"] = linear_gatekeeper_loss(hidden, weight, labels, 0.5) and watch.products
    assert counts == {"all": 3, "frozen layer": 2, "layer alone": 2, "nothing": 1, "no_grad": 1}


def test_the_dense_loss_makes_no_gradient_under_no_grad():
    logits = torch.randn(64, 500, requires_grad=True)
    labels = torch.zeros(64, dtype=torch.long)
    with Watch() as watch, torch.no_grad():
        gatekeeper_loss(logits, labels, 0.5)
    assert "aten::scatter_add_" not in {name for name, _ in watch.calls}


def test_nothing_as_large_as_the_logits_is_made_and_the_gradients_are_handed_on():
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 64, 8, generator=draws).requires_grad_()
    weight = torch.randn(300, 8, generator=draws).requires_grad_()
    labels = torch.randint(0, 300, (4, 64), generator=draws)
    with Watch() as watch:
        linear_gatekeeper_loss(hidden, weight, labels, 0.5, chunk_tokens=16).backward()
    # A chunk of logits, and what their rows are worked on in.
    assert max(size for _, size in watch.calls) <= 2 * 16 * 300
    # A clone would be a second gradient of the layer.
    made = [name for name, size in watch.calls if size == weight.numel()]
    assert made.count("aten::empty_like") + made.count("aten::new_empty") <= 1
    assert not {"aten::clone", "aten::mul", "aten::mul.Tensor", "aten::zeros_like"} & set(made)


def test_a_second_backward_pass_adds_the_same_again():
    (hidden, weight, bias), labels = leaves(4, torch.float64)
    loss = linear_gatekeeper_loss(hidden, weight, labels, 0.5, bias=bias, softcap=3.0)
    (3.0 * loss).backward(retain_graph=True)
    once = [leaf.grad.clone() for leaf in (hidden, weight, bias)]
    (0.0 * loss).backward(retain_graph=True)
    (3.0 * loss).backward()
    for leaf, gradient in zip((hidden, weight, bias), once, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * gradient, atol=1e-12, rtol=1e-12)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("around", ["the producer", "the loss", "both"])
def test_gradient_checkpointing_changes_nothing(around):
    (inputs, weight), labels = leaves(6, torch.float64, bias=False)
    mix = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)

    def recomputed(function, *args):
        return checkpoint(function, *args, use_reentrant=False)

    def produce(x):
        return torch.tanh(x @ mix)

    def loss(hidden, layer):
        return linear_gatekeeper_loss(hidden, layer, labels, 0.4, chunk_tokens=5)

    def both(x, layer):
        return loss(produce(x), layer)

    ours = {
        "the producer": lambda: loss(recomputed(produce, inputs), weight),
        "the loss": lambda: recomputed(loss, produce(inputs), weight),
        "both": lambda: recomputed(both, inputs, weight),
    }[around]()
    wanted = formula(produce(inputs), weight, labels, 0.4)
    assert_same(ours, wanted, [inputs, weight, mix], 1e-12)


@pytest.mark.parametrize("split", [1, 2, 8])
def test_accumulated_batches_give_the_gradient_of_one(split):
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(8, 6, 5, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, 7, (8, 6), generator=draws)
    labels[torch.rand(8, 6, generator=draws) < 0.4] = -100
    weight = torch.randn(7, 5, generator=draws, dtype=torch.float64).requires_grad_()
    (wanted,) = torch.autograd.grad(formula(hidden, weight, labels, 0.3, by=29.0), weight)
    for part, answer in zip(hidden.split(split), labels.split(split), strict=True):
        count = torch.tensor(29.0)
        linear_gatekeeper_loss(part, weight, answer, 0.3, denominator=count).backward()
    torch.testing.assert_close(weight.grad, wanted, atol=1e-12, rtol=1e-12)


def half_inputs(device, dtype, weight_dtype, tokens=96, vocabulary=400):
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 32, generator=draws).to(device, dtype).requires_grad_()
    weight = torch.randn(vocabulary, 32, generator=draws).to(device, weight_dtype)
    bias = torch.randn(vocabulary, generator=draws).to(device, weight_dtype)
    labels = torch.randint(0, vocabulary, (tokens,), generator=draws).to(device)
    correct = (torch.arange(tokens) % 2 == 0).to(device)
    return hidden, weight.requires_grad_(), bias.requires_grad_(), labels, correct


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("weight_dtype", ["same", torch.float32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_its_values_in_float64(device, chunk, dtype, weight_dtype):
    weight_dtype = dtype if weight_dtype == "same" else weight_dtype
    *inputs, labels, correct = half_inputs(device, dtype, weight_dtype)
    hidden, weight, bias = inputs
    ours = linear_gatekeeper_loss(
        hidden, weight, labels, 0.4, bias=bias, correct=correct, chunk_tokens=chunk
    )
    # What is multiplied has hidden's type, so that is what its exact value is taken of.
    exact = [one.detach().to(dtype).double().cpu().requires_grad_() for one in inputs]
    wanted = formula(
        *exact[:2], labels.cpu(), 0.4, bias=exact[2], correct=correct.cpu(), by=len(labels)
    )
    step = torch.finfo(dtype).eps
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double().cpu(), wanted, rtol=step, atol=0)
    found = torch.autograd.grad(ours, inputs)
    assert [one.dtype for one in found] == [dtype, weight_dtype, weight_dtype]
    for gradient, exactly in zip(found, torch.autograd.grad(wanted, exact), strict=True):
        error = (gradient.double().cpu() - exactly).norm() / exactly.norm()
        assert error < 4 * step


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_it_multiplies_in_half_precision_as_the_dense_loss_does(device):
    *inputs, labels, correct = half_inputs(device, torch.float32, torch.float32)
    hidden, weight, bias = inputs
    with torch.autocast(device, torch.bfloat16):
        dense = gatekeeper_loss(F.linear(hidden, weight, bias), labels, 0.4, correct=correct)
        ours = linear_gatekeeper_loss(hidden, weight, labels, 0.4, bias=bias, correct=correct)
    found, wanted = (torch.autograd.grad(loss, inputs) for loss in (ours, dense))
    torch.testing.assert_close(ours, dense, rtol=1e-4, atol=0)
    for gradient, other in zip(found, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - other).norm() / other.norm() < 2 * torch.finfo(torch.bfloat16).eps


def test_the_scale_of_loss_scaling_does_not_overflow_float16():
    hidden, weight, *_, labels, correct = half_inputs("cpu", torch.float16, torch.float32)
    loss = linear_gatekeeper_loss(hidden, weight, labels, 0.4, correct=correct, denominator=96.0)
    plain = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    scaled = torch.autograd.grad(loss * 2.0**16, [hidden, weight])
    for small, large in zip(plain, scaled, strict=True):
        assert torch.isfinite(large).all()
        torch.testing.assert_close(large.float() / 2**16, small.float(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("device", [cuda])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("softcap", [None, 30.0])  # a tight one ties its largest logits
@pytest.mark.parametrize("told", [True, False])
def test_on_a_gpu_kernel_and_torch_give_the_value_of_the_cpu(
    device, kernel, softcap, told, monkeypatch
):
    if not kernel:
        monkeypatch.setattr(row_kernel, "fits", lambda logits: False)
    elif not row_kernel.fits(torch.zeros(1, 2, device=device)):
        pytest.skip("triton is not there")
    *inputs, labels, correct = half_inputs("cpu", torch.float32, torch.float32, vocabulary=40_000)
    labels = torch.where(torch.arange(96) % 3 == 0, F.linear(*inputs).argmax(-1), labels)
    inputs[2].data[7] = -math.inf
    labels[labels == 7] = 8
    losses, gradients = [], []
    for place in ("cpu", device):
        here = [one.detach().to(place).requires_grad_() for one in inputs]
        known = correct.to(place) if told else None
        loss = linear_gatekeeper_loss(
            here[0],
            here[1],
            labels.to(place),
            0.4,
            bias=here[2],
            softcap=softcap,
            correct=known,
            chunk_tokens=40,
        )
        losses.append(loss.cpu())
        gradients.append([g.cpu() for g in torch.autograd.grad(loss, here)])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path):
    script = ROOT / "tests" / "tools" / "loss_process.py"
    processes = [
        subprocess.Popen(
            [sys.executable, script, tmp_path, str(rank), "2"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    alone, both = (torch.load(tmp_path / name) for name in ("alone.pt", "both.pt"))
    for name, gradient in alone.items():
        torch.testing.assert_close(both[name], gradient, atol=1e-12, rtol=1e-12)


def test_a_mask_of_another_shape_is_refused():
    hidden, weight, labels = torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(2, 3).long()
    with pytest.raises(ValueError, match="mask of shape"):
        linear_gatekeeper_loss(hidden, weight, labels, 0.5, mask=torch.ones(3).bool())


def test_the_chunked_loss_equals_the_dense_one_in_float32():
    torch.manual_seed(1)
    leaves = [torch.randn(6, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)]
    labels = torch.arange(6)
    chunked = linear_gatekeeper_loss(*leaves, labels, 0.4, chunk_tokens=4)
    dense = gatekeeper_loss(leaves[0] @ leaves[1].T, labels, 0.4)
    torch.testing.assert_close(chunked, dense, atol=1e-5, rtol=0)
    pairs = zip(
        torch.autograd.grad(chunked, leaves), torch.autograd.grad(dense, leaves), strict=True
    )
    for ours, wanted in pairs:
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_the_chunked_loss_agrees_in_bfloat16(device):
    torch.manual_seed(1)
    hidden = torch.randn(48, 32, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(500, 32, device=device, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(0, 500, (48,), device=device)
    chunked = linear_gatekeeper_loss(hidden, weight, labels, 0.4, chunk_tokens=16)
    dense = gatekeeper_loss(hidden @ weight.T, labels, 0.4)
    torch.testing.assert_close(chunked, dense, rtol=1e-3, atol=0)
