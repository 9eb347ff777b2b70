"""Trains a causal language model on its hidden states, without the logits of a whole batch.

The logits of a large vocabulary are the biggest tensor of a step. Here the model's forward pass
ends at its hidden states, and the loss multiplies these with the output layer chunk by chunk. It
stays the model's own forward pass, so that DDP, LoRA, autocast and gradient checkpointing work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer
from transformers.modeling_outputs import CausalLMOutput

from train.errors import CheckpointError, TrainingError
from train.language.encoding import IGNORED
from train.losses.gatekeeper import Normalize
from train.losses.linear import linear_gatekeeper_loss
from train.models import LanguageModel

_TOLERANCE = 1e-3
_PROBE = 4


@dataclass(frozen=True)
class OutputLayer:
    """The last layer of a language model: logits = softcap * tanh((h W^T + b) / softcap).

    Attributes:
        weight: float [V, D].
        bias: float [V], or None.
        softcap: Gemma 2's limit of the logits, or None.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None

    @classmethod
    def of(cls, causal: Any) -> OutputLayer:
        """Return the output layer of a causal language model.

        Raises:
            CheckpointError: The model computes its logits in another way.
        """
        head = causal.get_output_embeddings()
        config = causal.config.get_text_config()
        layer = cls(head.weight, head.bias, getattr(config, "final_logit_softcapping", None))
        layer._check(causal)
        return layer

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float [..., V] for hidden states [..., D]."""
        z = F.linear(hidden, self.weight, self.bias)
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def loss(
        self, hidden: Tensor, labels: Tensor, alpha: float | None, items: float | Tensor
    ) -> Tensor:
        """Return the loss summed over the tokens, divided by the items; a scalar.

        Args:
            hidden: float [n, T, D].
            labels: int64 [n, T]: the token that each position has to predict, -100 for none.
            alpha: Weight of the right tokens in Gatekeeper's loss (Rabanser et al. 2025, eq. 4
                and 5), in [0, 1]; None for cross-entropy.
            items: Sequences (eq. 4) or tokens of all steps and processes of an update, so that
                1 x 8 and 4 x 2 give the same.
        """
        # With alpha 1, and every token counted as right, only the cross-entropy remains.
        return linear_gatekeeper_loss(
            hidden,
            self.weight,
            labels,
            1.0 if alpha is None else alpha,
            bias=self.bias,
            softcap=self.softcap,
            denominator=items,
            correct=torch.ones_like(labels, dtype=torch.bool) if alpha is None else None,
        )

    def _check(self, causal: Any) -> None:
        """Compare the logits of a few tokens with the model's own."""
        ids = torch.arange(_PROBE, device=self.weight.device)[None] % len(self.weight)
        with torch.inference_mode():
            expected = causal(input_ids=ids).logits.float()
            with HiddenStates(causal).instead_of_logits():
                found = self.logits(causal(input_ids=ids).logits).float()
        if not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise CheckpointError(
                "expected logits that are hidden states times the output layer, "
                f"{type(causal).__name__} computes them in another way: it cannot be trained in "
                "chunks of its vocabulary"
            )


class HiddenStates:
    """A switch that ends the forward pass of a causal language model at its last hidden states.

    Args:
        causal: The model itself, without the wrappers of LoRA or DDP.
    """

    def __init__(self, causal: Any) -> None:
        self._causal = causal
        self._on = False

    @contextlib.contextmanager
    def instead_of_logits(self) -> Iterator[None]:
        """Return hidden states [n, T, D] as `.logits` inside the block."""
        own = self._causal.forward
        self._on = True

        def forward(*args: Any, **inputs: Any) -> Any:
            if not self._on:
                return own(*args, **inputs)
            hidden = self._causal.base_model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs.get("attention_mask"),
                use_cache=False,
            ).last_hidden_state
            return CausalLMOutput(logits=hidden)

        self._causal.forward = forward
        try:
            yield
        finally:
            self._on = False
            vars(self._causal).pop("forward", None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Return logits again inside the block, to generate in the middle of a training."""
        was, self._on = self._on, False
        try:
            yield
        finally:
            self._on = was


class LanguageTrainer(Trainer):
    """Trains with a loss over tokens; the validation loss is plain cross-entropy per token.

    Args:
        alpha: Weight of the right tokens in Gatekeeper's loss; None for cross-entropy.
        layer: The output layer of the model.
        hidden: The switch of its forward pass.
        normalize: Divisor of the sum over tokens: sequences (`batch`, eq. 4) or tokens (`token`).
        **settings: Settings of `transformers.Trainer`.
    """

    def __init__(
        self,
        alpha: float | None,
        layer: OutputLayer,
        hidden: HiddenStates,
        normalize: Normalize,
        **settings: Any,
    ) -> None:
        super().__init__(compute_loss_func=self._loss, **settings)
        self._alpha = alpha
        self._layer = layer
        self._hidden = hidden
        self._normalize = normalize

    def train(self, *args: Any, **settings: Any) -> Any:
        """Train with the forward pass cut off at the hidden states."""
        with self._hidden.instead_of_logits():
            return super().train(*args, **settings)

    def _get_num_items_in_batch(self, batch_samples: list[Any], *args: Any) -> Any:
        # transformers counts the labels that are not ignored, and gathers them over processes;
        # sequences are counted in the same way, with one label each. Version 5 would leave out the
        # first label of each row unless `shift_labels` says that they are shifted already.
        whole = self._normalize == "batch"
        counted = [torch.zeros(len(b["labels"])) if whole else b["labels"] for b in batch_samples]
        batch_samples = [{"labels": labels, "shift_labels": labels} for labels in counted]
        return super()._get_num_items_in_batch(batch_samples, *args)

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
        hidden = outputs.logits
        if self.args.bf16 or self.args.fp16:
            # Autocast returns float32, and the output layer is the biggest product.
            hidden = hidden.to(torch.bfloat16 if self.args.bf16 else torch.float16)
        if not self.model.training:
            tokens = (labels != IGNORED).sum().clamp(min=1)
            return self._layer.loss(hidden, labels, None, tokens)
        items = len(labels) if num_items_in_batch is None else num_items_in_batch
        return self._layer.loss(hidden, labels, self._alpha, items)


def add_adapters(causal: Any, rank: int, seed: int) -> Any:
    """Return the model with a low-rank adapter in every linear layer except the output layer.

    Hu et al. 2022, through peft.

    Raises:
        TrainingError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TrainingError(
            "expected peft for --lora, it is not installed: pip install 'gatekeeper-edge[train]'"
        ) from None
    # GPT-2 keeps its weights as [in, out], and peft warns if this is not set.
    transposed = causal.config.model_type == "gpt2"
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=transposed,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        # peft reads a property of transformers 5 by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(causal, config)


def merge_adapters(model: LanguageModel, adapted: Any) -> LanguageModel:
    """Return the model with its adapters added to its weights: an ordinary checkpoint again."""
    return dataclasses.replace(model, model=adapted.merge_and_unload())
