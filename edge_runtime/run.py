"""The command `python -m edge_runtime run`."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edge_runtime import contract
from edge_runtime.answer import Answer
from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from edge_runtime.inputs import find_inputs, read_input


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Run pictures (files or folders) through a bundle, one line an answer.

    Example: python -m edge_runtime run --bundle runs/demo/bundle-tuned --cloud localhost:8001 x.png
    """

    bundle: Path = field("bundle folder")
    inputs: tuple[Path, ...] = field(
        "pictures, .npy arrays or folders", default=(), positional=True
    )
    cloud: str | None = field("host:port of the large model", default=None)
    model: str = field("the large model's name there", default=contract.DEFAULT_MODEL)
    deadline_s: float = field("longest wait for the cloud, in seconds", default=0.5)
    threshold: float | None = field("use this instead of the bundle's threshold", default=None)
    json: bool = field("one JSON object a line", default=False)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise SettingError("expected at least one input, got none: name a picture or a folder")
        if not self.deadline_s > 0:
            raise SettingError(f"expected --deadline-s above 0, got {self.deadline_s}")

    def run(self) -> None:
        """Print an answer for every input, then a summary."""
        # Here, so that `doctor` and `--help` work where onnxruntime is missing.
        from edge_runtime.cascade import Cascade

        counts: Counter[str] = Counter()
        with Cascade.open(
            self.bundle,
            cloud=self.cloud,
            model=self.model,
            deadline_s=self.deadline_s,
            threshold=self.threshold,
        ) as cascade:
            for path in find_inputs(self.inputs):
                answer = cascade(read_input(path))
                counts[answer.source] += 1
                print(_as_json(path, answer) if self.json else _as_text(path, answer))
        if not self.json:
            print(", ".join(f"{source} {count}" for source, count in sorted(counts.items())))


def _as_json(path: Path, answer: Answer) -> str:
    return json.dumps({"input": str(path), **dataclasses.asdict(answer)})


def _as_text(path: Path, answer: Answer) -> str:
    reason = f"  ({answer.error})" if answer.error else ""
    total_ms = answer.timings.total_s * 1e3
    return (
        f"{path}  {answer.label}  confidence {answer.confidence:.4f}  "
        f"{answer.source}  {total_ms:.2f} ms{reason}"
    )
