"""The result folder of `demo --task`: its tables and figures, and their recomputation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cascade import pictures, report
from benchmarks.cascade.outcome import Outcome
from benchmarks.cascade.summary import figures as table_figures
from benchmarks.cascade.summary import mean_figure
from benchmarks.commands.cascade import DemoSettings
from benchmarks.documents import FINDINGS, Document, read_json, write_json
from benchmarks.errors import CheckError
from benchmarks.language.demo import transcripts as transcript_file
from benchmarks.language.demo.cascades import CascadeRuns, SmallModel, choose_small_models
from benchmarks.language.demo.table import KIND, TUNED, test_rows, variants
from benchmarks.language.demo.transcripts import (
    Transcript,
    read_transcripts,
    save_transcripts,
)
from benchmarks.tables import markdown
from benchmarks.timing import percentiles_ms
from edge_runtime.files import write_atomically
from train.comparison.figures import joint_name
from train.comparison.samples import Samples, read_samples
from train.data.tasks import Task
from train.language import results
from train.language.results import RESULTS_FILE, SAMPLES_FILE, TABLE_FILE, answer_figures
from train.language.rivals import CONTROL, UNTUNED

_CALLS = {
    "edge: first token": ("first_token_ms", False),
    "edge: answer": ("text_ms", False),
    "deferred: verdict": ("verdict_ms", True),
    "deferred: text of M_L": ("text_ms", True),
}
"""The times of a transcript by kind of call, and whether the call was deferred."""
_PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")


def is_language(folder: Path) -> bool:
    """Return whether a result folder holds a comparison of language models."""
    return (folder / RESULTS_FILE).is_file()


def describe(settings: DemoSettings, task: Task, samples: Samples) -> dict[str, Any]:
    """Return the content of `results.json`, except for hardware, times and running cascades."""
    content = {
        "kind": "language",
        "data": task.name,
        "small": settings.small or "gemma from scratch",
        "large": settings.large or "gemma from scratch",
        "confidence": KIND,
        "tuned": variants(samples, settings.target_deferral)[1],
        "target_deferral": settings.target_deferral,
        "seeds": list(settings.seeds),
        "test_size": len(task.test),
        **_table_figures(samples, settings.target_deferral),
    }
    content["findings"] = report.findings(content)
    return content


def _table_figures(samples: Samples, deferral: float) -> dict[str, Any]:
    """Return the figures of the demo's table that follow from the per-sample file."""
    rows, tuned = variants(samples, deferral)
    content = table_figures(rows)
    for name, model in {UNTUNED: UNTUNED, CONTROL: CONTROL, TUNED: tuned}.items():
        rate = answer_figures(samples, "test", model)["tokens/s"]
        content["variants"][name]["tokens_per_s"] = rate
    return content


def describe_cascades(
    samples: Samples, runs: CascadeRuns, models: Sequence[SmallModel], deferral: float
) -> dict[str, Any]:
    """Return the figures of running cascades, and the sizes of their files."""
    return {
        "figures": _cascade_figures(samples, runs.transcripts, models, deferral),
        "files": {name: dict(sizes) for name, sizes in runs.files.items()},
    }


def _cascade_figures(
    samples: Samples,
    transcripts: Mapping[str, Transcript],
    models: Sequence[SmallModel],
    deferral: float,
) -> dict[str, dict[str, Any]]:
    """Return the figures of running cascades that follow from the samples.

    Args:
        samples: Answers of the checkpoints in PyTorch.
        transcripts: Transcripts of the cascades by name.
        models: The small models that ship.
        deferral: Deferral ratio that they are calibrated for.
    """
    return {
        model.name: _figures(samples, transcripts[model.name], model, deferral) for model in models
    }


def _figures(
    samples: Samples, transcript: Transcript, model: SmallModel, deferral: float
) -> dict[str, Any]:
    offline = test_rows(samples, model.model, model.kind, deferral)
    offline_deferred = offline.deferred.T > 0
    deferred = transcript.deferred
    return {
        "prompts": deferred.size,
        "deferred": int(deferred.sum()),
        "deferral ratio in PyTorch": float(offline_deferred.mean()),
        "deferral ratio": mean_figure(deferred.T.astype(float)),
        "joint accuracy in PyTorch": float(offline.answer_quality.mean()),
        "joint accuracy": mean_figure(transcript.right.T.astype(float)),
        "decisions that differ": int((deferred != offline_deferred).sum()),
        "texts of M_S that differ": int((~transcript.same_small).sum()),
        "texts of M_L that differ": int((~transcript.same & deferred).sum()),
        "tokens saved": float(1 - transcript.tokens.sum() / transcript.whole_tokens.sum()),
        "decisions changed by it": int((deferred != transcript.whole_deferred).sum()),
        "times": {name: percentiles_ms(ms / 1e3) for name, ms in times_ms(transcript).items()},
    }


