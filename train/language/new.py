"""The command `python -m train new-lm`: a small language model with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

_LEAST_VOCABULARY = 259  # the 256 bytes and three special tokens
_LEAST_CONTEXT = 2  # a token of prompt and one of answer
_WINDOWED = ("gemma2", "qwen2", "mistral")
_REASONS = {"vocabulary": ", the 256 bytes and three special tokens"}


@dataclass(frozen=True, kw_only=True)
class NewLanguageSettings(Command):
    """Make a small language model with random weights, and its tokenizer from text.

    Example: python -m train new-lm --architecture gemma --width 32 --layers 2 --heads 4
    --task clinc150 --out runs/new
    """

    architecture: Literal["gemma", "gemma2", "llama", "gpt2", "qwen2", "mistral"] = field(
        "gemma, gemma2, llama, gpt2, qwen2 or mistral", default="gemma"
    )
    width: int = field("hidden size", default=64)
    layers: int = field("decoder layers", default=2)
    heads: int = field("attention heads", default=4)
    kv_heads: int | None = field(
        "heads of keys and values that they share (default: as many as heads)", default=None
    )
    inner: int | None = field(
        "size inside a feed-forward block (default: four times the width)", default=None
    )
    context: int = field("most tokens of prompt and answer together", default=256)
    window: int | None = field(
        "tokens that a layer with a sliding window sees (default: the library's; gemma2, qwen2 and "
        "mistral have such layers)",
        default=None,
    )
    vocabulary: int = field("most tokens of the tokenizer", default=2000)
    task: str | None = field("task whose training split the tokenizer is made from", default=None)
    data: str | None = field(
        "folder, file or Hugging Face name of the task's data (default: its own)", default=None
    )
    texts: Path | None = field("UTF-8 file to make the tokenizer from instead", default=None)
    seed: int = field("seed of the weights", default=0)
    out: Path = field("checkpoint folder to write")
    overwrite: bool = field("replace the checkpoint folder", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.task is None) == (self.texts is None):
            raise SettingError("expected either --task or --texts to make the tokenizer from")
        if self.data is not None and self.task is None:
            raise SettingError("expected --task with --data, got --texts: leave --data out")
        self._check_sizes()
        self._check_heads()

    def _check_sizes(self) -> None:
        least = {"context": _LEAST_CONTEXT, "vocabulary": _LEAST_VOCABULARY, "seed": 0}
        for name in ("width", "layers", "heads", "kv_heads", "inner", "window", *least):
            value = getattr(self, name)
            if value is not None and value < least.get(name, 1):
                raise SettingError(
                    f"expected --{name.replace('_', '-')} of at least {least.get(name, 1)}"
                    f"{_REASONS.get(name, '')}, got {value}"
                )

        if self.window is not None and self.architecture not in _WINDOWED:
            raise SettingError(
                f"expected --window with {', '.join(_WINDOWED)}, got it with {self.architecture}, "
                "which has no layers of that kind"
            )

    def _check_heads(self) -> None:
        shared = self.kv_heads or self.heads
        if self.width % self.heads:
            raise SettingError(
                f"expected --heads that divide --width evenly, got {self.heads} for {self.width}"
            )
        if self.architecture == "gpt2":
            if shared != self.heads:
                raise SettingError(
                    f"expected no --kv-heads for gpt2, whose heads share none, got {shared}"
                )
        elif self.heads % shared:
            raise SettingError(
                f"expected --kv-heads that divide --heads evenly, got {shared} for {self.heads}"
            )
        elif self.width // self.heads % 2:
            raise SettingError(
                "expected --width over --heads to be even, since positions turn pairs of a head, "
                f"got {self.width // self.heads}"
            )

    def run(self) -> None:
        """Make it, and write the checkpoint."""
        from train.models import save_language_model
        from train.models.untrained import Shape, trained_tokenizer, untrained_language_model
        from train.training.output import explain_full_disk, refuse_existing, settings_record

        refuse_existing(self.out, overwrite=self.overwrite)
        shape = Shape(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            inner=self.inner or 4 * self.width,
            context=self.context,
            window=self.window,
        )
        tokenizer = trained_tokenizer(self._text(), self.vocabulary)
        made = untrained_language_model(self.architecture, shape, tokenizer, seed=self.seed)
        with explain_full_disk(self.out.parent, " and run again"):
            save_language_model(made, self.out, extra=settings_record("new-lm", self))
        print(
            f"{self.out}: {self.architecture} with {made.weights:,} random weights and "
            f"{made.vocabulary:,} tokens",
            flush=True,
        )

    def _text(self) -> list[str]:
        """Return what the tokenizer is made from."""
        from train.errors import DataError

        texts = self._lines() if self.texts else self._examples()
        if not any(map(str.strip, texts)):
            raise DataError(
                f"expected text in {self.texts or self.task} to make a tokenizer from, got none"
            )
        return texts

    def _lines(self) -> list[str]:
        from train.errors import DataError

        path = self.texts or Path()
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"expected a file of texts at {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"expected UTF-8 in {path}, byte {error.start} is none: convert the file first"
            ) from None

    def _examples(self) -> list[str]:
        from train.data.tasks import load_task

        task = load_task(self.task or "", data=self.data)
        return [example.prompt + example.completion for example in task.train]
