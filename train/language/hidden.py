"""Hidden states instead of logits: the loss multiplies them with the output layer chunk by chunk.

The logits of a large vocabulary are the biggest tensor of a step. A causal language model makes
them in its forward pass; here that pass ends at the hidden states while a model is trained. It
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
from transformers.modeling_outputs import CausalLMOutput

from train.errors import CheckpointError, TrainingError
from train.models import LanguageModel

# MERGEDOC train/language/lora.py: 'Low-rank adapters (Hu et al. 2022) through peft: in before training, merged into it after.'

_TOLERANCE = 1e-3
_PROBE = 4


@dataclass(frozen=True)
class OutputLayer:
    """What makes logits of hidden states: softcap * tanh((h W^T + b) / softcap).

    Attributes:
        weight: float [V, D].
        bias: float [V], or None.
        softcap: Gemma2's limit of the logits, or None.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None

    @classmethod
    def of(cls, causal: Any) -> OutputLayer:
        """Return the output layer of a causal language model.

        Raises:
            CheckpointError: It does something else to its logits.
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

    def _check(self, causal: Any) -> None:
        """Compare with what the model itself makes of a few tokens."""
        ids = torch.arange(_PROBE, device=self.weight.device)[None] % len(self.weight)
        with torch.inference_mode():
            wanted = causal(input_ids=ids).logits.float()
            with HiddenStates(causal).instead_of_logits():
                found = self.logits(causal(input_ids=ids).logits).float()
        if not torch.allclose(found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise CheckpointError(
                f"expected logits that are hidden states times the output layer, those of "
                f"{type(causal).__name__} are something else: it cannot be trained in chunks of "
                "its vocabulary"
            )


class HiddenStates:
    """Lets the forward pass of a causal language model end at its last hidden states.

    Args:
        causal: The model itself, not what LoRA or DDP made of it.
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


def with_adapters(causal: Any, rank: int) -> Any:
    """Return the model with an adapter in every linear layer but the output layer.

    Raises:
        TrainingError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TrainingError(
            "expected peft for --lora, it is not installed: pip install 'gatekeeper-edge[train]'"
        ) from None
    # GPT-2 keeps its weights as [in, out], and peft warns where it is not told.
    transposed = causal.config.model_type == "gpt2"
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=transposed,
    )
    with warnings.catch_warnings():
        # peft asks transformers 5 for a property by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(causal, config)


def merged(model: LanguageModel, adapted: Any) -> LanguageModel:
    """Return the model with its adapters added to its weights: an ordinary checkpoint again."""
    return dataclasses.replace(model, model=adapted.merge_and_unload())