def times_ms(transcript: Transcript) -> dict[str, npt.NDArray[np.float64]]:
    """Return the times of a cascade's calls by kind; NaN if a call was not timed."""
    return {
        name: getattr(transcript, times)[transcript.deferred == deferred].astype(float)
        for name, (times, deferred) in _CALLS.items()
    }


def cascade_page(content: Mapping[str, Any]) -> list[str]:
    """Return the lines of the page about running cascades.

    Args:
        content: The result of `describe_cascades`.
    """
    return [
        "## Through bundle, runtime and server",
        "",
        "The same checkpoints, exported and calibrated. The test prompts went through "
        "`edge_runtime.Cascade`, with M_L behind `cloud_stub` on loopback. Times in ms are "
        "p50 / p90 / p99 of single calls.",
        "",
        cascade_table(content),
        "",
        *(f"- {line}" for line in cascade_findings(content["figures"])),
    ]


def cascade_table(content: Mapping[str, Any]) -> str:
    """Render the running cascades as a Markdown table, one column each."""
    columns = content["figures"]
    rows = [["", *columns]]
    first = next(iter(columns.values()))
    shown = [name for name in first if name != "times"]
    rows += [[name, *(_cell(name, c[name]) for c in columns.values())] for name in shown]
    for name in first["times"]:
        times = (column["times"][name] for column in columns.values())
        rows.append([name, *(" / ".join(f"{t[p]:.2f}" for p in _PERCENTILES) for t in times)])
    files = [content["files"][name] for name in columns]
    rows.append(["bytes sent per prompt", *(f"{file['sent_bytes']:.0f}" for file in files)])
    rows.append(["graph, KB", *(f"{file['graph_bytes'] / 1e3:.0f}" for file in files)])
    return markdown(rows)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1%}" if name == "tokens saved" else f"{value:.3f}"


