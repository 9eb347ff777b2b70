"""The command `python -m train convert-lm`: weights and tokenizer of llama2.c as a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import Command, field


@dataclass(frozen=True, kw_only=True)
class ConvertLanguageSettings(Command):
    """Turn weights and tokenizer of llama2.c into a language model's checkpoint folder.

    Example: python -m train convert-lm --weights stories260K.bin --tokenizer tok512.bin
    --out runs/stories
    """

    weights: Path = field("weights of llama2.c, version 0")
    tokenizer: Path = field("tokenizer of llama2.c (tok*.bin)")
    out: Path = field("checkpoint folder to write")
    overwrite: bool = field("replace the checkpoint folder", default=False)

    def run(self) -> None:
        """Convert, and write the checkpoint."""
        from train.models import LanguageModel, save_language_model
        from train.models.llama2c import read_llama, read_tokenizer
        from train.training.output import explain_full_disk, refuse_existing, settings_record

        refuse_existing(self.out, overwrite=self.overwrite)
        model = read_llama(self.weights)
        tokenizer = read_tokenizer(
            self.tokenizer, model.config.vocab_size, model.config.max_position_embeddings
        )
        made = LanguageModel(model, tokenizer, None)
        with explain_full_disk(self.out.parent, " and run again"):
            save_language_model(made, self.out, extra=settings_record("convert-lm", self))
        print(
            f"{self.out}: Llama with {made.weights:,} weights and {made.vocabulary:,} tokens",
            flush=True,
        )
