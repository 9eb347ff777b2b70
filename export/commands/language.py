"""The command `python -m export lm`: a causal language model becomes a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from export.commands.goal import TaskGoalSettings


@dataclass(frozen=True, kw_only=True)
class LanguageSettings(TaskGoalSettings):
    """Export a causal language model: one ONNX graph for prefill and decode, with a running gate.

    --calibrate takes a task (`python -m train tasks` lists them): its prompts are answered by the
    exported graph, and the threshold is chosen on these answers.

    Example: python -m export lm --checkpoint runs/tuned --calibrate clinc150 \
--target-deferral 0.3 --out bundle
    """

    checkpoint: Path = field("folder of a causal language model with its tokenizer")
    out: Path = field("bundle folder to write")
    confidence: Literal["neg_entropy", "mean_logprob", "sum_logprob", "min_prob", "max_softmax"] = (
        field("how an answer's confidence is made of its tokens", default=contract.NEG_ENTROPY)
    )
    max_new_tokens: int | None = field(
        "most tokens of an answer (default: the longest that the task teaches, else 64)",
        default=None,
    )
    quantize: Literal["none", "fp16", "int8-dynamic", "int4"] = field(
        "int8-dynamic or int4 for matrix products, fp16 to halve the size; the threshold is chosen "
        "on answers of the quantized graph",
        default="none",
    )
    max_flips: float = field(
        "share of the decisions that may differ from the float graph's after quantization",
        default=0.05,
    )
    overwrite: bool = field("replace the bundle", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise SettingError(
                f"expected --max-new-tokens of at least 1, got {self.max_new_tokens}"
            )
        if self.quantize != "none" and self.calibrate is None:
            raise SettingError(
                "expected --calibrate TASK with --quantize, got --threshold: quantization moves "
                "the confidences, so the threshold has to be chosen on the quantized graph"
            )
        if not 0.0 <= self.max_flips <= 1.0:
            raise SettingError(f"expected --max-flips in [0, 1], got {self.max_flips}")

    def run(self) -> None:
        """Export, calibrate, verify, and only then write."""
        from export.bundle import require_writable

        require_writable(
            self.out, overwrite=self.overwrite
        )  # before torch takes its seconds to load
        from export.language.pipeline import build_decoder

        build_decoder(self)
