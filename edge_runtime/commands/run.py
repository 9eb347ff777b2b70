"""The command `python -m edge_runtime run`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime import contract
from edge_runtime.answer import Answer
from edge_runtime.cli import field
from edge_runtime.commands.flags import EngineFlags, LinkFlags, PolicyFlags
from edge_runtime.errors import CloudError, GatekeeperError, InputError, SettingError
from edge_runtime.pictures import PICTURES, find_inputs, read_input

if TYPE_CHECKING:
    from edge_runtime.cascade import Cascade
    from edge_runtime.policies.drift import DriftAlarm
    from edge_runtime.recording.recorder import Recorder


class RunError(GatekeeperError):
    """At least one input got no answer."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(PolicyFlags, EngineFlags, LinkFlags):
    """Run pictures or texts (files or folders) through a bundle, one line an answer.

    Example: python -m edge_runtime run --bundle runs/demo/bundle-tuned --cloud localhost:8001 x.png
    """

    bundle: Path = field("bundle folder")
    inputs: tuple[Path, ...] = field(
        "pictures, .npy arrays, .txt files (a text each) or folders", default=(), positional=True
    )
    text: str | None = field("a text itself, for a bundle that takes texts", default=None)
    cloud: tuple[str, ...] = field(
        "host:port of the large model; of several, the first that answers is taken", default=()
    )
    model: str = field("the large model's name there", default=contract.DEFAULT_MODEL)
    deadline_s: float = field("longest wait for the cloud, in seconds", default=0.5)
    threshold: float | None = field("use this instead of the bundle's threshold", default=None)
    provider: Literal["cpu", "cuda"] = field("where the graph runs", default="cpu")
    threads: int | None = field("threads of one edge run (default: all cores)", default=None)
    record: Path | None = field(
        "keep the deferred inputs and the cloud's answers in this folder, for `train harvest`",
        default=None,
    )
    record_limit_mb: float = field("what that folder may take on disk, in MB", default=256.0)
    drift: bool = field("warn when the deferral ratio is not the calibration's", default=False)
    json: bool = field("one JSON object a line", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inputs and self.text is None:
            raise SettingError("expected at least one input, got none: name a picture or a folder")
        self.policy()
        if not self.deadline_s > 0:
            raise SettingError(f"expected --deadline-s above 0, got {self.deadline_s}")
        if not _LEAST_MB <= self.record_limit_mb < math.inf:
            raise SettingError(
                f"expected --record-limit-mb of at least {_LEAST_MB}, got {self.record_limit_mb}"
            )
        if self.record is not None and not self.cloud:
            raise SettingError(
                "expected --cloud beside --record: what the cloud answers is recorded, nothing else"
            )
        self.check_link(has_cloud=bool(self.cloud))
        self.check_engine(has_cloud=bool(self.cloud))

    def run(self) -> None:
        """Print an answer or an error for every input, then a summary.

        Raises:
            RunError: At least one input got no answer; the others got theirs.
        """
        # Here, so that `doctor` and `--help` work where onnxruntime is missing.
        from edge_runtime.cascade import Cascade
        from edge_runtime.sessions import named

        recorder = self._recorder()
        with Cascade.open(
            self.bundle,
            cloud=self.cloud or None,
            model=self.model,
            deadline_s=self.deadline_s,
            threshold=self.threshold,
            providers=named(self.provider),
            threads=self.threads,
            record=recorder,
            policy=self.policy(self._drift_alarm()),
            **self.link_options(),
            **self.engine_options(),
        ) as cascade:
            counts = Counter(self._answer(cascade, *named) for named in self._inputs())
        if not self.json:
            print(", ".join(f"{source} {count}" for source, count in sorted(counts.items())))
            if recorder is not None:
                counted = f"recorded {recorder.recorded}, dropped {recorder.dropped}"
                print(f"{counted} in {recorder.folder}")
        if counts[_NO_ANSWER]:
            raise RunError(
                f"{counts[_NO_ANSWER]} of {counts.total()} inputs got no answer: their lines say "
                "why"
            )

    def _drift_alarm(self) -> DriftAlarm | None:
        if not self.drift:
            return None
        from edge_runtime.bundle import read_bundle
        from edge_runtime.policies.drift import DriftAlarm

        return DriftAlarm.from_calibration(
            read_bundle(self.bundle).metadata, threshold=self.threshold
        )

    def _recorder(self) -> Recorder | None:
        if self.record is None:
            return None
        from edge_runtime.recording.recorder import Recorder

        return Recorder(self.record, max_bytes=int(self.record_limit_mb * _MB))

    def _inputs(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield each input's name, and what reads it."""
        if self.text is not None:
            yield "--text", partial(str, self.text)
        for path in find_inputs(self.inputs):
            yield str(path), partial(_input_of, path)

    def _answer(self, cascade: Cascade, name: str, read: Callable[[], Any]) -> str:
        """Print one input's line and return who answered."""
        try:
            answer = cascade(read())
        except (InputError, CloudError) as error:
            failed = {"input": name, "error": str(error)}
            print(json.dumps(failed) if self.json else f"{name}  {_NO_ANSWER}  ({error})")
            return _NO_ANSWER
        print(_as_json(name, answer) if self.json else _as_text(name, answer))
        return answer.source


def _input_of(path: Path) -> Any:
    # A picture's file is forwarded as it is.
    return path if path.suffix.lower() in PICTURES else read_input(path)


_NO_ANSWER = "error"
_MB = 1_000_000
_LEAST_MB = 0.01


def _as_json(name: str, answer: Answer) -> str:
    fields: dict[str, Any] = {"input": name, **answer.as_dict()}
    if math.isnan(answer.confidence):  # JSON has no NaN
        fields["confidence"] = None
    return json.dumps(fields)


def _as_text(name: str, answer: Answer) -> str:
    reason = f"  ({answer.error})" if answer.error else ""
    total_ms = answer.timings.total_s * 1e3
    return (
        f"{name}  {answer.label}  confidence {answer.confidence:.4f}  "
        f"{answer.source}  {total_ms:.2f} ms{reason}"
    )
