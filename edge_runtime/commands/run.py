"""The command `python -m edge_runtime run`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime import contract
from edge_runtime.answer import Answer
from edge_runtime.cli import field
from edge_runtime.cloud.outgoing import Compression
from edge_runtime.commands.flags import CloudFlags, PolicyFlags
from edge_runtime.commands.sources import Item, Sources
from edge_runtime.errors import (
    CloudError,
    GatekeeperError,
    InputError,
    SettingError,
    ShortMemoryError,
)
from edge_runtime.files import SHOWN, clean, one_line

if TYPE_CHECKING:
    from edge_runtime.cascade import Cascade
    from edge_runtime.contract import InputDescription
    from edge_runtime.policies.drift import DriftAlarm
    from edge_runtime.recording.recorder import Recorder

_NO_ANSWER = "error"
_MB = 1_000_000


class RunError(GatekeeperError):
    """At least one input got no answer."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(PolicyFlags, CloudFlags, does="edge_runtime.commands.run:answer_inputs"):
    """Answer pictures or texts with a bundle, and with a cloud if one is named.

    Example: python -m edge_runtime run --bundle runs/demo/bundle-tuned --cloud localhost:8001 x.png
    """

    bundle: Path = field("bundle folder")
    inputs: tuple[Path, ...] = field(
        "pictures, .npy or .npz arrays, .txt files (one text each), .csv or .jsonl rows, videos, "
        "folders, or - for lines of standard input",
        default=(),
        positional=True,
    )
    text: str | None = field("a text itself, for a bundle that takes texts", default=None)
    cloud: tuple[str, ...] = field(
        "host:port of the large model; of several, the first available one answers", default=()
    )
    model: str = field("name of the large model on its server", default=contract.DEFAULT_MODEL)
    deadline_s: float = field(
        "time limit for the cloud in seconds; raise it on slow links", default=0.5, above=0
    )
    threshold: float | None = field(
        "replaces the bundle's threshold; a higher one defers more", default=None
    )
    provider: Literal["cpu", "cuda"] = field(
        "device of the small model; cuda needs the extra gpu", default="cpu"
    )
    threads: int | None = field(
        "threads of one edge run (default: all cores); fewer leave cores to other programs",
        default=None,
        least=1,
    )
    record: Path | None = field(
        "folder for the deferred inputs with the cloud's answers, as data for `train harvest`",
        default=None,
    )
    record_limit_mb: float = field(
        "most disk space of that folder in MB (1,000,000 bytes)", default=256.0, least=0.01
    )
    camera: int | None = field(
        "number of a camera whose frames are answered until Ctrl-C; needs the extra video",
        default=None,
        least=0,
    )
    every: int = field("of a video or camera, answer one frame in so many", default=1, least=1)
    encode: Literal["jpeg", "png"] | None = field(
        "send deferred pictures as such files, a tenth of the bytes or less", default=None
    )
    quality: int = field("quality of such a JPEG, 1 to 100", default=90, least=1, most=100)
    max_side: int | None = field(
        "longest side in pixels of a picture that is sent; larger ones are scaled down",
        default=None,
        least=1,
    )
    max_message_mib: int | None = field(
        "largest request in MiB (default: 16, as the server's)", default=None, least=1
    )
    drift: bool = field(
        "warn when the deferral ratio differs from the calibration's", default=False
    )
    json: bool = field("print one JSON object per line, for programs", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inputs and self.text is None and self.camera is None:
            raise SettingError("expected at least one input, got none: name a picture or a folder")
        if self.record is not None and not self.cloud:
            raise SettingError("--record needs --cloud: only the cloud's answers are recorded")
        if self.encode is not None and not self.cloud:
            raise SettingError("--encode needs --cloud: only what is sent to it is encoded")
        Compression(self.encode, self.quality, self.max_side)  # checks itself
        self.check_cloud(has_cloud=bool(self.cloud))


def answer_inputs(settings: RunSettings) -> None:
    """Print an answer or error per input and a summary; raise a `RunError` if any failed."""
    # Here, so that `doctor` and `--help` work without onnxruntime.
    from edge_runtime.cascade import Cascade
    from edge_runtime.sessions import select_providers

    recorder = _open_recorder(settings)
    with Cascade.open(
        settings.bundle,
        cloud=settings.cloud or None,
        model=settings.model,
        deadline_s=settings.deadline_s,
        threshold=settings.threshold,
        providers=select_providers(settings.provider),
        threads=settings.threads,
        record=recorder,
        policy=settings.policy(_open_alarm(settings)),
        encode=settings.encode,
        quality=settings.quality,
        max_side=settings.max_side,
        max_message_mib=settings.max_message_mib,
        **settings.cloud_options(),
    ) as cascade:
        counts: Counter[str] = Counter()
        _answer_all(settings, cascade, counts)
    if not settings.json:
        print(", ".join(f"{source} {count}" for source, count in sorted(counts.items())))
        if recorder is not None:
            numbers = f"recorded {recorder.recorded}, dropped {recorder.dropped}"
            print(f"{numbers} in {recorder.folder}")
    if counts[_NO_ANSWER]:
        raise RunError(
            f"{counts[_NO_ANSWER]} of {counts.total()} inputs got no answer: their lines say why"
        )


def _open_alarm(settings: RunSettings) -> DriftAlarm | None:
    if not settings.drift:
        return None
    from edge_runtime.bundle import read_bundle
    from edge_runtime.policies.drift import DriftAlarm

    metadata = read_bundle(settings.bundle).metadata
    return DriftAlarm.from_calibration(metadata, threshold=settings.threshold)


def _open_recorder(settings: RunSettings) -> Recorder | None:
    if settings.record is None:
        return None
    from edge_runtime.recording.recorder import Recorder

    return Recorder(settings.record, max_bytes=int(settings.record_limit_mb * _MB))


def _items(settings: RunSettings, described: InputDescription) -> Iterator[Item]:
    """Yield the inputs in order; a camera, which has no end, comes last."""
    sources = Sources(described, settings.every)
    if settings.text is not None:
        yield Item("--text", None, partial(str, settings.text))
    yield from sources.files(settings.inputs)
    if settings.camera is not None:
        yield from sources.frames(settings.camera, f"camera {settings.camera}")


def _answer_all(settings: RunSettings, cascade: Cascade, counts: Counter[str]) -> None:
    """Answer and count the inputs; a Ctrl-C ends those of a camera."""
    try:
        for item in _items(settings, cascade.edge.metadata.input):
            counts[_answer(cascade, item, as_json=settings.json)] += 1
    except KeyboardInterrupt:
        if settings.camera is None:
            raise


def _answer(cascade: Cascade, item: Item, *, as_json: bool) -> str:
    """Print one input's line and return the source of its answer."""
    place = {"input": item.name} | ({} if item.row is None else {"row": item.row})
    name = item.name if item.row is None else f"{item.name}:{item.row}"
    try:
        answer = cascade(item.read())
    except (InputError, ShortMemoryError, CloudError) as error:
        failed = {**place, "error": str(error)}
        line = f"{clean(name)}  {_NO_ANSWER}  ({one_line(error)})"
        print(json.dumps(failed) if as_json else line)
        return _NO_ANSWER
    print(_json_line(place, answer) if as_json else _text_line(name, answer))
    return answer.source


def _json_line(place: dict[str, Any], answer: Answer) -> str:
    return json.dumps({**place, **answer.as_dict()})


def _text_line(name: str, answer: Answer) -> str:
    reason = f"  ({clean(answer.error)})" if answer.error else ""
    is_text = answer.prediction == contract.NO_CLASS
    label = clean(answer.label, SHOWN if is_text else "")
    total_ms = answer.timings.total_s * 1e3
    return (
        f"{clean(name)}  {label}  confidence {answer.confidence:.4f}  "
        f"{answer.source}  {total_ms:.2f} ms{reason}"
    )
