"""Measures what the Gatekeeper loss costs beside plain cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.figure import Figure
from benchmarks.timing import paired_medians_us
from train import gatekeeper_loss
from train.models import build

_LOSS_LIMIT = 1.03
_ALPHA = 0.5
_BATCH, _SIDE, _CLASSES = 128, 32, 10
_SEQUENCES, _TOKENS, _VOCABULARY = 32, 128, 32_000
_STEPS = 5
_LARGE_ROUNDS = 7  # a call takes seconds

_Loss = Callable[[Tensor, Tensor], Tensor]
_LOSSES: dict[str, _Loss] = {
    "cross-entropy": lambda logits, labels: F.cross_entropy(
        logits.flatten(0, -2), labels.flatten()
    ),
    "ours": lambda logits, labels: gatekeeper_loss(logits, labels, _ALPHA),
}


def training_step(seed: int, rounds: int) -> Figure:
    """Time whole steps of a SmallCNN: forward, loss, backward, update."""
    # Step by step in turn: of two blocks of steps a busy neighbour may hit one.
    times = paired_medians_us(
        {name: _step(loss, seed) for name, loss in _LOSSES.items()},
        rounds=_STEPS * rounds,
        calls_a_round=1,
    )
    return Figure(
        "step with our loss / with cross-entropy",
        times["ours"] / times["cross-entropy"],
        _LOSS_LIMIT,
        "x",
        f"{times['ours'] / 1e3:.2f} and {times['cross-entropy'] / 1e3:.2f} ms, SmallCNN, {_BATCH} "
        f"pictures of {_SIDE} x {_SIDE}",
    )


def _step(loss: _Loss, seed: int) -> Callable[[], None]:
    labels = [str(i) for i in range(_CLASSES)]
    model = build("small-cnn", labels=labels, image_size=(_SIDE, _SIDE), seed=seed).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randn(_BATCH, 3, _SIDE, _SIDE, generator=draws)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, _CLASSES, (_BATCH,), generator=draws)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(pixel_values=pixels).logits, targets).backward()
        optimizer.step()

    return step


def loss_of_large_vocabulary(seed: int) -> Figure:
    """Time the loss and its gradient on the logits of a language model."""
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(_SEQUENCES, _TOKENS, _VOCABULARY, generator=draws).requires_grad_()
    labels = torch.randint(0, _VOCABULARY, (_SEQUENCES, _TOKENS), generator=draws)

    def call(loss: _Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(logits, labels), logits)

    times = paired_medians_us(
        {name: call(loss) for name, loss in _LOSSES.items()}, rounds=_LARGE_ROUNDS, calls_a_round=1
    )
    return Figure(
        "our loss / cross-entropy, with gradient",
        times["ours"] / times["cross-entropy"],
        _LOSS_LIMIT,
        "x",
        f"{times['ours'] / 1e6:.2f} and {times['cross-entropy'] / 1e6:.2f} s, logits "
        f"[{_SEQUENCES}, {_TOKENS}, {_VOCABULARY}]",
    )
