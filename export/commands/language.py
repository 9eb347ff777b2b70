"""The command `python -m export lm`, which turns a causal language model into a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.cli.shared import Overwrite
from export.commands.goal import TaskGoalSettings


@dataclass(frozen=True, kw_only=True)
class LanguageSettings(TaskGoalSettings, Overwrite, does="export.language.pipeline:build"):
    """Export a causal language model: one ONNX graph for prefill and decode, with a running gate.

    --calibrate takes a task (`python -m train tasks` lists them). The exported graph answers its
    prompts, and the threshold is chosen on these answers.

    Example: python -m export lm --checkpoint tuned --calibrate clinc150 --target-deferral 0.3 \
--out b
    """

    checkpoint: Path = field("folder of a causal language model with its tokenizer")
    out: Path = field("bundle folder to write")
    confidence: Literal["neg_entropy", "mean_logprob", "sum_logprob", "min_prob", "max_softmax"] = (
        field("confidence of an answer, computed from its tokens", default=contract.NEG_ENTROPY)
    )
    max_new_tokens: int | None = field(
        "largest number of tokens of an answer (default: the longest that the task teaches, else "
        "64)",
        default=None,
        least=1,
    )
    quantize: Literal["none", "fp16", "int8-dynamic", "int4"] = field(
        "int8-dynamic or int4 for matrix products, fp16 to halve the size; the threshold is chosen "
        "on answers of the quantized graph",
        default="none",
    )
    max_flips: float = field(
        "largest share of decisions that quantization may change; more than for a classifier, "
        "because one differing token changes all that follow",
        default=0.05,
        within=(0, 1),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_quantization(self.quantize)

    def run(self) -> None:
        """Refuse a taken output folder before torch loads, then export the model."""
        from export.bundle import require_writable

        require_writable(self.out, overwrite=self.overwrite)
        super().run()
