"""Low-rank adapters (Hu et al. 2022) through peft: in before training, merged into it after."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from train.errors import TrainingError
from train.models import LanguageModel


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
