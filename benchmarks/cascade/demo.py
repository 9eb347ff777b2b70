"""Drives the chain of `demo`: every link is the product's own command or a real process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from benchmarks.cascade import pictures, report
from benchmarks.cascade.report import findings, table
from benchmarks.cascade.samples import Samples, write_samples
from benchmarks.cascade.trial import Trial
from benchmarks.commands.cascade import DemoSettings
from benchmarks.language.demo.chain import run_language_chain
from benchmarks.processes import running_server
from benchmarks.steps import empty_folder, step
from edge_runtime import environment
from export.commands.build import BuildSettings
from train import data
from train.classifier.fit import FitSettings
from train.classifier.loop import accuracy
from train.classifier.opening import open_for
from train.classifier.tune import TuneSettings
from train.models import open_checkpoint

UNTUNED, CONTROL, TUNED = "untuned", "control", "tuned"
VARIANTS = (UNTUNED, CONTROL, TUNED)
_OBJECTIVES: dict[str, Literal["cross_entropy", "gatekeeper"]] = {
    CONTROL: "cross_entropy",
    TUNED: "gatekeeper",
}
_FOLDERS = {UNTUNED: "small", CONTROL: "control", TUNED: "tuned"}


def run_demo(settings: DemoSettings) -> None:
    """Run the chain that the settings name and write the result folder."""
    if settings.task is None:
        _run_chain(settings)
    else:
        run_language_chain(settings)


def _run_chain(settings: DemoSettings) -> None:
    """Train, export, serve, run and report a cascade of classifiers."""
    start = time.perf_counter()
    # A slip in the second name must not cost the hours of the first model.
    _check_model(settings.small_model, settings.dataset, settings.limit)
    _check_model(settings.large_model, settings.large_data, settings.limit)
    empty_folder(settings.out, overwrite=settings.overwrite)
    with step("large model: fit"):
        large = _fit(
            settings.large_model,
            settings.large_data,
            settings.out / "large",
            seed=settings.seeds[0],
            limit=settings.limit,
        )
    bundles = {seed: _bundles(settings, seed) for seed in settings.seeds}
    with step("the test set over gRPC"):
        measured = _measure(settings, large, bundles)
    fitted = _training_accuracy(settings)
    variants = {v: Samples.joined([samples for samples, _ in measured[v]]) for v in VARIANTS}
    sent = {v: sum(sent for _, sent in measured[v]) / len(measured[v]) for v in VARIANTS}
    with step("figures and pictures"):
        content = _content(settings, variants, sent, fitted)
        content["wall_time_s"] = round(time.perf_counter() - start, 1)
        _write(settings.out, content, variants)
    print(f"\n{table(content)}\n")
    print("\n".join(content["findings"]))
    print(f"\n{settings.out}: report.md, results.json, samples.csv.gz ({content['wall_time_s']} s)")


def _is_checkpoint(model: str) -> bool:
    return (Path(model) / "model.safetensors").is_file()


def _check_model(model: str, dataset: str, limit: int | None) -> None:
    splits = data.load(dataset, limit=limit)
    if _is_checkpoint(model):
        open_for(Path(model), splits.train, dataset)
    else:
        FitSettings(model=model, data=dataset, out=Path()).untrained(splits)


def _fit(model: str, dataset: str, out: Path, *, seed: int, limit: int | None) -> Path:
    """Fit an architecture, or take the checkpoint folder that was named."""
    if _is_checkpoint(model):
        return Path(model)
    # The paper's recipe: pictures as they are, in both stages.
    FitSettings(model=model, data=dataset, out=out, seed=seed, limit=limit, augment="none").run()
    return out


def _bundles(settings: DemoSettings, seed: int) -> dict[str, Path]:
    is_first = seed == settings.seeds[0]
    folder = settings.out if is_first else settings.out / f"seed-{seed}"
    with step(f"seed {seed}: small model: fit, control and tune"):
        checkpoints = _train(settings, folder, seed)
    with step(f"seed {seed}: export and calibrate"):
        return {v: _export(settings, checkpoints[v], folder / f"bundle-{v}") for v in VARIANTS}


def _measure(
    settings: DemoSettings, large: Path, bundles: dict[int, dict[str, Path]]
) -> dict[str, list[tuple[Samples, float]]]:
    """Return for each variant the rows and the bytes sent an input, seed by seed."""
    test = data.load(settings.dataset, limit=settings.limit).test
    probe = bundles[settings.seeds[0]][UNTUNED]
    with running_server(["cloud_stub", "--checkpoint", str(large), "--port", "0"]) as address:
        trial = Trial(test, address, probe)
        return {v: [trial.measure(bundles[s][v], s) for s in settings.seeds] for v in VARIANTS}


def _train(settings: DemoSettings, folder: Path, seed: int) -> dict[str, Path]:
    small = _fit(
        settings.small_model, settings.dataset, folder / "small", seed=seed, limit=settings.limit
    )
    paths = {UNTUNED: small}
    for variant, objective in _OBJECTIVES.items():
        paths[variant] = folder / _FOLDERS[variant]
        TuneSettings(
            checkpoint=small,
            data=settings.dataset,
            out=paths[variant],
            objective=objective,
            alpha=settings.alpha,
            stage2_data="same",
            seed=seed,
            limit=settings.limit,
        ).run()
    return paths


def _export(settings: DemoSettings, checkpoint: Path, out: Path) -> Path:
    BuildSettings(
        checkpoint=checkpoint,
        out=out,
        calibrate=settings.dataset,
        target_deferral=settings.target_deferral,
    ).run()
    return out


def _training_accuracy(settings: DemoSettings) -> float:
    """Return how often the first untuned M_S is right on what it is tuned on."""
    small = Path(settings.small_model)
    folder = small if _is_checkpoint(settings.small_model) else settings.out / "small"
    return accuracy(
        open_checkpoint(folder), data.load(settings.dataset, limit=settings.limit).train
    )


def _content(
    settings: DemoSettings, variants: dict[str, Samples], sent: dict[str, float], fitted: float
) -> dict[str, Any]:
    content = {
        **environment.describe("benchmarks"),
        "data": settings.dataset,
        "large_data": settings.large_data,
        "small": settings.small_model,
        "large": settings.large_model,
        "alpha": settings.alpha,
        "target_deferral": settings.target_deferral,
        "seeds": list(settings.seeds),
        "training_accuracy": fitted,
        "test_size": len(variants[TUNED].ids),
        **report.figures(variants),
    }
    for variant, number in sent.items():
        content["variants"][variant]["bytes_sent"] = number
    content["findings"] = findings(content)
    return content


def _write(out: Path, content: dict[str, Any], variants: dict[str, Samples]) -> None:
    write_samples(out / report.SAMPLES, variants)
    drawn = pictures.draw(variants, out)
    report.write_report(out, content, drawn)
    report.write_json(out / report.RESULTS, content)
