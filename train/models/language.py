"""Opens and saves causal language models: Hugging Face folders with a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edge_runtime.files import one_line
from train.errors import CheckpointError
from train.models.checkpoint import write_folder
from train.models.decoding import ends_of
from train.models.files import check_config, check_files, require_fitting
from train.models.generation import Generated, generate
from train.models.kinds import SAFE, generates, load_tokenizer, plain_texts, refuse_kernels
from train.models.running_batch import RunningBatch

Weights = Literal["fp32", "bf16"]
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer, which reads control tokens in a text as text.

    Attributes:
        model: In eval mode; takes `input_ids`, returns `.logits` float [n, T, V].
        tokenizer: Its tokenizer.
        path: Its folder, or None for a model that is not saved yet.
    """

    model: Any
    tokenizer: Any
    path: Path | None

    def __post_init__(self) -> None:
        plain_texts(self.tokenizer)

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        text = self.model.config.get_text_config()
        names = ("max_position_embeddings", "n_positions", "n_ctx")
        # Without a table of positions, as in Mamba, there is no limit.
        return next((int(size) for n in names if (size := getattr(text, n, None))), 1 << 30)

    @property
    def vocabulary(self) -> int:
        """V, the size of a distribution over tokens."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def weights(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer; see `train.models.decoding.ends_of`."""
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
        """Start to answer tokenized prompts; see `train.models.running_batch.RunningBatch`."""
        return RunningBatch(self.model, self.tokenizer, prompts, rooms, rows)


def open_language_model(path: Path | str, *, weights: Weights = "fp32") -> LanguageModel:
    """Open the folder of a causal language model, without running any code or pickle in it.

    Args:
        path: The folder, for `AutoModelForCausalLM` and `AutoTokenizer`.
        weights: Number format of the weights in memory.

    Raises:
        CheckpointError: The folder is missing or damaged, is not that of a causal language model,
            lacks weights or holds NaN; or its tokenizer is missing, has no end-of-sequence token,
            or has more tokens than the model.
    """
    folder = Path(path)
    check_files(folder)
    try:
        config = _require_causal(folder)
        require_fitting(AutoModelForCausalLM, config, folder)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation=attention_of(config),
            dtype=_TYPES[weights],
            use_safetensors=True,
            output_loading_info=True,
            **SAFE,
        )
        tokenizer = load_tokenizer(folder)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - safetensors, json and transformers raise their own
        raise CheckpointError(
            f"expected a language model and its tokenizer at {folder}, they do not open: "
            f"{one_line(error, 200)}"
        ) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"expected all weights of {type(model).__name__} in {folder}, {len(missing)} are "
            f"missing, e.g. {missing[0]}"
        )
    _require_numbers(model, folder)
    opened = LanguageModel(model.eval(), tokenizer, folder)
    _prepare_tokenizer(tokenizer, opened.vocabulary, folder)
    return opened


def is_language_model(folder: Path) -> bool:
    """Return whether a folder's `config.json` names an architecture for causal generation."""
    try:
        check_config(folder)
        return generates(AutoConfig.from_pretrained(folder, **SAFE))
    except Exception:  # noqa: BLE001 - a broken configuration names no architecture
        return False


def attention_of(config: Any) -> str | None:
    """Return transformers' name of the attention a model needs, or None for its own choice."""
    # PyTorch's fused attention has no soft cap, and transformers silently leaves the cap out.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "eager" if capped else None


def _require_causal(folder: Path) -> Any:
    """Return the configuration of a causal language model."""
    refuse_kernels(folder)
    config = AutoConfig.from_pretrained(folder, **SAFE)
    # BERT and related models could generate, but their classifiers were never trained to.
    named = (getattr(config, "architectures", None) or [None])[0]
    other = named is not None and "Classification" in named
    if other or type(config) not in AutoModelForCausalLM._model_mapping:  # noqa: SLF001 - no public way to ask
        raise CheckpointError(
            f"expected a causal language model in {folder}, its config.json describes another "
            f"kind: {named or config.model_type or 'a nameless model'}"
        )
    return config


def _require_numbers(model: Any, folder: Path) -> None:
    for name, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise CheckpointError(
                f"expected finite weights in {folder}, {name} holds NaN or infinity: the run that "
                "wrote it diverged, use an earlier checkpoint"
            )


def _prepare_tokenizer(tokenizer: Any, vocabulary: int, folder: Path) -> None:
    """Check that a tokenizer belongs to a model, and give it a padding token."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CheckpointError(f"expected a tokenizer of the language model in {folder}, got none")
    greatest = max(tokenizer.get_vocab().values())  # not all numbers below it need be in use
    if greatest >= vocabulary:
        raise CheckpointError(
            f"expected at most the model's {vocabulary} tokens in the tokenizer of {folder}, it "
            f"has {greatest + 1}: it belongs to another model"
        )
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"expected an end-of-sequence token in the tokenizer of {folder}, it has none, so no "
            "answer would ever end: name one as eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token


def save_language_model(
    model: LanguageModel, path: Path | str, *, extra: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint folder in one step, so that a kill leaves the old one or the new one.

    Args:
        model: The model.
        path: The folder; an older one is replaced.
        extra: Content of `training.json`, or None to write no such file.
    """
    write_folder(model.model, model.tokenizer, Path(path), extra)
