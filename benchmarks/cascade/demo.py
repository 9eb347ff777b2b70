"""Runs `demo`: every link of the chain is one of the product's own commands or a real process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from benchmarks.cascade import report
from benchmarks.cascade.trial import Trial, export_bundle
from benchmarks.commands.cascade import DemoSettings
from benchmarks.language.demo.chain import run_language_chain
from benchmarks.processes import running_server
from benchmarks.steps import Stages, empty_folder
from edge_runtime import environment
from edge_runtime.reading import read_json
from train import data
from train.classifier.checkpoints import accuracy, open_for
from train.classifier.settings import FitSettings, TuneSettings
from train.classifier.stage1 import build_model
from train.models import FILE, open_checkpoint

UNTUNED, CONTROL, TUNED = "untuned", "control", "tuned"
_OBJECTIVES: dict[str, Literal["cross_entropy", "gatekeeper"]] = {
    CONTROL: "cross_entropy",
    TUNED: "gatekeeper",
}


def run_demo(settings: DemoSettings) -> None:
    """Run the demo of classifiers, or of language models where a task is given."""
    if settings.task is None:
        _run_chain(settings)
    else:
        run_language_chain(settings)


def _run_chain(settings: DemoSettings) -> None:
    start = time.perf_counter()
    # A mistake in the second name must not cost the hours of the first model.
    _check_model(settings.small_model, settings.data_set, settings.limit)
    _check_model(settings.large_model, settings.large_data_set, settings.limit)
    empty_folder(settings.out, overwrite=settings.overwrite)
    with Stages(2 * len(settings.seeds) + 3) as stages:
        with stages.stage("train M_L"):
            large = _fit(
                settings, settings.large_model, settings.large_data_set, "large", settings.seeds[0]
            )
        bundles: dict[str, dict[int, Path]] = {UNTUNED: {}, CONTROL: {}, TUNED: {}}
        for seed in settings.seeds:
            with stages.stage(f"seed {seed}: train M_S, then tune it"):
                checkpoints = _train_small(settings, seed)
            with stages.stage(f"seed {seed}: export and calibrate"):
                for variant, checkpoint in checkpoints.items():
                    bundles[variant][seed] = export_bundle(
                        checkpoint,
                        _folder(settings, seed) / f"bundle-{variant}",
                        data=settings.data_set,
                        target_deferral=settings.target_deferral,
                    )
        with (
            stages.stage("send the test set through the cascades"),
            running_server(["cloud_stub", "--checkpoint", str(large), "--port", "0"]) as address,
        ):
            test = data.load(settings.data_set, limit=settings.limit).test
            trial = Trial(test, address, bundles[UNTUNED][settings.seeds[0]])
            samples, sent_bytes = trial.measure_all(bundles)
        with stages.stage("compute figures and draw pictures"):
            content = {
                **environment.describe("benchmarks"),
                "data": settings.data_set,
                "large_data": settings.large_data_set,
                "small": settings.small_model,
                "large": settings.large_model,
                "alpha": settings.alpha,
                "target_deferral": settings.target_deferral,
                "seeds": list(settings.seeds),
                "training_accuracy": _training_accuracy(settings),
                "stopped": _stopped(settings),
                "test_size": len(test),
                "wall_time_s": round(time.perf_counter() - start, 1),
            }
            content = report.write(settings.out, content, samples, sent_bytes)
    print(report.summary(settings.out, content))


def _folder(settings: DemoSettings, seed: int) -> Path:
    """Return the folder of a seed's models: that of the first seed is the result folder."""
    return settings.out if seed == settings.seeds[0] else settings.out / f"seed-{seed}"


def _is_checkpoint(model: str) -> bool:
    return (Path(model) / "model.safetensors").is_file()


def _check_model(model: str, dataset: str, limit: int | None) -> None:
    splits = data.load(dataset, limit=limit)
    if _is_checkpoint(model):
        open_for(Path(model), splits.train, dataset)
    else:
        build_model(FitSettings(model=model, data=dataset, out=Path()), splits)


def _fit(settings: DemoSettings, model: str, dataset: str, name: str, seed: int) -> Path:
    """Return the checkpoint folder that was named, or fit the architecture."""
    if _is_checkpoint(model):
        return Path(model)
    out = _folder(settings, seed) / name
    # The paper's recipe: pictures as they are, in both stages.
    FitSettings(
        model=model, data=dataset, out=out, seed=seed, limit=settings.limit, augment="none"
    ).run()
    return out


def _train_small(settings: DemoSettings, seed: int) -> dict[str, Path]:
    """Return the checkpoint of each variant of M_S."""
    small = _fit(settings, settings.small_model, settings.data_set, "small", seed)
    paths = {UNTUNED: small}
    for variant, objective in _OBJECTIVES.items():
        paths[variant] = _folder(settings, seed) / variant
        TuneSettings(
            checkpoint=small,
            data=settings.data_set,
            out=paths[variant],
            objective=objective,
            alpha=settings.alpha,
            stage2_data="same",
            seed=seed,
            limit=settings.limit,
        ).run()
    return paths


def _stopped(settings: DemoSettings) -> dict[str, str]:
    """Return training -> why the guard ended it, of those that it ended."""
    folders = {
        f"{variant}, seed {seed}": _folder(settings, seed) / variant
        for variant in _OBJECTIVES
        for seed in settings.seeds
    }
    reasons = {name: read_json(path / FILE)["stopped"] for name, path in folders.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _training_accuracy(settings: DemoSettings) -> float:
    """Return the accuracy of the first untuned M_S on the data that it is tuned on."""
    small = Path(settings.small_model)
    folder = small if _is_checkpoint(settings.small_model) else settings.out / "small"
    return accuracy(
        open_checkpoint(folder), data.load(settings.data_set, limit=settings.limit).train
    )
