"""The command `python -m train evaluate`: the metrics of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.cli import field


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Print accuracy, s_o and AUROC of a checkpoint, and s_d and joint accuracy beside an M_L.

    Example: python -m train evaluate --checkpoint runs/tuned --data digits --large runs/large
    """

    checkpoint: Path = field("checkpoint folder of M_S")
    data: str = field("data set name, folder or file", default="digits")
    split: Literal["train", "validation", "test", "all"] = field(
        "split to use; all takes every labelled input of the data", default="test"
    )
    large: Path | None = field("checkpoint folder of M_L", default=None)
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    limit: int | None = field("use at most so many pictures", default=None)
    out: Path | None = field("where to write the JSON", default=None)

    def run(self) -> None:
        """Print the metrics, and write them as JSON where asked."""
        from train import data

        if self.split == "all":
            split = data.load_all(self.data)
        else:
            split = getattr(data.load(self.data, limit=self.limit), self.split)
        figures = _small_figures(self._open(self.checkpoint, split), split)
        if self.large is not None:
            figures |= _joint_figures(figures, self._open(self.large, split), split)
        confidence, right = figures.pop("confidence"), figures.pop("right")
        for name, value in figures.items():
            print(f"{name:28} {value if isinstance(value, str) else f'{value:.4f}'}")
        if self.out is not None:
            rows = {"confidence": confidence.tolist(), "small_quality": right.tolist()}
            text = json.dumps({"figures": figures, "ids": list(split.ids), **rows}, indent=2)
            self.out.write_text(text + "\n", encoding="utf-8")

    def _open(self, path: Path, split: Any) -> Any:
        from train.devices import uses_cuda
        from train.matching import open_for

        checkpoint = open_for(path, split, self.data)
        checkpoint.model.to("cuda" if uses_cuda(self.device) else "cpu")
        return checkpoint


def _small_figures(checkpoint: Any, split: Any) -> dict[str, Any]:
    from edge_runtime import metrics

    logits = checkpoint.predict(split.inputs)
    # float64: in float32 the confidence saturates at 1 and makes ties.
    confidence = metrics.max_softmax(logits)
    right = (logits.argmax(axis=-1) == split.labels).astype(float)
    return {
        "confidence": confidence,
        "right": right,
        "acc(M_S)": float(right.mean()),
        "s_o": metrics.distributional_overlap(confidence, right),
        "AUROC": metrics.auroc(confidence, right),
    }


def _joint_figures(small: dict[str, Any], large: Any, split: Any) -> dict[str, Any]:
    from edge_runtime import metrics

    quality = (large.predict(split.inputs).argmax(axis=-1) == split.labels).astype(float)
    columns = (small["confidence"], small["right"], quality)
    performance = metrics.deferral_performance(*columns)
    return {
        "acc(M_L)": performance.p_l,
        "s_d": performance.s_d,
        "s_d_star": performance.s_d_star,
        "status": performance.status,
        **{
            f"joint accuracy at {r:.0%}": metrics.joint_accuracy_at(*columns, r)
            for r in (0.1, 0.3, 0.5)
        },
        "area under joint accuracy": metrics.joint_accuracy_area(*columns),
    }
