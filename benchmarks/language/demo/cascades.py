"""Runs the demo's cascades: chooses and exports M_S, serves M_L, and sends the test prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cascade.trial import DEADLINE_S, TIMED_CALLS, as_shipped
from benchmarks.commands.cascade import DemoSettings
from benchmarks.language.demo.models import checkpoint, read_answers
from benchmarks.language.demo.table import best_tuned
from benchmarks.language.demo.transcripts import Transcript
from benchmarks.processes import running_server
from benchmarks.steps import Stages
from edge_runtime import Answer, Cascade, contract, metrics
from edge_runtime.bundle import read_bundle
from edge_runtime.inputs.texts import tokenizer_file
from edge_runtime.language import Decoder, Generation
from export.commands.language import LanguageSettings
from train.comparison.samples import Samples
from train.data.tasks import Task
from train.language.answers import Answers
from train.language.results import row_name
from train.language.rivals import CONTROL


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A small model as it ships: a checkpoint and the kind of its confidence.

    Attributes:
        model: The checkpoint's name.
        kind: Kind of the confidence.
    """

    model: str
    kind: str

    @property
    def name(self) -> str:
        """Its name in tables, that of the checkpoint's row in the comparison."""
        return row_name(self.model, self.kind)

    @property
    def folder(self) -> str:
        """Name of its bundle's folder."""
        return f"bundle-{self.model}-{self.kind}"


@dataclass(frozen=True)
class CascadeRuns:
    """The results of running cascades.

    Attributes:
        transcripts: Transcript by name; its rows are seeds.
        files: By name, the bytes sent per prompt and the size of the graph.
    """

    transcripts: Mapping[str, Transcript]
    files: Mapping[str, Mapping[str, float]]


def choose_small_models(
    samples: Samples, chosen: Mapping[str, str], deferral: float
) -> tuple[SmallModel, ...]:
    """Return the control, the best tuned model, and validation's choice among everything.

    The last is left out if no graph holds its confidence, which is then a learned rule.

    Args:
        samples: Answers of all checkpoints in PyTorch.
        chosen: Validation's choices in the comparison.
        deferral: The deferral ratio.
    """
    tuned = best_tuned(samples, deferral)
    models = [SmallModel(model=m, kind=contract.NEG_ENTROPY) for m in (CONTROL, tuned)]
    model, _, kind = chosen["best"].partition(" + ")
    if kind in metrics.SEQUENCE_KINDS:
        models.append(SmallModel(model=model, kind=kind))
    return tuple(dict.fromkeys(models))


def run_cascades(
    settings: DemoSettings,
    task: Task,
    models: Sequence[SmallModel],
    large: Path,
    folders: Mapping[int, Path],
    stages: Stages,
) -> CascadeRuns:
    """Export and calibrate the small models, serve the large one, and send the test prompts.

    Args:
        settings: Settings of the demo.
        task: The task.
        models: The small models that ship.
        large: Folder of M_L's checkpoint.
        folders: Folder of each seed's models and answers.
        stages: Progress of the demo.
    """
    bundles: dict[SmallModel, dict[Path, Path]] = {model: {} for model in models}
    for seed, folder in folders.items():
        with stages.stage(f"seed {seed}: export and calibrate"):
            for model in models:
                bundles[model][folder] = _export(settings, model, folder)
    flags = ["--max-new-tokens", str(task.max_new_tokens), "--port", "0"]
    texts = read_answers(settings.out, "large")
    with (
        stages.stage("send the test set through the cascades"),
        running_server(["cloud_stub", "--checkpoint", str(large), *flags]) as address,
    ):
        runs = {
            model: [
                _transcribe(bundle, task, address, read_answers(folder, model.model), texts)
                for folder, bundle in places.items()
            ]
            for model, places in bundles.items()
        }
    return CascadeRuns(
        {model.name: Transcript.joined([part for part, _ in run]) for model, run in runs.items()},
        {
            model.name: {
                "sent_bytes": float(np.mean([sent for _, sent in run])),
                "graph_bytes": _graph_bytes(next(iter(bundles[model].values()))),
            }
            for model, run in runs.items()
        },
    )


def _export(settings: DemoSettings, model: SmallModel, folder: Path) -> Path:
    """Write a small model's bundle into a seed's folder; return its place."""
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    confidence: Any = model.kind
    LanguageSettings(
        checkpoint=checkpoint(settings, model.model, folder),
        calibrate=settings.task,
        data=settings.data,
        limit=settings.limit,
        target_deferral=settings.target_deferral,
        confidence=confidence,
        out=folder / model.folder,
    ).run()
    return folder / model.folder


def _graph_bytes(place: Path) -> int:
    """Return the size of the graph with its weights, without the tokenizer."""
    bundle = read_bundle(place, contract.ROLE_DECODER)
    files = {bundle.graph, *bundle.others} - {tokenizer_file(bundle)}
    return sum(file.stat().st_size for file in files)


def _transcribe(
    bundle: Path, task: Task, address: str, small: Answers, large: Answers
) -> tuple[Transcript, float]:
    """Send the test prompts through a cascade; return the transcript and the bytes per prompt.

    Args:
        bundle: Bundle of M_S.
        task: The task.
        address: `HOST:PORT` of M_L.
        small: Test answers of M_S in PyTorch.
        large: Test answers of M_L in PyTorch.

    Raises:
        BenchmarkError: M_L did not answer a deferred prompt.
    """
    prompts = [example.prompt for example in task.test]
    with Decoder.open(bundle) as decoder:
        whole = decoder.generate(prompts, stop_when_certain=False)
        stopped = decoder.generate(prompts)
        timed = [decoder.generate([prompt])[0] for prompt in prompts[:TIMED_CALLS]]
    with Cascade.open(bundle, cloud=address, deadline_s=DEADLINE_S) as cascade:
        answers = as_shipped(cascade, prompts)
        sent = cascade.request_bytes / len(prompts)
    deferred = np.array([answer.deferred for answer in answers])
    expected = np.where(deferred, large.texts, small.texts).tolist()
    rows: dict[str, Any] = {
        "confidence": np.array([one.confidence for one in whole], np.float32),
        "deferred": deferred,
        "whole_deferred": [one.defer for one in whole],
        "right": [task.is_right(a.text, e) for a, e in zip(answers, task.test, strict=True)],
        "same_small": [one.text == text for one, text in zip(whole, small.texts, strict=True)],
        "same": [one.text == text for one, text in zip(answers, expected, strict=True)],
        "tokens": np.array([one.token_count for one in stopped], np.int32),
        "whole_tokens": np.array([one.token_count for one in whole], np.int32),
        **_times_ms(answers, timed),
    }
    return Transcript(**{name: np.asarray(row)[None] for name, row in rows.items()}), sent


def _times_ms(answers: list[Answer], timed: list[Generation]) -> dict[str, Any]:
    # Prompts that went in a batch have no time of their own.
    text_s = np.array([answer.timings.total_s for answer in answers])
    verdict_s = np.array(
        [answer.timings.preprocess_s + answer.timings.edge_s for answer in answers]
    )
    first_s = np.full(len(answers), np.nan)
    first_s[: len(timed)] = [one.timings.first_token_s for one in timed]
    times = {
        "first_token_ms": first_s,
        "verdict_ms": np.where(np.isnan(text_s), np.nan, verdict_s),
        "text_ms": text_s,
    }
    return {name: (values * 1e3).round(4).astype(np.float32) for name, values in times.items()}
