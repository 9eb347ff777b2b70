"""Settings of the commands new-lm, convert-lm, fit-lm, tune-lm and evaluate-lm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import field
from edge_runtime.cli.shared import Limit, Overwrite
from edge_runtime.errors import SettingError

_LEAST_VOCABULARY = 259  # the 256 bytes and three special tokens
_LEAST_CONTEXT = 2  # one token of prompt and one of answer
_WINDOWED = ("gemma2", "qwen2", "mistral")


@dataclass(frozen=True, kw_only=True)
class NewLanguageSettings(Overwrite, does="train.language.new:make_model"):
    """Make a small language model with random weights, and train its tokenizer on text.

    Example: python -m train new-lm --architecture gemma --width 32 --layers 2 --heads 4
    --task clinc150 --out runs/new
    """

    architecture: Literal["gemma", "gemma2", "llama", "gpt2", "qwen2", "mistral"] = field(
        "architecture of the model", default="gemma"
    )
    width: int = field("hidden size", default=64, least=1)
    layers: int = field("number of decoder layers", default=2, least=1)
    heads: int = field("number of attention heads per layer", default=4, least=1)
    kv_heads: int | None = field(
        "number of key and value heads, which the attention heads share (default: one each)",
        default=None,
        least=1,
    )
    inner: int | None = field(
        "width of the feed-forward layers (default: four times --width)", default=None, least=1
    )
    context: int = field(
        "most tokens of prompt and answer together", default=256, least=_LEAST_CONTEXT
    )
    window: int | None = field(
        "tokens that a sliding-window layer sees (default: the library's); gemma2, qwen2 and "
        "mistral have such layers",
        default=None,
        least=1,
    )
    vocabulary: int = field(
        "most tokens of the tokenizer; 259 are the bytes and the special tokens",
        default=2000,
        least=_LEAST_VOCABULARY,
    )
    task: str | None = field("task whose training split the tokenizer is trained on", default=None)
    data: str | None = field(
        "folder, file or Hugging Face name of the task's data (default: the task's own)",
        default=None,
    )
    texts: Path | None = field(
        "UTF-8 file to train the tokenizer on, in place of a task", default=None
    )
    seed: int = field("seed of the weights", default=0, least=0)
    out: Path = field("checkpoint folder to write")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.task is None) == (self.texts is None):
            raise SettingError("expected either --task or --texts to train the tokenizer on")
        if self.data is not None and self.task is None:
            raise SettingError("expected --task with --data, got --texts: leave --data out")
        if self.window is not None and self.architecture not in _WINDOWED:
            raise SettingError(
                f"expected --window with {', '.join(_WINDOWED)}, got it with {self.architecture}, "
                "which has no sliding-window layers"
            )
        self._check_heads()

    def _check_heads(self) -> None:
        shared = self.kv_heads or self.heads
        if self.width % self.heads:
            raise SettingError(
                f"expected --heads that divide --width evenly, got {self.heads} for {self.width}"
            )
        if self.architecture == "gpt2":
            if shared != self.heads:
                raise SettingError(
                    f"expected no --kv-heads for gpt2, whose heads share no keys, got {shared}"
                )
        elif self.heads % shared:
            raise SettingError(
                f"expected --kv-heads that divide --heads evenly, got {shared} for {self.heads}"
            )
        elif self.width // self.heads % 2:
            raise SettingError(
                "expected --width over --heads to be even, since rotary positions turn pairs of "
                f"values, got {self.width // self.heads}"
            )


@dataclass(frozen=True, kw_only=True)
class ConvertLanguageSettings(Overwrite, does="train.language.new:convert_model"):
    """Turn weights and tokenizer of llama2.c into a language model's checkpoint folder.

    Example: python -m train convert-lm --weights stories260K.bin --tokenizer tok512.bin
    --out runs/stories
    """

    weights: Path = field("weights of llama2.c, version 0")
    tokenizer: Path = field("tokenizer of llama2.c (tok*.bin)")
    out: Path = field("checkpoint folder to write")


@dataclass(frozen=True, kw_only=True)
class TaskFlags(Limit):
    """The flags of every command that shows the examples of a task to a model."""

    task: str = field("task name (`train tasks` lists them), or a jsonl file or folder of prompts")
    data: str | None = field(
        "folder, file or Hugging Face name of the task's data (default: the task's own)",
        default=None,
    )
    shots: int | None = field(
        "worked examples before each question of mmlu (default: 5)", default=None, least=0
    )
    seed: int = field(
        "seed of splits carved out of train, and of the order of training", default=0, least=0
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        "device to run on; auto is CUDA if available", default="auto"
    )


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(TaskFlags, Overwrite):
    """The flags of both training stages."""

    checkpoint: Path = field("folder of a causal language model with its tokenizer")
    out: Path = field("checkpoint folder to write")
    tokens: Literal["answer", "all"] = field(
        "tokens to learn: those of the answers only (answer), or of the prompts too (all)",
        default="answer",
    )
    lora: int | None = field(
        "rank of low-rank adapters to train in place of all weights; they are merged at the end",
        default=None,
        least=1,
    )
    batch_size: int = field("examples per step, of all processes together", default=32, least=1)
    accumulation: int = field(
        "steps summed before an update; raise it if a larger --batch-size does not fit",
        default=1,
        least=1,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        "number format of the computation; auto is bf16 on CUDA, else fp32", default="auto"
    )
    gradient_checkpointing: bool = field(
        "recompute activations in the backward pass: slower, but needs less memory", default=False
    )


@dataclass(frozen=True, kw_only=True)
class FitLanguageSettings(TrainingFlags, does="train.language.stages:fit"):
    """Teach a language model a task with cross-entropy, until its validation loss stops falling.

    Example: python -m train fit-lm --checkpoint gemma-2b --task gsm8k --lora 16 --out runs/small
    """

    epochs: int = field("most epochs", default=3, least=1)
    patience: int = field("epochs without improvement before training stops", default=2, least=1)
    learning_rate: float | None = field(
        "peak learning rate (default: 1e-5; 1e-4 with --lora; 3e-3 for random weights)",
        default=None,
        above=0,
    )
    weight_decay: float = field("decoupled weight decay of AdamW", default=0.0)
    resume: bool = field("continue an interrupted run from its last epoch", default=False)


@dataclass(frozen=True, kw_only=True)
class TuneLanguageSettings(TrainingFlags, does="train.language.stages:tune"):
    """Tune a language model so that it is sure of right tokens and unsure of wrong ones.

    `--objective cross_entropy` is the control: the same start, steps and rates without Gatekeeper.

    Example: python -m train tune-lm --checkpoint runs/small --task gsm8k --out runs/tuned
    """

    objective: Literal["gatekeeper", "cross_entropy"] = field(
        "gatekeeper, or cross_entropy for the control", default="gatekeeper"
    )
    alpha: float = field(
        "weight of the right tokens in Gatekeeper's loss; the wrong ones weigh 1 - alpha",
        default=0.4,
        within=(0, 1),
    )
    stage2_data: Literal["same", "holdout"] = field(
        "data to tune on: the training split (same), or half of validation (holdout), which M_S "
        "has not memorised",
        default="same",
    )
    normalize: Literal["batch", "token"] = field(
        "divisor of the sum over tokens: sequences (batch, eq. 4 of the paper) or tokens (token)",
        default="batch",
    )
    large: Path | None = field(
        "checkpoint folder of M_L; reports the joint accuracy before and after", default=None
    )
    guard: bool = field(
        "end a run that collapses, with its last good weights; --guard=false lets it go on",
        default=True,
    )
    steps: int = field("number of updates (no early stopping)", default=200, least=1)
    learning_rate: float | None = field(
        "peak learning rate (default: a tenth of stage 1's)", default=None, above=0
    )
    resume: bool = field("continue an interrupted run from its last saved state", default=False)


@dataclass(frozen=True, kw_only=True)
class EvaluateLanguageSettings(TaskFlags, does="train.language.evaluate:evaluate"):
    """Print the accuracy of a language model on a task, and the metrics of every confidence.

    With --large these include s_d and the joint accuracy. The best confidence on the split is
    marked; to choose one, use --split validation.

    Example: python -m train evaluate-lm --checkpoint runs/small --task clinc150 --large runs/large
    """

    checkpoint: Path = field("folder of the language model M_S")
    split: Literal["train", "validation", "test"] = field("split to use", default="test")
    large: Path | None = field("folder of the language model M_L", default=None)
    weights: Literal["fp32", "bf16"] = field(
        "number format of the weights; bf16 halves the memory", default="fp32"
    )
    out: Path | None = field(
        "JSON file for the figures; the answers are written next to it", default=None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None and self.out.suffix != ".json":
            raise SettingError(f"expected a file *.json as --out, got {self.out}")