def cascade_findings(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence per cascade: whether it agrees with PyTorch, and what stopping saves."""
    return [_sentence(name, cascade) for name, cascade in figures.items()]


def _sentence(name: str, figures: Mapping[str, Any]) -> str:
    times = figures["times"]
    edge, cloud = (times[call]["p50_ms"] for call in ("edge: answer", "deferred: text of M_L"))
    return (
        f"{name}: {figures['decisions that differ']} of {figures['prompts']} decisions and "
        f"{figures['texts of M_S that differ']} of as many texts of M_S differ from those in "
        f"PyTorch, and {figures['texts of M_L that differ']} of {figures['deferred']} texts of "
        "M_L. Stopping a generation once its deferral is certain saves "
        f"{figures['tokens saved']:.1%} of M_S's tokens and changes "
        f"{figures['decisions changed by it']} decisions. An answer takes {edge:.1f} ms on the "
        f"device, and {cloud:.1f} ms from M_L (medians)."
    )


def documents(folder: Path) -> Iterator[Document]:
    """Yield the comparison of all rivals and the demo's results with what follows from the samples.

    Raises:
        GatekeeperError: A file is missing or damaged, or validation chooses other models.
    """
    samples = read_samples(folder / SAMPLES_FILE)
    compared = read_json(folder / RESULTS_FILE)
    deferral = compared["deferral"]
    follows = results.derive_results(samples, deferral)
    yield Document(
        file=folder / RESULTS_FILE,
        content=compared,
        expected={**follows, FINDINGS: results.findings(compared, joint_name(deferral))},
        page=folder / TABLE_FILE,
        render=results.report,
        indent=1,
    )
    if (folder / report.RESULTS).is_file():
        content = read_json(folder / report.RESULTS)
        yield Document(
            file=folder / report.RESULTS,
            content=content,
            expected=_expected(folder, samples, content, compared["chosen"]),
            page=folder / report.REPORT,
            render=partial(page, folder),
        )


def _expected(
    folder: Path, samples: Samples, content: Mapping[str, Any], chosen: Mapping[str, str]
) -> dict[str, Any]:
    deferral = content["target_deferral"]
    expected = {
        "tuned": variants(samples, deferral)[1],
        **_table_figures(samples, deferral),
        FINDINGS: report.findings(content),
    }
    if "cascades" not in content:  # older results were measured in PyTorch alone
        return expected
    transcripts = read_transcripts(folder / transcript_file.FILE)
    models = choose_small_models(samples, chosen, deferral)
    names = [model.name for model in models]
    if not names == list(transcripts) == list(content["cascades"]["figures"]):
        raise CheckError(
            f"{folder}: validation chooses {names}, {transcript_file.FILE} has {list(transcripts)}"
        )
    figures = _cascade_figures(samples, transcripts, models, deferral)
    return {**expected, "cascades": {"figures": figures}}


def draw(folder: Path) -> list[Path]:
    """Draw the pictures of a folder anew from its samples; return their files."""
    if not (folder / report.RESULTS).is_file():
        return []
    samples = read_samples(folder / SAMPLES_FILE)
    deferral = read_json(folder / report.RESULTS)["target_deferral"]
    file = folder / transcript_file.FILE
    return _draw(folder, samples, deferral, read_transcripts(file) if file.is_file() else {})


def write(
    folder: Path,
    content: Mapping[str, Any],
    samples: Samples,
    transcripts: Mapping[str, Transcript],
) -> None:
    """Write the demo's own samples, pictures, page and figures."""
    save_transcripts(folder / transcript_file.FILE, transcripts)
    _draw(folder, samples, content["target_deferral"], transcripts)
    write_atomically(folder / report.REPORT, page(folder, content))
    write_json(folder / report.RESULTS, content)


def _draw(
    folder: Path, samples: Samples, deferral: float, transcripts: Mapping[str, Transcript]
) -> list[Path]:
    rows, _ = variants(samples, deferral)
    drawn = pictures.draw(rows, folder, confidence="1 + mean negative entropy / log V")
    if transcripts:
        calls = {name: times_ms(transcript) for name, transcript in transcripts.items()}
        drawn.append(pictures.draw_times(calls, folder))
    return drawn


def summary(folder: Path, content: Mapping[str, Any], compared: Sequence[str]) -> str:
    """Return the text that the demo prints at its end.

    Args:
        folder: The result folder.
        content: Content of `results.json`.
        compared: Findings of the comparison of all rivals.
    """
    cascades = content["cascades"]
    further = [
        "The cascades, sent through bundle, runtime and server:",
        "",
        cascade_table(cascades),
        "",
        *(f"- {line}" for line in cascade_findings(cascades["figures"])),
        "",
        f"All rivals, with their table in {TABLE_FILE}:",
        "",
        *(f"- {line}" for line in compared),
    ]
    return report.summary(folder, content, outcome=outcome(content), further=further)


def page(folder: Path, content: Mapping[str, Any]) -> str:
    """Render the demo's page."""
    further = cascade_page(content["cascades"]) if "cascades" in content else []
    return report.page(folder, content, outcome=outcome(content), further=further)


def outcome(content: Mapping[str, Any]) -> Outcome | None:
    """Return the outcome of the last running cascade whose M_S is in the demo's table.

    That is validation's choice, unless it is a model that only the comparison has.
    """
    if "cascades" not in content:
        return None
    columns = {content["tuned"] if n == TUNED else n: c for n, c in content["variants"].items()}
    for name, figures in reversed(content["cascades"]["figures"].items()):
        model = name.partition(" + ")[0]
        if model in columns:
            alone = columns[model]["figures"]
            times = figures["times"]
            return Outcome(
                small=alone["acc(M_S)"]["value"],
                large=alone["acc(M_L)"]["value"],
                joint=figures["joint accuracy"]["value"],
                edge_share=1 - figures["deferral ratio"]["value"],
                edge_ms=times["edge: answer"]["p50_ms"],
                edge=(math.nan, times["edge: answer"]["p99_ms"]),
                deferred=(math.nan, times["deferred: text of M_L"]["p99_ms"]),
                sent_bytes=content["cascades"]["files"][name]["sent_bytes"],
                training=name,
            )
    return None
