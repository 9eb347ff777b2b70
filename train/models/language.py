"""Opens, makes and saves causal language models: a Hugging Face folder with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from train.errors import CheckpointError
from train.models.checkpoint import check_files, write_folder
from train.models.decoding import ends_of
from train.models.generation import Generated, generate
from train.models.kinds import SAFE, generates
from train.models.running_batch import RunningBatch

Weights = Literal["fp32", "bf16"]
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: In eval mode; takes `input_ids`, returns `.logits` float [n, T, V].
        tokenizer: Its tokenizer.
        path: Its folder, or None where it was just made.
    """

    model: Any
    tokenizer: Any
    path: Path | None

    @property
    def context(self) -> int:
        """The most tokens of prompt and answer together."""
        return context_of(self.model.config)

    @property
    def vocabulary(self) -> int:
        """V, the size of a distribution over tokens."""
        return vocabulary_of(self.model.config)

    @property
    def weights(self) -> int:
        """How many weights it has; a tied head counts once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer; see `train.models.decoding.ends_of`."""
        return ends_of(self.model, self.tokenizer)

    def generate(self, prompts: Sequence[str], max_new_tokens: int, **settings: Any) -> Generated:
        """Answer prompts greedily; see `train.models.generation.generate`."""
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens,
            context=self.context,
            **settings,
        )

    def batch(
        self,
        prompts: Sequence[list[int]],
        rooms: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> RunningBatch:
        """Begin to answer tokens of prompts; see `train.models.running_batch.RunningBatch`."""
        return RunningBatch(self.model, self.tokenizer, prompts, rooms, rows)


def context_of(config: Any) -> int:
    """Return how many positions a configuration has."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        if getattr(text, name, None):
            return int(getattr(text, name))
    return 1 << 30  # positions without a table, as of Mamba, do not end


def vocabulary_of(config: Any) -> int:
    """Return how many tokens a configuration has."""
    return int(config.get_text_config().vocab_size)


def open_language_model(path: Path | str, *, weights: Weights = "fp32") -> LanguageModel:
    """Open the folder of a causal language model; no code and no pickle of it is run.

    Args:
        path: The folder, of `AutoModelForCausalLM` and `AutoTokenizer`.
        weights: The type to hold the weights in.

    Raises:
        CheckpointError: It is missing, damaged, no causal language model, lacks weights or holds
            NaN, or its tokenizer is missing, has no end-of-sequence token, or more tokens than the
            model.
    """
    folder = Path(path)
    check_files(folder)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation=attention_of(_require_causal(folder)),
            dtype=_TYPES[weights],
            use_safetensors=True,
            output_loading_info=True,
            **SAFE,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - safetensors, json and transformers raise alike
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"expected a language model and its tokenizer at {folder}, they do not open: {reason}"
        ) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"expected all weights of {type(model).__name__} in {folder}, {len(missing)} are "
            f"missing, e.g. {missing[0]}"
        )
    _require_numbers(model, folder)
    _fit_tokenizer(tokenizer, model, folder)
    return LanguageModel(model.eval(), tokenizer, folder)


def is_language_model(folder: Path) -> bool:
    """Return whether a folder's `config.json` names an architecture for causal generation."""
    try:
        return generates(AutoConfig.from_pretrained(folder, **SAFE))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it names none
        return False


def attention_of(config: Any) -> str | None:
    """Return how a model should attend, transformers' name of it; None where it may choose.

    Args:
        config: The model's.
    """
    # PyTorch's fused attention has no soft cap; transformers then leaves the cap out in silence.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "eager" if capped else None


def _require_causal(folder: Path) -> Any:
    """Return the configuration of a causal language model."""
    config = AutoConfig.from_pretrained(folder, **SAFE)
    # BERT and its kin could be made to generate, but nobody trained their classifiers to.
    named = (getattr(config, "architectures", None) or [None])[0]
    other = named is not None and "Classification" in named
    if other or type(config) not in AutoModelForCausalLM._model_mapping:  # noqa: SLF001 - no public way to ask
        raise CheckpointError(
            f"expected a causal language model in {folder}, its config.json is of a "
            f"{named or config.model_type or 'nameless'} model that is none"
        )
    return config


def _require_numbers(model: Any, folder: Path) -> None:
    for name, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise CheckpointError(
                f"expected finite weights in {folder}, {name} holds NaN or infinity: the run that "
                "wrote it broke, take an earlier checkpoint"
            )


def _fit_tokenizer(tokenizer: Any, model: Any, folder: Path) -> None:
    """Check that a tokenizer belongs to a model, and give it what it needs to fill up batches."""
    vocabulary = vocabulary_of(model.config)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CheckpointError(f"expected a tokenizer of the language model in {folder}, got none")
    greatest = max(tokenizer.get_vocab().values())  # there may be holes before it
    if greatest >= vocabulary:
        raise CheckpointError(
            f"expected at most the model's {vocabulary} tokens in the tokenizer of {folder}, it "
            f"has {greatest + 1}: it is of another model"
        )
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"expected an end-of-sequence token in the tokenizer of {folder}, it has none: no "
            "answer would ever end, name one as eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        # What fills up a batch is masked everywhere, so that any token will do.
        tokenizer.pad_token = tokenizer.eos_token


def save_language_model(
    model: LanguageModel, path: Path | str, *, extra: dict[str, Any] | None = None
) -> None:
    """Write a folder in one step, so that a kill leaves the old one or the new one.

    Args:
        model: What to write.
        path: The folder; an older one is replaced.
        extra: Written beside it as `training.json`.
    """
    write_folder(model.model, model.tokenizer, Path(path), extra)
